"""How a call ended, as the books see it: what it may cost at most, what it has come to, what it came to in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from bitmesh_proxy.billing.bill import Bill, Ending, bill_of, hold_of
from bitmesh_proxy.billing.chat_tariff import ChatTariff, chat_tariff
from bitmesh_proxy.billing.reservation import Outcome
from bitmesh_proxy.billing.usage import prompt_size
from bitmesh_proxy.calls import Call, ChatCall, ImageCall
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.errors import GatewayError, ProviderRefused, Unavailable
from bitmesh_proxy.money import ZERO, NanoUsd
from bitmesh_proxy.settings import Billing
from bitmesh_proxy.storage.ledger import Accrued
from bitmesh_proxy.upstream.progress import Progress

CALLER_LEFT: Final = "caller_left"
#: By our own end: of the process that made the call, in order or not (``storage/ledger.py`` says it of the latter).
INTERRUPTED: Final = "interrupted"


class Held(Protocol):
    """What is reserved for a call: a ``Reservation``, or a plan for one."""

    @property
    def hold_nano_usd(self) -> NanoUsd: ...


class Outcomes:
    """Turns progress into outcomes. ``markup_nano`` is the general ratio (10⁹ is one).

    ``is_cutting``: are we at our end, and calls that break off are broken off by us?
    """

    def __init__(self, settings: Billing, *, markup_nano: int, is_cutting: Callable[[], bool] = lambda: False) -> None:
        self._settings = settings
        self._markup_nano = markup_nano
        self._is_cutting = is_cutting

    def hold_of(self, call: Call, offers: Sequence[Offer]) -> NanoUsd:
        """The upper bound over every offer that may be tried, as the account would be charged."""
        size = prompt_size(call) if isinstance(call, ChatCall) else None  # counted once for all offers
        markup_nano, most = self._markup_nano, self._settings.default_max_output_tokens
        highest = ZERO
        for offer in offers:
            hold = hold_of(call, offer, markup_nano=markup_nano, default_max_output_tokens=most, size=size)
            if hold > highest:
                highest = hold
        return highest

    def tariff_of(self, offer: Offer) -> ChatTariff | None:
        """``hold_of`` for plain conversations at one offer, worked out; None where it cannot be."""
        return chat_tariff(
            offer,
            markup_nano=self._markup_nano,
            default_max_output_tokens=self._settings.default_max_output_tokens,
        )

    def of(
        self,
        call: Call,
        reservation: Held,
        progress: Progress,
        *,
        status: int,
        outcome: str,
        error: GatewayError | None = None,
    ) -> Outcome:
        """The outcome of a call that ended with ``status`` for the caller; ``outcome`` is its word in the ledger."""
        offer = progress.offer
        return Outcome(
            status=status,
            outcome=outcome,
            bill=self._bill(call, reservation, progress, outcome=outcome, error=error),
            provider=None if offer is None else offer.provider,
            upstream_model=None if offer is None else offer.upstream_model,
            provider_request_id=progress.request_id,
            first_byte_s=progress.first_byte_s,
        )

    def of_broken_off(self, call: Call, reservation: Held, progress: Progress) -> Outcome:
        """``of`` a call that did not come to its end: nobody waits for it any more, or our own time is over."""
        status, word = (Unavailable.status, INTERRUPTED) if self._is_cutting() else (499, CALLER_LEFT)
        return self.of(call, reservation, progress, status=status, outcome=word)

    def accrued(self, call: Call, reservation: Held, progress: Progress) -> Accrued | None:
        """What would be charged if everything stopped now: noted now and then, for the case of a crash."""
        if not _has_delivered(call, progress):
            return None
        bill = self._bill(call, reservation, progress, outcome=CALLER_LEFT, error=None)
        return Accrued(cost_nano_usd=bill.cost_nano_usd, charge_nano_usd=bill.charge_nano_usd)

    def _bill(
        self, call: Call, reservation: Held, progress: Progress, *, outcome: str, error: GatewayError | None
    ) -> Bill:
        return bill_of(
            call,
            progress.offer,
            usage=progress.reported_usage,
            output_characters=progress.characters,
            ending=ending_of(call, progress, outcome=outcome, error=error, settings=self._settings),
            markup_nano=self._markup_nano,
            hold_nano_usd=reservation.hold_nano_usd,
        )


def _has_delivered(call: Call, progress: Progress) -> bool:
    """Has the caller got anything to pay for? Of pictures the sketches that come before a finished one are nothing."""
    if not progress.delivered or isinstance(call, ChatCall):
        return progress.delivered
    return not isinstance(call, ImageCall) or progress.reported_usage is not None


def ending_of(call: Call, progress: Progress, *, outcome: str, error: GatewayError | None, settings: Billing) -> Ending:
    """How a call ended, as far as the bill depends on it.

    Of a chat whose caller left before its first byte nothing was delivered, so nothing is charged; pictures and clips
    are made to their end by their provider, whoever leaves, we included.
    """
    if outcome == "completed":
        return Ending.COMPLETE
    if not progress.sent or isinstance(error, ProviderRefused):
        return Ending.NOTHING
    if _has_delivered(call, progress):
        return Ending.CUT
    if outcome in (CALLER_LEFT, INTERRUPTED) and not isinstance(call, ChatCall) and settings.charge_abandoned_media:
        return Ending.CUT
    return Ending.UNDELIVERED
