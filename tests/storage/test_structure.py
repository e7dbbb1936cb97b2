"""What is missing in a database, changed, or not ours."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.migrations import load_migrations, migrate
from bitmesh_proxy.storage.structure import Deviations, compare_structure
from tests.storage.examples import open_database

NOTHING = Deviations((), ())


async def deviations(database: Database) -> Deviations:
    async with database.snapshot() as snapshot:
        return await compare_structure(snapshot)


def tamper(path: Path, script: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()


async def test_a_new_database_is_as_it_should_be(database: Database) -> None:
    assert await deviations(database) == NOTHING


async def test_so_is_one_that_went_through_all_versions(path: Path) -> None:
    def migrate_step_by_step() -> None:
        migrations = load_migrations()
        for number in range(1, len(migrations) + 1):
            connection = sqlite3.connect(path, isolation_level=None)
            migrate(connection, path, migrations[:number])
            connection.execute("ANALYZE")  # which leaves tables of SQLite's own
            connection.close()

    await asyncio.to_thread(migrate_step_by_step)
    database = await open_database(path)
    assert await deviations(database) == NOTHING
    await database.close()


async def test_and_one_that_was_written_down_and_read_in_again(database: Database, tmp_path: Path) -> None:
    with sqlite3.connect(database.path) as connection:
        statements = [
            sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'")
        ]
        numbers = connection.execute(
            "SELECT user_version, application_id FROM pragma_user_version, pragma_application_id"
        )
        version, application_id = numbers.fetchone()
    connection.close()
    copy = tmp_path / "copy.db"
    with sqlite3.connect(copy) as connection:
        for sql in statements:
            connection.execute(sql.replace("CREATE TABLE accounts", 'create  table "accounts" -- of ours\n'))
        connection.executescript(f"PRAGMA user_version = {version}; PRAGMA application_id = {application_id}")
    connection.close()
    again = await open_database(copy)
    assert await deviations(again) == NOTHING
    await again.close()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("DROP TABLE request_runs", "the database lacks the table request_runs"),
        ("DROP TRIGGER requests_hold", "the database lacks the rule requests_hold"),
        ("DROP INDEX requests_by_id", "the database lacks the index requests_by_id"),
        ("DROP VIEW open_requests", "the database lacks the view open_requests"),
        (
            "DROP TRIGGER summed_up_is_not_deleted;"
            "CREATE TRIGGER summed_up_is_not_deleted BEFORE DELETE ON summed_up BEGIN SELECT 1; END",
            "the database's rule summed_up_is_not_deleted has been changed",
        ),
        ("ALTER TABLE accounts ADD COLUMN vip INTEGER", "the database's table accounts has been changed"),
        (
            "CREATE TRIGGER gift AFTER INSERT ON accounts BEGIN SELECT 1; END",
            "the database has a rule gift that is not ours",
        ),
    ],
)
async def test_what_is_missing_or_changed_is_a_fault(database: Database, script: str, said: str) -> None:
    tamper(database.path, script)
    assert await deviations(database) == Deviations((said,), ())


async def test_what_else_somebody_has_added_is_only_told(database: Database) -> None:
    tamper(
        database.path,
        "CREATE TABLE notes (a); CREATE INDEX by_model ON requests (model); CREATE VIEW all_keys AS SELECT * FROM keys",
    )
    assert await deviations(database) == Deviations((), ("index by_model", "table notes", "view all_keys"))
