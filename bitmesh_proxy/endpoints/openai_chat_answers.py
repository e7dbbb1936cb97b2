"""OpenAI's chat completions as callers read them, made from events: for providers that speak another format.

Where the provider speaks this one, nothing here runs: its bytes pass through. Fields that OpenAI does not have but its
clients know from elsewhere: ``reasoning_content`` (DeepSeek's name) and ``images`` (OpenRouter's).
Source: OpenAI's published API description of 2026-08-21.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from bitmesh_proxy.calls import (
    Annotation,
    ChatCall,
    Event,
    Finished,
    FinishReason,
    JsonObject,
    MediaEvent,
    MediaOutput,
    ReasoningDelta,
    RefusalDelta,
    Started,
    StreamFailed,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from bitmesh_proxy.context import RequestContext
from bitmesh_proxy.errors import ProviderRefused

DONE: Final = b"data: [DONE]\n\n"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer and every chunk of it repeats. ``created_s`` is Unix time."""

    response_id: str
    created_s: int
    model: str

    @classmethod
    def of(cls, call: ChatCall, context: RequestContext) -> Head:
        """The head of the answer to a call; an id of the provider's replaces ours when one arrives."""
        return cls(
            response_id=f"chatcmpl-{context.request_id.removeprefix('req_')}",
            created_s=int(context.received_at_s),
            model=call.model,
        )


def render_chat(call: ChatCall, events: Sequence[Event], context: RequestContext) -> JsonObject:
    """The whole answer as one object. Raises ProviderRefused where the provider reported an error inside it."""
    return render_whole(events, Head.of(call, context))


def render_whole(events: Sequence[Event], head: Head) -> JsonObject:
    """See ``render_chat``."""
    message = _Message()
    usage: Usage | None = None
    response_id = head.response_id
    for event in events:
        if isinstance(event, Started):
            response_id = event.provider_request_id or response_id
        elif isinstance(event, UsageReport):
            usage = event.usage
        elif isinstance(event, StreamFailed):
            raise ProviderRefused(event.message, status=502, provider_status=502, provider_code=event.code)
        else:
            message.add(event)
    answer: dict[str, Any] = {
        "id": response_id,
        "object": "chat.completion",
        "created": head.created_s,
        "model": head.model,
        "choices": [message.choice()],
    }
    if usage is not None:
        answer["usage"] = render_usage(usage)
    return answer


class _Message(msgspec.Struct):
    """One assistant message as it comes together."""

    text: list[str] = msgspec.field(default_factory=list)
    reasoning: list[str] = msgspec.field(default_factory=list)
    refusal: list[str] = msgspec.field(default_factory=list)
    logprobs: list[JsonObject] = msgspec.field(default_factory=list)
    annotations: list[JsonObject] = msgspec.field(default_factory=list)
    images: list[JsonObject] = msgspec.field(default_factory=list)
    tool_calls: dict[int, dict[str, Any]] = msgspec.field(default_factory=dict)
    reason: FinishReason = FinishReason.STOP

    def add(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self.text.append(event.text)
            self.logprobs += event.logprobs
        elif isinstance(event, ReasoningDelta):
            self.reasoning.append(event.text)
        elif isinstance(event, RefusalDelta):
            self.refusal.append(event.text)
        elif isinstance(event, ToolCallDelta):
            self._add_tool_call(event)
        elif isinstance(event, Annotation):
            self.annotations.append(render_annotation(event.annotation))
        elif isinstance(event, MediaEvent):
            self.images += render_images(event)
        elif isinstance(event, Finished):
            self.reason = event.reason

    def _add_tool_call(self, event: ToolCallDelta) -> None:
        call = self.tool_calls.setdefault(
            event.index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = call["id"] or event.call_id
        call["function"]["name"] = call["function"]["name"] or event.name or ""
        call["function"]["arguments"] += event.arguments

    def choice(self) -> JsonObject:
        text = "".join(self.text)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not (self.tool_calls or self.refusal) else None,
            "refusal": "".join(self.refusal) or None,
        }
        optional = {
            "reasoning_content": "".join(self.reasoning),
            "annotations": self.annotations,
            "images": self.images,
            "tool_calls": [self.tool_calls[index] for index in sorted(self.tool_calls)],
        }
        message |= {name: value for name, value in optional.items() if value}
        return {
            "index": 0,
            "message": message,
            "logprobs": {"content": self.logprobs, "refusal": None} if self.logprobs else None,
            "finish_reason": self.reason.value,
        }


class ChunkRenderer:
    """Events into the bytes of a stream; one per answer. All events of one call go into one write.

    ``include_usage`` None: as the caller's ``stream_options`` ask. After a failed event nothing more is written, no
    ``[DONE]`` either, so that nobody takes the answer for complete.
    """

    def __init__(self, call: ChatCall, context: RequestContext, *, include_usage: bool | None = None) -> None:
        self._head = Head.of(call, context)
        self._response_id = self._head.response_id
        if include_usage is None:
            options = call.options.get("stream_options")
            include_usage = isinstance(options, Mapping) and options.get("include_usage") is True
        self._include_usage = include_usage
        self._usage: Usage | None = None
        self._is_begun = False
        self._is_finished = False
        self._has_failed = False

    def render(self, events: Sequence[Event]) -> bytes:
        """The bytes of ``events``, in order; empty where none of them shows."""
        return b"".join(map(self._render_one, events))

    def finish(self) -> bytes:
        """What ends the stream: a finish reason if none came, the usage if it is wanted, ``[DONE]``."""
        if self._has_failed:
            return b""
        tail = b"" if self._is_finished else self._render_one(Finished(reason=FinishReason.STOP))
        if self._include_usage and self._usage is not None:
            tail += self._chunk([], usage=render_usage(self._usage))
        return tail + DONE

    def _render_one(self, event: Event) -> bytes:
        if self._has_failed:
            return b""
        if isinstance(event, UsageReport):
            self._usage = event.usage
            return b""
        if isinstance(event, StreamFailed):
            self._has_failed = True
            error = {"message": event.message, "type": "internal_error", "param": None, "code": event.code}
            return b"data: " + orjson.dumps({"error": error}) + b"\n\n"
        begin = b""
        if not self._is_begun:
            self._is_begun = True
            if isinstance(event, Started):
                self._response_id = event.provider_request_id or self._response_id
            begin = self._choice({"role": "assistant", "content": ""})
        if isinstance(event, Finished):
            self._is_finished = True
            return begin + self._choice({}, finish_reason=event.reason.value)
        delta = _delta_of(event)
        if not delta:
            return begin
        return begin + self._choice(delta, logprobs=event.logprobs if isinstance(event, TextDelta) else ())

    def _choice(
        self, delta: JsonObject, *, finish_reason: str | None = None, logprobs: Sequence[JsonObject] = ()
    ) -> bytes:
        shown = {"content": list(logprobs), "refusal": None} if logprobs else None
        return self._chunk([{"index": 0, "delta": delta, "logprobs": shown, "finish_reason": finish_reason}])

    def _chunk(self, choices: list[JsonObject], usage: JsonObject | None = None) -> bytes:
        chunk: dict[str, Any] = {
            "id": self._response_id,
            "object": "chat.completion.chunk",
            "created": self._head.created_s,
            "model": self._head.model,
            "choices": choices,
        }
        if self._include_usage:
            chunk["usage"] = usage
        return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _delta_of(event: Event) -> dict[str, Any]:
    """What an event adds to the message; empty for those that add nothing."""
    if isinstance(event, TextDelta):
        return {"content": event.text}
    if isinstance(event, ReasoningDelta):
        return {"reasoning_content": event.text} if event.text else {}
    if isinstance(event, RefusalDelta):
        return {"refusal": event.text}
    if isinstance(event, Annotation):
        return {"annotations": [render_annotation(event.annotation)]}
    if isinstance(event, MediaEvent):
        return {"images": images} if (images := render_images(event)) else {}
    if isinstance(event, ToolCallDelta):
        call: dict[str, Any] = {"index": event.index, "function": {"arguments": event.arguments}}
        if event.call_id is not None or event.name is not None:
            call |= {"id": event.call_id, "type": "function"}
            call["function"]["name"] = event.name
        return {"tool_calls": [call]}
    return {}


def render_usage(usage: Usage) -> JsonObject:
    """Usage under OpenAI's names."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def render_annotation(annotation: JsonObject) -> JsonObject:
    """A citation: chat completions nest what Open Responses writes flat."""
    if annotation.get("type") != "url_citation" or "url_citation" in annotation:
        return annotation
    return {
        "type": "url_citation",
        "url_citation": {name: value for name, value in annotation.items() if name != "type"},
    }


def render_images(event: MediaEvent) -> list[JsonObject]:
    """The picture; nothing for other media, and for links that only our key opens."""
    if event.output.kind != "image":
        return []
    url = _link_of(event.output)
    return [{"type": "image_url", "image_url": {"url": url}}] if url else []


def _link_of(output: MediaOutput) -> str | None:
    if output.data is not None:
        return f"data:{output.media_type or 'image/png'};base64,{base64.b64encode(output.data).decode()}"
    return None if output.needs_credential else output.url
