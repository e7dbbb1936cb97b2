from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
import sys
import threading
from pathlib import Path

import pytest

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.instances import census, register_instance
from bitmesh_proxy.storage.keys import KeyStore
from tests.storage.examples import key_spec, open_database


def rename(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE accounts SET name = 'renamed'")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_file_is_private_and_in_write_ahead_mode(database: Database, path: Path) -> None:
    await AccountStore(database).create("Ada")
    assert mode_of(path) == 0o600
    assert mode_of(path.with_name(path.name + "-wal")) == 0o600
    assert await database.read("PRAGMA journal_mode") == [("wal",)]


async def test_directory_is_made(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "deep" / "down" / "books.db")
    await database.close()
    assert mode_of(tmp_path / "deep" / "down") == 0o700


async def test_what_is_written_survives_closing(path: Path) -> None:
    database = await open_database(path)
    account = await AccountStore(database).create("Ada")
    await database.close()
    await database.close()
    database = await open_database(path)
    assert await AccountStore(database).get(account.id) == account
    await database.close()


async def test_closing_leaves_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    database = await open_database(path)
    await database.read("SELECT 1")
    await database.close()
    left = [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("asyncio")]
    for thread in left:
        await asyncio.to_thread(thread.join, 5.0)  # it may have said its last word and not be gone yet
    assert [thread for thread in left if thread.is_alive()] == []


@pytest.mark.parametrize(
    "content", [b"this is a text, and no database at all" * 100, b"SQLite format 3\0" + b"\1" * 5000]
)
def test_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    before = set(threading.enumerate())
    with pytest.raises(StorageError, match=r"books\.db"):
        asyncio.run(open_database(path))
    assert path.read_bytes() == content
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "database-writer"]


def test_directory_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match="directory"):
        asyncio.run(open_database(path))


def test_a_file_beside_it_that_cannot_be_opened_is_named(path: Path) -> None:
    """As root's are, who has given a command of his own."""
    log = path.with_name(path.name + "-wal")
    log.mkdir()
    with pytest.raises(StorageError, match=re.escape(f"'{log}'")):
        asyncio.run(open_database(path))


async def test_lookup_sees_what_was_committed(database: Database) -> None:
    account = await AccountStore(database).create("Ada")
    assert database.lookup("SELECT name FROM accounts WHERE id = ?", (account.id,)) == ("Ada",)
    assert database.lookup("SELECT name FROM accounts WHERE id = ?", ("acct_none",)) is None
    await database.write(rename)
    assert database.lookup("SELECT name FROM accounts WHERE id = ?", (account.id,)) == ("renamed",)


async def test_readers_cannot_write(database: Database) -> None:
    await AccountStore(database).create("Ada")
    with pytest.raises(Unavailable):
        await database.read("DELETE FROM accounts")
    with pytest.raises(Unavailable):
        database.lookup("DELETE FROM accounts")
    assert await database.read("SELECT count(*) FROM accounts") == [(1,)]


async def test_faulty_statement_is_a_bug_and_no_trouble(database: Database) -> None:
    with pytest.raises(StorageError, match="no such table"):
        await database.read("SELECT * FROM nowhere")
    with pytest.raises(StorageError, match="no such column"):
        database.lookup("SELECT colour FROM accounts")
    assert await database.read("SELECT 1") == [(1,)]


async def test_data_version_moves_with_commits_of_anyone(database: Database, path: Path) -> None:
    first = database.data_version()
    assert database.data_version() == first
    await AccountStore(database).create("Ada")
    second = database.data_version()
    assert second != first
    with sqlite3.connect(path) as other:
        other.execute("UPDATE accounts SET name = 'elsewhere'")
    other.close()
    assert database.data_version() != second


async def test_snapshot_sees_one_moment(database: Database) -> None:
    await AccountStore(database).create("Ada")
    async with database.snapshot() as snapshot:
        assert await snapshot.row("SELECT name FROM accounts") == ("Ada",)
        await database.write(rename)
        assert await snapshot.rows("SELECT name FROM accounts") == [("Ada",)]
        assert await snapshot.row("SELECT name FROM accounts WHERE id = '-'") is None
    assert await database.read("SELECT name FROM accounts") == [("renamed",)]


async def test_snapshot_that_fails_leaves_nothing_open(database: Database) -> None:
    async def fail() -> None:
        async with database.snapshot() as snapshot:
            await snapshot.rows("SELECT 1")
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    await AccountStore(database).create("Ada")
    assert await database.read("SELECT count(*) FROM accounts") == [(1,)]


async def test_reading_after_closing_is_refused(path: Path) -> None:
    database = await open_database(path)
    await database.close()
    with pytest.raises(StorageError, match="closed"):
        await database.read("SELECT 1")


LOCK_UNTIL_TOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("UPDATE accounts SET name = 'theirs'")
connection.execute("COMMIT")
"""


async def test_lock_of_another_process_stops_writes_and_no_reads(path: Path) -> None:
    database = await open_database(path, busy_timeout_s=0.05)
    account = await AccountStore(database).create("Ada")
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOCK_UNTIL_TOLD, str(path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert other.stdin is not None
    assert other.stdout is not None
    await other.stdout.readline()
    with pytest.raises(Unavailable):
        await database.write(rename)
    assert database.lookup("SELECT name FROM accounts WHERE id = ?", (account.id,)) == ("Ada",)
    assert await database.read("SELECT name FROM accounts") == [("Ada",)]
    await other.communicate(b"go on\n")
    assert await database.read("SELECT name FROM accounts") == [("theirs",)]
    await database.write(rename)
    assert await database.read("SELECT name FROM accounts") == [("renamed",)]
    await database.close()


async def test_two_processes_may_open_it_at_once(path: Path) -> None:
    databases = await asyncio.gather(*(open_database(path) for _ in range(5)))
    for number, database in enumerate(databases):
        await AccountStore(database).create(str(number))
    assert await databases[0].read("SELECT count(*) FROM accounts") == [(5,)]
    for database in databases:
        await database.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for open files where Linux lists them")
async def test_who_comes_by_a_link_meets_those_who_have_the_file_open(database: Database, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "books.db"
    link.symlink_to(database.path)
    instance = await register_instance(database)
    other = await open_database(link)
    async with census(other) as found:
        assert found.alive == (instance.number,)
    before = database.key_changes.word
    account = await AccountStore(other).create("Ada")
    await KeyStore(other).create(key_spec(account.id))
    assert database.key_changes.word != before
    await other.close()
    await instance.close()
    assert await asyncio.to_thread(os.listdir, link.parent) == [link.name]


async def test_the_writer_keeps_what_it_may_have_to_undo_in_memory(database: Database) -> None:
    def change_many_pages(connection: sqlite3.Connection) -> list[str]:
        connection.execute("CREATE TABLE long (number INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        rows = [(number, "x" * 3000) for number in range(64)]
        connection.executemany("INSERT INTO long VALUES (?, ?)", rows)
        connection.execute("SAVEPOINT here")
        connection.execute("UPDATE long SET text = replace(text, 'x', 'y')")
        # A file that is deleted already is known by its beginning.
        files = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        connection.execute("ROLLBACK TO here")
        connection.execute("RELEASE here")
        assert connection.execute("SELECT count(*) FROM long WHERE text LIKE 'x%'").fetchone() == (64,)
        return [each for each in files if "etilqs_" in each]

    assert await database.write(change_many_pages) == []


async def test_seeing_whether_it_can_be_written_changes_nothing(database: Database) -> None:
    """Also not after trouble, when something is written for it: nobody looks at keys anew."""

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only = ON")
        rename(connection)

    await AccountStore(database).create("Ada")
    before = [await database.read("SELECT * FROM versions"), database.key_changes.word]
    await database.see_that_new_work_can_be_written()
    version = database.data_version()
    with pytest.raises(Unavailable):
        await database.write(fail)
    for _ in range(2):
        await database.see_that_new_work_can_be_written()
    assert database.data_version() == version + 1, "once it has been written, the trouble is over"
    assert [await database.read("SELECT * FROM versions"), database.key_changes.word] == before
