"""The budget of a fetch, and the connections' errors in this room's words."""

from __future__ import annotations

import asyncio
import math

import pytest

from bitmesh_proxy.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from bitmesh_proxy.media.fetch_budget import FetchBudget
from bitmesh_proxy.media.fetch_errors import (
    FetchBroken,
    FetchError,
    FetchRefused,
    FetchTimedOut,
    FetchTooLarge,
    FetchUnreachable,
)
from bitmesh_proxy.upstream.watch import Watch


def budget(*, max_bytes: int = 100, total_timeout_s: float = 10.0) -> FetchBudget:
    watch = Watch(asyncio.get_running_loop())
    return FetchBudget(max_bytes=max_bytes, total_timeout_s=total_timeout_s, watch=watch)


async def wait_for(spending: FetchBudget, duration_s: float) -> None:
    async with spending:
        await asyncio.sleep(duration_s)


async def fail_with(error: BaseException) -> None:
    async with budget():
        raise error


async def hold_then_wait(spending: FetchBudget, held_s: float, waiting_s: float) -> None:
    async with spending:
        await spending.held(asyncio.sleep(held_s))
        await asyncio.sleep(waiting_s)


async def test_bytes_are_counted_to_the_last() -> None:
    spending = budget(max_bytes=100)
    spending.count(60)
    spending.count(40)
    with pytest.raises(FetchTooLarge):
        spending.count(1)


async def test_waiting_adds_up_and_pausing_does_not() -> None:
    spending = budget(total_timeout_s=0.4)
    await wait_for(spending, 0.01)
    await asyncio.sleep(0.5)
    await wait_for(spending, 0.01)
    with pytest.raises(FetchTimedOut):
        await wait_for(spending, 5)
    with pytest.raises(FetchTimedOut):
        await wait_for(spending, 5)


async def test_what_is_there_already_may_be_taken_when_the_time_is_up() -> None:
    spending = budget(total_timeout_s=0.01)
    with pytest.raises(FetchTimedOut):
        await wait_for(spending, 5)
    async with spending:
        pass


async def test_what_is_held_by_our_own_side_is_not_counted() -> None:
    """While it lasts, the time that is left stands still; afterwards it runs on."""
    spending = budget(total_timeout_s=0.2)
    async with spending:
        await spending.held(asyncio.sleep(0.5))
    with pytest.raises(FetchTimedOut):
        await hold_then_wait(spending, 0.3, 5)


async def test_a_timeout_of_somebody_elses_is_not_ours() -> None:
    with pytest.raises(TimeoutError):
        await fail_with(TimeoutError("the caller stalls"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UpstreamTimeout("The provider did not answer in time."), FetchTimedOut),
        (UpstreamUnreachable("The provider cannot be reached."), FetchUnreachable),
        (UpstreamBroken("The provider's answer broke off."), FetchBroken),
    ],
)
async def test_the_connections_errors_are_ours(error: Exception, expected: type[FetchError]) -> None:
    with pytest.raises(expected) as caught:
        await fail_with(error)
    assert caught.value.__cause__ is error
    assert "provider" not in str(caught.value)  # it may as well be a caller's own link


async def test_our_own_errors_and_cancellation_pass_through() -> None:
    with pytest.raises(FetchRefused):
        await fail_with(FetchRefused("no"))
    with pytest.raises(asyncio.CancelledError):
        await fail_with(asyncio.CancelledError())


async def test_whoever_cancels_while_the_time_is_up_is_not_overheard() -> None:
    """A service that stops does not mistake its own end for the other side's slowness."""
    spending = budget(total_timeout_s=0.01)
    waiting = asyncio.create_task(wait_for(spending, 5))
    await asyncio.sleep(0)
    spending.look(asyncio.get_running_loop().time() + 1)  # the time is up, and in the same moment it is cancelled
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_one_that_is_over_is_looked_at_no_more() -> None:
    spending = budget(total_timeout_s=0.02)
    async with spending:
        pass
    assert spending.watched_s < math.inf
    spending.close()
    assert spending.watched_s == math.inf
    await asyncio.sleep(0.05)
    assert spending.look(asyncio.get_running_loop().time()) == math.inf
