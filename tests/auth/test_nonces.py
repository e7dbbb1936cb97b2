"""Nonces are good once, for as long as their timestamp could be accepted, and forgotten afterwards."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.auth.nonces import MemoryNonces, NonceStore
from bitmesh_proxy.errors import Unavailable

START_S = 1_700_000_000


class HandClock:
    def __init__(self, now_s: float = START_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


async def test_a_nonce_is_good_once() -> None:
    store: NonceStore = MemoryNonces(clock=HandClock())
    assert await store.burn("ck", "n1", START_S)
    assert not await store.burn("ck", "n1", START_S)
    assert await store.burn("ck", "n2", START_S)


async def test_it_counts_per_consumer_key() -> None:
    store = MemoryNonces(clock=HandClock())
    assert await store.burn("ck_a", "n", START_S)
    assert await store.burn("ck_b", "n", START_S)


async def test_another_timestamp_does_not_bring_it_back() -> None:
    clock = HandClock()
    store = MemoryNonces(clock=clock)
    assert await store.burn("ck", "n", START_S)
    clock.now_s += 100
    assert not await store.burn("ck", "n", START_S + 100)


async def test_of_many_at_once_one_wins() -> None:
    store = MemoryNonces(clock=HandClock())
    assert sum(await asyncio.gather(*(store.burn("ck", "n", START_S) for _ in range(50)))) == 1


@pytest.mark.parametrize("ahead_s", [-300, 0, 300])
async def test_it_is_remembered_until_its_timestamp_has_left_the_window(ahead_s: int) -> None:
    clock = HandClock(START_S + 0.75)
    store = MemoryNonces(clock=clock, window_s=300.0)
    timestamp_s = START_S + ahead_s
    assert await store.burn("ck", "n", timestamp_s)
    clock.now_s = timestamp_s + 300.0  # the last moment at which verify() accepts the timestamp
    assert not await store.burn("ck", "n", timestamp_s)
    clock.now_s = timestamp_s + 301.0
    assert await store.burn("ck", "n", START_S + 1000)


async def test_what_has_expired_takes_no_room() -> None:
    clock = HandClock()
    store = MemoryNonces(clock=clock, window_s=300.0)
    for second in range(2000):
        clock.now_s = START_S + second
        for index in range(3):
            assert await store.burn("ck", f"{second}-{index}", START_S + second)
        assert len(store) <= 3 * 302
    clock.now_s += 10_000
    assert await store.burn("ck", "last", int(clock.now_s))
    assert len(store) == 1


async def test_a_full_store_refuses_rather_than_forgets() -> None:
    clock = HandClock()
    store = MemoryNonces(clock=clock, window_s=300.0, max_nonces=2)
    assert await store.burn("ck", "a", START_S)
    assert await store.burn("ck", "b", START_S)
    with pytest.raises(Unavailable):
        await store.burn("ck", "c", START_S)
    assert not await store.burn("ck", "a", START_S), "a replay is still seen as one"
    clock.now_s += 302
    assert await store.burn("ck", "c", START_S + 302)


@given(
    steps=st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abc"), st.integers(-10, 10)), min_size=1, max_size=60)
)
def test_against_a_model_that_forgets_nothing(steps: list[tuple[int, str, int]]) -> None:
    """Whatever is accepted a second time cannot have been acceptable any more by the first use's timestamp."""
    clock = HandClock()
    store = MemoryNonces(clock=clock, window_s=10.0)
    burnt_until_s: dict[str, float] = {}
    for forward_s, nonce, ahead_s in steps:
        clock.now_s += forward_s
        timestamp_s = int(clock.now_s) + ahead_s
        is_new = store.burn_now("ck", nonce, timestamp_s)
        if clock.now_s <= burnt_until_s.get(nonce, 0.0):
            assert not is_new
        elif clock.now_s >= burnt_until_s.get(nonce, 0.0) + 1:
            assert is_new
        if is_new:
            burnt_until_s[nonce] = timestamp_s + 10.0


async def test_whoever_does_not_wait_hears_later() -> None:
    heard: list[bool | Exception] = []
    store: NonceStore = MemoryNonces(clock=HandClock(), max_nonces=1)
    for _ in range(2):
        store.burn_soon("ck", "n", START_S, heard.append)
    assert heard == []
    await asyncio.sleep(0)
    assert heard == [True, False]
    with pytest.raises(Unavailable):
        store.burn_soon("ck", "another", START_S, heard.append)
