"""Google's responses as events, streamed or whole; blocks that come as a success are refusals."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

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
from bitmesh_proxy.dialects.gemini_reader import GeminiReader, parse_usage, read_whole, read_whole_usage
from bitmesh_proxy.errors import ProviderRefused, UpstreamBroken
from tests.dialects.cuts import sample, ways_to_cut

USAGE = Usage(input_tokens=40, cached_input_tokens=8, output_tokens=75, reasoning_tokens=50)


def events_of(chunks: list[bytes]) -> list[Event]:
    reader = GeminiReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return [*events, *reader.close()]


def candidate(*parts: dict[str, Any], finish: str | None = "STOP") -> bytes:
    return orjson.dumps({"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": finish}]})


def test_the_stream_cut_anywhere() -> None:
    for chunks in ways_to_cut(sample("gemini/chat_stream.sse")):
        assert events_of(chunks) == [
            Started(provider_request_id="rYxQaZ"),
            ReasoningDelta(text="**Thinking about rain**"),
            TextDelta(text="It is"),
            UsageReport(usage=Usage(input_tokens=40, output_tokens=52, reasoning_tokens=50)),
            TextDelta(text=" raining ☔"),
            ReasoningDelta(encrypted="CiQB"),
            ToolCallDelta(index=0, call_id="call_rYxQaZ_0", name="weather", arguments='{"city":"Bern"}'),
            ToolCallDelta(index=1, call_id="fc-2", name="now", arguments="{}"),
            Finished(reason=FinishReason.TOOL_CALLS),
            UsageReport(usage=USAGE),
        ]


def test_figures_that_name_the_prompt_alone_are_not_reported() -> None:
    stream = sample("gemini/chat_stream.sse")
    first = stream[: stream.index(b"\r\n\r\n") + 4]
    assert not any(isinstance(event, UsageReport) for event in GeminiReader().feed(first))


def test_a_stream_without_a_finish_reason_broke_off() -> None:
    stream = sample("gemini/chat_stream.sse")
    reader = GeminiReader()
    reader.feed(stream[: stream.rindex(b"data:")])
    with pytest.raises(UpstreamBroken):
        reader.close()


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", FinishReason.STOP),
        ("MAX_TOKENS", FinishReason.LENGTH),
        ("SAFETY", FinishReason.CONTENT_FILTER),
        ("RECITATION", FinishReason.CONTENT_FILTER),
        ("A_WORD_OF_TOMORROW", FinishReason.STOP),
    ],
)
def test_why_it_stopped(word: str, reason: FinishReason) -> None:
    assert read_whole(candidate({"text": "a"}, finish=word))[-1] == Finished(reason=reason)


def test_a_model_that_got_lost_has_failed_and_nothing_follows() -> None:
    lost = b"data: " + candidate(finish="MALFORMED_FUNCTION_CALL") + b"\n\n"
    events = events_of([lost, b"data: " + candidate({"text": "more"}) + b"\n\n"])
    assert len(events) == 2
    assert isinstance(events[1], StreamFailed)


def test_an_error_in_the_stream() -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    assert events_of([b"data: " + orjson.dumps(error) + b"\n\n"]) == [
        StreamFailed(message="The model is overloaded.", code="UNAVAILABLE")
    ]


def test_a_blocked_prompt() -> None:
    body = sample("gemini/prompt_blocked.json")
    with pytest.raises(ProviderRefused) as caught:
        read_whole(body)
    assert (caught.value.status, caught.value.provider_code) == (400, "prohibited_content")
    assert not caught.value.may_fail_over
    failed = events_of([b"data: " + body.replace(b"\n", b"") + b"\n\n"])[-1]
    assert isinstance(failed, StreamFailed)
    assert (failed.status, failed.code) == (400, "prohibited_content")


def test_pictures_in_a_conversation_but_not_in_its_thoughts() -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}
    events = read_whole(candidate({**picture, "thought": True}, picture))
    assert events[1:-1] == [MediaEvent(output=MediaOutput(kind="image", data=b"\x89PNG", media_type="image/png"))]


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"{}", b'{"candidates":[]}'])
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        read_whole(body)


def test_usage_of_a_whole_answer() -> None:
    assert read_whole_usage(sample("gemini/image.json")) == (
        Usage(input_tokens=265, image_input_tokens=258, output_tokens=1297, image_output_tokens=1290),
        "aB3dEf",
    )
    assert read_whole_usage(b"<html>") == read_whole_usage(b"[]") == (None, None)


def test_tokens_of_tools_alone_are_no_count_of_a_prompt() -> None:
    beside = {"toolUsePromptTokenCount": 7, "candidatesTokenCount": 3}
    assert parse_usage({"promptTokenCount": "20"} | beside) == Usage(output_tokens=3)
    assert parse_usage({"promptTokenCount": 20} | beside) == Usage(input_tokens=27, output_tokens=3)
