"""OpenAI's chat answers, streamed or whole, as events; with the liberties that its many imitators take.

A whole answer is read as a stream of one chunk whose delta is the message, so that both give the same events.
The quirks of tool calls are handled here once: no index, no id, the name again with each delta, arguments as an object,
all calls under index 0, no arguments at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from bitmesh_proxy.calls import (
    Annotation,
    Event,
    Finished,
    FinishReason,
    MediaEvent,
    MediaOutput,
    ReasoningDelta,
    RefusalDelta,
    Started,
    StreamFailed,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from bitmesh_proxy.dialects.json_answers import from_base64, objects, read_event, read_object, string
from bitmesh_proxy.dialects.openai_chat_text import only_text
from bitmesh_proxy.dialects.openai_usage import UsageParser, parse_usage
from bitmesh_proxy.dialects.provider_errors import error_code, error_message, redacted, refused_within_success
from bitmesh_proxy.dialects.sse import SseParser
from bitmesh_proxy.errors import UpstreamBroken

_REASONS: Final = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


_WORDS: Final = frozenset(("role", "content"))


class _ToolCall(msgspec.Struct):
    """One tool call under way. ``held`` are arguments that came before the name."""

    index: int
    call_id: str
    is_announced: bool = False
    has_arguments: bool = False
    held: str = ""


class OpenAIChatReader:
    """The ``StreamReader`` of OpenAI's chat completions. Only the choice with index 0 is read."""

    def __init__(self, parse: UsageParser = parse_usage) -> None:
        self._parse_usage = parse
        self._parser = SseParser()
        self._is_started = False
        self._is_finished = False
        self._is_over = False
        self._response_id = ""
        self._calls: list[_ToolCall] = []
        self._by_index: dict[int, _ToolCall] = {}

    def feed(self, data: bytes) -> Sequence[Event]:
        """The events that ``data`` completes. Raises UpstreamBroken for an event that is no JSON object."""
        events: list[Event] = []
        for payload in self._parser.feed(data):
            event = only_text(payload) if self._is_started and not self._is_over else None
            if event is None:
                events += self._read(payload)
            else:
                events.append(event)
        return events

    def close(self) -> Sequence[Event]:
        """What the end of the body completes. Raises UpstreamBroken if neither a finish reason nor ``[DONE]`` came."""
        events = [event for payload in self._parser.close() for event in self._read(payload)]
        if not self._is_over and not self._is_finished:
            raise UpstreamBroken("The provider broke off its answer.")
        return events

    def read_message(self, answer: Mapping[str, Any]) -> Sequence[Event]:
        """The events of a whole answer. Raises ProviderRefused for an error, UpstreamBroken for no answer at all."""
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            if answer.get("error"):
                raise refused_within_success(answer)
            raise UpstreamBroken("The provider's answer holds no choices.")
        events = list(self._chunk(answer))
        if not self._is_finished and not self._is_over:
            events += self._finish("stop")
        return events

    def _read(self, data: bytes) -> Iterator[Event]:
        if self._is_over:
            return
        if data.strip() == b"[DONE]":
            if not self._is_finished:
                yield from self._finish("stop")
            self._is_over = True
            return
        yield from self._chunk(read_event(data))

    def _chunk(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        if chunk.get("error"):
            yield self._failed(chunk)
            return
        if not self._is_started:
            self._is_started = True
            self._response_id = string(chunk.get("id"))
            yield Started(provider_request_id=self._response_id or None)
        usage_places = [chunk.get("usage")]
        for choice in objects(chunk.get("choices")):
            if choice.get("index") not in (None, 0):
                continue
            yield from self._delta(choice)
            reason = choice.get("finish_reason")
            if reason == "error":
                yield self._failed(choice if choice.get("error") else chunk)
                return
            if isinstance(reason, str) and reason and not self._is_finished:
                yield from self._finish(reason)
            usage_places.append(choice.get("usage"))  # Moonshot
        for place in usage_places:
            if (usage := self._parse_usage(place)) is not None:
                yield UsageReport(usage=usage)
                break

    def _delta(self, choice: Mapping[str, Any]) -> Iterator[Event]:
        is_message = "delta" not in choice
        delta = choice.get("message" if is_message else "delta")
        if not isinstance(delta, dict) or not delta:
            return
        if delta.keys() <= _WORDS:  # the first chunk of nearly every stream
            yield from _content(delta.get("content"), choice.get("logprobs"))
            return
        yield from _reasoning(delta)
        yield from _content(delta.get("content"), choice.get("logprobs"))
        if refusal := string(delta.get("refusal")):
            yield RefusalDelta(text=refusal)
        audio = delta.get("audio")
        if isinstance(audio, dict) and (transcript := string(audio.get("transcript"))):
            yield TextDelta(text=transcript)
        yield from _annotations(delta.get("annotations"))
        for image in objects(delta.get("images")):
            yield from _picture(image)
        yield from self._tool_calls(delta, is_message=is_message)

    def _tool_calls(self, delta: Mapping[str, Any], *, is_message: bool) -> Iterator[Event]:
        raw_calls = objects(delta.get("tool_calls"))
        if isinstance(legacy := delta.get("function_call"), dict):
            raw_calls = [*raw_calls, {"index": 0, "function": legacy}]
        for place, raw in enumerate(raw_calls):
            call = self._call_of(raw, place if is_message else None)
            function, arguments = _called(raw)
            if arguments is not None and not isinstance(arguments, str):
                arguments = orjson.dumps(arguments).decode()
            call.held += arguments or ""
            if not call.is_announced:
                name = string(function.get("name"))
                if not name:
                    continue
                call.is_announced = True
                call.has_arguments = bool(call.held) or "custom" in raw  # a free text may be empty
                yield ToolCallDelta(index=call.index, call_id=call.call_id, name=name, arguments=call.held)
                call.held = ""
            elif call.held:
                call.has_arguments = True
                yield ToolCallDelta(index=call.index, arguments=call.held)
                call.held = ""

    def _call_of(self, raw: Mapping[str, Any], place: int | None) -> _ToolCall:
        """Find the call that a delta belongs to, or open one. ``place`` is set for the calls of a whole message."""
        given_id = string(raw.get("id"))
        index = raw.get("index") if isinstance(raw.get("index"), int) else place
        call: _ToolCall | None
        if index is not None:
            call = self._by_index.get(index)
        elif given_id:
            call = next((known for known in self._calls if known.call_id == given_id), None)
        else:
            call = self._calls[-1] if self._calls else None
        if call is not None and given_id not in ("", call.call_id) and call.is_announced and _names_function(raw):
            call = None  # another call under the same index
        if call is None:
            new_index = len(self._calls)
            call_id = given_id or f"call_{self._response_id}_{new_index}"[-64:]
            call = _ToolCall(index=new_index, call_id=call_id)
            self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def _finish(self, reason: str) -> Iterator[Event]:
        self._is_finished = True
        announced = [call for call in self._calls if call.is_announced]
        for call in announced:
            if not call.has_arguments:
                yield ToolCallDelta(index=call.index, arguments="{}")
        meaning = _REASONS.get(reason, FinishReason.STOP)
        if announced and meaning is FinishReason.STOP:
            meaning = FinishReason.TOOL_CALLS  # some servers say "stop" after a tool call
        yield Finished(reason=meaning)

    def _failed(self, holder: Mapping[str, Any]) -> StreamFailed:
        self._is_over = True
        clean = redacted(holder)
        return StreamFailed(message=error_message(clean) or "The provider reported an error.", code=error_code(clean))


def read_whole(body: bytes, parse: UsageParser = parse_usage) -> Sequence[Event]:
    """The events of a whole answer. Raises ProviderRefused for an error in it, UpstreamBroken for what is no answer."""
    return OpenAIChatReader(parse).read_message(read_object(body))


def picture_from_url(url: str) -> MediaOutput | None:
    """A link or a data URI of a picture as an output; ``None`` for a data URI that is not base64."""
    if not url.startswith("data:"):
        return MediaOutput(kind="image", url=url)
    head = url[5:].partition(",")[0]
    try:
        data = from_base64(url)
    except UpstreamBroken:
        return None
    return MediaOutput(kind="image", data=data, media_type=head.partition(";")[0] or None)


def _reasoning(delta: Mapping[str, Any]) -> Iterator[Event]:
    if text := string(delta.get("reasoning_content")) or string(delta.get("reasoning")):
        yield ReasoningDelta(text=text)
    for detail in objects(delta.get("reasoning_details")):  # OpenRouter
        encrypted = string(detail.get("data")) or string(detail.get("signature"))
        if encrypted:
            yield ReasoningDelta(encrypted=encrypted)
        if not text and (piece := string(detail.get("text"))):
            yield ReasoningDelta(text=piece)
        if not text and (piece := string(detail.get("summary"))):
            yield ReasoningDelta(text=piece, is_summary=True)


def _content(content: object, logprobs: object) -> Iterator[Event]:
    if isinstance(content, str):
        if content:
            listed = logprobs.get("content") if isinstance(logprobs, dict) else None
            yield TextDelta(text=content, logprobs=tuple(objects(listed)))
        return
    for part in objects(content):  # Mistral sends parts
        if text := string(part.get("text")):
            yield TextDelta(text=text)
        for thought in objects(part.get("thinking")):
            yield ReasoningDelta(text=string(thought.get("text")))
        if part.get("type") == "image_url":
            yield from _picture(part)


def _annotations(raw: object) -> Iterator[Event]:
    for item in objects(raw):
        inner = item.get("url_citation")
        citation = inner if isinstance(inner, dict) else item
        start, end = citation.get("start_index"), citation.get("end_index")
        if type(start) is type(end) is int:
            words = {name: string(citation.get(name)) for name in ("url", "title")}
            yield Annotation(annotation={"type": "url_citation", "start_index": start, "end_index": end, **words})


def _picture(image: Mapping[str, Any]) -> Iterator[Event]:
    holder = image.get("image_url")
    url = string(holder.get("url") if isinstance(holder, dict) else holder)
    if url and (output := picture_from_url(url)) is not None:
        yield MediaEvent(output=output)


def _names_function(raw: Mapping[str, Any]) -> bool:
    return bool(string(_called(raw)[0].get("name")))


def _called(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
    """What says the name of a call, and its arguments: a function's, or the text that a custom tool is given."""
    custom = raw.get("custom")
    if isinstance(custom, dict):
        return custom, custom.get("input")
    function = raw.get("function")
    return (function, function.get("arguments")) if isinstance(function, dict) else ({}, None)
