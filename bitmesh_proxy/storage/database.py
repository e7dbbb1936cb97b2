"""The database: one file, one writer, and two kinds of readers that never wait for it (WAL).

- ``write`` goes through the one writer thread, in group commits (``writer.py``).
- ``snapshot`` and ``read`` are for reports and the command line: an aiosqlite connection, opened when first needed.
- ``lookup`` is for the request's way: a connection on the event loop's own thread, for reads by primary or unique key,
  which cost a few microseconds. Nothing that scans belongs there.

``synchronous=NORMAL``: a commit is in the write-ahead log but not yet forced to the platter. What was committed
survives the end of the process in any way, ``kill -9`` included. A power cut may take the last moments before it, never
the file's consistency. https://sqlite.org/pragma.html#pragma_synchronous, read 2026-08-20.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite

from bitmesh_proxy.metrics import WriteWaits
from bitmesh_proxy.storage.checkpoints import Checkpoints
from bitmesh_proxy.storage.failures import StorageError, as_unavailable, is_busy, is_trouble
from bitmesh_proxy.storage.key_changes import KeyChanges
from bitmesh_proxy.storage.migrations import migrate
from bitmesh_proxy.storage.turns import Turns
from bitmesh_proxy.storage.writer import Done, Operation, T, Writer

Parameters = Sequence[Any] | Mapping[str, Any]
Row = tuple[Any, ...]

#: The file's name in the data directory, for the service and the command line alike.
DATABASE_NAME = "bitmesh-proxy.db"
#: A look-up on the event loop must not stand still; in WAL mode a reader meets a lock only while a log is recovered.
LOOKUP_BUSY_TIMEOUT_S = 0.1
#: Pages that the writer may keep in memory: the right edges of the ledger and its indexes, their inner pages, accounts.
#: Ten million rows and a hundred thousand keys of a thousand accounts need half of it. It is not larger, for with a
#: file below 1 GiB each commit that has split a page looks at every page that is kept, in all of that memory: SQLite
#: moves the pages about by way of page 262,145, and drops all pages that lie behind the file's end.
#: (SQLite 3.40.1, ``balance_nonroot`` in src/btree.c, ``pcache1Truncate`` in src/pcache1.c, read 2026-11-23.)
WRITER_CACHE_KIB = 4 * 1024
#: The same for look-ups: the keys of those who call.
LOOKUP_CACHE_KIB = 8 * 1024
#: With less free room a database cannot be opened: its index of the log takes 32 KiB.
FULL_BYTES = 64 * 1024
#: Statements kept prepared per connection; there are fewer than this in the whole room.
CACHED_STATEMENTS = 256


class Snapshot:
    """Reads that all see the same moment."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query. Raises Unavailable, or StorageError for a faulty statement."""
        try:
            return [tuple(row) for row in await self._connection.execute_fetchall(sql, parameters)]
        except sqlite3.Error as exc:
            raise _mapped(exc) from exc

    async def row(self, sql: str, parameters: Parameters = ()) -> Row | None:
        """The first row, or None."""
        rows = await self.rows(sql, parameters)
        return rows[0] if rows else None


class Database:
    """See the module's docstring. Made by ``open``, ended by ``close`` on every path."""

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout_s: float,
        writer: Writer,
        checkpoints: Checkpoints,
        lookup: sqlite3.Connection,
        key_changes: KeyChanges,
        turns: Turns | None = None,
    ) -> None:
        self.path = path
        self.key_changes = key_changes
        self._turns = turns
        self._busy_timeout_s = busy_timeout_s
        self._writer = writer
        #: Queue an item and have a function called with its result or ``Failed``; see there. (The writer's own method:
        #: each request comes this way twice.)
        self.submit_item_now = writer.submit_item_now
        self._checkpoints = checkpoints
        self._lookup = lookup
        self._reader: aiosqlite.Connection | None = None
        self._reader_lock = asyncio.Lock()
        self._is_closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        busy_timeout_s: float,
        max_pending_writes: int,
        min_free_bytes: int = 0,
        takes_turns: bool = False,
        on_migration: Callable[[], object] | None = None,
    ) -> Database:
        """Open the file, make it if it is not there, and bring it up to date.

        With ``takes_turns`` several processes that write all the time do so in turn (``turns.py``), and so does whoever
        opens the database after them. ``on_migration`` is called, in a thread, when bringing it up to date begins,
        which may take long. Raises StorageError when the file cannot be used (newer than the program, of another
        program, no permission).
        """
        try:
            path = await asyncio.to_thread(_followed, path)
            lookup = await asyncio.to_thread(_prepare, path, busy_timeout_s, on_migration)
            turns = await asyncio.to_thread(_turns_of, path, takes_turns)
            key_changes = await asyncio.to_thread(KeyChanges, path.with_name(path.name + ".key-changes"))
        except (sqlite3.Error, OSError) as exc:
            raise StorageError(f"{path}: {exc}{await asyncio.to_thread(_why, path)}") from exc
        writer = Writer(
            lambda: _connect_writer(path, timeout_s=busy_timeout_s),
            path,
            max_pending=max_pending_writes,
            min_free_bytes=min_free_bytes,
            turns=turns,
            watch=key_changes,
            patience_s=busy_timeout_s,
        )
        checkpoints = Checkpoints(lambda: _connect_checkpoints(path, timeout_s=busy_timeout_s), path, writer)
        checkpoints.start()
        return cls(
            path,
            busy_timeout_s=busy_timeout_s,
            writer=writer,
            checkpoints=checkpoints,
            lookup=lookup,
            key_changes=key_changes,
            turns=turns,
        )

    async def close(self) -> None:
        """Write what is waiting and close all connections. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await asyncio.to_thread(self._checkpoints.close)
            await self._writer.close()
        finally:
            self._lookup.close()
            self.key_changes.close()
            if self._turns is not None:
                self._turns.close()
            if self._reader is not None:
                # aiosqlite's thread is no daemon: left open, it would hold up the end of the program.
                await self._reader.close()

    # ------------------------------------------------------------ writing

    def submit(self, operation: Operation[T], *, is_new_work: bool = False) -> asyncio.Future[T]:
        """Queue a write and give its future. Whoever drops the future does not lose the write, only its outcome."""
        return self._writer.submit(operation, is_new_work=is_new_work)

    def submit_now(self, operation: Operation[Any], on_done: Done, *, is_new_work: bool = False) -> None:
        """Queue a write and have ``on_done`` called with its result or ``Failed``; see ``Writer.submit_item_now``."""
        self._writer.submit_now(operation, on_done, is_new_work=is_new_work)

    @property
    def write_waits(self) -> WriteWaits:
        """How long writes took, for whoever shows it."""
        return self._writer.waits

    @write_waits.setter
    def write_waits(self, waits: WriteWaits) -> None:
        self._writer.waits = waits

    async def write(self, operation: Operation[T], *, is_new_work: bool = False) -> T:
        """Run ``operation`` in the next group commit and wait until it is durable.

        The operation gets the writer's connection, may run twice, and must have no other effects. What it raises
        undoes it and is raised here. Raises Unavailable when the database cannot be written at the moment.
        """
        return await self._writer.submit(operation, is_new_work=is_new_work)

    async def see_that_new_work_can_be_written(self) -> None:
        """Raises Unavailable. After one that failed, something is written: a full disk takes what changes nothing."""
        await self.write(_change_and_undo if self._writer.is_in_trouble else _change_nothing, is_new_work=True)

    # ------------------------------------------------------------ reading

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """Several reads that see one moment of the books. One at a time."""
        async with self._reader_lock:
            reader = await self._open_reader()
            try:
                await reader.execute("BEGIN")
                yield Snapshot(reader)
            except sqlite3.Error as exc:
                raise _mapped(exc) from exc
            finally:
                await reader.rollback()

    async def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of one query, off the event loop."""
        async with self.snapshot() as snapshot:
            return await snapshot.rows(sql, parameters)

    def lookup(self, sql: str, parameters: Parameters = ()) -> Row | None:
        """One row by a unique key, at once, on the event loop's thread. The query must not yield a second row."""
        try:
            row: Row | None = self._lookup.execute(sql, parameters).fetchone()
        except sqlite3.Error as exc:
            raise _mapped(exc) from exc
        return row

    def data_version(self) -> int:
        """A number that moves whenever anyone, our writer included, has committed. Costs 6 to 12 us."""
        try:
            return int(self._lookup.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as exc:
            raise _mapped(exc) from exc

    async def _open_reader(self) -> aiosqlite.Connection:
        if self._reader is None:
            if self._is_closed:
                raise StorageError("the database is closed")
            reader = await aiosqlite.connect(
                self.path, timeout=self._busy_timeout_s, isolation_level=None, cached_statements=CACHED_STATEMENTS
            )
            try:
                await reader.execute("PRAGMA query_only = ON")
            except BaseException:
                await reader.close()
                raise
            self._reader = reader
        return self._reader


def _mapped(exc: sqlite3.Error) -> Exception:
    return as_unavailable(exc) if is_trouble(exc) else StorageError(f"{type(exc).__name__}: {exc}")


def _change_nothing(connection: sqlite3.Connection) -> None:
    """To get as far as to the turn and the lock costs the disk nothing."""


def _change_and_undo(connection: sqlite3.Connection) -> None:
    """SQLite writes the page, for it has been changed, whatever it says now."""
    for by in (1, -1):
        connection.execute("UPDATE versions SET keys_version = keys_version + ?", (by,))


def _why(path: Path) -> str:
    """What SQLite does not say, in brackets, if it can be found out."""
    if _is_full(path.parent):
        return " (the disk is full)"
    for beside in ("-wal", "-shm"):  # root may have made them, with a command of its own
        try:
            os.close(os.open(path.with_name(path.name + beside), os.O_RDWR))
        except FileNotFoundError:
            continue
        except OSError as exc:
            return f" ({exc})"
    return ""


def _is_full(directory: Path) -> bool:
    try:
        return shutil.disk_usage(directory).free < FULL_BYTES
    except OSError:
        return False


def _followed(path: Path) -> Path:
    """The file that a link leads to: locks and words beside it are for all who have it open, by whatever name. (SQLite
    puts its log there too.)"""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _turns_of(path: Path, takes_turns: bool) -> Turns | None:
    turns = path.with_name(path.name + ".turns")
    return Turns(turns) if takes_turns or turns.exists() else None


def _prepare(path: Path, busy_timeout_s: float, on_migration: Callable[[], object] | None) -> sqlite3.Connection:
    """Make and migrate the file; gives the connection for look-ups."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Made by us, so that nobody else on the machine may read it; the log files take the same mode from it.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = _connect(path, timeout_s=busy_timeout_s)
    try:
        migrate(connection, path, on_begin=on_migration)
        # Opened before the other is closed: who closes a file last empties its log, and waits for the disk.
        lookup = _connect(path, timeout_s=LOOKUP_BUSY_TIMEOUT_S, cache_kib=LOOKUP_CACHE_KIB)
    finally:
        connection.close()
    lookup.execute("PRAGMA query_only = ON")
    return lookup


def _connect_writer(path: Path, *, timeout_s: float) -> sqlite3.Connection:
    connection = _connect(path, timeout_s=timeout_s, cache_kib=WRITER_CACHE_KIB)
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # see checkpoints.py
    # While a statement or savepoint is under way, pages are kept as they were before it. More than 64 KiB of that went
    # to a file, with every commit of fifteen calls on a thousand accounts.
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _connect_checkpoints(path: Path, *, timeout_s: float) -> sqlite3.Connection:
    """It waits for others only while it is opened."""
    connection = _connect(path, timeout_s=timeout_s)
    connection.execute("PRAGMA busy_timeout = 0")
    return connection


def _connect(path: Path, *, timeout_s: float, cache_kib: int = 2048) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=timeout_s,
        isolation_level=None,  # transactions are begun and ended by us
        cached_statements=CACHED_STATEMENTS,
        check_same_thread=False,  # each is made in one thread and used in one other, never in two at once
    )
    try:
        keep_log(connection, timeout_s=timeout_s)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    except BaseException:
        connection.close()
        raise
    return connection


def keep_log(connection: sqlite3.Connection, *, timeout_s: float) -> None:
    """Write-ahead logging from now on. Where several make a file at once, SQLite lets all but one fail without waiting.

    Raises sqlite3.OperationalError when it is still locked after so long.
    """
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if not is_busy(exc) or time.monotonic() >= end_s:
                raise
            time.sleep(0.005)
        else:
            return
