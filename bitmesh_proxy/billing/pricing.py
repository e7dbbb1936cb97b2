"""What a usage costs at an offer's prices, and what may be charged for a call at most.

One function turns usage into money, for the reservation as for the bill; so whatever the bill counts, the reservation
has counted too, from a usage that cannot be exceeded. Costs are rounded half to even, bounds and charges up.
"""

from __future__ import annotations

from msgspec.structs import replace

from bitmesh_proxy.billing.usage import ChatBound, PromptSize, chat_bound, prompt_tokens_at_most, usage_bound
from bitmesh_proxy.calls import Basis, Call, ChatCall, ImageCall, SpeechCall, TranscriptionCall, Usage, VideoCall
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.catalogue.prices import MEGAPIXEL, Price
from bitmesh_proxy.errors import InternalError
from bitmesh_proxy.money import NANO_PER_USD, PER_MILLION, ZERO, NanoUsd, round_half_even, round_up

#: A picture of unknown size, at an offer that names none either.
PIXELS_AT_MOST = 4 * MEGAPIXEL


#: A resolution that has no name.
_UNKNOWN = ""

# Looking up a member of an enumeration takes a tenth of a microsecond.
_ESTIMATED, _MEASURED = Basis.ESTIMATED, Basis.MEASURED


def bound_of(
    call: Call, offer: Offer, price: Price, default_max_output_tokens: int, size: PromptSize | None
) -> NanoUsd:
    """The upper bound of a call's cost at an offer's ``price`` (or at its sell price), before any markup.

    ``size`` is that of a conversation, where it has been counted before. Raises InternalError when the price has no
    figure for such a call: then it must not be made, for it would be free.
    """
    if price.is_free:
        return ZERO
    hold = price.request_nano_usd
    if isinstance(call, ChatCall):
        bound = chat_bound(call, offer, default_max_output_tokens=default_max_output_tokens, size=size)
        hold += _chat_bound(bound, price)
    else:
        usage = usage_bound(call, offer, default_max_output_tokens=default_max_output_tokens)
        text_tokens = usage.input_tokens + prompt_tokens_at_most(call)
        hold += round_up(text_tokens * price.dearest_text_nano_usd_per_million, PER_MILLION)
        hold += _units(usage, price, offer, call)
    if hold <= 0:
        raise InternalError(f"The offer {offer.id} has no price for a call of {call.operation}.")
    return hold  # type: ignore[return-value]  # nano-dollars, as all its summands


def cost_of(usage: Usage, offer: Offer, call: Call, *, price: Price | None = None) -> tuple[NanoUsd, Basis]:
    """What the provider takes for this usage, and how sure that is.

    The provider's own word on the money counts first (unless the question is about another ``price``), then its
    figures at our price, then our estimate.
    """
    if price is None and usage.reported_cost_nano_usd is not None:
        return usage.reported_cost_nano_usd, Basis.REPORTED
    price = offer.price if price is None else price
    basis = _ESTIMATED if usage.is_estimated else _MEASURED
    if price.is_free:
        return ZERO, basis
    if price.counts_tokens and (usage.input_tokens or usage.output_tokens):
        # Tokens were named, so the figures per picture, character or second are not used (see ``Price``).
        tokens = replace(usage, characters=0) if usage.characters else usage
        return NanoUsd(price.request_nano_usd + price.token_cost(tokens)), basis
    return NanoUsd(price.request_nano_usd + _units(usage, price, offer, call)), basis


def charge_of(
    usage: Usage, offer: Offer, call: Call, *, cost_nano_usd: NanoUsd, markup_nano: int, hold_nano_usd: NanoUsd
) -> NanoUsd:
    """What the account pays: by the offer's sell price or cost × markup, rounded up, never above the reservation."""
    if call.test:
        return ZERO
    if offer.sell_price is not None:
        charge, _ = cost_of(usage, offer, call, price=offer.sell_price)
    else:
        charge = with_markup(cost_nano_usd, offer, markup_nano=markup_nano)
    return NanoUsd(min(charge, hold_nano_usd))


def with_markup(cost_nano_usd: NanoUsd, offer: Offer, *, markup_nano: int) -> NanoUsd:
    """Cost times the offer's own ratio or the general one (10⁹ is one), rounded up."""
    ratio = markup_nano if offer.markup_nano is None else offer.markup_nano
    if ratio == NANO_PER_USD:
        return cost_nano_usd
    return round_up(cost_nano_usd * ratio, NANO_PER_USD)


def _chat_bound(bound: ChatBound, price: Price) -> int:
    """All tokens at the dearest figure that they might be counted by."""
    if price.long_context is not None:
        price = price.for_input(bound.text_tokens + bound.image_tokens)
    text_figure = price.dearest_text_nano_usd_per_million
    tokens = bound.text_tokens * text_figure + bound.output_tokens * price.dearest_output_nano_usd_per_million
    if bound.image_tokens and not price.input_image_nano_usd:
        tokens += bound.image_tokens * max(text_figure, price.image_input_nano_usd_per_million or 0)
    bounded = -(-tokens // PER_MILLION)
    return bounded + bound.pictures * price.input_image_nano_usd if bound.pictures else bounded


def _units(usage: Usage, price: Price, offer: Offer, call: Call) -> int:
    """The part of a cost that is counted in pictures, seconds, characters and the like."""
    match call:
        case ImageCall():
            return usage.images * _picture_price(price, offer, call) + len(call.images) * price.input_image_nano_usd
        case VideoCall():
            seconds = round_half_even(usage.duration_ms * _second_price(price, offer, call), 1000)
            pictures = len(call.frames) + len(call.references)
            return seconds + (price.video_nano_usd or 0) + pictures * price.input_image_nano_usd
        case SpeechCall():
            return round_half_even(usage.characters * price.characters_nano_usd_per_million, PER_MILLION)
        case TranscriptionCall():
            if price.minute_nano_usd is not None:
                return round_half_even(usage.duration_ms * price.minute_nano_usd, 60_000)
            return round_half_even(usage.duration_ms * (price.second_nano_usd or 0), 1000)
        case _:
            return 0


def _picture_price(price: Price, offer: Offer, call: ImageCall) -> int:
    width, height = offer.size_for(call.width, call.height) or (None, None)
    each = price.image_price(quality=_quality(offer, call.quality), width=width, height=height)
    pixels = width * height if width and height else offer.abilities.max_pixels or PIXELS_AT_MOST
    each += price.megapixels_price(pixels)
    if call.steps is not None and offer.priced_steps is not None and call.steps > offer.priced_steps:
        each = round_up(each * call.steps, offer.priced_steps)
    return each


def _second_price(price: Price, offer: Offer, call: VideoCall) -> int:
    width, height = offer.size_for(call.width, call.height) or (None, None)
    by_size = price.second_price(quality=_quality(offer, call.quality), width=width, height=height)
    has_size = call.width is not None and call.height is not None
    resolution = call.options.get("resolution")
    if resolution is None and not has_size:
        # Half a size is none that is known.
        is_open = call.width is None and call.height is None
        resolution = offer.defaults.get("resolution") if is_open else _UNKNOWN
    named = None if resolution is None else price.named_second_price(resolution)
    if named is None:
        return by_size
    # Which of the two counts, the provider knows.
    return max(named, by_size) if has_size else named


def _quality(offer: Offer, asked: str | None) -> str | None:
    default = offer.defaults.get("quality")
    return offer.quality_for(asked or (default if isinstance(default, str) else None))
