from __future__ import annotations

import asyncio

import pytest

from bitmesh_proxy.auth.nonces import NonceStore
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage import nonces
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.nonces import SqliteNonces
from tests.storage.examples import NOON_S

NOW = int(NOON_S)


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> SqliteNonces:
    return SqliteNonces(database, window_s=300, clock=clock)


def test_it_is_what_authentication_asks_for(store: SqliteNonces) -> None:
    kept: NonceStore = store
    assert kept is store


async def test_nonce_is_good_once(store: SqliteNonces) -> None:
    assert await store.burn("ck_1", "n", NOW)
    assert not await store.burn("ck_1", "n", NOW)
    assert not await store.burn("ck_1", "n", NOW + 1)
    assert await store.burn("ck_2", "n", NOW)
    assert await store.burn("ck_1", "m", NOW)


async def test_one_of_many_at_once_wins(store: SqliteNonces) -> None:
    results = await asyncio.gather(*(store.burn("ck_1", "n", NOW) for _ in range(50)))
    assert results.count(True) == 1


async def test_nonce_stays_burnt_over_a_restart(store: SqliteNonces, database: Database, clock: Clock) -> None:
    await store.burn("ck_1", "n", NOW)
    assert not await SqliteNonces(database, window_s=300, clock=clock).burn("ck_1", "n", NOW)


async def test_nonce_is_kept_as_long_as_it_could_be_accepted(
    store: SqliteNonces, database: Database, clock: Clock
) -> None:
    await store.burn("ck_1", "past", NOW - 300)
    await store.burn("ck_1", "now", NOW)
    await store.burn("ck_1", "future", NOW + 300)

    async def names() -> set[str]:
        await store.burn("ck_1", f"sweep at {clock.now_s}", int(clock.now_s))
        return {name for (name,) in await database.read("SELECT nonce FROM nonces") if "sweep" not in name}

    clock.now_s += 300  # the one from now is just inside its window still
    assert await names() == {"now", "future"}
    clock.now_s += 302
    assert await names() == set()


async def test_table_is_bounded_by_refusing(database: Database, clock: Clock) -> None:
    store = SqliteNonces(database, window_s=300, max_nonces=3, clock=clock)
    for number in range(3):
        assert await store.burn("ck_1", str(number), NOW)
    clock.now_s += nonces.SWEEP_INTERVAL_S
    with pytest.raises(Unavailable):
        await store.burn("ck_1", "one more", NOW)
    clock.now_s += 400
    assert await store.burn("ck_1", "later", int(clock.now_s))
