"""In the background: what is old is summed up, what is said about it, and that nothing ends it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from bitmesh_proxy.billing.pruning import Pruner, prune
from bitmesh_proxy.context import Caller
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.months import Due, LedgerMonths, Step
from bitmesh_proxy.storage.verification import verify_books
from tests.hand_clock import HandClock
from tests.journeys.gateway import eventually
from tests.storage.examples import DAY_S, NOON_S, closing, opening, released

KEEP_S = 100 * DAY_S


@pytest.fixture(autouse=True)
def _all_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bitmesh_proxy.billing.pruning")


async def call(ledger: LedgerStore, caller: Caller, request_id: str, *, days_ago: float) -> None:
    began_s = NOON_S - days_ago * DAY_S
    await ledger.open_reservation(
        opening(request_id, caller.account_id, hold_nano_usd=NanoUsd(10), started_at_s=began_s)
    )
    await ledger.close(closing(request_id, 10))


async def requests(database: Database) -> list[str]:
    return [name for (name,) in await database.read("SELECT id FROM requests ORDER BY number")]


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOON_S)


def pruner_of(database: Database, clock: HandClock) -> Pruner:
    return Pruner(LedgerMonths(database, step_rows=2), keep_s=KEEP_S, clock=clock)


async def test_all_that_is_old_goes_and_one_line_says_so(
    database: Database,
    ledger: LedgerStore,
    caller: Caller,
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number in range(5):
        await call(ledger, caller, f"r{number}", days_ago=104.5 - number)
    await call(ledger, caller, "new", days_ago=99)
    pruner = pruner_of(database, clock)
    await pruner.look()
    assert await requests(database) == ["new"]
    assert caplog.messages == ["5 requests up to 2026-05-12 have been summed up by month"]
    await pruner.look()
    assert len(caplog.messages) == 1
    assert await verify_books(database) == []


async def test_an_open_request_that_holds_up_others_is_named_once(
    database: Database,
    ledger: LedgerStore,
    caller: Caller,
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await ledger.open_reservation(opening("stuck", caller.account_id, started_at_s=NOON_S))
    await call(ledger, caller, "young", days_ago=0)
    pruner = pruner_of(database, clock)
    await pruner.look()
    assert caplog.messages == []
    clock.now_s += KEEP_S + 1
    await pruner.look()
    await pruner.look()
    assert caplog.messages == ["request stuck is open since 2026-08-20: what came after it is not summed up"]
    await ledger.close(released("stuck"))
    await pruner.look()
    assert caplog.messages[1:] == ["1 requests up to 2026-08-20 have been summed up by month"]


async def test_a_request_that_began_later_than_those_behind_it_is_named_once(
    database: Database,
    ledger: LedgerStore,
    caller: Caller,
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, days_ago in (("late", 40), ("old", 120), ("later", 30), ("older", 130), ("new", 0)):
        await call(ledger, caller, name, days_ago=days_ago)
    pruner = pruner_of(database, clock)
    await pruner.look()
    await pruner.look()
    text = "request {} began on {}, later than what came after it (was the clock wrong?): that is kept until {}"
    assert caplog.messages == [text.format("late", "2026-07-11", "2026-10-19")]
    clock.now_s = NOON_S + 60.1 * DAY_S
    await pruner.look()
    assert caplog.messages[1:] == [
        "2 requests up to 2026-07-11 have been summed up by month",
        text.format("later", "2026-07-21", "2026-10-29"),
    ]
    clock.now_s += 10 * DAY_S
    await pruner.look()
    assert caplog.messages[3:] == ["2 requests up to 2026-07-21 have been summed up by month"]
    assert await requests(database) == ["new"]


async def test_a_request_of_the_future_holds_up_nobody(
    database: Database,
    ledger: LedgerStore,
    caller: Caller,
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pruner = pruner_of(database, clock)
    for name, days_ago in (("old", 120), ("future 1", -5000), ("older", 130), ("future 2", -400), ("young", 20)):
        await call(ledger, caller, name, days_ago=days_ago)
    await call(ledger, caller, "new", days_ago=0)
    await pruner.look()
    assert await requests(database) == ["future 2", "young", "new"]
    assert caplog.messages == ["3 requests up to 2026-04-22 have been summed up by month"]
    clock.now_s += 80.1 * DAY_S
    await pruner.look()
    assert await requests(database) == ["new"]
    assert await verify_books(database) == []


async def test_when_only_requests_of_the_future_go_no_day_is_said(
    database: Database,
    ledger: LedgerStore,
    caller: Caller,
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, days_ago in (("future", -5000), ("old", 120)):  # the newest stays
        await call(ledger, caller, name, days_ago=days_ago)
    await pruner_of(database, clock).look()
    assert await requests(database) == ["old"]
    assert caplog.messages == ["1 requests have been summed up by month"]


async def test_each_step_is_given_and_the_last_is_the_end(
    database: Database, ledger: LedgerStore, caller: Caller
) -> None:
    for number in range(4):
        await call(ledger, caller, f"r{number}", days_ago=number)
    due = Due(before_s=NOON_S + 1)
    steps = [step async for step in prune(LedgerMonths(database, step_rows=2), due, rest=0)]
    assert [step.requests for step in steps] == [2, 1]
    assert [step async for step in prune(LedgerMonths(database), due)] == []


async def test_it_looks_again_and_trouble_does_not_end_it(
    database: Database,
    ledger: LedgerStore,
    caller: Caller,
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await call(ledger, caller, "old", days_ago=101)
    await call(ledger, caller, "new", days_ago=0)
    await database.write(
        lambda connection: connection.execute(
            "CREATE TRIGGER no BEFORE DELETE ON requests BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    )
    task = asyncio.create_task(pruner_of(database, clock).run(first_look_s=0, interval_s=0.001))
    try:
        await eventually(lambda: "old requests cannot be summed up" in caplog.messages, "it says so")
        assert await requests(database) == ["old", "new"]
        await database.write(lambda connection: connection.execute("DROP TRIGGER no"))
        await eventually(lambda: caplog.messages[-1].startswith("1 requests up to 2026-05-11 "), "it goes on")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert await requests(database) == ["new"]


@pytest.mark.parametrize("is_in_the_middle", [False, True])
async def test_what_was_done_is_said_when_it_is_broken_off(
    database: Database,
    ledger: LedgerStore,
    caller: Caller,
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
    is_in_the_middle: bool,
) -> None:
    for number in range(60):
        await call(ledger, caller, f"r{number}", days_ago=200 - number)
    is_there = asyncio.Event()

    class Months(LedgerMonths):
        """Says when a step is under way, or when it is over and the pruner rests."""

        async def step(self, before_s: float, *, through: int = 0) -> Step:
            work = asyncio.ensure_future(super().step(before_s, through=through))
            if is_in_the_middle:
                await asyncio.sleep(0)
                is_there.set()
            step = await work
            is_there.set()
            return step

    pruner = Pruner(Months(database, step_rows=2), keep_s=KEEP_S, clock=clock)
    task = asyncio.create_task(pruner.look())
    await is_there.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = len(await requests(database))
    assert 0 < left < 60
    assert [message.partition(" up to ")[0] for message in caplog.messages] == [f"{60 - left} requests"]
    assert await verify_books(database) == []


async def test_a_step_that_fails_while_it_is_broken_off_is_the_end(
    database: Database, ledger: LedgerStore, caller: Caller
) -> None:
    await call(ledger, caller, "old", days_ago=101)
    await call(ledger, caller, "new", days_ago=0)
    is_there = asyncio.Event()

    class Months(LedgerMonths):
        """Its steps fail, and it says when one is under way."""

        async def step(self, before_s: float, *, through: int = 0) -> Step:
            is_there.set()
            await database.read("SELECT 1")
            raise Unavailable("The books cannot be written.")

    async def finish() -> int:
        return sum([step.requests async for step in prune(Months(database), Due(before_s=NOON_S))])

    task = asyncio.create_task(finish())
    await is_there.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
