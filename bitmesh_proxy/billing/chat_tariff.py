"""What common chat calls cost at one offer: ``bill.hold_of`` and ``bill.bill_of`` with all that a call cannot change
worked out beforehand. They walk through a dozen functions, whose code alone fills the processor's first cache.

A tariff is for plain conversations (``usage.plain_text_bytes``), for answers whose usage is tokens in and out, and for
offers whose price is the same for every length and is charged by cost and markup. The tests hold it against the two.
"""

from __future__ import annotations

from math import gcd

from msgspec import UNSET, Struct, UnsetType

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.billing.usage import BYTES_PER_TOKEN_AT_LEAST, TOKENS_PER_MESSAGE
from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.money import NANO_PER_USD, PER_MILLION, NanoUsd
from bitmesh_proxy.plain_chats import PlainUsage

_MEASURED = Basis.MEASURED


class ChatTariff(Struct, frozen=True, gc=False):
    """Made by ``chat_tariff``.

    Figures per so many tokens stand in their lowest terms, as the markup does: 150 nano-dollars for one token instead
    of 150,000,000 for a million. What is calculated with them is the same, but by the processor instead of in digits.
    """

    max_output_tokens: int | None
    default_max_output_tokens: int
    request_nano_usd: int
    #: Nano-dollars for so many (the third) tokens of text at most, and of the answer at most.
    dearest: tuple[int, int, int]
    #: Nano-dollars for so many (the third) tokens in, and out.
    figures: tuple[int, int, int]
    #: Numerator and denominator.
    markup: tuple[int, int]

    def hold_of_texts(
        self, messages: int, text_bytes: int, first_limit: int | UnsetType, second_limit: int | UnsetType
    ) -> NanoUsd:
        """The upper bound of what the account may be charged for a plain conversation, as ``bill.hold_of`` says it.

        The limits are what a caller has set for the answer's tokens, at least 1. Not for test calls: they hold nothing.
        """
        output_tokens = self.max_output_tokens
        limit = first_limit
        if second_limit is not UNSET and (limit is UNSET or second_limit > limit):
            limit = second_limit
        if limit is not UNSET and (output_tokens is None or limit < output_tokens):
            output_tokens = limit
        if output_tokens is None:
            output_tokens = self.default_max_output_tokens
        of_text, of_output, unit = self.dearest
        markup, markup_unit = self.markup
        # All quotients are rounded up.
        text_tokens = (text_bytes + BYTES_PER_TOKEN_AT_LEAST - 1) // BYTES_PER_TOKEN_AT_LEAST
        text_tokens += (1 + messages) * TOKENS_PER_MESSAGE
        hold = text_tokens * of_text + output_tokens * of_output
        if unit != 1:
            hold = (hold + unit - 1) // unit
        # A ``NanoUsd`` by its parts; to call it so would take a call.
        return ((hold + self.request_nano_usd) * markup + markup_unit - 1) // markup_unit  # type: ignore[return-value]

    def bill_of(self, usage: PlainUsage, hold_nano_usd: NanoUsd) -> Bill | None:
        """What a whole answer comes to, as ``bill.bill_of`` says it. Not for test calls.

        None where there is more in the figures than tokens in and out, or less.
        """
        input_tokens, output_tokens = usage.prompt_tokens, usage.completion_tokens
        inner, outer = usage.prompt_tokens_details, usage.completion_tokens_details
        if (inner is not None and inner.cached_tokens) or not (input_tokens and output_tokens):
            return None
        cost, charge = self.sums_of(input_tokens, output_tokens, hold_nano_usd)
        return Bill(
            cost,
            charge,
            _MEASURED,
            Usage(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                reasoning_tokens=0 if outer is None else outer.reasoning_tokens,
            ),
        )

    def bill_of_stream(self, usage: Usage, hold_nano_usd: NanoUsd) -> Bill | None:
        """The same for a stream, whose figures have been read already and stand in the bill as they are."""
        input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
        if (
            usage.cached_input_tokens
            or usage.cache_write_tokens
            or usage.image_input_tokens
            or usage.image_output_tokens
            or usage.is_estimated
            or usage.reported_cost_nano_usd is not None
            or not (input_tokens and output_tokens)
        ):
            return None
        cost, charge = self.sums_of(input_tokens, output_tokens, hold_nano_usd)
        return Bill(cost, charge, _MEASURED, usage)

    def sums_of(self, input_tokens: int, output_tokens: int, hold_nano_usd: NanoUsd) -> tuple[NanoUsd, NanoUsd]:
        """Cost and charge of so many tokens, not both 0; the charge never above what is held."""
        of_input, of_output, unit = self.figures
        markup, markup_unit = self.markup
        cost = input_tokens * of_input + output_tokens * of_output
        if unit != 1:
            double = 2 * cost
            cost = (double + unit) // (2 * unit)
            if cost & 1 and 2 * cost * unit - double == unit:  # half to even
                cost -= 1
        cost += self.request_nano_usd
        charge = (cost * markup + markup_unit - 1) // markup_unit
        # (``NanoUsd`` by their parts: see above; ``min`` would take a call, too.)
        return cost, hold_nano_usd if charge > hold_nano_usd else charge  # type: ignore[return-value]  # noqa: FURB136


def chat_tariff(offer: Offer, *, markup_nano: int, default_max_output_tokens: int) -> ChatTariff | None:
    """The tariff of an offer; None where it takes more than a tariff to say what a call may cost."""
    price = offer.price
    text, output = price.dearest_text_nano_usd_per_million, price.dearest_output_nano_usd_per_million
    if price.is_free or price.long_context is not None or offer.sell_price is not None or not text + output > 0:
        return None
    if not price.counts_tokens:
        return None
    ratio = markup_nano if offer.markup_nano is None else offer.markup_nano
    figures = price.input_nano_usd_per_million, price.output_nano_usd_per_million
    of_dearest, of_figures = gcd(text, output, PER_MILLION), gcd(*figures, PER_MILLION)
    of_ratio = gcd(ratio, NANO_PER_USD)
    return ChatTariff(
        offer.max_output_tokens,
        default_max_output_tokens,
        price.request_nano_usd,
        (text // of_dearest, output // of_dearest, PER_MILLION // of_dearest),
        (figures[0] // of_figures, figures[1] // of_figures, PER_MILLION // of_figures),
        (ratio // of_ratio, NANO_PER_USD // of_ratio),
    )
