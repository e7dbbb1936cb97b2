"""Chat answers as events: the same however the stream is cut, and the quirks of those who speak the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

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
    Usage,
    UsageReport,
)
from bitmesh_proxy.dialects.openai_chat_reader import OpenAIChatReader, read_whole
from bitmesh_proxy.errors import ProviderRefused, UpstreamBroken
from tests.dialects.cuts import sample, ways_to_cut


def events_of(chunks: list[bytes]) -> list[Event]:
    reader = OpenAIChatReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return [*events, *reader.close()]


def deltas(*parts: dict[str, Any], finish: str | None = "stop") -> Sequence[Event]:
    """The events between Started and the end, of a stream whose choices have these deltas."""
    chunks: list[dict[str, Any]] = [{"id": "r", "choices": [{"index": 0, "delta": part}]} for part in parts]
    chunks.append({"id": "r", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    stream = b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks)
    return events_of([stream])[1:]


def whole(message: dict[str, Any], finish: str = "stop") -> Sequence[Event]:
    return read_whole(orjson.dumps({"id": "r", "choices": [{"message": message, "finish_reason": finish}]}))[1:]


def tool(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [fields]}


def test_openais_stream_cut_anywhere() -> None:
    for chunks in ways_to_cut(sample("openai/chat_stream.sse")):
        assert events_of(chunks) == [
            Started(provider_request_id="chatcmpl-CkT9w2"),
            TextDelta(text='The "usage": {} of'),
            TextDelta(text=" a café, \\ then [DONE]"),
            Finished(reason=FinishReason.STOP),
            UsageReport(usage=Usage(input_tokens=31, cached_input_tokens=16, output_tokens=17, reasoning_tokens=5)),
        ]


def test_togethers_stream() -> None:
    assert events_of([sample("together/chat_stream.sse")]) == [
        Started(provider_request_id="oWcQx2k-2kFHot-9a1b2c3d"),
        ReasoningDelta(text="Let me think."),
        TextDelta(text="Hello"),
        TextDelta(text=" there"),
        Finished(reason=FinishReason.STOP),
        UsageReport(usage=Usage(input_tokens=12, cached_input_tokens=4, output_tokens=9)),
    ]


def test_tool_calls_in_parts() -> None:
    for chunks in ways_to_cut(sample("openai/chat_stream_tools.sse")):
        assert events_of(chunks)[1:-1] == [
            ToolCallDelta(index=0, call_id="call_1", name="weather"),
            ToolCallDelta(index=0, arguments='{"city":'),
            ToolCallDelta(index=0, arguments='"Bern"}'),
            ToolCallDelta(index=1, call_id="call_2", name="now"),
            ToolCallDelta(index=1, arguments="{}"),
            Finished(reason=FinishReason.TOOL_CALLS),
        ]


def test_a_whole_answer_gives_the_events_of_a_stream() -> None:
    assert read_whole(sample("openai/chat.json")) == [
        Started(provider_request_id="chatcmpl-CkT9w3"),
        TextDelta(text="Two calls, then."),
        Annotation(
            annotation={
                "type": "url_citation",
                "start_index": 0,
                "end_index": 3,
                "url": "https://example.org/",
                "title": "Example",
            }
        ),
        ToolCallDelta(index=0, call_id="call_a", name="weather", arguments='{"city":"Bern"}'),
        ToolCallDelta(index=1, call_id="call_b", name="now"),
        ToolCallDelta(index=1, arguments="{}"),
        Finished(reason=FinishReason.TOOL_CALLS),
        UsageReport(
            usage=Usage(
                input_tokens=80,
                cached_input_tokens=64,
                cache_write_tokens=8,
                output_tokens=30,
                reasoning_tokens=12,
            )
        ),
    ]


def test_the_same_reasoning_under_two_names_comes_once() -> None:
    events = events_of([sample("compatible/chat_stream_spaced.sse")])
    assert events[1:3] == [ReasoningDelta(text="Hm. "), TextDelta(text="Grüße")]
    assert events[3] == Finished(reason=FinishReason.LENGTH)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(
            [
                tool(id="a", function={"name": "f", "arguments": "{"}),
                tool(id="a", function={"arguments": "}"}),
                tool(id="b", function={"name": "g", "arguments": "[]"}),
            ],
            id="no index, but ids",
        ),
        pytest.param(
            [
                tool(index=0, id="a", function={"name": "f", "arguments": "{"}),
                tool(index=0, id="a", function={"name": "f", "arguments": "}"}),
                tool(index=1, id="b", function={"name": "g", "arguments": "[]"}),
            ],
            id="name and id again with each delta",
        ),
        pytest.param(
            [
                tool(index=0, id="a", function={"name": "f", "arguments": "{"}),
                tool(index=0, function={"arguments": "}"}),
                tool(index=0, id="b", function={"name": "g", "arguments": "[]"}),
            ],
            id="every call under index 0",
        ),
        pytest.param(
            [
                tool(index=0, id="a", function={"name": "f", "arguments": "{"}),
                tool(index=0, id="a2", function={"arguments": "}"}),
                tool(index=1, id="b", function={"name": "g", "arguments": []}),
            ],
            id="a new id with each delta, arguments not a string",
        ),
    ],
)
def test_quirks_of_tool_calls(parts: list[dict[str, Any]]) -> None:
    assert deltas(*parts) == [
        ToolCallDelta(index=0, call_id="a", name="f", arguments="{"),
        ToolCallDelta(index=0, arguments="}"),
        ToolCallDelta(index=1, call_id="b", name="g", arguments="[]"),
        # "stop" after a tool call means the tool call.
        Finished(reason=FinishReason.TOOL_CALLS),
    ]


def test_a_call_without_an_id_gets_one_of_its_answer() -> None:
    first, second, _ = deltas(
        tool(index=0, function={"name": "f", "arguments": "{}"}),
        tool(index=1, function={"name": "g", "arguments": "{}"}),
    )
    assert isinstance(first, ToolCallDelta)
    assert isinstance(second, ToolCallDelta)
    assert (first.call_id, second.call_id) == ("call_r_0", "call_r_1")


def test_arguments_wait_for_the_name() -> None:
    assert deltas(
        tool(index=0, id="a", function={"arguments": '{"x"'}),
        tool(index=0, function={"name": "f", "arguments": ":1}"}),
    )[:1] == [ToolCallDelta(index=0, call_id="a", name="f", arguments='{"x":1}')]


def test_the_older_function_call() -> None:
    events = whole({"content": None, "function_call": {"name": "f", "arguments": {"x": 1}}}, "function_call")
    assert events == [
        ToolCallDelta(index=0, call_id="call_r_0", name="f", arguments='{"x":1}'),
        Finished(reason=FinishReason.TOOL_CALLS),
    ]


def test_pictures_refusals_and_parts() -> None:
    assert whole(
        {
            "refusal": "No.",
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                {"type": "text", "text": "Here."},
            ],
            "images": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                {"type": "image_url", "image_url": {"url": "data:image/png,plain"}},
            ],
        }
    ) == [
        ReasoningDelta(text="Hm."),
        TextDelta(text="Here."),
        RefusalDelta(text="No."),
        MediaEvent(output=MediaOutput(kind="image", data=b"\x89PNG", media_type="image/png")),
        MediaEvent(output=MediaOutput(kind="image", url="https://example.org/a.png")),
        Finished(reason=FinishReason.STOP),
    ]


def test_citations_have_words_for_words_and_numbers_for_numbers() -> None:
    cited = {"url": "https://example.org/", "title": None, "start_index": 0, "end_index": 2}
    odd = [{**cited, "end_index": True}, {**cited, "start_index": None}]
    events = deltas({"content": "Hi"}, {"annotations": [{"url_citation": each} for each in (cited, *odd)]})
    assert [event.annotation for event in events if isinstance(event, Annotation)] == [
        {"type": "url_citation", **cited, "title": ""}
    ]


def test_reasoning_details_carry_what_must_be_sent_back() -> None:
    details = [
        {"type": "reasoning.summary", "summary": "Thought about it."},
        {"type": "reasoning.encrypted", "data": "gAAA"},
    ]
    assert deltas({"reasoning_details": details})[:2] == [
        ReasoningDelta(text="Thought about it.", is_summary=True),
        ReasoningDelta(encrypted="gAAA"),
    ]


def test_log_probabilities_travel_with_their_text() -> None:
    token = {"token": "Hi", "logprob": -0.1, "bytes": None, "top_logprobs": []}
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [token]}}]}
    events = OpenAIChatReader().feed(b"data: " + orjson.dumps(chunk) + b"\n\n")
    assert events[1:] == [TextDelta(text="Hi", logprobs=(token,))]


def test_only_the_first_choice_is_read() -> None:
    choices = [
        {"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"},
        {"index": 0, "delta": {"content": "a"}},
    ]
    events = OpenAIChatReader().feed(b"data: " + orjson.dumps({"choices": choices}) + b"\n\n")
    assert events[1:] == [TextDelta(text="a")]


def test_a_stream_that_breaks_off_is_never_a_clean_end() -> None:
    stream = sample("openai/chat_stream.sse")
    reader = OpenAIChatReader()
    reader.feed(stream[: stream.index(b'"finish_reason":"stop"')])
    with pytest.raises(UpstreamBroken):
        reader.close()


def test_done_without_a_reason_is_a_stop() -> None:
    assert events_of([b'data: {"choices":[]}\n\ndata: [DONE]\n\n'])[1:] == [Finished(reason=FinishReason.STOP)]


def test_an_error_ends_the_stream_and_hides_secrets() -> None:
    events = events_of(
        [sample("together/chat_stream_failed.sse") + b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n']
    )
    assert events[-1] == StreamFailed(message="The engine stopped. Key [redacted] was used.", code="engine_overloaded")


def test_an_error_as_finish_reason() -> None:
    chunk = {
        "error": {"code": 502, "message": "Provider disconnected", "metadata": {"error_type": "provider_error"}},
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
    }
    assert events_of([b"data: " + orjson.dumps(chunk) + b"\n\n"]) == [StreamFailed(message="Provider disconnected")]


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b"{", b'"text"'])
def test_an_event_that_is_no_json_object_is_a_broken_upstream(data: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        OpenAIChatReader().feed(b"data: " + data + b"\n\n")


@pytest.mark.parametrize("body", [b"<html></html>", b"[]", b"{}", b'{"choices":[]}', b'{"choices":["x"]}', b""])
def test_a_whole_answer_that_is_none_is_a_broken_upstream(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        read_whole(body)


def test_an_error_in_a_whole_answer_is_a_refusal() -> None:
    with pytest.raises(ProviderRefused) as caught:
        read_whole(b'{"error":{"code":429,"message":"Slow down"}}')
    assert (caught.value.status, caught.value.message) == (429, "Slow down")


def test_an_error_with_a_word_behind_an_escape_is_read() -> None:
    events = OpenAIChatReader().feed(b'data: {"error":{"message":"Step 7\\rk-0123456789 failed."}}\n\n')
    assert events == [StreamFailed(message="Step 7\rk-0123456789 failed.", code=None)]


def test_a_custom_tool_is_given_a_text() -> None:
    assert deltas(
        tool(index=0, id="call_1", type="custom", custom={"name": "patch", "input": ""}),
        tool(index=0, custom={"input": "*** Begin"}),
        finish="tool_calls",
    ) == [
        ToolCallDelta(index=0, call_id="call_1", name="patch"),
        ToolCallDelta(index=0, arguments="*** Begin"),
        Finished(reason=FinishReason.TOOL_CALLS),
    ]


def test_a_custom_tools_text_may_be_empty() -> None:
    call = {"id": "call_1", "type": "custom", "custom": {"name": "patch", "input": ""}}
    assert whole({"content": None, "tool_calls": [call]}, "tool_calls") == [
        ToolCallDelta(index=0, call_id="call_1", name="patch"),
        Finished(reason=FinishReason.TOOL_CALLS),
    ]
