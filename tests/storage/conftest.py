"""An account with 7 dollars and a key, in a database of its own for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from tests.first_start import lay_database
from tests.hand_clock import HandClock
from tests.storage.examples import NOON_S, key_spec, open_database, usd


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.db"


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOON_S)


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    await asyncio.to_thread(lay_database, path)
    database = await open_database(path)
    yield database
    await database.close()


@pytest.fixture
def accounts(database: Database) -> AccountStore:
    return AccountStore(database, clock=lambda: NOON_S)


@pytest.fixture
def keys(database: Database) -> KeyStore:
    return KeyStore(database, clock=lambda: NOON_S)


@pytest.fixture
def ledger(database: Database) -> LedgerStore:
    return LedgerStore(database)


@pytest.fixture
async def account(accounts: AccountStore) -> Account:
    account = await accounts.create("Ada")
    await accounts.credit(account.id, usd(7), "first payment")
    found = await accounts.get(account.id)
    assert found is not None
    return found


@pytest.fixture
async def key(keys: KeyStore, account: Account) -> KeyRecord:
    return await keys.create(key_spec(account.id))
