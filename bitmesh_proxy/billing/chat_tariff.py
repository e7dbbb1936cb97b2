"""What common chat calls cost at one offer: ``bill.hold_of`` and ``bill.bill_of`` with all that a call cannot change
worked out beforehand. They walk through a dozen functions, whose code alone fills the processor's first cache.

A tariff is for plain conversations (``usage.plain_text_bytes``), for answers whose usage is tokens in and out, and for
offers whose price is the same for every length and is charged by cost and markup. The tests hold it against the two.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.billing.usage import BYTES_PER_TOKEN_AT_LEAST, TOKENS_PER_MESSAGE
from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.money import NANO_PER_USD, PER_MILLION, NanoUsd
from bitmesh_proxy.plain_chats import PlainUsage

_MEASURED = Basis.MEASURED
_HALF = PER_MILLION // 2


class ChatTariff(Struct, frozen=True):
    """Made by ``chat_tariff``. Nano-dollars; ``markup_nano`` is a ratio (10⁹ is one)."""

    max_output_tokens: int | None
    request_nano_usd: int
    dearest_text_nano_usd_per_million: int
    dearest_output_nano_usd_per_million: int
    input_nano_usd_per_million: int
    output_nano_usd_per_million: int
    markup_nano: int
    default_max_output_tokens: int

    def hold_of_texts(
        self, messages: int, text_bytes: int, first_limit: int | UnsetType, second_limit: int | UnsetType
    ) -> NanoUsd:
        """The upper bound of what the account may be charged for a plain conversation, as ``bill.hold_of`` says it.

        The limits are what a caller has set for the answer's tokens, at least 1. Not for test calls: they hold nothing.
        """
        output_tokens = self.max_output_tokens
        if first_limit is not UNSET and (output_tokens is None or first_limit < output_tokens):
            output_tokens = first_limit
        if second_limit is not UNSET and (output_tokens is None or second_limit < output_tokens):
            output_tokens = second_limit
        if output_tokens is None:
            output_tokens = self.default_max_output_tokens
        text_tokens = (1 + messages) * TOKENS_PER_MESSAGE - (-text_bytes // BYTES_PER_TOKEN_AT_LEAST)
        tokens = text_tokens * self.dearest_text_nano_usd_per_million
        tokens += output_tokens * self.dearest_output_nano_usd_per_million
        hold = self.request_nano_usd - (-tokens // PER_MILLION)
        if self.markup_nano != NANO_PER_USD:
            hold = -(-hold * self.markup_nano // NANO_PER_USD)
        return hold  # type: ignore[return-value]  # nano-dollars, as all its summands

    def bill_of(self, usage: PlainUsage, hold_nano_usd: NanoUsd) -> Bill | None:
        """What a whole answer comes to, as ``bill.bill_of`` says it. Not for test calls.

        None where there is more in the figures than tokens in and out.
        """
        input_tokens, output_tokens = usage.prompt_tokens, usage.completion_tokens
        of_input, of_output = usage.prompt_tokens_details, usage.completion_tokens_details
        if (of_input is not None and of_input.cached_tokens) or not (input_tokens or output_tokens):
            return None
        tokens = input_tokens * self.input_nano_usd_per_million + output_tokens * self.output_nano_usd_per_million
        cost, rest = divmod(tokens, PER_MILLION)
        if rest > _HALF or (rest == _HALF and cost & 1):  # half to even
            cost += 1
        charge = cost = cost + self.request_nano_usd
        if self.markup_nano != NANO_PER_USD:
            charge = -(-cost * self.markup_nano // NANO_PER_USD)
        return Bill(
            NanoUsd(cost),
            hold_nano_usd if charge > hold_nano_usd else NanoUsd(charge),
            _MEASURED,
            Usage(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                reasoning_tokens=0 if of_output is None else of_output.reasoning_tokens,
            ),
        )


def chat_tariff(offer: Offer, *, markup_nano: int, default_max_output_tokens: int) -> ChatTariff | None:
    """The tariff of an offer; None where it takes more than a tariff to say what a call may cost."""
    price = offer.price
    text, output = price.dearest_text_nano_usd_per_million, price.dearest_output_nano_usd_per_million
    if price.is_free or price.long_context is not None or offer.sell_price is not None or not text + output > 0:
        return None
    if not price.counts_tokens:
        return None
    return ChatTariff(
        offer.max_output_tokens,
        price.request_nano_usd,
        text,
        output,
        price.input_nano_usd_per_million,
        price.output_nano_usd_per_million,
        markup_nano if offer.markup_nano is None else offer.markup_nano,
        default_max_output_tokens,
    )
