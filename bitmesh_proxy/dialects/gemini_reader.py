"""Google's ``GenerateContentResponse``, streamed or whole, as events.

A stream (``?alt=sse``) is a row of such responses without ``[DONE]``: a finish reason is the end. Blocked prompts and
answers come with status 200. Source: Google's discovery document of generativelanguage v1beta, 2026-08-22.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from bitmesh_proxy.calls import (
    Event,
    Finished,
    FinishReason,
    MediaEvent,
    MediaOutput,
    ReasoningDelta,
    Started,
    StreamFailed,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from bitmesh_proxy.dialects.json_answers import child, from_base64, objects, read_event, read_object, string
from bitmesh_proxy.dialects.openai_usage import token_count
from bitmesh_proxy.dialects.provider_errors import error_code, error_message, redacted, refused_within_success
from bitmesh_proxy.dialects.sse import SseParser
from bitmesh_proxy.errors import ProviderRefused, UpstreamBroken

#: What was made may not be shown: the model's, or Google's, decision about the content.
FILTERED: Final = frozenset(
    {
        "BLOCKLIST",
        "IMAGE_OTHER",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "IMAGE_SAFETY",
        "PROHIBITED_CONTENT",
        "RECITATION",
        "SAFETY",
        "SPII",
    }
)
#: The model got lost; there is no answer that could be used.
_BROKEN: Final = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "TOO_MANY_TOOL_CALLS",
        "UNEXPECTED_TOOL_CALL",
    }
)


def parse_usage(raw: Mapping[str, Any]) -> Usage:
    """Its figures in ours. Thoughts are counted beside the answer there, and inside the output here.

    A count of tools' results does not pass for that of a whole prompt whose own cannot be read.
    """
    thoughts = token_count(raw.get("thoughtsTokenCount"))
    prompt = token_count(raw.get("promptTokenCount"))
    return Usage(
        input_tokens=prompt and prompt + token_count(raw.get("toolUsePromptTokenCount")),
        cached_input_tokens=token_count(raw.get("cachedContentTokenCount")),
        image_input_tokens=_of_pictures(raw.get("promptTokensDetails")),
        output_tokens=token_count(raw.get("candidatesTokenCount")) + thoughts,
        reasoning_tokens=thoughts,
        image_output_tokens=_of_pictures(raw.get("candidatesTokensDetails")),
    )


def _of_pictures(details: object) -> int:
    return sum(token_count(part.get("tokenCount")) for part in objects(details) if part.get("modality") == "IMAGE")


def blocked(reason: str, *, said: str = "") -> ProviderRefused:
    """The refusal that Google sends as a success. ``said`` is the text that came in place of what was asked for."""
    message = f"The provider refused this content ({reason})."
    if said:
        message += f" It said: {said[:300]}"
    return ProviderRefused(
        message,
        status=400,
        body={"error": {"message": message, "code": reason.lower()}},
        provider_code=reason.lower(),
    )


class GeminiReader:
    """The ``StreamReader`` of ``streamGenerateContent``. Only the first candidate is read."""

    def __init__(self) -> None:
        self._parser = SseParser()
        self._is_started = False
        self._is_over = False
        self._has_failed = False
        self._response_id = ""
        self._calls = 0

    def feed(self, data: bytes) -> Sequence[Event]:
        """The events that ``data`` completes. Raises UpstreamBroken for an event that is no JSON object."""
        return [event for payload in self._parser.feed(data) for event in self._read(payload)]

    def close(self) -> Sequence[Event]:
        """What the end of the body completes. Raises UpstreamBroken if no finish reason came."""
        events = [event for payload in self._parser.close() for event in self._read(payload)]
        if not self._is_over:
            raise UpstreamBroken("The provider broke off its answer.")
        return events

    def _read(self, data: bytes) -> Iterator[Event]:
        if self._has_failed:
            return
        response = read_event(data)
        if response.get("error"):
            self._is_over = self._has_failed = True
            clean = redacted(response)
            yield StreamFailed(
                message=error_message(clean) or "The provider reported an error.", code=error_code(clean)
            )
            return
        yield from self.read_response(response)

    def read_response(self, response: Mapping[str, Any]) -> Iterator[Event]:
        """The events of one response, which may be the whole answer."""
        if not self._is_started:
            self._is_started = True
            self._response_id = string(response.get("responseId"))
            yield Started(provider_request_id=self._response_id or None)
        if reason := string(child(response, "promptFeedback").get("blockReason")):
            self._is_over = self._has_failed = True
            refusal = blocked(reason)
            yield StreamFailed(message=refusal.message, code=refusal.provider_code, status=refusal.status)
            return
        finish = ""
        for candidate in objects(response.get("candidates"))[:1]:
            for part in objects(child(candidate, "content").get("parts")):
                yield from self._part(part)
            finish = string(candidate.get("finishReason"))
        if finish in _BROKEN:
            self._is_over = self._has_failed = True
            yield StreamFailed(message=f"The model could not finish its answer ({finish}).", code=finish.lower())
            return
        if finish and not self._is_over:
            self._is_over = True
            yield Finished(reason=self._reason(finish))
        usage = parse_usage(child(response, "usageMetadata"))
        # Early figures name the prompt alone; they would pass for the whole if the stream broke off.
        if usage.output_tokens or (finish and usage.input_tokens):
            yield UsageReport(usage=usage)

    def _part(self, part: Mapping[str, Any]) -> Iterator[Event]:
        if signature := string(part.get("thoughtSignature")):
            yield ReasoningDelta(encrypted=signature)
        if text := string(part.get("text")):
            yield ReasoningDelta(text=text) if part.get("thought") is True else TextDelta(text=text)
        if call := child(part, "functionCall"):
            index = self._calls
            self._calls += 1
            call_id = string(call.get("id")) or f"call_{self._response_id}_{index}"[-64:]
            arguments = orjson.dumps(child(call, "args")).decode()
            yield ToolCallDelta(index=index, call_id=call_id, name=string(call.get("name")), arguments=arguments)
        if (output := picture_of(part)) is not None:
            yield MediaEvent(output=output)

    def _reason(self, finish: str) -> FinishReason:
        if finish in FILTERED:
            return FinishReason.CONTENT_FILTER
        if finish == "MAX_TOKENS":
            return FinishReason.LENGTH
        return FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP


def picture_of(part: Mapping[str, Any]) -> MediaOutput | None:
    """The picture, clip or sound in a part, if it holds one. Raises UpstreamBroken for data that is not base64."""
    inline = child(part, "inlineData")
    data, media_type = string(inline.get("data")), string(inline.get("mimeType"))
    kind = media_type.partition("/")[0]
    if not data or part.get("thought") is True or kind not in ("image", "video", "audio"):
        return None
    return MediaOutput(
        kind="image" if kind == "image" else "video" if kind == "video" else "audio",
        data=from_base64(data),
        media_type=media_type.partition(";")[0],
    )


def read_whole(body: bytes) -> Sequence[Event]:
    """The events of a whole answer. Raises ProviderRefused for a block or an error, UpstreamBroken for no answer."""
    response = read_object(body)
    if response.get("error"):
        raise refused_within_success(response)
    if reason := string(child(response, "promptFeedback").get("blockReason")):
        raise blocked(reason)
    if not objects(response.get("candidates")):
        raise UpstreamBroken("The provider's answer holds no candidate.")
    reader = GeminiReader()
    events = list(reader.read_response(response))
    if not any(isinstance(event, Finished | StreamFailed) for event in events):
        events.append(Finished(reason=FinishReason.STOP))
    return events


def read_whole_usage(body: bytes) -> tuple[Usage | None, str | None]:
    """Usage and id of a whole answer; ``(None, None)`` for what is none."""
    try:
        response = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, None
    if not isinstance(response, dict):
        return None, None
    raw = response.get("usageMetadata")
    return parse_usage(raw) if isinstance(raw, dict) else None, string(response.get("responseId")) or None
