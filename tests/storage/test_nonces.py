from __future__ import annotations

import asyncio
import random

import pytest

from bitmesh_proxy.auth.nonces import NonceStore
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage import nonces, sweeps
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.nonces import SqliteNonces
from tests.hand_clock import HandClock
from tests.storage.examples import NOON_S

NOW = int(NOON_S)


@pytest.fixture
def store(database: Database, clock: HandClock) -> SqliteNonces:
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


async def test_nonce_stays_burnt_over_a_restart(store: SqliteNonces, database: Database, clock: HandClock) -> None:
    await store.burn("ck_1", "n", NOW)
    assert not await SqliteNonces(database, window_s=300, clock=clock).burn("ck_1", "n", NOW)


async def test_nonce_is_kept_as_long_as_it_could_be_accepted(
    store: SqliteNonces, database: Database, clock: HandClock
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


@pytest.mark.parametrize("ahead_s", [-300, 0, 300])
async def test_nonce_is_burnt_up_to_the_last_moment_of_its_timestamp(
    store: SqliteNonces, clock: HandClock, ahead_s: int
) -> None:
    clock.now_s += 0.75
    assert await store.burn("ck_1", "n", NOW + ahead_s)
    clock.now_s = NOW + ahead_s + 300.0  # the last moment at which verify() accepts the timestamp
    assert not await store.burn("ck_1", "n", NOW + ahead_s)
    clock.now_s += 302
    assert await store.burn("ck_1", "n", int(clock.now_s))


async def test_against_a_model_that_forgets_nothing(database: Database, clock: HandClock) -> None:
    """Whatever is accepted a second time could not have been accepted any more by the first use's timestamp."""
    chance, window_s = random.Random(4), 10
    store = SqliteNonces(database, window_s=window_s, clock=clock)
    burnt_until_s: dict[str, float] = {}
    seen = set()
    for _ in range(500):
        clock.now_s += chance.choice([0.0, 0.25, 1.0, 5.0, 10.0, 40.0])
        nonce, timestamp_s = chance.choice("abc"), int(clock.now_s) + chance.randint(-window_s, window_s)
        is_new = await store.burn("ck_1", nonce, timestamp_s)
        late_s = clock.now_s - burnt_until_s.get(nonce, 0.0)
        if late_s <= 0:
            assert not is_new
        elif late_s > nonces.SWEEP_INTERVAL_S + 2:
            assert is_new
        if is_new:
            burnt_until_s[nonce] = timestamp_s + window_s
        seen.add((is_new, late_s <= 0))
    assert seen == {(True, False), (False, True), (False, False)}


async def test_table_is_bounded_by_refusing(database: Database, clock: HandClock) -> None:
    store = SqliteNonces(database, window_s=300, max_nonces=3, clock=clock)
    for number in range(3):
        assert await store.burn("ck_1", str(number), NOW)
    clock.now_s += nonces.SWEEP_INTERVAL_S
    with pytest.raises(Unavailable) as refusal:
        await store.burn("ck_1", "one more", NOW)
    assert refusal.value.retry_after_s == nonces.SWEEP_INTERVAL_S
    clock.now_s += 400
    assert await store.burn("ck_1", "later", int(clock.now_s))


async def soon(store: SqliteNonces, *names: str) -> list[bool | Exception]:
    """What is heard of several that are burnt at once, in their order."""
    heard: list[asyncio.Future[bool | Exception]] = []
    for name in names:
        future: asyncio.Future[bool | Exception] = asyncio.get_running_loop().create_future()
        store.burn_soon("ck_1", name, NOW, future.set_result)
        assert not future.done(), "never before it returns"
        heard.append(future)
    return await asyncio.gather(*heard)


async def test_several_at_once_hear_of_their_own(store: SqliteNonces, database: Database) -> None:
    assert await store.burn("ck_1", "b", NOW)
    assert await soon(store, "a", "b", "c", "a", "d") == [True, False, True, False, True]
    assert await database.read("SELECT nonce, timestamp_s FROM nonces ORDER BY nonce") == [(c, NOW) for c in "abcd"]


async def test_whoever_does_not_wait_hears_of_a_full_table_too(database: Database, clock: HandClock) -> None:
    store = SqliteNonces(database, window_s=300, max_nonces=3, clock=clock)
    assert await soon(store, "a", "b", "c") == [True, True, True]
    clock.now_s += nonces.SWEEP_INTERVAL_S
    (error,) = await soon(store, "one more")  # which is the first to have it counted
    assert isinstance(error, Unavailable)
    with pytest.raises(Unavailable):
        await soon(store, "another")


async def test_a_sweep_that_fails_is_heard_of(store: SqliteNonces, database: Database, clock: HandClock) -> None:
    await database.write(lambda connection: connection.execute("ALTER TABLE nonces RENAME TO gone"))
    (swept,) = await soon(store, "a")
    (inserted,) = await soon(store, "a")
    assert isinstance(swept, Exception)
    assert isinstance(inserted, Exception)
    await database.write(lambda connection: connection.execute("ALTER TABLE gone RENAME TO nonces"))
    assert await soon(store, "a") == [True]


async def test_what_waits_to_be_swept_takes_nobodys_room(
    database: Database, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that is broken off goes on with the next calls, and counts what can be accepted still."""
    monkeypatch.setattr(sweeps, "STEP_S", 0.0)
    monkeypatch.setattr(nonces, "SWEEP_ROWS", 4)
    store = SqliteNonces(database, window_s=300, max_nonces=10, clock=clock)
    assert await soon(store, *map(str, range(9))) == [True] * 9
    clock.now_s += 400
    left = []
    for number in range(3):
        assert await store.burn("ck_1", f"later {number}", int(clock.now_s))
        left.append((await database.read("SELECT count(*) FROM nonces WHERE timestamp_s = ?", (NOW,)))[0][0])
        clock.now_s += sweeps.REST_S * 1.01
    assert left == [5, 1, 0]


async def test_nonces_are_counted_beside_the_writer(database: Database, clock: HandClock) -> None:
    """One call waits for that, and nobody else who writes."""
    store = SqliteNonces(database, window_s=300, max_nonces=10, clock=clock)
    async with database.snapshot():  # nobody else reads meanwhile
        counting = asyncio.create_task(store.burn("ck_1", "the first", NOW))
        await asyncio.sleep(0)
        for name in "abc":
            assert await store.burn("ck_1", name, NOW)
        assert not counting.done()
    assert await counting


async def test_what_cannot_be_counted_is_taken_for_what_it_was(
    database: Database, clock: HandClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteNonces(database, window_s=300, max_nonces=3, clock=clock)
    assert await soon(store, "a", "b", "c") == [True, True, True]
    monkeypatch.setattr(nonces, "_COUNT_LIVE", "SELECT count(*) FROM nowhere")
    clock.now_s += nonces.SWEEP_INTERVAL_S
    assert await store.burn("ck_1", "one more", NOW)
    assert "nonces cannot be counted now" in caplog.text
