"""The ways without waiting: ``enter_now``, ``settle_now``, ``leave_now``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.billing.reservation import Books, Outcome, Reservation
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.calls import Basis
from bitmesh_proxy.context import Caller
from bitmesh_proxy.errors import AuthenticationFailed, InsufficientBalance, Unavailable
from bitmesh_proxy.metrics import LEDGER_BOUNDS_MS, LedgerWaits
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.ledger import Accrued, LedgerStore
from bitmesh_proxy.storage.verification import verify_books
from bitmesh_proxy.storage.writer import Failed
from tests.billing.test_reservation import ACCRUED, DONE, PAID, Lock, money_of, reserve, row_of
from tests.hand_clock import HandClock
from tests.storage.examples import USD, usd

Heard = asyncio.Queue[Failed | None]


@pytest.fixture
def heard() -> Heard:
    return asyncio.Queue()


async def enter(reservation: Reservation) -> None:
    heard: Heard = asyncio.Queue()
    reservation.enter_now(heard.put_nowait)
    assert await heard.get() is None


async def test_opens_and_settles(
    books: Books, caller: Caller, ledger: LedgerStore, database: Database, heard: Heard
) -> None:
    reservation = reserve(books, caller)
    reservation.enter_now(heard.put_nowait)
    assert (heard.empty(), reservation.is_open) == (True, False)
    assert await heard.get() is None
    assert reservation.is_open
    assert (await row_of(ledger)).state == "open"
    assert await money_of(database, caller) == (usd(7), USD)
    reservation.settle_now(DONE, heard.put_nowait)
    assert heard.empty()
    assert await heard.get() is None
    assert (reservation.is_open, reservation.bill) == (False, PAID)
    row = await row_of(ledger)
    assert (row.state, row.charge_nano_usd, row.provider, row.first_byte_ms) == ("settled", 100, "together", 250)
    reservation.settle_now(Outcome(status=500, outcome="internal_error", bill=Bill()), heard.put_nowait)
    reservation.leave_now()
    assert reservation.bill == PAID
    assert await verify_books(database) == []
    assert heard.empty()


async def test_refusal_is_heard(
    books: Books, caller: Caller, ledger: LedgerStore, database: Database, heard: Heard
) -> None:
    reservation = reserve(books, caller, hold=usd(8))
    reservation.enter_now(heard.put_nowait)
    failed = await heard.get()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, InsufficientBalance)
    assert not reservation.is_open
    reservation.leave_now()
    assert await ledger.request("req_1") is None
    assert await money_of(database, caller) == (usd(7), 0)


async def test_unknown_key_is_refused_at_once(books: Books, heard: Heard) -> None:
    nobody = Caller(account_id="acct_none", key_id="key_none")
    with pytest.raises(AuthenticationFailed):
        reserve(books, nobody).enter_now(heard.put_nowait)
    assert heard.empty()


async def test_who_leaves_while_the_row_is_opened_leaves_no_hold(
    books: Books, caller: Caller, ledger: LedgerStore, database: Database, heard: Heard
) -> None:
    reservation = reserve(books, caller)
    reservation.enter_now(heard.put_nowait)
    reservation.leave_now()
    await enter(reserve(books, caller, "req_2"))
    await enter(reserve(books, caller, "req_3"))  # behind the release of the first
    row = await row_of(ledger)
    assert (row.state, row.outcome, row.http_status) == ("released", "caller_left", 499)
    assert heard.empty()
    assert await money_of(database, caller) == (usd(7), usd(2))


async def test_what_we_cut_while_the_row_is_opened_was_interrupted(
    books: Books, cutting: asyncio.Event, caller: Caller, ledger: LedgerStore, heard: Heard
) -> None:
    left, cut = reserve(books, caller), reserve(books, caller, "req_2")
    left.enter_now(heard.put_nowait)
    cut.enter_now(heard.put_nowait)
    left.leave_now()
    cutting.set()
    cut.leave_now()
    left.leave_now()  # it had been left before
    await enter(reserve(books, caller, "req_3"))
    await enter(reserve(books, caller, "req_4"))  # behind the releases of the first two
    rows = [await row_of(ledger), await row_of(ledger, "req_2")]
    assert [(row.state, row.outcome, row.http_status) for row in rows] == [
        ("released", "caller_left", 499),
        ("released", "interrupted", 503),
    ]
    assert heard.empty()


async def test_who_leaves_while_being_refused_is_no_matter(
    books: Books, caller: Caller, ledger: LedgerStore, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    reservation = reserve(books, caller, hold=usd(8))
    reservation.enter_now(heard.put_nowait)
    reservation.leave_now()
    await enter(reserve(books, caller, "req_2"))
    assert await ledger.request("req_1") is None
    assert heard.empty()
    assert caplog.records == []


@pytest.mark.parametrize(("accrued", "charge"), [(None, 0), (ACCRUED, 40)])
async def test_way_out_without_a_settlement_is_closed_and_said(
    books: Books,
    caller: Caller,
    ledger: LedgerStore,
    caplog: pytest.LogCaptureFixture,
    accrued: Accrued | None,
    charge: int,
) -> None:
    reservation = reserve(books, caller)
    await enter(reservation)
    books.watch(reservation, lambda: accrued)
    reservation.leave_now()
    reservation.leave_now()
    await enter(reserve(books, caller, "req_2"))
    row = await row_of(ledger)
    assert (row.outcome, row.charge_nano_usd) == ("internal_error", charge)
    assert [record.getMessage() for record in caplog.records] == ["a request ended without being settled"]


async def test_no_call_without_a_row(
    books: Books, caller: Caller, path: Path, ledger: LedgerStore, heard: Heard
) -> None:
    lock = Lock(path)
    reservation = reserve(books, caller)
    reservation.enter_now(heard.put_nowait)
    failed = await heard.get()
    lock.release()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, Unavailable)
    assert not reservation.is_open
    assert await ledger.request("req_1") is None


async def test_settlement_outlasts_a_locked_database(
    books: Books,
    caller: Caller,
    ledger: LedgerStore,
    settlements: Settlements,
    path: Path,
    database: Database,
    heard: Heard,
) -> None:
    reservation = reserve(books, caller)
    await enter(reservation)
    lock = Lock(path)
    reservation.settle_now(DONE, heard.put_nowait)
    while not len(settlements):  # the first attempt fails, and there will be others
        assert heard.empty()
        await asyncio.sleep(0.01)
    lock.release()
    assert await heard.get() is None
    assert (await row_of(ledger)).charge_nano_usd == 100
    assert await verify_books(database) == []


async def test_answer_does_not_wait_for_ever_for_its_settlement(
    books: Books, caller: Caller, ledger: LedgerStore, settlements: Settlements, path: Path, heard: Heard
) -> None:
    reservation = reserve(books, caller)
    await enter(reservation)
    lock = Lock(path)
    reservation.settle_now(DONE, heard.put_nowait)
    assert await heard.get() is None
    assert (await row_of(ledger)).state == "open"
    lock.release()
    await settlements.close()
    assert (await row_of(ledger)).state == "settled"
    assert heard.empty()  # once


async def test_settlement_that_does_not_fit_into_the_queue_comes_later(
    path: Path, caller: Caller, settlements: Settlements, heard: Heard
) -> None:
    database = await Database.open(path, busy_timeout_s=5.0, max_pending_writes=1)
    ledger = LedgerStore(database)
    books = Books(ledger, settlements=settlements, instance=1, markup_nano=10**9, clock=lambda: 1000.0)
    reservation = reserve(books, caller)
    await enter(reservation)
    others = [database.submit(lambda connection: None) for _ in range(4)]
    reservation.settle_now(DONE, heard.put_nowait)
    assert await heard.get() is None
    assert (await row_of(ledger)).state == "settled"
    await asyncio.gather(*others)
    await settlements.close()
    await database.close()


async def test_bill_that_cannot_be_is_a_fault_of_ours(
    books: Books, caller: Caller, ledger: LedgerStore, heard: Heard
) -> None:
    reservation = reserve(books, caller)
    await enter(reservation)
    beyond = Bill(cost_nano_usd=usd(2), charge_nano_usd=usd(2), basis=Basis.MEASURED)
    reservation.settle_now(Outcome(status=200, outcome="completed", bill=beyond), heard.put_nowait)
    failed = await heard.get()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, StorageError)
    assert (await row_of(ledger)).state == "open"


async def test_waits_for_opening_and_closing_are_counted_together(
    books: Books, caller: Caller, clock: HandClock, waits: LedgerWaits, heard: Heard
) -> None:
    reservation = reserve(books, caller)
    reservation.enter_now(heard.put_nowait)
    clock.now_s += 0.003
    await heard.get()
    clock.now_s += 10  # the call itself
    reservation.settle_now(DONE, heard.put_nowait)
    assert sum(waits.counts) == 0
    clock.now_s += 0.0012
    await heard.get()
    assert counted(waits) == [4.25]
    assert waits.sum_s == pytest.approx(0.0042)


async def test_closing_that_is_insisted_on_is_waited_for_as_long_as_it_takes(
    books: Books, caller: Caller, path: Path, clock: HandClock, waits: LedgerWaits, heard: Heard
) -> None:
    reservation = reserve(books, caller)
    await enter(reservation)
    lock = Lock(path)
    reservation.settle_now(DONE, heard.put_nowait)
    await asyncio.sleep(0.1)  # the first attempt has failed after 50 ms, and the wait goes on
    assert sum(waits.counts) == 0
    clock.now_s += 0.02
    lock.release()
    assert await heard.get() is None
    assert counted(waits) == [20]


async def test_refused_calls_do_not_count(books: Books, caller: Caller, waits: LedgerWaits, heard: Heard) -> None:
    reserve(books, caller, hold=usd(8)).enter_now(heard.put_nowait)
    assert isinstance(await heard.get(), Failed)
    assert sum(waits.counts) == 0


def counted(waits: LedgerWaits) -> list[float]:
    """The bounds of the classes that something was counted in."""
    return [bound_ms for bound_ms, count in zip(LEDGER_BOUNDS_MS, waits.counts, strict=False) for _ in range(count)]


async def test_200_at_once_against_a_balance_for_7(books: Books, caller: Caller, database: Database) -> None:
    at_once = most_at_once = 0
    heard: asyncio.Queue[str] = asyncio.Queue()

    def begin(number: int) -> None:
        reservation = reserve(books, caller, f"req_{number}")

        def opened(failed: Failed | None) -> None:
            nonlocal at_once, most_at_once
            if failed is not None:
                heard.put_nowait(type(failed.error).__name__)
                return
            at_once += 1
            most_at_once = max(most_at_once, at_once)
            bill = Bill(cost_nano_usd=USD, charge_nano_usd=USD, basis=Basis.MEASURED)
            outcome = Outcome(status=200, outcome="completed", bill=bill)
            asyncio.get_running_loop().call_soon(reservation.settle_now, outcome, settled)

        def settled(failed: Failed | None) -> None:
            nonlocal at_once
            at_once -= 1
            heard.put_nowait("served" if failed is None else "failed")

        reservation.enter_now(opened)

    for number in range(200):
        begin(number)
    words = [await heard.get() for _ in range(200)]
    assert (words.count("served"), words.count("InsufficientBalance"), most_at_once) == (7, 193, 7)
    assert await money_of(database, caller) == (0, 0)
    assert await verify_books(database) == []
