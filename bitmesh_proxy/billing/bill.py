"""How a call's ending becomes a bill: what the provider takes (cost) and what the account pays (charge)."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field

from bitmesh_proxy.billing import pricing
from bitmesh_proxy.billing.usage import PromptSize, complete_usage
from bitmesh_proxy.calls import Basis, Call, Usage
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.money import ZERO, NanoUsd


class Ending(StrEnum):
    """How a call ended, as far as money is concerned."""

    #: The whole answer came.
    COMPLETE = "complete"
    #: Part of it came, or the caller left while the provider worked: what was delivered, and the prompt, is charged.
    CUT = "cut"
    #: The provider may bill us, but the caller got nothing and is not to blame.
    UNDELIVERED = "undelivered"
    #: No provider did anything.
    NOTHING = "nothing"


# Looking up a member of an enumeration takes a tenth of a microsecond.
_NOTHING, _UNDELIVERED = Ending.NOTHING, Ending.UNDELIVERED


class Bill(Struct, frozen=True):
    """Both sums in nano-dollars, what they rest on, and the usage behind them."""

    cost_nano_usd: NanoUsd = ZERO
    charge_nano_usd: NanoUsd = ZERO
    basis: Basis = Basis.MEASURED
    usage: Usage = field(default_factory=Usage)

    @property
    def is_nothing(self) -> bool:
        """Was nothing used, so that the request is released rather than settled?"""
        return not self.cost_nano_usd and not self.charge_nano_usd and self.usage == Usage()


def hold_of(
    call: Call, offer: Offer, *, markup_nano: int, default_max_output_tokens: int, size: PromptSize | None = None
) -> NanoUsd:
    """The upper bound of what the account may be charged for this call at this offer; 0 for a test call.

    ``size`` is that of a conversation, where it has been counted before. Raises InternalError when the offer has no
    price for such a call.
    """
    most = default_max_output_tokens
    bound = pricing.bound_of(call, offer, offer.price, most, size)
    if call.test:
        return ZERO
    if offer.sell_price is not None:
        return pricing.bound_of(call, offer, offer.sell_price, most, size)
    return pricing.with_markup(bound, offer, markup_nano=markup_nano)


def bill_of(
    call: Call,
    offer: Offer | None,
    *,
    usage: Usage | None,
    output_characters: int,
    ending: Ending,
    markup_nano: int,
    hold_nano_usd: NanoUsd,
) -> Bill:
    """Price a call by how it ended. The charge is never above the reservation."""
    if offer is None or ending is _NOTHING:
        return Bill()
    usage = complete_usage(usage, call, offer, output_characters=output_characters)
    cost, basis = pricing.cost_of(usage, offer, call)
    if ending is _UNDELIVERED:
        return Bill(cost_nano_usd=cost, basis=basis, usage=usage)
    charge = pricing.charge_of(
        usage, offer, call, cost_nano_usd=cost, markup_nano=markup_nano, hold_nano_usd=hold_nano_usd
    )
    return Bill(cost_nano_usd=cost, charge_nano_usd=charge, basis=basis, usage=usage)
