"""In the background: what is old is summed up, what is said about it, and that nothing ends it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from bitmesh_proxy.billing.pruning import Pruner, prune
from bitmesh_proxy.context import Caller
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.months import LedgerMonths
from bitmesh_proxy.storage.verification import verify_books
from tests.hand_clock import HandClock
from tests.journeys.gateway import eventually, until
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


async def test_each_step_is_given_and_the_last_is_the_end(
    database: Database, ledger: LedgerStore, caller: Caller
) -> None:
    for number in range(4):
        await call(ledger, caller, f"r{number}", days_ago=number)
    steps = [step async for step in prune(LedgerMonths(database, step_rows=2), NOON_S + 1, rest=0)]
    assert [step.requests for step in steps] == [2, 1]
    assert [step async for step in prune(LedgerMonths(database), NOON_S + 1)] == []


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


async def test_what_was_done_is_said_when_it_is_broken_off(
    database: Database,
    ledger: LedgerStore,
    caller: Caller,
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number in range(60):
        await call(ledger, caller, f"r{number}", days_ago=200 - number)
    task = asyncio.create_task(pruner_of(database, clock).look())

    async def has_begun() -> bool:
        return len(await requests(database)) < 60

    await until(has_begun, "some have gone")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    left = len(await requests(database))
    assert 0 < left < 60
    assert [message.partition(" up to ")[0] for message in caplog.messages] == [f"{60 - left} requests"]
    assert await verify_books(database) == []
