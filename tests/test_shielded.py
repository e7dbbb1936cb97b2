import asyncio
from contextlib import suppress

import pytest

from bitmesh_proxy.shielded import shielded


async def test_what_was_waited_for_is_told() -> None:
    work = asyncio.create_task(asyncio.sleep(0, "result"))
    assert await shielded(work) == "result"
    assert await shielded(work) == "result"  # and once more, when it is over


async def test_a_failure_is_told() -> None:
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(work.set_exception, LookupError("lost"))
    with pytest.raises(LookupError, match="lost"):
        await shielded(work)


async def test_work_that_is_cancelled_says_so() -> None:
    work = asyncio.create_task(asyncio.sleep(10))
    asyncio.get_running_loop().call_soon(work.cancel)
    with pytest.raises(asyncio.CancelledError):
        await shielded(work)


async def test_work_goes_on_without_who_waited_and_its_failure_is_left_to_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiter = asyncio.create_task(shielded(work))
    await asyncio.sleep(0)
    waiter.cancel()
    with suppress(asyncio.CancelledError):
        await waiter
    assert waiter.cancelled()
    assert not work.done()
    work.set_exception(LookupError("lost"))
    assert isinstance(work.exception(), LookupError)
    await asyncio.sleep(0)
    assert caplog.records == []
