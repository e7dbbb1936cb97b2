"""Settings for a command: the file, the environment, and the options given before or after the command's name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from bitmesh_proxy.cli.tables import shown
from bitmesh_proxy.settings import Settings, SettingsError
from bitmesh_proxy.settings_sources import find_ignored_variables, load_settings

SYSTEM_CONFIG = Path("/etc/bitmesh-proxy/bitmesh-proxy.toml")
#: sysexits.h: a configuration error. The unit does not restart on it.
EXIT_CONFIG = 78
MOST_NAME_CHARACTERS = 200

F = TypeVar("F", bound=Callable[..., Any])


def common_options(function: F) -> F:
    """``--config`` and ``--data-dir``, so that they may also stand behind the command's name."""
    function = click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the database, the master secret and copies of media are kept.",
    )(function)
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Settings file (TOML). Default: $BITMESH_CONFIG, else /etc/bitmesh-proxy/bitmesh-proxy.toml if there.",
    )(function)


def settings_of(
    ctx: click.Context,
    config: Path | None,
    data_dir: Path | None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    warns: bool = True,
) -> Settings:
    """Load the settings, or end the program with their fault. ``warns``: on standard error, of variables that look like
    settings and are none; without it that is up to the command."""
    shared: Mapping[str, Path | None] = ctx.obj or {}
    path = config or shared.get("config") or (SYSTEM_CONFIG if SYSTEM_CONFIG.is_file() else None)
    directory = data_dir or shared.get("data_dir")
    tree: dict[str, dict[str, Any]] = {table: dict(values) for table, values in (overrides or {}).items()}
    if directory is not None:
        tree.setdefault("data", {})["dir"] = str(directory)
    try:
        settings = load_settings(path, overrides=tree)
    except SettingsError as exc:
        fail(f"settings: {exc}", EXIT_CONFIG)
    for sentence in on_ignored_variables(settings) if warns else ():
        click.echo(f"bitmesh-proxy: warning: {sentence}", err=True)
    return settings


def on_ignored_variables(settings: Settings) -> list[str]:
    """What is to be said of variables that look like settings and are none, one sentence for each."""
    return [
        f"{name} in the environment is not a setting, and changes nothing: is {meant} meant?"
        for name, meant in find_ignored_variables(settings).items()
    ]


def fail(message: str, status: int = 1) -> NoReturn:
    """Say what is wrong on standard error, and end. Names in it are anybody's texts, and shown as in tables."""
    click.echo("bitmesh-proxy: " + "\n".join(shown(line) for line in message.split("\n")), err=True)
    sys.exit(status)


class NameType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """What somebody calls an account or a key: any text, but no longer than tables and log lines can bear."""

    name = "NAME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it is, or not at all."""
        if len(value) > MOST_NAME_CHARACTERS:
            self.fail(f"{len(value)} characters, and a name has {MOST_NAME_CHARACTERS} at most", param, ctx)
        return value


NAME = NameType()


class OrWord(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """What another type takes, or a word for nothing at all (None)."""

    def __init__(self, inner: click.ParamType, word: str = "none") -> None:  # type: ignore[type-arg]
        self._inner = inner
        self._word = word
        self.name = f"{inner.name}|{word}"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """For the help's list."""
        return f"[{self._inner.get_metavar(param, ctx) or self._inner.name.upper()}|{self._word}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """None for the word."""
        return None if value == self._word else self._inner.convert(value, param, ctx)


def given(ctx: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's options that were said."""
    return {
        name: each for name, each in options.items() if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
