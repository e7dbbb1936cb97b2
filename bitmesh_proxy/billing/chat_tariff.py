"""What plain conversations may be charged at most at one offer: ``bill.hold_of`` with all that a call cannot change
worked out beforehand.

Plain is a conversation of roles and texts (``usage.plain_text_bytes``) at an offer whose price is the same for every
length and is charged by cost and markup. The tests hold both functions against each other.
"""

from __future__ import annotations

from msgspec import Struct

from bitmesh_proxy.billing.usage import BYTES_PER_TOKEN_AT_LEAST, TOKENS_PER_MESSAGE, max_output_tokens
from bitmesh_proxy.calls import ChatCall
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.money import NANO_PER_USD, PER_MILLION, ZERO, NanoUsd


class ChatTariff(Struct, frozen=True):
    """Made by ``chat_tariff``. Nano-dollars; ``markup_nano`` is a ratio (10⁹ is one)."""

    offer: Offer
    request_nano_usd: int
    text_nano_usd_per_million: int
    output_nano_usd_per_million: int
    markup_nano: int
    default_max_output_tokens: int

    def hold_of(self, call: ChatCall, text_bytes: int) -> NanoUsd:
        """The upper bound of what the account may be charged, as ``bill.hold_of`` says it; 0 for a test call."""
        if call.test:
            return ZERO
        text_tokens = (1 + len(call.messages)) * TOKENS_PER_MESSAGE - (-text_bytes // BYTES_PER_TOKEN_AT_LEAST)
        output_tokens = max_output_tokens(call, self.offer, self.default_max_output_tokens)
        tokens = text_tokens * self.text_nano_usd_per_million + output_tokens * self.output_nano_usd_per_million
        hold = self.request_nano_usd - (-tokens // PER_MILLION)
        if self.markup_nano != NANO_PER_USD:
            hold = -(-hold * self.markup_nano // NANO_PER_USD)
        return NanoUsd(hold)


def chat_tariff(offer: Offer, *, markup_nano: int, default_max_output_tokens: int) -> ChatTariff | None:
    """The tariff of an offer; None where it takes more than a tariff to say what a call may cost."""
    price = offer.price
    text, output = price.dearest_text_nano_usd_per_million, price.dearest_output_nano_usd_per_million
    if price.is_free or price.long_context is not None or offer.sell_price is not None or not text + output > 0:
        return None
    return ChatTariff(
        offer,
        price.request_nano_usd,
        text,
        output,
        markup_nano if offer.markup_nano is None else offer.markup_nano,
        default_max_output_tokens,
    )
