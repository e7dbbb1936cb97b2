from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.billing.reservation import Books, Outcome, Reservation
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.errors import InsufficientBalance, Unavailable
from bitmesh_proxy.metrics import LedgerWaits
from bitmesh_proxy.money import ZERO, NanoUsd
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.ledger import Accrued, LedgerRow, LedgerStore
from bitmesh_proxy.storage.verification import verify_books
from tests.billing.offers import chat_offer
from tests.hand_clock import HandClock
from tests.storage.examples import NOON_S, USD, usd

PAID = Bill(cost_nano_usd=NanoUsd(80), charge_nano_usd=NanoUsd(100), basis=Basis.MEASURED, usage=Usage(input_tokens=3))
DONE = Outcome(
    status=200,
    outcome="completed",
    bill=PAID,
    provider=chat_offer().provider,
    upstream_model=chat_offer().upstream_model,
    provider_request_id="p-1",
    first_byte_s=1000.25,
)
ACCRUED = Accrued(cost_nano_usd=NanoUsd(30), charge_nano_usd=NanoUsd(40))


def context(request_id: str = "req_1") -> RequestContext:
    return RequestContext(
        request_id=request_id,
        address="192.0.2.1",
        public_base_url="https://ai.example.test",
        received_at_s=NOON_S,
        started_s=1000.0,
    )


def reserve(
    books: Books, caller: Caller, request_id: str = "req_1", *, hold: NanoUsd = USD, live: bool = True
) -> Reservation:
    return books.reserve(
        context=context(request_id),
        caller=caller,
        endpoint="chat",
        model_id="maker/model",
        hold_nano_usd=hold,
        live=live,
    )


async def row_of(ledger: LedgerStore, request_id: str = "req_1") -> LedgerRow:
    row = await ledger.request(request_id)
    assert row is not None
    return row


async def money_of(database: Database, caller: Caller) -> tuple[int, int]:
    account = await AccountStore(database).get(caller.account_id)
    assert account is not None
    return account.balance_nano_usd, account.held_nano_usd


class Lock:
    """Another program in the middle of a write."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


async def test_row_is_there_before_anything_is_sent_and_closed_with_the_bill(
    books: Books, caller: Caller, ledger: LedgerStore, database: Database, clock: HandClock
) -> None:
    async with reserve(books, caller) as reservation:
        assert (await row_of(ledger)).state == "open"
        assert await money_of(database, caller) == (usd(7), USD)
        assert reservation.hold_nano_usd == USD
        clock.now_s += 2.5
        await reservation.settle(DONE)
        assert (reservation.is_open, reservation.bill) == (False, PAID)
    row = await row_of(ledger)
    assert (row.state, row.outcome, row.http_status, row.basis) == ("settled", "completed", 200, Basis.MEASURED)
    assert (row.cost_nano_usd, row.charge_nano_usd, row.input_tokens) == (80, 100, 3)
    assert (row.provider, row.upstream_model, row.provider_request_id) == ("together", "maker/Model", "p-1")
    assert (row.first_byte_ms, row.total_ms) == (250, 2500)
    assert (row.endpoint, row.model, row.address, row.started_at_s) == ("chat", "maker/model", "192.0.2.1", NOON_S)
    assert await money_of(database, caller) == (usd(7) - 100, 0)


async def test_second_settlement_does_nothing(
    books: Books, caller: Caller, ledger: LedgerStore, database: Database
) -> None:
    async with reserve(books, caller) as reservation:
        await reservation.settle(DONE)
        await reservation.settle(Outcome(status=500, outcome="internal_error", bill=Bill()))
        assert reservation.bill == PAID
    assert (await row_of(ledger)).charge_nano_usd == 100
    assert await verify_books(database) == []


async def test_waits_for_opening_and_closing_are_counted_together(
    books: Books, caller: Caller, clock: HandClock, waits: LedgerWaits
) -> None:
    async with reserve(books, caller) as reservation:
        clock.now_s += 10  # the call itself
        settling = asyncio.create_task(reservation.settle(DONE))
        await asyncio.sleep(0)  # it is queued
        clock.now_s += 0.006
        await settling
    assert sum(waits.counts) == 1
    assert waits.sum_s == pytest.approx(0.006)


async def test_bill_of_nothing_releases(books: Books, caller: Caller, ledger: LedgerStore) -> None:
    async with reserve(books, caller) as reservation:
        await reservation.settle(Outcome(status=503, outcome="unavailable", bill=Bill()))
    row = await row_of(ledger)
    assert (row.state, row.outcome, row.http_status, row.charge_nano_usd) == ("released", "unavailable", 503, 0)


async def test_without_balance_nothing_is_entered(
    books: Books, caller: Caller, ledger: LedgerStore, database: Database
) -> None:
    entered = False
    with pytest.raises(InsufficientBalance):
        async with reserve(books, caller, hold=usd(8)):
            entered = True
    assert not entered
    assert await ledger.request("req_1") is None
    assert await money_of(database, caller) == (usd(7), 0)


async def test_test_call_holds_nothing(books: Books, caller: Caller, ledger: LedgerStore) -> None:
    async with reserve(books, caller, hold=usd(8), live=False) as reservation:
        assert reservation.hold_nano_usd == ZERO
        await reservation.settle(
            Outcome(status=200, outcome="completed", bill=Bill(cost_nano_usd=NanoUsd(9), usage=Usage(input_tokens=1)))
        )
    row = await row_of(ledger)
    assert (row.is_live, row.cost_nano_usd, row.charge_nano_usd) == (False, 9, 0)


async def test_way_out_without_a_settlement_is_closed_and_said(
    books: Books, caller: Caller, ledger: LedgerStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        async with reserve(books, caller) as reservation:
            reservation.note_offer(chat_offer())
            raise LookupError("a fault of ours")

    with pytest.raises(LookupError):
        await fail()
    row = await row_of(ledger)
    assert (row.state, row.outcome, row.charge_nano_usd, row.provider) == ("released", "internal_error", 0, "together")
    async with reserve(books, caller, "req_2"):
        pass
    assert (await row_of(ledger, "req_2")).state == "released"
    assert len(caplog.records) == 2


async def test_way_out_without_a_settlement_charges_what_was_noted(
    books: Books, caller: Caller, ledger: LedgerStore
) -> None:
    async with reserve(books, caller) as reservation:
        books.watch(reservation, lambda: ACCRUED)
    row = await row_of(ledger)
    assert (row.state, row.cost_nano_usd, row.charge_nano_usd, row.basis) == ("settled", 30, 40, Basis.ESTIMATED)


async def test_cancelled_call_is_closed(books: Books, caller: Caller, ledger: LedgerStore, database: Database) -> None:
    entered = asyncio.Event()

    async def serve() -> None:
        async with reserve(books, caller) as reservation:
            books.watch(reservation, lambda: ACCRUED)
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(serve())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await row_of(ledger)).charge_nano_usd == 40
    assert await money_of(database, caller) == (usd(7) - 40, 0)


@pytest.mark.parametrize(("is_cut", "outcome"), [(False, ("caller_left", 499)), (True, ("interrupted", 503))])
async def test_who_leaves_or_is_cut_while_reserving_leaves_no_hold(
    books: Books,
    cutting: asyncio.Event,
    caller: Caller,
    ledger: LedgerStore,
    settlements: Settlements,
    database: Database,
    is_cut: bool,
    outcome: tuple[str, int],
) -> None:
    async def serve() -> None:
        async with reserve(books, caller):
            pytest.fail("entered although cancelled")

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)  # the row is on its way
    if is_cut:
        cutting.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settlements.close()
    row = await row_of(ledger)
    assert (row.state, row.outcome, row.http_status) == ("released", *outcome)
    assert await money_of(database, caller) == (usd(7), 0)


async def test_caller_who_leaves_while_being_refused_is_no_matter(
    books: Books, caller: Caller, settlements: Settlements, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve() -> None:
        async with reserve(books, caller, hold=usd(8)):
            pytest.fail("entered without a balance")

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settlements.close()
    assert caplog.records == []


async def test_caller_who_leaves_while_settling_pays_all_the_same(
    books: Books, caller: Caller, ledger: LedgerStore, settlements: Settlements
) -> None:
    async def serve() -> None:
        async with reserve(books, caller) as reservation:
            task.cancel()
            await reservation.settle(DONE)

    task = asyncio.create_task(serve())
    with pytest.raises(asyncio.CancelledError):
        await task
    await settlements.close()
    assert (await row_of(ledger)).charge_nano_usd == 100


async def test_no_call_without_a_row(books: Books, caller: Caller, path: Path, ledger: LedgerStore) -> None:
    lock = Lock(path)
    with pytest.raises(Unavailable):
        async with reserve(books, caller):
            pytest.fail("entered without a row")
    lock.release()
    assert await ledger.request("req_1") is None


async def test_settlement_outlasts_a_locked_database(
    books: Books, caller: Caller, ledger: LedgerStore, settlements: Settlements, path: Path, database: Database
) -> None:
    async with reserve(books, caller) as reservation:
        lock = Lock(path)
        settling = asyncio.create_task(reservation.settle(DONE))
        while not len(settlements):  # the first attempt fails, and there will be others
            assert not settling.done()
            await asyncio.sleep(0.01)
        lock.release()
        await settling
    await settlements.close()
    assert (await row_of(ledger)).charge_nano_usd == 100
    assert await verify_books(database) == []


async def test_answer_does_not_wait_for_ever_for_its_settlement(
    books: Books, caller: Caller, ledger: LedgerStore, settlements: Settlements, path: Path
) -> None:
    async with reserve(books, caller) as reservation:
        lock = Lock(path)
        await reservation.settle(DONE)
    assert (await row_of(ledger)).state == "open"
    lock.release()
    await settlements.close()
    assert (await row_of(ledger)).state == "settled"


async def test_hand_over_leaves_the_row_to_the_job(books: Books, caller: Caller, ledger: LedgerStore) -> None:
    async with reserve(books, caller) as reservation:
        reservation.hand_over()
        assert not reservation.is_open
    assert (await row_of(ledger)).state == "open"
    closing = books.closing("req_1", DONE)
    assert (closing.first_byte_ms, closing.total_ms, closing.charge_nano_usd) == (None, None, 100)


async def test_200_at_once_against_a_balance_for_7(
    books: Books, caller: Caller, database: Database, ledger: LedgerStore
) -> None:
    most_at_once = at_once = served = 0

    async def serve(number: int) -> None:
        nonlocal most_at_once, at_once, served
        async with reserve(books, caller, f"req_{number}") as reservation:
            at_once += 1
            most_at_once = max(most_at_once, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1
            served += 1
            bill = Bill(cost_nano_usd=USD, charge_nano_usd=USD, usage=Usage(input_tokens=1))
            await reservation.settle(Outcome(status=200, outcome="completed", bill=bill))

    results = await asyncio.gather(*(serve(number) for number in range(200)), return_exceptions=True)
    assert (served, most_at_once) == (7, 7)
    assert sum(isinstance(result, InsufficientBalance) for result in results) == 193
    assert await money_of(database, caller) == (0, 0)
    assert await verify_books(database) == []
