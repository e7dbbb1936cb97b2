"""Reserve, then exactly one settle or release.

``Books.reserve`` is an async context manager: there is no way past it and none out of it that leaves the row open,
cancellation included. Only ``hand_over`` leaves it to a job, whose last word closes it. A crash leaves a row that the
next start resolves by what was noted as delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.ledger import Accrued, Closing, LedgerStore, Opening

log = logging.getLogger(__name__)

#: An answer's end waits this long for its settlement while the database cannot be written; then it goes out, and the
#: settlement is tried again behind it.
SETTLE_PATIENCE_S = 5.0
FIRST_RETRY_S = 0.1
MAX_RETRY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a request ended. ``status`` is what the caller got; ``outcome`` is one word for the ledger.

    ``first_byte_s`` is of the monotonic clock, as ``RequestContext.started_s`` is.
    """

    status: int
    outcome: str
    bill: Bill
    offer: Offer | None = None
    provider_request_id: str | None = None
    first_byte_s: float | None = None


class Reservation:
    """One open row of the ledger and its hold."""

    def __init__(self, books: Books, context: RequestContext, hold_nano_usd: NanoUsd) -> None:
        self._books = books
        self._context = context
        self.request_id = context.request_id
        self.hold_nano_usd = hold_nano_usd
        self.bill: Bill | None = None
        self.is_open = True
        self.is_handed_over = False
        self._offer: Offer | None = None

    def note_offer(self, offer: Offer) -> None:
        """The offer that is being tried, for the row of a call that ends unexpectedly."""
        self._offer = offer

    def hand_over(self) -> None:
        """From now on a job closes this."""
        self.is_open = False
        self.is_handed_over = True

    async def settle(self, outcome: Outcome) -> None:
        """Close the row with the outcome's bill, durably. A second call does nothing."""
        if not self.is_open:
            return
        self.is_open = False
        self.bill = outcome.bill
        await self._books.close(self.request_id, outcome, self._context)

    async def end_unexpected(self) -> None:
        """A way out that settled nothing: a fault of ours. Nothing is charged for it."""
        await self.settle(Outcome(status=500, outcome="internal_error", bill=Bill(), offer=self._offer))


class Books:
    """Opens and closes rows. Made by ``open``."""

    def __init__(
        self,
        ledger: LedgerStore,
        *,
        settlements: Settlements,
        instance: int,
        markup_nano: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._settlements = settlements
        self._instance = instance
        self.markup_nano = markup_nano
        self._clock = clock
        self._watched: dict[str, Callable[[], Accrued | None]] = {}
        self._noted: dict[str, Accrued] = {}

    @asynccontextmanager
    async def reserve(
        self,
        *,
        context: RequestContext,
        caller: Caller,
        endpoint: str,
        model_id: str,
        hold_nano_usd: NanoUsd,
        live: bool,
    ) -> AsyncIterator[Reservation]:
        """Write the row and take the hold, durably, before anything is sent.

        Raises InsufficientBalance, BudgetExceeded or Unavailable; then no call may be made.
        """
        hold = hold_nano_usd if live else NanoUsd(0)
        opening = self._ledger.open_reservation(
            Opening(
                request_id=context.request_id,
                account_id=caller.account_id,
                key_id=caller.key_id,
                instance=self._instance,
                endpoint=endpoint,
                model=model_id,
                hold_nano_usd=hold,
                is_live=live,
                address=context.address,
                started_at_s=context.received_at_s,
            )
        )
        reservation = Reservation(self, context, hold)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The row may have been written although nobody waits for it any more.
            await self._settlements.run(self._undo(opening, reservation))
            raise
        try:
            yield reservation
        finally:
            self._watched.pop(context.request_id, None)
            self._noted.pop(context.request_id, None)
            if reservation.is_open:
                await reservation.end_unexpected()

    async def _undo(self, opening: asyncio.Future[None], reservation: Reservation) -> None:
        with contextlib.suppress(Exception):  # it was refused, so there is nothing to undo
            await opening
            await reservation.settle(Outcome(status=499, outcome="caller_left", bill=Bill()))

    def watch(self, reservation: Reservation, accrued: Callable[[], Accrued | None]) -> None:
        """Note now and then what a running call has delivered (None: nothing yet), for the case of a crash."""
        self._watched[reservation.request_id] = accrued

    async def checkpoint_forever(self, interval_s: float) -> None:
        """The clockwork behind ``watch``: one write for all running calls."""
        while True:
            await asyncio.sleep(interval_s)
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Write what has changed since the last time."""
        changed: dict[str, Accrued] = {}
        for request_id, accrued in list(self._watched.items()):
            now = accrued()
            if now is not None and self._noted.get(request_id) != now:
                changed[request_id] = self._noted[request_id] = now
        if not changed:
            return
        try:
            await self._ledger.checkpoint(changed)
        except Unavailable as exc:
            log.warning("what running calls delivered could not be noted: %s", exc.message)

    def closing(self, request_id: str, outcome: Outcome, context: RequestContext | None = None) -> Closing:
        """The row's last values. Without a context (a job's end) there are no times."""
        bill, offer = outcome.bill, outcome.offer
        started_s = context.started_s if context else 0.0
        first_byte_s = outcome.first_byte_s if context else None
        return Closing(
            request_id=request_id,
            outcome=outcome.outcome,
            http_status=outcome.status,
            cost_nano_usd=bill.cost_nano_usd,
            charge_nano_usd=bill.charge_nano_usd,
            basis=bill.basis,
            usage=bill.usage,
            provider=offer.provider if offer else None,
            upstream_model=offer.upstream_model if offer else None,
            provider_request_id=outcome.provider_request_id,
            first_byte_ms=None if first_byte_s is None else round((first_byte_s - started_s) * 1000),
            total_ms=round((self._clock() - started_s) * 1000) if context else None,
        )

    async def close(self, request_id: str, outcome: Outcome, context: RequestContext) -> None:
        """Close a row for good: at once where the database can be written, else as soon as it can."""
        closing = self.closing(request_id, outcome, context)
        is_nothing = not (outcome.bill.cost_nano_usd or outcome.bill.charge_nano_usd) and outcome.outcome != "completed"
        close_row = self._ledger.release if is_nothing else self._ledger.settle
        try:
            # Queued before anything is awaited: a cancelled waiter loses the news, not the write.
            await asyncio.shield(close_row(closing))
        except Unavailable:
            log.warning("a request cannot be settled now; trying again", extra={"request_id": request_id})
            retrying = asyncio.ensure_future(self._settlements.run(self._retry(close_row, closing)))
            retrying.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait({retrying}, timeout=SETTLE_PATIENCE_S)

    async def _retry(self, close_row: Callable[[Closing], asyncio.Future[bool]], closing: Closing) -> None:
        pause_s = FIRST_RETRY_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                await close_row(closing)
                return
            except Unavailable:
                pause_s = min(MAX_RETRY_S, pause_s * 2)
