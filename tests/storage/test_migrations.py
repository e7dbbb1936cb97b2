from __future__ import annotations

import asyncio
import fcntl
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitmesh_proxy.storage.database import keep_log
from bitmesh_proxy.storage.failures import StorageError, may_pass
from bitmesh_proxy.storage.lock_files import lock_directory
from bitmesh_proxy.storage.migrations import APPLICATION_ID, Migration, load_migrations, migrate, split_statements
from tests.storage.examples import open_database

FIRST = Migration(number=1, name="0001_create_things.sql", sql="CREATE TABLE things (name TEXT) STRICT;")
SECOND = Migration(
    number=2,
    name="0002_add_colours.sql",
    sql="""
    -- A comment; with a semicolon.
    ALTER TABLE things ADD COLUMN colour TEXT;
    CREATE TRIGGER things_get_a_colour AFTER INSERT ON things WHEN NEW.colour IS NULL
    BEGIN
        UPDATE things SET colour = 'grey;' WHERE rowid = NEW.rowid;
        SELECT 1;
    END;
    """,
)
BROKEN = Migration(
    number=2, name="0002_break.sql", sql="CREATE TABLE more (name TEXT);\nINSERT INTO nowhere VALUES (1);"
)


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    yield connection
    connection.close()


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def copies(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if "before" in entry.name)


def test_own_migrations_are_numbered_and_named() -> None:
    migrations = load_migrations()
    assert [migration.number for migration in migrations] == list(range(1, len(migrations) + 1))


def test_empty_file_gets_everything_once(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, [FIRST, SECOND])
    migrate(connection, path, [FIRST, SECOND])
    assert version(connection) == 2
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.execute("INSERT INTO things (name) VALUES ('stone')")
    assert connection.execute("SELECT * FROM things").fetchall() == [("stone", "grey;")]
    assert copies(path) == []


def test_copy_is_laid_beside_before_an_existing_file_changes(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, [FIRST])
    connection.execute("INSERT INTO things VALUES ('old')")
    migrate(connection, path, [FIRST, SECOND])
    assert copies(path) == ["books.db.before-0002"]
    copy = sqlite3.connect(path.with_name("books.db.before-0002"))
    assert version(copy) == 1
    assert copy.execute("SELECT * FROM things").fetchall() == [("old",)]
    copy.close()


def test_only_what_may_take_long_is_announced(connection: sqlite3.Connection, path: Path) -> None:
    versions: list[int] = []
    for known in ([FIRST], [FIRST], [FIRST, SECOND], [FIRST, SECOND]):
        migrate(connection, path, known, on_begin=lambda: versions.append(version(connection)))
    assert versions == [1]
    assert copies(path) == ["books.db.before-0002"]


def test_failed_migration_changes_nothing(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, [FIRST])
    with pytest.raises(StorageError, match=r"0002_break\.sql: no such table: nowhere"):
        migrate(connection, path, [FIRST, BROKEN])
    assert version(connection) == 1
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("things",)]


def test_newer_database_is_refused(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, [FIRST, SECOND])
    with pytest.raises(StorageError, match=r"newer version of bitmesh-proxy \(schema 2, this program knows 1\)"):
        migrate(connection, path, [FIRST])


def test_database_of_another_program_is_refused(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(StorageError, match="of another program"):
        migrate(connection, path, [FIRST])
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("recipes",)]


async def test_newer_database_does_not_start(path: Path) -> None:
    await (await open_database(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="newer version"):
        await open_database(path)


def test_a_copy_that_finds_no_room_is_what_is_said_to_be_missing(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, [FIRST])
    connection.execute("INSERT INTO things VALUES (?)", ("x" * 100_000,))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        with pytest.raises(StorageError, match=r"a copy of it \(.* MiB\)") as caught:
            migrate(connection, path, [FIRST, SECOND])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert may_pass(caught.value)
    assert copies(path) == []
    migrate(connection, path, [FIRST, SECOND])
    assert copies(path) == ["books.db.before-0002"]


def test_nothing_is_changed_under_a_service_of_an_older_version(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, [FIRST])
    lock_directory(path).mkdir()
    with (lock_directory(path) / "of_a_service.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        migrate(connection, path, [FIRST])
        with pytest.raises(StorageError, match="in use by a running service of an older version") as caught:
            migrate(connection, path, [FIRST, SECOND])
        assert may_pass(caught.value), "it is worth another try when that service has ended"
        assert version(connection) == 1
        assert copies(path) == []
    migrate(connection, path, [FIRST, SECOND])
    assert version(connection) == 2


def test_what_one_migration_did_goes_with_the_next_that_fails(connection: sqlite3.Connection, path: Path) -> None:
    """So that the program of the version before still takes the file."""
    migrate(connection, path, [FIRST])
    third = Migration(number=3, name="0003_break.sql", sql="INSERT INTO nowhere VALUES (1);")
    with pytest.raises(StorageError, match=r"0003_break\.sql"):
        migrate(connection, path, [FIRST, SECOND, third])
    assert version(connection) == 1
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("things",)]
    migrate(connection, path, [FIRST])


@pytest.mark.parametrize("before", [0, 1])
async def test_processes_that_start_together_migrate_once(path: Path, before: int) -> None:
    """From nothing without a copy, though each may find the file when another has just made it."""
    third = Migration(number=3, name="0003_add_more.sql", sql="CREATE TABLE more (name TEXT) STRICT;")

    def start(migrations: list[Migration]) -> None:
        connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        keep_log(connection, timeout_s=5.0)
        try:
            migrate(connection, path, migrations)
        finally:
            connection.close()

    if before:
        start([FIRST])
    await asyncio.gather(*(asyncio.to_thread(start, [FIRST, SECOND, third]) for _ in range(8)))
    with sqlite3.connect(path) as connection:
        assert version(connection) == 3
    connection.close()
    assert copies(path) == (["books.db.before-0002"] if before else [])


def test_script_that_ends_within_a_statement_is_refused() -> None:
    assert list(split_statements("SELECT 1;\nSELECT\n 2;\n-- the end")) == ["SELECT 1;\n", "SELECT\n 2;\n"]
    with pytest.raises(StorageError, match="ends within a statement"):
        list(split_statements("SELECT 1;\nSELECT 2"))


async def test_every_table_is_strict(path: Path) -> None:
    database = await open_database(path)
    rows = await database.read(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND NOT strict"
    )
    await database.close()
    assert {name for (name,) in rows} <= {"sqlite_schema", "sqlite_sequence"}
