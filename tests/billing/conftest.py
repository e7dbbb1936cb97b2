"""An account with 7 dollars, a key, and the books over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bitmesh_proxy.billing.reservation import Books
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.context import Caller
from bitmesh_proxy.metrics import LedgerWaits
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from tests.billing.offers import ONE
from tests.first_start import lay_database
from tests.hand_clock import HandClock
from tests.storage.examples import key_spec, open_database, usd


@pytest.fixture
def clock() -> HandClock:
    return HandClock(1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    await asyncio.to_thread(lay_database, path)
    # (Less would now and then pass on a busy machine although nobody else writes.)
    database = await open_database(path, busy_timeout_s=0.5)
    yield database
    await database.close()


@pytest.fixture
async def caller(database: Database) -> Caller:
    account = await AccountStore(database).create("Ada")
    await AccountStore(database).credit(account.id, usd(7))
    return (await KeyStore(database).create(key_spec(account.id))).caller


@pytest.fixture
def ledger(database: Database) -> LedgerStore:
    return LedgerStore(database)


@pytest.fixture
async def settlements() -> AsyncIterator[Settlements]:
    settlements = Settlements(first_retry_s=0.001, max_retry_s=0.01)
    yield settlements
    await settlements.close(timeout_s=5.0)


@pytest.fixture
def waits() -> LedgerWaits:
    return LedgerWaits()


@pytest.fixture
def cutting() -> asyncio.Event:
    """Set by a test: from then on we break off what breaks off."""
    return asyncio.Event()


@pytest.fixture
def books(
    ledger: LedgerStore, settlements: Settlements, clock: HandClock, waits: LedgerWaits, cutting: asyncio.Event
) -> Books:
    return Books(
        ledger,
        settlements=settlements,
        instance=1,
        markup_nano=ONE,
        clock=clock,
        waits=waits,
        is_cutting=cutting.is_set,
    )
