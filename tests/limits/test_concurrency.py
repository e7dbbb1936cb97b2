"""Calls under way: exact, and given back however the block is left."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress

import pytest

from bitmesh_proxy.errors import RateLimited, TooManyConcurrent
from bitmesh_proxy.limits.concurrency import ConcurrencyLimit
from tests.limits.jostling import in_threads


def test_so_many_and_not_one_more() -> None:
    limit = ConcurrencyLimit(2)
    with limit.enter("key_a"), limit.enter("key_a"):
        assert limit.running("key_a") == 2
        with pytest.raises(TooManyConcurrent, match="2 at once") as refusal, limit.enter("key_a"):
            pytest.fail("a third was let in")
        assert isinstance(refusal.value, RateLimited)
        assert refusal.value.retry_after_s == 1.0
        with limit.enter("key_b"):
            assert limit.running("key_b") == 1
        assert limit.running("key_a") == 2
    assert limit.running("key_a") == 0
    with limit.enter("key_a"):
        assert limit.running("key_a") == 1


@pytest.mark.parametrize(("own", "allowed"), [(None, 3), (1, 1), (5, 5)])
def test_a_limit_of_its_own(own: int | None, allowed: int) -> None:
    limit = ConcurrencyLimit(3)
    with ExitStack() as stack:
        for _ in range(allowed):
            stack.enter_context(limit.enter("key_a", own))
        with pytest.raises(TooManyConcurrent):
            stack.enter_context(limit.enter("key_a", own))


@pytest.mark.parametrize(("default", "own"), [(0, None), (1, 0)])
def test_no_limit(default: int, own: int | None) -> None:
    limit = ConcurrencyLimit(default)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(limit.enter("key_a", own))
        assert limit.running("key_a") == 100


def test_a_smaller_limit_counts_at_once() -> None:
    limit = ConcurrencyLimit()
    with limit.enter("key_a", 3), limit.enter("key_a", 3):
        with pytest.raises(TooManyConcurrent):
            limit.enter("key_a", 2).__enter__()
        assert limit.running("key_a") == 2


def test_an_error_gives_the_slot_back() -> None:
    limit = ConcurrencyLimit(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limit.enter("key_a"):
            _ = 1 / 0
    assert limit.running("key_a") == 0


def test_a_slot_that_was_never_entered_counts_for_nothing() -> None:
    limit = ConcurrencyLimit(1)
    limit.enter("key_a")
    with limit.enter("key_a"):
        assert limit.running("key_a") == 1


async def test_cancellation_gives_the_slot_back() -> None:
    limit = ConcurrencyLimit(10)
    entered = asyncio.Semaphore(0)

    async def call() -> None:
        with limit.enter("key_a"):
            entered.release()
            await asyncio.Event().wait()

    calls = [asyncio.create_task(call()) for _ in range(10)]
    for _ in calls:
        await entered.acquire()
    assert limit.running("key_a") == 10
    with pytest.raises(TooManyConcurrent):
        await call()
    for task in calls[:4]:
        task.cancel()
    await asyncio.gather(*calls[:4], return_exceptions=True)
    assert limit.running("key_a") == 6
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert limit.running("key_a") == 0


async def test_a_call_cancelled_before_it_began_holds_nothing() -> None:
    limit = ConcurrencyLimit(1)

    async def call() -> None:
        with limit.enter("key_a"):
            await asyncio.sleep(0)

    task = asyncio.create_task(call())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert limit.running("key_a") == 0


def test_threads() -> None:
    limit = ConcurrencyLimit(3)
    highest = list[int]()

    def call() -> None:
        for _ in range(300):
            try:
                with limit.enter("key_a"):
                    highest.append(limit.running("key_a"))
            except TooManyConcurrent:
                continue

    in_threads(call)
    assert max(highest) <= 3
    assert limit.running("key_a") == 0


def test_a_slot_that_was_handed_over_outlives_its_block() -> None:
    limit = ConcurrencyLimit(1)
    with limit.enter("key_a") as slot:
        give_back = slot.hand_over()
    assert limit.running("key_a") == 1
    with pytest.raises(TooManyConcurrent), limit.enter("key_a"):
        pytest.fail("it was let in")
    give_back()
    assert limit.running("key_a") == 0


def test_a_slot_that_was_handed_over_survives_an_error() -> None:
    limit = ConcurrencyLimit(1)
    with suppress(ZeroDivisionError), limit.enter("key_a") as slot:
        give_back = slot.hand_over()
        raise ZeroDivisionError
    assert limit.running("key_a") == 1
    give_back()
    assert limit.running("key_a") == 0
