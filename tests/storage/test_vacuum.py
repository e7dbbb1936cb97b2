from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from bitmesh_proxy.storage.accounts import Account
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.instances import register_instance
from bitmesh_proxy.storage.vacuum import is_served, vacuum
from bitmesh_proxy.storage.verification import verify_books
from tests.storage.examples import open_database


def size_of(path: Path) -> int:
    return path.stat().st_size


async def fill_and_empty(database: Database) -> None:
    for sql in (
        "CREATE TABLE ballast (text TEXT)",
        "INSERT INTO ballast SELECT hex(randomblob(500000))",
        "DROP TABLE ballast",
    ):
        await database.write(lambda connection, sql=sql: connection.execute(sql))  # type: ignore[misc]


async def test_free_pages_go_and_the_books_stay(path: Path, database: Database, account: Account) -> None:
    await fill_and_empty(database)
    await database.close()
    before, after = await asyncio.to_thread(vacuum, path)
    assert after < before - 900_000
    assert after == size_of(path)
    again = await open_database(path)
    try:
        assert await again.read("SELECT id FROM accounts") == [(account.id,)]
        assert await verify_books(again) == []
    finally:
        await again.close()


async def test_a_file_in_use_stays_as_it_is(path: Path, database: Database) -> None:
    await fill_and_empty(database)
    await database.close()
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="cannot be written anew: database is locked"):
            await asyncio.to_thread(vacuum, path, timeout_s=0.01)
        other.execute("ROLLBACK")
    other.close()
    assert size_of(path) > 900_000


async def test_who_serves_is_known_by_its_lock(database: Database) -> None:
    assert not await is_served(database)
    instance = await register_instance(database)
    assert await is_served(database)
    await instance.close()
    assert not await is_served(database)
