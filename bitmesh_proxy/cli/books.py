"""Opening the database for a command, and closing it on every path."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import click

from bitmesh_proxy.auth.master import FILE_NAME
from bitmesh_proxy.auth.secrets import MasterSecretError
from bitmesh_proxy.cli.options import EXIT_CONFIG, fail
from bitmesh_proxy.cli.tables import shown
from bitmesh_proxy.errors import GatewayError
from bitmesh_proxy.settings import Settings, resolve_data_dir
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import DATABASE_NAME, Database
from bitmesh_proxy.storage.failures import StorageError, said_to_operators

T = TypeVar("T")


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The service's own database; it is made if it is not there. A running server is not disturbed."""
    directory = resolve_data_dir(settings)
    await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    before = await asyncio.to_thread(_files_of, directory)
    database = await Database.open(
        directory / DATABASE_NAME,
        busy_timeout_s=settings.data.busy_timeout_s,
        max_pending_writes=settings.data.max_pending_writes,
    )
    try:
        yield database
        if DATABASE_NAME not in before and not await AccountStore(database).list():
            # Whoever meant another directory, or is another user than the service, reads why nothing is in it.
            click.echo(f"bitmesh-proxy: there was no database in {directory}: a new one was made", err=True)
    finally:
        await database.close()
        await asyncio.to_thread(_warn_of_roots_files, directory, before)


def _files_of(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.name.startswith((DATABASE_NAME, FILE_NAME))}


def _warn_of_roots_files(directory: Path, before: set[str]) -> None:
    """What root has made in a directory of another user, that user's service could not open."""
    owner = directory.stat().st_uid
    made = " ".join(sorted(_files_of(directory) - before))
    if not made or not owner or os.geteuid():
        return
    try:
        user = pwd.getpwuid(owner).pw_name
    except KeyError:
        user = str(owner)
    click.echo(
        f"bitmesh-proxy: warning: {directory} belongs to {user}, and root has made files in it. If the service runs as"
        f" {user}, it cannot open them: chown {user} {made} there, and give commands as that user",
        err=True,
    )


def with_database(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run ``work`` on the database; its errors end the program with their message. For the main thread."""

    async def run() -> T:
        async with open_database(settings) as database:
            return await work(database)

    try:
        with _never_stopped(), _plain_words():
            return asyncio.run(run())
    except (StorageError, MasterSecretError) as exc:
        fail(str(exc), EXIT_CONFIG)
    except UnicodeEncodeError as exc:
        fail(f"not UTF-8: {exc.object!r}")
    except (GatewayError, ValueError) as exc:
        fail(said_to_operators(exc))
    except OSError as exc:
        fail(f"{resolve_data_dir(settings)}: {exc.strerror or exc}")


class _PlainWords(logging.Handler):
    """What is logged, as a line for a person: where in the program it came about is of no use in a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """On standard error."""
        click.echo(f"bitmesh-proxy: {shown(record.getMessage())}", err=True)


@contextmanager
def _plain_words() -> Iterator[None]:
    log, handler = logging.getLogger("bitmesh_proxy"), _PlainWords(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def _never_stopped() -> Iterator[None]:
    """Without Ctrl-Z: stopped while it writes, a command would keep a server's calls waiting until it goes on."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)
