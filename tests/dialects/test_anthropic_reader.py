"""Anthropic's stream and whole answer as events, the same for both, however the stream is cut."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

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
from bitmesh_proxy.dialects.anthropic_reader import AnthropicReader, parse_usage, read_whole, read_whole_usage
from bitmesh_proxy.dialects.reading_meter import ReadingMeter
from bitmesh_proxy.errors import ProviderRefused, UpstreamBroken
from tests.dialects.cuts import sample, ways_to_cut

USAGE = Usage(input_tokens=125, cached_input_tokens=100, cache_write_tokens=5, output_tokens=89)


def events_of(chunks: list[bytes]) -> list[Event]:
    reader = AnthropicReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return [*events, *reader.close()]


def test_the_stream_cut_anywhere() -> None:
    for chunks in ways_to_cut(sample("anthropic/stream.sse")):
        assert events_of(chunks) == [
            Started(provider_request_id="msg_01A"),
            ReasoningDelta(text="The user wants weather."),
            ReasoningDelta(encrypted="EqQB"),
            TextDelta(text="Let me look, née "),
            TextDelta(text="☂."),
            ToolCallDelta(index=0, call_id="toolu_01", name="weather"),
            ToolCallDelta(index=0, arguments='{"city":'),
            ToolCallDelta(index=0, arguments='"Bern"}'),
            ToolCallDelta(index=1, call_id="toolu_02", name="now"),
            ToolCallDelta(index=1, arguments="{}"),
            Finished(reason=FinishReason.TOOL_CALLS),
            UsageReport(usage=USAGE),
        ]


@pytest.mark.parametrize(
    ("event", "texts"),
    [
        ({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "née ☂"}}, ["née ☂"]),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a", "citations": [1]}}, ["a"]),
        ({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ""}}, []),
        ({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 5}}, []),
        ({"type": "content_block_delta", "index": 0, "delta": {"text": "a"}}, []),
        ({"type": "content_block_delta", "index": 0, "delta": "a"}, []),
        ({"type": "message_delta", "delta": {"type": "text_delta", "text": "a"}}, []),
        ({"type": "unheard_of", "delta": {"type": "text_delta", "text": "a"}}, []),
        ({"type": 5, "delta": {"type": "text_delta", "text": "a"}}, []),
    ],
)
def test_only_more_text_is_text(event: dict[str, Any], texts: list[str]) -> None:
    events = AnthropicReader().feed(b"event: x\ndata: " + orjson.dumps(event) + b"\n\n")
    assert [each.text for each in events if isinstance(each, TextDelta)] == texts


def test_after_the_end_nothing_counts() -> None:
    late = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "late"}}
    reader = AnthropicReader()
    reader.feed(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert reader.feed(b"event: x\ndata: " + orjson.dumps(late) + b"\n\n") == []


def test_a_whole_message_gives_the_same() -> None:
    assert read_whole(sample("anthropic/message.json")) == [
        Started(provider_request_id="msg_01A"),
        ReasoningDelta(text="The user wants weather."),
        ReasoningDelta(encrypted="EqQB"),
        TextDelta(text="Let me look, née ☂."),
        ToolCallDelta(index=0, call_id="toolu_01", name="weather"),
        ToolCallDelta(index=0, arguments='{"city":"Bern"}'),
        ToolCallDelta(index=1, call_id="toolu_02", name="now"),
        ToolCallDelta(index=1, arguments="{}"),
        Finished(reason=FinishReason.TOOL_CALLS),
        UsageReport(usage=USAGE),
    ]
    assert read_whole_usage(sample("anthropic/message.json")) == (USAGE, "msg_01A")
    assert read_whole_usage(b"<html>") == read_whole_usage(b"[]") == (None, None)


@pytest.mark.parametrize("others", [{}, *({"input_tokens": each} for each in (None, "20", -1, 1.5, True, [20]))])
def test_cached_tokens_alone_are_no_count_of_a_prompt(others: dict[str, Any]) -> None:
    cached = {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 5, "output_tokens": 9}
    usage = Usage(cached_input_tokens=100, cache_write_tokens=5, output_tokens=9)
    assert parse_usage(others | cached) == usage
    assert parse_usage({"input_tokens": 0} | cached) == replace(usage, input_tokens=105), "all of it was cached"


def test_a_stream_that_breaks_off_has_told_no_usage() -> None:
    stream = sample("anthropic/stream.sse")
    reader = AnthropicReader()
    events = reader.feed(stream[: stream.index(b"event: message_delta")])
    assert not any(isinstance(event, UsageReport) for event in events)
    with pytest.raises(UpstreamBroken):
        reader.close()


def test_an_error_after_a_good_beginning() -> None:
    stream = sample("anthropic/stream.sse")
    failed = stream[: stream.index(b"event: ping")] + (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    )
    assert events_of([failed])[1:] == [StreamFailed(message="Overloaded", code="overloaded_error")]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("refusal", FinishReason.CONTENT_FILTER),
        ("a word of tomorrow", FinishReason.STOP),
    ],
)
def test_why_it_stopped(word: str, reason: FinishReason) -> None:
    body = b'{"id":"m","content":[],"stop_reason":"' + word.encode() + b'","usage":{}}'
    assert Finished(reason=reason) in read_whole(body)


def test_thinking_that_is_kept_secret() -> None:
    block = b'{"type":"content_block_start","index":0,"content_block":{"type":"redacted_thinking","data":"Em4K"}}'
    assert AnthropicReader().feed(b"data: " + block + b"\n\n") == [ReasoningDelta(encrypted="Em4K")]


@pytest.mark.parametrize("data", [b"[1]", b"{", b"<html>", b"\xff", b"[" * 5000])
def test_what_is_no_event_is_a_broken_upstream(data: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        AnthropicReader().feed(b"data: " + data + b"\n\n")


def test_what_is_no_message() -> None:
    with pytest.raises(ProviderRefused):
        read_whole(b'{"type":"error","error":{"type":"api_error","message":"no"}}')
    with pytest.raises(UpstreamBroken):
        read_whole(b"{}")


def test_a_meter_that_reads() -> None:
    meter = ReadingMeter(partial(AnthropicReader))
    stream = sample("anthropic/stream.sse")
    meter.feed(stream[:700])
    assert not meter.is_complete
    meter.feed(stream[700:])
    text = 'The user wants weather.Let me look, née ☂.{"city":"Bern"}{}'
    assert (meter.usage, meter.output_characters, meter.is_complete) == (USAGE, len(text.encode()), True)
    assert (meter.error, meter.provider_request_id) == (None, "msg_01A")
