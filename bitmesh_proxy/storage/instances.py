"""Which processes are alive, so that no one closes the open requests of a process that still serves them.

Each process keeps an exclusive lock (``flock``) on a file of its own beside the database, and a row that names the
file. The kernel drops the lock when the process ends in whatever way, so there is no heartbeat to miss and no process
id to mistake: who can lock a file knows its owner is dead. Works for processes of one machine, as SQLite does.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.ids import RandomBytes, make_id
from bitmesh_proxy.storage.lock_files import lock_directory

log = logging.getLogger(__name__)


class Census(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of processes that have a row, by whether they still live.

    ``newest`` is the last number that was given away then: who has a higher one came later, and nothing is known of it.
    """

    alive: tuple[int, ...]
    dead: tuple[int, ...]
    newest: int


class Instance:
    """This process's row and lock. Made by ``register_instance``."""

    def __init__(self, database: Database, *, number: int, path: Path, descriptor: int) -> None:
        self.number = number
        self._database = database
        self._path = path
        self._descriptor = descriptor

    async def close(self) -> None:
        """Give up the row, then the lock. What is still open is found by the next start."""
        try:
            await _forget(self._database, (self.number,))
        finally:
            await asyncio.to_thread(_unlock, self._path, self._descriptor)


async def register_instance(
    database: Database, *, clock: Callable[[], float] = time.time, random_bytes: RandomBytes = secrets.token_bytes
) -> Instance:
    """Be alive for the others to see.

    The lock is taken before the row is written and given up after it is deleted, so a row whose lock is free always
    means a dead process.
    """
    path = lock_directory(database.path) / (make_id("", random_bytes) + ".lock")
    descriptor = await asyncio.to_thread(_make_locked, path)
    try:
        number = await database.write(partial(_insert, lock_name=path.name, now_ms=int(clock() * 1000)))
    except BaseException:
        await asyncio.to_thread(_unlock, path, descriptor)
        raise
    return Instance(database, number=number, path=path, descriptor=descriptor)


@asynccontextmanager
async def census(database: Database, *, forget: bool = True) -> AsyncIterator[Census]:
    """Who lives. Within the context the locks of the dead are held, so that only one process cleans up after them.

    Afterwards, unless it raised, their rows are gone; with ``forget`` off they stay, for somebody who only looks, and
    who keeps nobody from cleaning up at that moment.
    """
    async with database.snapshot() as snapshot:
        rows = await snapshot.rows("SELECT number, lock_name FROM instances ORDER BY number")
        given_away = await snapshot.rows("SELECT seq FROM sqlite_sequence WHERE name = 'instances'")
    newest = given_away[0][0] if given_away else 0
    directory = lock_directory(database.path)
    found, locks = await asyncio.to_thread(_try_locks, directory, rows, newest, only_looks=not forget)
    try:
        yield found
        if found.dead and forget:
            await _forget(database, found.dead)
            await asyncio.to_thread(_remove, tuple(locks))
    finally:
        for descriptor in locks.values():
            os.close(descriptor)


async def run_alone(
    database: Database, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, look_again_s: float
) -> None:
    """Run ``work`` here as soon as no other process on this database runs work of that name. Until it is cancelled.

    By the same locks: when the process that runs it dies, another one takes it up at its next look. Who cannot look,
    for there are no files or locks to be had, says so once and looks again.
    """
    path = lock_directory(database.path) / f"{name}.lock"
    descriptor: int | None = None
    is_told = False
    try:
        while True:
            try:
                if descriptor is None:
                    descriptor = await asyncio.to_thread(_open_lock, path, os.O_CREAT)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            except OSError as exc:
                if not is_told:
                    log.error("the %s cannot be started now: %s", name, exc)
                is_told = True
            await asyncio.sleep(look_again_s)
        await work()
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _insert(connection: sqlite3.Connection, *, lock_name: str, now_ms: int) -> int:
    row = connection.execute(
        "INSERT INTO instances (pid, lock_name, started_at_ms) VALUES (?, ?, ?) RETURNING number",
        (os.getpid(), lock_name, now_ms),
    ).fetchall()[0]
    return int(row[0])


async def _forget(database: Database, numbers: Iterable[int]) -> None:
    parameters = [(number,) for number in numbers]

    def delete(connection: sqlite3.Connection) -> None:
        connection.executemany("DELETE FROM instances WHERE number = ?", parameters)

    await database.write(delete)


def _open_lock(path: Path, flags: int) -> int:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    return os.open(path, flags | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _make_locked(path: Path) -> int:
    descriptor = _open_lock(path, os.O_CREAT | os.O_EXCL)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _unlock(path: Path, descriptor: int) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)


def _try_locks(
    directory: Path, rows: Iterable[Row], newest: int, *, only_looks: bool
) -> tuple[Census, dict[Path, int]]:
    dead: list[int] = []
    alive: list[int] = []
    locks: dict[Path, int] = {}
    for number, lock_name in rows:
        path = directory / lock_name
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            dead.append(number)
            continue
        if (not only_looks and _try_lock(descriptor, fcntl.LOCK_EX)) or _try_lock(descriptor, fcntl.LOCK_SH):
            # (If it can be locked only so, others look at this moment. Who lives has it for itself.)
            dead.append(number)
            locks[path] = descriptor
        else:
            os.close(descriptor)
            alive.append(number)
    return Census(alive=tuple(alive), dead=tuple(dead), newest=newest), locks
