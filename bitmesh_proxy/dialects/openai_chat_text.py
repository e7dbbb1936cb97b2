"""What nearly every chunk of a chat stream holds, and nothing else: more text (or reasoning). Read by its type, which
takes a fifth of the time that looking for everything takes.

Whatever else a chunk may hold is a field here whose value has to be empty; fields that nobody reads are passed over
without being made. So what this gives is what ``OpenAIChatReader`` would find, and what this does not give the reader
has to look at. It forgives two things that a full parse does not: bytes that are no UTF-8, and numbers beyond all
bounds, where nobody reads them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bitmesh_proxy.calls import ReasoningDelta, TextDelta


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None
    images: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta
    index: int | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    usage: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]
    usage: Any = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Chunk).decode


def only_text(data: bytes) -> TextDelta | ReasoningDelta | None:
    """What a chunk holds that holds nothing but text, or nothing but reasoning; None for one to be looked at closely.

    The stream's first chunk says more, and has to be looked at.
    """
    try:
        chunk = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    choices = chunk.choices
    if len(choices) != 1 or chunk.usage is not None or chunk.error:
        return None
    choice = choices[0]
    if choice.index or choice.finish_reason or choice.logprobs is not None or choice.usage is not None:
        return None
    delta = choice.delta
    if (
        delta.tool_calls
        or delta.reasoning_details
        or delta.refusal
        or delta.function_call is not None
        or delta.audio
        or delta.annotations
        or delta.images
    ):
        return None
    text, reasoning = delta.content, delta.reasoning_content or delta.reasoning
    if not reasoning:
        return TextDelta(text=text) if text else None
    # Under both names it is the same reasoning.
    return ReasoningDelta(text=reasoning) if not text and type(reasoning) is str else None
