"""Reserve, then exactly one settle or release.

``Books.reserve`` is an async context manager: there is no way past it and none out of it that leaves the row open,
cancellation included. Only ``hand_over`` leaves it to a job, whose last word closes it. A crash leaves a row that the
next start resolves by what was noted as delivered.

A closing is queued before anything is awaited, and insisted on while the database cannot be written: whoever is
cancelled, or tired of waiting, loses the news of it and not the write. To close a row twice does nothing.

Everything is there twice: for coroutines, and for code that must not wait (``…_now``), which is told by a function that
is called on the event loop, once and after the call that gave it has returned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType

from msgspec import Struct

from bitmesh_proxy.billing.accruals import Accruals
from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.metrics import LedgerWaits
from bitmesh_proxy.money import ZERO, NanoUsd
from bitmesh_proxy.storage.ledger import Accrued, Closing, LedgerStore, Opening
from bitmesh_proxy.storage.names import NameOrNumber
from bitmesh_proxy.storage.writer import Failed

log = logging.getLogger(__name__)

#: An answer's end waits this long beyond the first attempt for its settlement while the database cannot be written;
#: then it goes out, and the settlement follows.
SETTLE_PATIENCE_S = 1.0


#: Hears how a write went: None when it is durable, ``Failed`` with the error when it never will be.
OnWritten = Callable[[Failed | None], None]


class Outcome(Struct, frozen=True):
    """How a request ended. ``status`` is what the caller got; ``outcome`` is one word for the ledger.

    ``first_byte_s`` is of the monotonic clock, as ``RequestContext.started_s`` is. A bill of nothing releases.
    """

    status: int
    outcome: str
    bill: Bill
    provider: str | None = None
    upstream_model: NameOrNumber | None = None
    provider_request_id: str | None = None
    first_byte_s: float | None = None


class Reservation(Struct, eq=False):
    """One row of the ledger and its hold, open from ``async with`` to ``settle``. Made by ``Books.reserve``."""

    request_id: str
    hold_nano_usd: NanoUsd
    _books: Books
    _opening: Opening
    _context: RequestContext
    #: What was settled.
    bill: Bill | None = None
    is_open: bool = False
    #: ``Books.watch`` knows it.
    is_watched: bool = False
    _offer: Offer | None = None
    #: How the row is closed that was not there yet when this was left.
    _left: Closing | None = None
    # Who is told of the row's opening and closing, for as long as that takes: they may know this in turn, and a circle
    # is left to the collector. (A ``partial`` would cost four times as much as a method.)
    _on_opened: OnWritten | None = None
    _on_closed: OnWritten | None = None
    _closing: Closing | None = None
    #: The waits that are over; while one lasts, less the moment when it began.
    _waited_s: float = 0.0

    async def __aenter__(self) -> Reservation:
        self._waited_s -= self._books.clock()
        await self._books.open_row(self._opening)
        self._waited_s += self._books.clock()
        self.is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        accrued = self._books.forget(self)
        if self.is_open:
            await self.settle(self._unexpected(accrued))

    def enter_now(self, on_done: OnWritten) -> None:
        """What entering does: ``on_done`` gets None when the row is open, or ``Failed`` with an error of entering.

        Raises AuthenticationFailed and Unavailable as entering does; then ``on_done`` is not called. From here to the
        settlement every way out goes through ``leave_now``.
        """
        books = self._books
        books._ledger.open_now(self._opening, self._entered)
        self._waited_s -= books.clock()
        self._on_opened = on_done

    def _entered(self, result: Failed | None) -> None:
        self._waited_s += self._books.clock()
        on_done, self._on_opened = self._on_opened, None
        left = self._left
        if left is not None:  # nobody waits any more, and nothing was sent
            if result is None:
                self._close_now(left, _nobody_waits)
            return
        self.is_open = result is None
        assert on_done is not None, "it is told once"
        on_done(result)

    def leave_now(self) -> None:
        """What leaving does, at any moment: while the row is being opened (``on_done`` of ``enter_now`` is not called
        any more, and the row is released as soon as it is there), while it is open (a fault of ours: it is charged what
        had been noted), or after it was settled or handed over."""
        if self._on_opened is not None and self._left is None:
            self._left = self._books.broken_off(self.request_id)
        accrued = self._books.forget(self) if self.is_watched else None
        if self.is_open:
            self.settle_now(self._unexpected(accrued), _nobody_waits)

    def note_offer(self, offer: Offer) -> None:
        """The offer that is being tried, for the row of a call that ends unexpectedly."""
        self._offer = offer

    def hand_over(self) -> None:
        """From now on a job closes this. Its row must be there already."""
        self.is_open = False

    async def settle(self, outcome: Outcome) -> None:
        """Close the row with the outcome's bill, durably. A second call does nothing."""
        if not self.is_open:
            return
        self.is_open = False
        self.bill = outcome.bill
        books = self._books
        closing = books.closing(self.request_id, outcome, self._context)
        self._waited_s -= books.clock()
        await books.close_row(closing)
        books.waits.note(self._waited_s + books.clock())

    def settle_now(self, outcome: Outcome, on_done: OnWritten) -> None:
        """``settle``: ``on_done`` is called when that would return; ``Failed`` is what it would raise. Never raises.

        If the row is not open (any more), nothing is written and ``on_done`` is not called.
        """
        if not self.is_open:
            return
        self.is_open = False
        self.bill = outcome.bill
        self._close_now(self._books.closing(self.request_id, outcome, self._context), on_done)

    def _close_now(self, closing: Closing, on_done: OnWritten) -> None:
        self._closing, self._on_closed = closing, on_done
        books = self._books
        self._waited_s -= books.clock()
        try:
            books._ledger.close_now(closing, self._closed)
        except Unavailable as exc:
            self._closed(Failed(exc))

    def _closed(self, result: Failed | bool) -> None:
        closing, self._closing = self._closing, None
        books = self._books
        if isinstance(result, Failed):
            assert closing is not None, "it is told once"
            books.closing_failed(closing, result.error, self._closed_late)
            return
        on_done, self._on_closed = self._on_closed, None
        assert on_done is not None, "it is told once"
        books.waits.note(self._waited_s + books.clock())
        on_done(None)

    def _closed_late(self, failed: Failed | None) -> None:
        """The wait that went on after a first attempt is over."""
        on_done, self._on_closed = self._on_closed, None
        assert on_done is not None, "it is told once"
        if failed is None:
            self._books.waits.note(self._waited_s + self._books.clock())
        on_done(failed)

    def _unexpected(self, accrued: Accrued | None) -> Outcome:
        """A way out that settled nothing, by a fault of ours: what was noted as delivered is charged, else nothing."""
        log.error("a request ended without being settled", extra={"request_id": self.request_id})
        bill = Bill()
        if accrued is not None:
            bill = Bill(
                cost_nano_usd=accrued.cost_nano_usd,
                charge_nano_usd=NanoUsd(min(accrued.charge_nano_usd, self.hold_nano_usd)),
                basis=Basis.ESTIMATED,
                usage=Usage(is_estimated=True),
            )
        offer = self._offer
        if offer is None:
            return Outcome(500, "internal_error", bill)
        return Outcome(500, "internal_error", bill, offer.provider, offer.upstream_model)


class Books:
    """Opens and closes rows. ``instance`` is this process's number; ``markup_nano`` a ratio, 10⁹ is one.

    ``waits`` hears from each call that entered and settled, in whatever way, how long it waited for both.
    ``is_cutting``: are we at our end, and calls that break off are broken off by us?
    """

    def __init__(
        self,
        ledger: LedgerStore,
        *,
        settlements: Settlements,
        instance: int,
        markup_nano: int,
        clock: Callable[[], float] = time.monotonic,
        waits: LedgerWaits | None = None,
        is_cutting: Callable[[], bool] = lambda: False,
    ) -> None:
        self._ledger = ledger
        self._settlements = settlements
        self._instance = instance
        self.markup_nano = markup_nano
        self.clock = clock
        self.waits = waits or LedgerWaits()
        self._is_cutting = is_cutting
        self.accruals = Accruals(ledger)

    def number_of(self, name: str) -> int | None:
        """What the rows have for a model's name; None as long as no row has named it."""
        return self._ledger.number_of(name)

    def reserve(
        self,
        *,
        context: RequestContext,
        caller: Caller,
        endpoint: str,
        model_id: NameOrNumber,
        hold_nano_usd: NanoUsd,
        live: bool,
    ) -> Reservation:
        """For ``async with``: write the row and take the hold, durably, before anything is sent.

        Entering raises InsufficientBalance, BudgetExceeded or Unavailable; then no call may be made. A call that is
        not live holds nothing.
        """
        request_id = context.request_id
        if not live:
            hold_nano_usd = ZERO
        opening = Opening(  # by place: names would take as long again
            request_id,
            caller.account_id,
            caller.key_id,
            self._instance,
            endpoint,
            model_id,
            hold_nano_usd,
            live,
            context.address,
            context.received_at_s,
            caller.row_numbers,
        )
        return Reservation(request_id, hold_nano_usd, self, opening, context)

    def watch(self, reservation: Reservation, accrued: Callable[[], Accrued | None]) -> None:
        """Note now and then what a running call has delivered (None: nothing yet), for the case of a crash."""
        reservation.is_watched = True
        self.accruals.watched[reservation.request_id] = accrued

    def forget(self, reservation: Reservation) -> Accrued | None:
        """End ``watch``; gives what was delivered by then."""
        watched = self.accruals.forget(reservation.request_id)
        return watched() if watched is not None and reservation.is_open else None

    def closing(self, request_id: str, outcome: Outcome, context: RequestContext | None = None) -> Closing:
        """The row's last values. Without a context (a job's end) there are no times."""
        bill, first_byte_s = outcome.bill, outcome.first_byte_s
        cost, charge = bill.cost_nano_usd, bill.charge_nano_usd
        first_byte_ms = total_ms = None
        if context is not None:
            started_s = context.started_s
            total_ms = round((self.clock() - started_s) * 1000)
            if first_byte_s is not None:
                first_byte_ms = round((first_byte_s - started_s) * 1000)
        return Closing(  # by place: names would take as long again
            request_id,
            outcome.outcome,
            outcome.status,
            cost,
            charge,
            bill.basis if cost or charge or not bill.is_nothing else None,
            bill.usage,
            outcome.provider,
            outcome.upstream_model,
            outcome.provider_request_id,
            first_byte_ms,
            total_ms,
        )

    def broken_off(self, request_id: str) -> Closing:
        """The end of a row whose call was broken off before anything was sent: by its caller, or by our own end."""
        status, word = (Unavailable.status, "interrupted") if self._is_cutting() else (499, "caller_left")
        return Closing(
            request_id=request_id,
            outcome=word,
            http_status=status,
            cost_nano_usd=ZERO,
            charge_nano_usd=ZERO,
            basis=None,
            usage=Usage(),
        )

    async def open_row(self, opening: Opening) -> None:
        """Open the row; a waiter that is cancelled leaves none behind."""
        try:
            await self._ledger.open_reservation(opening)
        except asyncio.CancelledError:
            # The row may come to be although nobody waits for it any more.
            left = self.broken_off(opening.request_id)
            self._settlements.insist(lambda: self._ledger.close_after_all(left))
            raise

    async def close_row(self, closing: Closing) -> None:
        """Close a row for good: at once where the database can be written, else as soon as it can."""
        try:
            await self._ledger.close(closing)
        except Unavailable:
            log.warning("a request cannot be settled now; trying again", extra={"request_id": closing.request_id})
            insisting = self._settlements.insist(lambda: self._ledger.close(closing))
            await asyncio.wait({insisting}, timeout=SETTLE_PATIENCE_S)
        except asyncio.CancelledError:
            # The write goes on, but whether it succeeds nobody would hear: so once more, which does nothing if it did.
            self._settlements.insist(lambda: self._ledger.close(closing))
            raise

    def closing_failed(self, closing: Closing, error: Exception, on_done: OnWritten) -> None:
        """Do for ``settle_now`` what ``close_row`` does for ``settle``: while the database cannot be written, the write
        is insisted on, and ``on_done`` is called once the row is closed durably, or when that has taken too long.

        ``Failed`` is a fault of ours that no repetition mends.
        """
        if isinstance(error, Unavailable):
            self._insist_on(closing, on_done)
        else:
            on_done(Failed(error))

    def _insist_on(self, closing: Closing, on_done: OnWritten) -> None:
        log.warning("a request cannot be settled now; trying again", extra={"request_id": closing.request_id})
        waiting = True

        def stop_waiting(_: object = None) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                timer.cancel()
                on_done(None)

        timer = asyncio.get_running_loop().call_later(SETTLE_PATIENCE_S, stop_waiting)
        self._settlements.insist(lambda: self._ledger.close(closing)).add_done_callback(stop_waiting)


def _nobody_waits(result: Failed | None) -> None:
    """Hears of a write whose outcome nobody can do anything about."""
    if result is not None:
        log.error("a request could not be settled", exc_info=result.error)
