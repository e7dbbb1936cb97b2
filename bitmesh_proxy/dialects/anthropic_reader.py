"""Anthropic's answers, streamed or whole, as events.

Its stream has named events, cumulative usage in two places and no ``[DONE]``: ``message_stop`` is the end. ``ping`` may
come at any time, an ``error`` also after a good beginning. Kinds of events and blocks that are not known are passed
over, as its documentation asks. Source: the API description behind Anthropic's SDKs, 2026-05-06.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from bitmesh_proxy.calls import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    StreamFailed,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from bitmesh_proxy.dialects.json_answers import child, objects, read_event, read_object, string
from bitmesh_proxy.dialects.openai_usage import is_token_count, token_count
from bitmesh_proxy.dialects.provider_errors import error_code, error_message, redacted, refused_within_success
from bitmesh_proxy.dialects.sse import SseParser
from bitmesh_proxy.errors import UpstreamBroken

_REASONS: Final = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "pause_turn": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None


class _BlockGrew(msgspec.Struct, gc=False):
    type: str
    delta: _Delta | None = None


_decode: Final = msgspec.json.Decoder(_BlockGrew).decode


def _only_text(data: bytes) -> str | None:
    """The text of an event that is more text, as nearly all are; read by its type, which takes a fraction of the time.

    None (or empty) for any other event, which has to be looked at closely.
    """
    try:
        event = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    delta = event.delta
    if delta is None or delta.type != "text_delta" or event.type != "content_block_delta":
        return None
    return delta.text


def parse_usage(raw: Mapping[str, Any]) -> Usage:
    """Its figures in ours: there, input tokens do not include the cached ones.

    Where there is no count of the others, or none that can be read, there is none of the whole: the cached ones alone
    would pass for it.
    """
    read, written = (token_count(raw.get(f"cache_{kind}_input_tokens")) for kind in ("read", "creation"))
    others = raw.get("input_tokens")
    return Usage(
        input_tokens=token_count(others) + read + written if is_token_count(others) else 0,
        cached_input_tokens=read,
        cache_write_tokens=written,
        output_tokens=token_count(raw.get("output_tokens")),
    )


class AnthropicReader:
    """The ``StreamReader`` of Anthropic's messages."""

    def __init__(self) -> None:
        self._parser = SseParser()
        self._usage: dict[str, Any] = {}
        #: Index of a content block → index of the tool call that it is.
        self._calls: dict[int, int] = {}
        self._with_arguments: set[int] = set()
        self._is_over = False

    def feed(self, data: bytes) -> Sequence[Event]:
        """The events that ``data`` completes. Raises UpstreamBroken for an event that is no JSON object."""
        events: list[Event] = []
        for payload in self._parser.feed(data):
            text = None if self._is_over else _only_text(payload)
            if text:
                events.append(TextDelta(text=text))
            else:
                events += self._read(payload)
        return events

    def close(self) -> Sequence[Event]:
        """What the end of the body completes. Raises UpstreamBroken if ``message_stop`` never came."""
        events = [event for payload in self._parser.close() for event in self._read(payload)]
        if not self._is_over:
            raise UpstreamBroken("The provider broke off its answer.")
        return events

    def _read(self, data: bytes) -> Iterator[Event]:
        if self._is_over:
            return
        event = read_event(data)
        kind = event.get("type")
        if kind == "message_start":
            message = child(event, "message")
            self._usage |= child(message, "usage")
            yield _started(message)
        elif kind == "content_block_start":
            yield from self._block_started(token_count(event.get("index")), child(event, "content_block"))
        elif kind == "content_block_delta":
            yield from self._block_grew(token_count(event.get("index")), child(event, "delta"))
        elif kind == "content_block_stop":
            yield from self._block_stopped(token_count(event.get("index")))
        elif kind == "message_delta":
            # Cumulative, but not every figure is said again. Reported only here: what message_start says of the output
            # would pass for the whole if the stream broke off.
            self._usage |= {name: value for name, value in child(event, "usage").items() if value is not None}
            if reason := child(event, "delta").get("stop_reason"):
                yield _finished(reason)
            yield UsageReport(usage=parse_usage(self._usage))
        elif kind == "message_stop":
            self._is_over = True
        elif kind == "error":
            self._is_over = True
            clean = redacted(event)
            yield StreamFailed(
                message=error_message(clean) or "The provider reported an error.", code=error_code(clean)
            )

    def _block_started(self, place: int, block: Mapping[str, Any]) -> Iterator[Event]:
        kind = block.get("type")
        if kind == "tool_use":
            index = self._calls[place] = len(self._calls)
            yield ToolCallDelta(index=index, call_id=string(block.get("id")), name=string(block.get("name")))
            if given := block.get("input"):
                self._with_arguments.add(index)
                yield ToolCallDelta(index=index, arguments=orjson.dumps(given).decode())
        elif kind == "text" and (text := string(block.get("text"))):
            yield TextDelta(text=text)
        elif kind == "thinking" and (text := string(block.get("thinking"))):
            yield ReasoningDelta(text=text)
        elif kind == "redacted_thinking" and (data := string(block.get("data"))):
            yield ReasoningDelta(encrypted=data)

    def _block_grew(self, place: int, delta: Mapping[str, Any]) -> Iterator[Event]:
        kind = delta.get("type")
        if kind == "text_delta" and (text := string(delta.get("text"))):
            yield TextDelta(text=text)
        elif kind == "thinking_delta" and (text := string(delta.get("thinking"))):
            yield ReasoningDelta(text=text)
        elif kind == "signature_delta" and (signature := string(delta.get("signature"))):
            yield ReasoningDelta(encrypted=signature)
        elif kind == "input_json_delta" and place in self._calls and (part := string(delta.get("partial_json"))):
            index = self._calls[place]
            self._with_arguments.add(index)
            yield ToolCallDelta(index=index, arguments=part)

    def _block_stopped(self, place: int) -> Iterator[Event]:
        index = self._calls.get(place)
        if index is not None and index not in self._with_arguments:
            yield ToolCallDelta(index=index, arguments="{}")


def read_whole(body: bytes) -> Sequence[Event]:
    """The events of a whole message. Raises ProviderRefused for an error in it, UpstreamBroken for what is none."""
    message = read_object(body)
    if not isinstance(message.get("content"), list):
        if message.get("error"):
            raise refused_within_success(message)
        raise UpstreamBroken("The provider's answer holds no content.")
    reader = AnthropicReader()
    events: list[Event] = [_started(message)]
    for place, block in enumerate(objects(message["content"])):
        events += reader._block_started(place, block)  # a whole block is one that starts with all it has
        if signature := string(block.get("signature")):
            events.append(ReasoningDelta(encrypted=signature))
        events += reader._block_stopped(place)
    events.append(_finished(message.get("stop_reason")))
    events.append(UsageReport(usage=parse_usage(child(message, "usage"))))
    return events


def read_whole_usage(body: bytes) -> tuple[Usage | None, str | None]:
    """Usage and id of a whole message; ``(None, None)`` for what is none."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, None
    if not isinstance(message, dict):
        return None, None
    usage = message.get("usage")
    return parse_usage(usage) if isinstance(usage, dict) else None, string(message.get("id")) or None


def _started(message: Mapping[str, Any]) -> Started:
    return Started(provider_request_id=string(message.get("id")) or None)


def _finished(reason: object) -> Finished:
    return Finished(reason=_REASONS.get(string(reason), FinishReason.STOP))
