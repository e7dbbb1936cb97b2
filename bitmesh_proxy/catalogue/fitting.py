"""What of a call an offer cannot do. Nothing is dropped in silence: a call goes only to offers that take all of it.

Fields are named as in the middle (``size``, ``n``, ``image``, ``mask``, ``seconds``, ``quality``, ``messages``,
``tools``, ``stream``, ``input``, ``last_frame``). What an offer says nothing about (a seed, a negative prompt) is its
dialect's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from bitmesh_proxy.calls import Call, ChatCall, ImageCall, Operation, SpeechCall, TranscriptionCall, VideoCall
from bitmesh_proxy.catalogue.offer import Offer


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A field that an offer does not take: not at all, or (``is_value``) not with this value.

    ``reason`` is for people, and goes on from "the model …".
    """

    param: str
    reason: str
    is_value: bool = False


def refusals(offer: Offer, call: Call) -> tuple[Refusal, ...]:
    """Everything in the call that the offer cannot do; empty when it can do the call."""
    if offer.operation is not call.operation:
        return (Refusal(param="model", reason=f"is for {offer.operation}, not for {call.operation}", is_value=True),)
    if type(call) is ChatCall and _is_bare(call) and (offer.abilities.streams or not call.stream):
        return ()
    return tuple(_CHECKS[call.operation](offer, call))


def _is_bare(call: ChatCall) -> bool:
    """Is it nothing but texts, which any offer can do?"""
    if "tools" in call.options:
        return False
    for message in call.messages:  # noqa: SIM110 - a generator takes three times as long
        if isinstance(message.get("content"), list):
            return False
    return True


def _check_chat(offer: Offer, call: ChatCall) -> Iterator[Refusal]:
    can = offer.abilities
    if call.options.get("tools") and not can.tools:
        yield Refusal(param="tools", reason="takes no tools")
    if call.stream and not can.streams:
        yield Refusal(param="stream", reason="does not stream")
    kinds = _kinds_of_parts(call)
    for kind, is_able in (
        ("image", can.images_in_chat),
        ("audio", can.audio_in_chat),
        ("file", can.files_in_chat),
        ("video", False),
    ):
        if kinds.get(kind) and not is_able:
            yield Refusal(param="messages", reason=f"takes no {kind} in messages")
    if can.images_in_chat and can.max_images_in and kinds.get("image", 0) > can.max_images_in:
        yield Refusal(param="messages", reason=f"takes at most {can.max_images_in} images", is_value=True)


#: Types of content parts, as OpenAI's chat names them, that are more than text.
_PART_KINDS: Mapping[str, str] = {
    "image_url": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "file": "file",
    "video_url": "video",
}


def _kinds_of_parts(call: ChatCall) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for message in call.messages:
        content = message.get("content")
        if not isinstance(content, list):
            continue
        for part in content:
            named = part.get("type") if isinstance(part, Mapping) else None
            kind = _PART_KINDS.get(named) if isinstance(named, str) else None
            if kind is not None:
                kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def _check_image(offer: Offer, call: ImageCall) -> Iterator[Refusal]:
    can = offer.abilities
    yield from _check_images_in(offer, len(call.images))
    if call.mask is not None and not can.mask:
        yield Refusal(param="mask", reason="takes no mask")
    if call.count > can.max_count:
        yield Refusal(param="n", reason=f"makes at most {can.max_count} at once", is_value=True)
    yield from _check_size(offer, call.width, call.height)
    yield from _check_quality(offer, call.quality)


def _check_video(offer: Offer, call: VideoCall) -> Iterator[Refusal]:
    can = offer.abilities
    yield from _check_images_in(offer, len(call.frames) + len(call.references))
    if not can.last_frame and any(frame.position == "last" for frame in call.frames):
        yield Refusal(param="last_frame", reason="takes no picture of how the clip ends")
    yield from _check_size(offer, call.width, call.height)
    yield from _check_quality(offer, call.quality)
    if call.seconds is not None and offer.seconds_for(call.seconds) is None:
        yield Refusal(param="seconds", reason=_lengths_in_words(offer), is_value=True)


def _lengths_in_words(offer: Offer) -> str:
    can = offer.abilities
    if can.seconds:
        return f"makes clips of {', '.join(str(length) for length in can.seconds)} seconds"
    if can.max_seconds:
        return f"makes clips of at most {can.max_seconds} seconds"
    return "takes a length in seconds, such as 5"


def _check_speech(offer: Offer, call: SpeechCall) -> Iterator[Refusal]:
    longest = offer.abilities.max_characters
    if longest is not None and len(call.text) > longest:
        yield Refusal(param="input", reason=f"takes at most {longest} characters", is_value=True)


def _check_transcription(offer: Offer, call: TranscriptionCall) -> Iterator[Refusal]:
    if call.into_english and not offer.abilities.translates:
        yield Refusal(param="model", reason="does not translate", is_value=True)


def _check_nothing(_offer: Offer, _call: Call) -> Iterator[Refusal]:
    return iter(())


def _check_images_in(offer: Offer, count: int) -> Iterator[Refusal]:
    most = offer.abilities.max_images_in
    if count and not most:
        yield Refusal(param="image", reason="takes no input image")
    elif count > most:
        yield Refusal(param="image", reason=f"takes at most {most} input image{'s' if most > 1 else ''}", is_value=True)


def _check_size(offer: Offer, width: int | None, height: int | None) -> Iterator[Refusal]:
    if width is None or height is None:
        return
    can = offer.abilities
    if can.sizes and f"{width}x{height}" not in can.sizes:
        yield Refusal(param="size", reason=f"makes {', '.join(can.sizes)}", is_value=True)
    elif can.max_pixels is not None and width * height > can.max_pixels:
        megapixels = (Decimal(can.max_pixels) / 1_000_000).quantize(Decimal("0.1"))
        yield Refusal(param="size", reason=f"makes at most {megapixels} megapixels", is_value=True)


def _check_quality(offer: Offer, quality: str | None) -> Iterator[Refusal]:
    words = offer.abilities.qualities
    if quality is None or quality == "auto" or not words or offer.quality_for(quality) in words:
        return
    known = dict.fromkeys(("auto", *words, *offer.quality_map))
    yield Refusal(param="quality", reason=f"knows {', '.join(known)}", is_value=True)


_CHECKS: Mapping[Operation, Callable[[Offer, Any], Iterator[Refusal]]] = {
    Operation.CHAT: _check_chat,
    Operation.IMAGE: _check_image,
    Operation.VIDEO: _check_video,
    Operation.SPEECH: _check_speech,
    Operation.TRANSCRIPTION: _check_transcription,
    Operation.EMBEDDING: _check_nothing,
    Operation.MODERATION: _check_nothing,
}
