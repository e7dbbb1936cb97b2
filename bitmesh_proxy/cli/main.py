"""The command line's root: options that every command shares, and the list of commands.

Commands are imported when they are called, so that ``key list`` does not load a web server, and ``serve`` not the
client that it never uses.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TextIO

import click

from bitmesh_proxy import __version__
from bitmesh_proxy.deferred_packages import defer

#: Name → module under ``cli`` that holds a click command of that name.
COMMANDS = ("account", "doctor", "key", "ledger", "model", "sandbox", "serve", "usage")
#: Large packages of which our commands use modules, and rarely what the package itself offers.
DEFERRED = ("aiohttp", "limits", "limits.storage")


class LazyCommands(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command: Any = getattr(_load(f"bitmesh_proxy.cli.{cmd_name}"), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"cli/{cmd_name}.py holds no click command of that name")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. What it meets outside of itself, and does not explain better, ends it with one line."""
        _open_closed_streams()
        if isinstance(sys.stdout, TextIOWrapper):  # a terminal of another language shows escapes of what it has not
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except Exception as exc:
            _end_with(exc)
            raise


def _open_closed_streams() -> None:
    """Whoever started us may have closed standard streams (``>&-``). What we open would take their places."""
    if sys.stdin is None:
        sys.stdin = _nowhere(0, "r")
    if sys.stdout is None:
        sys.stdout = _nowhere(1, "w")
    if sys.stderr is None:
        sys.stderr = _nowhere(2, "w")


def _nowhere(descriptor: int, mode: Literal["r", "w"]) -> TextIO:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    return open(descriptor, mode, encoding="utf-8", closefd=False)


def _end_with(exc: Exception) -> None:
    # Not at the top: the list of commands alone needs neither.
    from bitmesh_proxy.cli.options import EXIT_CONFIG, fail
    from bitmesh_proxy.settings import SettingsError

    if isinstance(exc, SettingsError):
        fail(f"settings: {exc}", EXIT_CONFIG)
    if isinstance(exc, OSError) and exc.errno != errno.EPIPE:  # `| head`: click ends without a word
        drop_output()
        fail(str(exc))


def drop_output() -> None:
    """What nobody can take now, nobody can at the end: there Python tries again, and ends with a status of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load(name: str) -> ModuleType:
    """Import a command's module. To look for garbage in what stays anyway, then and ever after, is a tenth of it."""
    if name in sys.modules:
        return sys.modules[name]
    for package in DEFERRED:
        defer(package)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bitmesh-proxy")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="BITMESH_CONFIG",
    # The words for both options are those of options.py, which is not loaded for the list of commands alone.
    help="Settings file (TOML). Default: $BITMESH_CONFIG, else /etc/bitmesh-proxy/bitmesh-proxy.toml if there.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the database, the master secret and copies of media are kept.",
)
@click.pass_context
def main(ctx: click.Context, config: Path | None, data_dir: Path | None) -> None:
    """A gateway between your programs and AI providers: answers stream through, keys, limits and money are kept."""
    ctx.obj = {"config": config, "data_dir": data_dir}
