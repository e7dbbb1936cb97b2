from __future__ import annotations

import sqlite3

import pytest

from bitmesh_proxy.storage import names
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.names import Names, make_number


async def test_number_is_made_once_and_found(database: Database) -> None:
    found = Names(database)
    assert found.find("chat") is None
    first = await database.write(lambda connection: make_number(connection, "chat"))
    assert await database.write(lambda connection: make_number(connection, "chat")) == first
    assert await database.write(lambda connection: make_number(connection, "image")) != first
    assert found.find("chat") == found.find("chat") == first


async def test_number_of_a_lost_transaction_is_not_remembered(database: Database) -> None:
    found = Names(database)

    def fail(connection: sqlite3.Connection) -> None:
        make_number(connection, "lost")
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(fail)
    assert found.find("lost") is None


async def test_memory_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_REMEMBERED", 2)
    found = Names(database)
    for name in ("a", "b", "c"):
        await database.write(lambda connection, name=name: make_number(connection, name))  # type: ignore[misc]
        assert found.find(name) is not None
    assert found.find("c") is not None
    assert len(found.known) == 2
