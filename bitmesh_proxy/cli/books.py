"""Opening the database for a command, and closing it on every path."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from bitmesh_proxy.auth.secrets import MasterSecretError
from bitmesh_proxy.cli.options import EXIT_CONFIG, fail
from bitmesh_proxy.errors import GatewayError
from bitmesh_proxy.settings import Settings, resolve_data_dir
from bitmesh_proxy.storage.database import DATABASE_NAME, Database
from bitmesh_proxy.storage.failures import StorageError

T = TypeVar("T")


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The service's own database; it is made if it is not there. A running server is not disturbed."""
    directory = resolve_data_dir(settings)
    await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    database = await Database.open(
        directory / DATABASE_NAME,
        busy_timeout_s=settings.data.busy_timeout_s,
        max_pending_writes=settings.data.max_pending_writes,
    )
    try:
        yield database
    finally:
        await database.close()


def with_database(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run ``work`` on the database; its errors end the program with their message. For the main thread."""

    async def run() -> T:
        async with open_database(settings) as database:
            return await work(database)

    try:
        with _never_stopped():
            return asyncio.run(run())
    except (StorageError, MasterSecretError) as exc:
        fail(str(exc), EXIT_CONFIG)
    except UnicodeEncodeError as exc:
        fail(f"not UTF-8: {exc.object!r}")
    except (GatewayError, ValueError) as exc:
        fail(str(exc))
    except OSError as exc:
        fail(f"{resolve_data_dir(settings)}: {exc.strerror or exc}")


@contextmanager
def _never_stopped() -> Iterator[None]:
    """Without Ctrl-Z: stopped while it writes, a command would keep a server's calls waiting until it goes on."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)
