"""Which of two offers is the cheaper one for a call. A comparison of price figures, not an estimate of the bill.

The same guesses are made for every offer, so what matters is only that they are the same.
"""

from __future__ import annotations

from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    EmbeddingCall,
    ImageCall,
    ModerationCall,
    SpeechCall,
    TranscriptionCall,
    VideoCall,
)
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.money import PER_MILLION

#: Output of a chat call that names no limit.
TYPICAL_OUTPUT_TOKENS = 500
#: Characters that make a token, in English.
CHARACTERS_PER_TOKEN = 4
#: A clip, or sound, of unknown length.
TYPICAL_SECONDS = 5


def comparison_cost(offer: Offer, call: Call) -> int:
    """Nano-dollars that such a call costs at the offer's figures, roughly. 0 for a free one."""
    price = offer.price
    if price.is_free:
        return 0
    return price.request_nano_usd + _variable_cost(offer, call)


def _variable_cost(offer: Offer, call: Call) -> int:
    if isinstance(call, ImageCall):
        return _picture_cost(offer, call)
    if isinstance(call, VideoCall):
        return _clip_cost(offer, call)
    price = offer.price
    if isinstance(call, SpeechCall):
        return len(call.text) * price.characters_nano_usd_per_million // PER_MILLION
    if isinstance(call, TranscriptionCall):
        seconds = max(1, int(call.duration_s or TYPICAL_SECONDS))
        per_minute = price.minute_nano_usd if price.minute_nano_usd is not None else 60 * (price.second_nano_usd or 0)
        return seconds * per_minute // 60
    input_tokens = _input_characters(call) // CHARACTERS_PER_TOKEN
    output_tokens = _output_tokens(call) if isinstance(call, ChatCall) else 0
    price = price.for_input(input_tokens)
    total = input_tokens * price.input_nano_usd_per_million + output_tokens * price.output_nano_usd_per_million
    return total // PER_MILLION


def _picture_cost(offer: Offer, call: ImageCall) -> int:
    price = offer.price
    width, height = offer.size_for(call.width, call.height) or (1024, 1024)
    each = price.image_price(quality=offer.quality_for(call.quality), width=width, height=height)
    each += price.megapixels_price(width * height)
    return call.count * each + len(call.images) * price.input_image_nano_usd


def _clip_cost(offer: Offer, call: VideoCall) -> int:
    price = offer.price
    seconds = offer.seconds_for(call.seconds) or TYPICAL_SECONDS
    width, height = offer.size_for(call.width, call.height) or (None, None)
    each_second = price.second_price(quality=offer.quality_for(call.quality), width=width, height=height)
    images = len(call.frames) + len(call.references)
    return int(each_second * seconds) + (price.video_nano_usd or 0) + images * price.input_image_nano_usd


def _input_characters(call: ChatCall | EmbeddingCall | ModerationCall) -> int:
    if isinstance(call, ChatCall):
        return sum(len(message["content"]) for message in call.messages if isinstance(message.get("content"), str))
    return sum(len(text) for text in call.inputs if isinstance(text, str))


def _output_tokens(call: ChatCall) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = call.options.get(name)
        if isinstance(limit, int) and not isinstance(limit, bool):
            return min(limit, TYPICAL_OUTPUT_TOKENS)
    return TYPICAL_OUTPUT_TOKENS
