from __future__ import annotations

import asyncio
import logging

import pytest

from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.errors import CallerLeft, Conflict, Unavailable


async def test_result_and_error_reach_who_waits(settlements: Settlements) -> None:
    async def work() -> int:
        return 5

    async def fail() -> int:
        raise Conflict("no")

    assert await settlements.run(work()) == 5
    with pytest.raises(Conflict):
        await settlements.run(fail())
    assert len(settlements) == 0


async def test_work_goes_on_when_who_waits_is_cancelled(settlements: Settlements) -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.set()

    waiter = asyncio.create_task(settlements.run(work()))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert not done.is_set()
    go.set()
    await settlements.close()
    assert done.is_set()


@pytest.mark.parametrize(
    ("error", "levels"),
    [(LookupError("lost"), [logging.ERROR]), (Conflict("no"), [logging.INFO]), (CallerLeft(), [])],
    ids=["fault", "refusal", "caller"],
)
async def test_failure_that_nobody_waits_for_is_logged(
    settlements: Settlements, caplog: pytest.LogCaptureFixture, error: Exception, levels: list[int]
) -> None:
    caplog.set_level(logging.INFO)
    go = asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise error

    waiter = asyncio.create_task(settlements.run(fail()))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    go.set()
    await settlements.close()
    assert [record.levelno for record in caplog.records] == levels
    assert [record for record in caplog.records if record.levelno == logging.ERROR and record.exc_info is None] == []


async def test_insisting_repeats_until_it_is_taken(settlements: Settlements) -> None:
    attempts: list[int] = []

    async def attempt() -> str:
        attempts.append(1)
        if len(attempts) < 4:
            raise Unavailable("not yet")
        return "done"

    assert await settlements.insist(attempt) == "done"
    assert len(attempts) == 4


async def test_insisting_ends_with_an_error_of_another_kind(
    settlements: Settlements, caplog: pytest.LogCaptureFixture
) -> None:
    async def attempt() -> None:
        raise LookupError("a bug")

    task = settlements.insist(attempt)
    await asyncio.wait({task})
    assert isinstance(task.exception(), LookupError)
    assert len(caplog.records) == 1


async def test_closing_waits_no_longer_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    settlements = Settlements(first_retry_s=0.001, max_retry_s=0.002)

    async def attempt() -> None:
        raise Unavailable("never")

    task = settlements.insist(attempt)
    await settlements.close(timeout_s=0.05)
    assert task.cancelled()
    assert "1 settlements could not be finished" in caplog.text
    await settlements.close(timeout_s=0.05)


async def test_closing_waits_for_work_that_work_starts(settlements: Settlements) -> None:
    done: list[str] = []

    async def inner() -> None:
        await asyncio.sleep(0)
        done.append("inner")

    async def outer() -> None:
        settlements.insist(inner)
        done.append("outer")

    waiter = asyncio.create_task(settlements.run(outer()))
    await asyncio.sleep(0)
    await settlements.close()
    assert done == ["outer", "inner"]
    await waiter
