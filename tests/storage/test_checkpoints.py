from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bitmesh_proxy.storage.checkpoints import CHECKPOINT, CUT, LONG_LOG_BYTES, Checkpoints
from bitmesh_proxy.storage.database import Database, _connect_checkpoints
from bitmesh_proxy.storage.writer import Writer
from tests.storage.examples import open_database

PAGE_BYTES = 4096
LIMIT = 50


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def size_of(path: Path) -> int:
    return path.stat().st_size


def size_reaches(path: Path, wanted: int) -> None:
    """Returns when it does; the test's own time limit is the bound."""
    while size_of(path) < wanted:
        threading.Event().wait(0.01)


def is_cut(log: Path) -> None:
    """Returns when it is; the test's own time limit is the bound."""
    while size_of(log):
        threading.Event().wait(0.01)


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(path)
    connection.execute("CREATE TABLE things (content BLOB)")
    yield connection
    connection.close()


@pytest.fixture
async def writer(path: Path, connection: sqlite3.Connection) -> AsyncIterator[Writer]:
    writer = Writer(lambda: connect(path), path, max_pending=100, min_free_bytes=0)
    yield writer
    await writer.close()


async def add_pages(writer: Writer, count: int) -> None:
    content = b"x" * (count * PAGE_BYTES)
    await writer.submit(lambda connection: connection.execute("INSERT INTO things VALUES (?)", (content,)).rowcount)


async def write_for_long(path: Path, writer: Writer, connection: sqlite3.Connection, max_log_pages: int) -> None:
    """800 pages, and of each 40 some that the looks do not reach, as when writing never pauses."""
    checkpoints = Checkpoints(lambda: connect(path), path, writer, max_log_pages=max_log_pages)
    reader = connect(path)
    for _ in range(20):
        await add_pages(writer, 35)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM things").fetchall()
        await add_pages(writer, 4)
        checkpoints.look(connection)
        reader.execute("ROLLBACK")
        await add_pages(writer, 1)
    reader.close()


async def test_look_copies_what_is_in_the_log(path: Path, writer: Writer, connection: sqlite3.Connection) -> None:
    await add_pages(writer, 5)
    assert size_of(path) < 5 * PAGE_BYTES
    Checkpoints(lambda: connect(path), path, writer).look(connection)
    assert size_of(path) > 5 * PAGE_BYTES
    hindered, log_pages, copied = connection.execute(CHECKPOINT).fetchone()
    assert (hindered, copied) == (0, log_pages)


async def test_log_stays_bounded_while_writing_goes_on(
    path: Path, writer: Writer, connection: sqlite3.Connection
) -> None:
    await write_for_long(path, writer, connection, max_log_pages=LIMIT)
    assert size_of(path) > 700 * PAGE_BYTES
    assert size_of(log_of(path)) < 4 * LIMIT * PAGE_BYTES


async def test_short_log_is_not_the_writers_work(path: Path, writer: Writer, connection: sqlite3.Connection) -> None:
    await write_for_long(path, writer, connection, max_log_pages=10_000)
    assert size_of(log_of(path)) > 700 * PAGE_BYTES


async def test_commits_of_a_database_leave_the_copying_to_the_thread(path: Path) -> None:
    database = await open_database(path)
    size = size_of(path)
    await database.write(lambda connection: connection.execute("CREATE TABLE things (content BLOB)").rowcount)
    content = b"x" * (1500 * PAGE_BYTES)
    await database.write(lambda connection: connection.execute("INSERT INTO things VALUES (?)", (content,)).rowcount)
    assert size_of(log_of(path)) > len(content)
    await asyncio.to_thread(size_reaches, path, size + len(content))
    await database.close()
    assert not log_of(path).exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "database-checkpoints"]


async def test_trouble_is_said_once_and_passes(path: Path, writer: Writer, caplog: pytest.LogCaptureFixture) -> None:
    attempts = 0
    is_copied = threading.Event()

    def connect_at_the_third_attempt() -> sqlite3.Connection:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise sqlite3.OperationalError("disk I/O error")
        is_copied.set()
        return connect(path)

    checkpoints = Checkpoints(connect_at_the_third_attempt, path, writer, interval_s=0.001)
    with caplog.at_level(logging.WARNING):
        await add_pages(writer, 5)
        checkpoints.start()
        assert await asyncio.to_thread(is_copied.wait, 5.0)
        await asyncio.to_thread(checkpoints.close)
    assert [record.getMessage() for record in caplog.records] == [
        "the write-ahead log cannot be copied: disk I/O error"
    ]
    assert size_of(path) > 5 * PAGE_BYTES


@pytest.fixture
async def idle(path: Path, writer: Writer) -> AsyncIterator[Checkpoints]:
    """Looks all the time, and takes a log for idle once it is 50 ms old."""
    checkpoints = Checkpoints(lambda: connect(path), path, writer, interval_s=0.005, idle_s=0.05)
    checkpoints.start()
    yield checkpoints
    await asyncio.to_thread(checkpoints.close)


async def test_long_log_is_cut_once_it_is_idle(path: Path, writer: Writer, idle: Checkpoints) -> None:
    await add_pages(writer, LONG_LOG_BYTES // PAGE_BYTES + 1)
    assert size_of(log_of(path)) > LONG_LOG_BYTES
    await asyncio.to_thread(is_cut, log_of(path))
    assert size_of(path) > LONG_LOG_BYTES
    await add_pages(writer, 5)
    assert size_of(log_of(path)) > 5 * PAGE_BYTES


async def test_short_log_stays(path: Path, writer: Writer, idle: Checkpoints) -> None:
    await add_pages(writer, 50)
    size = size_of(log_of(path))
    await asyncio.sleep(0.3)
    assert size_of(log_of(path)) == size


async def test_log_that_another_process_writes_to_is_not_idle(path: Path, writer: Writer) -> None:
    checkpoints = Checkpoints(lambda: connect(path), path, writer, interval_s=0.005, idle_s=1000)
    checkpoints.start()
    await add_pages(writer, LONG_LOG_BYTES // PAGE_BYTES + 1)  # a thousand seconds ago, as far as we know
    await asyncio.sleep(0.3)
    await asyncio.to_thread(checkpoints.close)
    assert size_of(log_of(path)) > LONG_LOG_BYTES


async def test_log_that_is_read_is_cut_after_that(
    path: Path, writer: Writer, idle: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    reader = connect(path)
    await add_pages(writer, 1)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM things").fetchone() == (1,)
    await add_pages(writer, LONG_LOG_BYTES // PAGE_BYTES + 1)
    await asyncio.sleep(0.3)
    assert size_of(log_of(path)) > LONG_LOG_BYTES
    assert reader.execute("SELECT count(*) FROM things").fetchone() == (1,)
    reader.execute("ROLLBACK")
    await asyncio.to_thread(is_cut, log_of(path))
    assert reader.execute("SELECT count(*) FROM things").fetchone() == (2,)
    reader.close()
    assert not caplog.records


async def test_nobody_waits_for_a_log_that_cannot_be_cut(path: Path) -> None:
    database = await open_database(path)
    await database.write(lambda connection: connection.execute("CREATE TABLE things (content BLOB)").rowcount)
    connection = await asyncio.to_thread(_connect_checkpoints, path, timeout_s=30.0)
    reader = connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM things").fetchall()
    content = b"x" * (2 * PAGE_BYTES)
    await database.write(lambda connection: connection.execute("INSERT INTO things VALUES (?)", (content,)).rowcount)
    hindered, *_ = await asyncio.wait_for(asyncio.to_thread(lambda: connection.execute(CUT).fetchone()), 5.0)
    assert hindered
    await database.write(lambda connection: connection.execute("INSERT INTO things VALUES (?)", (content,)).rowcount)
    reader.close()
    connection.close()
    await database.close()


async def test_database_that_is_closed_twice_ends_its_threads_once(database: Database) -> None:
    await database.close()
    await database.close()
