"""Events as OpenAI's clients read them: whole, as chunks, and read back to the events they were made of."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pytest_aiohttp.plugin import AiohttpServer

from bitmesh_proxy.calls import (
    Annotation,
    ChatCall,
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
from bitmesh_proxy.context import RequestContext
from bitmesh_proxy.dialects.openai_chat_reader import OpenAIChatReader, read_whole
from bitmesh_proxy.endpoints.openai_chat_answers import ChunkRenderer, render_chat
from bitmesh_proxy.errors import ProviderRefused
from tests.clients import openai_clients

CALL = ChatCall(model="vendor/m", messages=[{"role": "user", "content": "hi"}])
WITH_USAGE = replace(CALL, options={"stream_options": {"include_usage": True}})
CONTEXT = RequestContext(
    request_id="req_0123",
    address="203.0.113.7",
    public_base_url="https://ai.test",
    received_at_s=1_763_770_000.7,
    started_s=1.0,
)
USAGE = Usage(input_tokens=80, cached_input_tokens=64, output_tokens=30, reasoning_tokens=12)
USAGE_JSON = {
    "prompt_tokens": 80,
    "completion_tokens": 30,
    "total_tokens": 110,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 12},
}
LOGPROB = {"token": "Two", "logprob": -0.1, "bytes": [84], "top_logprobs": []}
CITATION = {"type": "url_citation", "start_index": 0, "end_index": 3, "url": "https://example.org/", "title": "Example"}
EVENTS: tuple[Event, ...] = (
    Started(provider_request_id="msg_1"),
    ReasoningDelta(text="Hm. "),
    ReasoningDelta(encrypted="c2ln"),
    TextDelta(text="Two calls", logprobs=(LOGPROB,)),
    TextDelta(text=", then."),
    Annotation(annotation=CITATION),
    ToolCallDelta(index=0, call_id="call_a", name="weather", arguments='{"city"'),
    ToolCallDelta(index=0, arguments=':"Bern"}'),
    ToolCallDelta(index=1, call_id="call_b", name="now", arguments="{}"),
    Finished(reason=FinishReason.TOOL_CALLS),
    UsageReport(usage=replace(USAGE, output_tokens=1)),
    UsageReport(usage=USAGE),
)


def chunks_of(stream: bytes) -> list[Any]:
    """The stream as a strict client takes it apart: every event one ``data`` line and one blank line."""
    assert stream.endswith(b"\n\n")
    blocks = stream.removesuffix(b"\n\n").split(b"\n\n")
    assert all(block.startswith(b"data: ") and b"\n" not in block for block in blocks)
    assert blocks.pop() == b"data: [DONE]"
    return [json.loads(block[6:]) for block in blocks]


def stream_of(events: Sequence[Event], call: ChatCall = CALL, *, include_usage: bool | None = None) -> bytes:
    renderer = ChunkRenderer(call, CONTEXT, include_usage=include_usage)
    return b"".join(renderer.render([event]) for event in events) + renderer.finish()


def test_a_whole_answer() -> None:
    assert render_chat(CALL, EVENTS, CONTEXT) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 1_763_770_000,
        "model": "vendor/m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Two calls, then.",
                    "refusal": None,
                    "reasoning_content": "Hm. ",
                    "annotations": [
                        {
                            "type": "url_citation",
                            "url_citation": {
                                "start_index": 0,
                                "end_index": 3,
                                "url": "https://example.org/",
                                "title": "Example",
                            },
                        }
                    ],
                    "tool_calls": [
                        {
                            "id": "call_a",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"Bern"}'},
                        },
                        {"id": "call_b", "type": "function", "function": {"name": "now", "arguments": "{}"}},
                    ],
                },
                "logprobs": {"content": [LOGPROB], "refusal": None},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE_JSON,
    }


def test_content_is_null_only_where_something_else_was_said() -> None:
    def content(*events: Event) -> Any:
        return render_chat(CALL, events, CONTEXT)["choices"][0]["message"]["content"]

    assert content(Finished(reason=FinishReason.STOP)) == ""
    assert content(ToolCallDelta(index=0, call_id="c", name="f")) is None
    assert content(RefusalDelta(text="No.")) is None
    assert content(TextDelta(text="x"), RefusalDelta(text="No.")) == "x"


def test_an_answer_without_an_id_or_usage_gets_ours_and_none() -> None:
    answer = render_chat(CALL, (TextDelta(text="x"),), CONTEXT)
    assert answer["id"] == "chatcmpl-0123"
    assert "usage" not in answer
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_failure_inside_an_answer_is_no_answer() -> None:
    with pytest.raises(ProviderRefused, match="overloaded") as caught:
        render_chat(CALL, (TextDelta(text="x"), StreamFailed(message="overloaded", code="busy")), CONTEXT)
    assert (caught.value.status, caught.value.provider_code) == (502, "busy")


def test_a_stream() -> None:
    chunks = chunks_of(stream_of(EVENTS))
    assert {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("msg_1", "chat.completion.chunk", 1_763_770_000, "vendor/m")
    }
    assert all("usage" not in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["tool_calls"]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert choices[1]["delta"] == {"reasoning_content": "Hm. "}
    assert choices[2]["delta"] == {"content": "Two calls"}
    assert choices[2]["logprobs"] == {"content": [LOGPROB], "refusal": None}
    assert choices[5]["delta"]["tool_calls"] == [
        {"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city"'}}
    ]
    assert choices[6]["delta"]["tool_calls"] == [{"index": 0, "function": {"arguments": ':"Bern"}'}}]
    assert choices[-1]["delta"] == {}


@pytest.mark.parametrize(("call", "include_usage"), [(WITH_USAGE, None), (CALL, True)])
def test_usage_comes_last_and_alone_where_it_is_wanted(call: ChatCall, include_usage: bool | None) -> None:
    *others, last = chunks_of(stream_of(EVENTS, call, include_usage=include_usage))
    assert last["choices"] == []
    assert last["usage"] == USAGE_JSON
    assert all(chunk["usage"] is None for chunk in others)


def test_usage_that_never_came_is_not_made_up() -> None:
    chunks = chunks_of(stream_of((TextDelta(text="x"), Finished(reason=FinishReason.STOP)), WITH_USAGE))
    assert [chunk["usage"] for chunk in chunks] == [None] * 3


def test_a_stream_without_a_reason_ends_with_one() -> None:
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks_of(stream_of((TextDelta(text="x"),)))] == [
        None,
        None,
        "stop",
    ]


def test_events_of_one_call_are_one_write_and_some_show_nothing() -> None:
    renderer = ChunkRenderer(CALL, CONTEXT)
    assert renderer.render([]) == b""
    assert renderer.render([UsageReport(usage=USAGE)]) == b""
    assert renderer.render([TextDelta(text="a"), TextDelta(text="b")]).count(b"\n\n") == 3
    assert renderer.render([ReasoningDelta(encrypted="c2ln")]) == b""


def test_a_failed_stream_has_no_clean_end() -> None:
    renderer = ChunkRenderer(CALL, CONTEXT, include_usage=True)
    renderer.render([TextDelta(text="x"), UsageReport(usage=USAGE)])
    failed = renderer.render([StreamFailed(message="overloaded", code="busy"), TextDelta(text="y")])
    assert failed.endswith(b"\n\n")
    assert json.loads(failed.removeprefix(b"data: "))["error"] == {
        "message": "overloaded",
        "type": "internal_error",
        "param": None,
        "code": "busy",
    }
    assert renderer.render([TextDelta(text="z")]) == b""
    assert renderer.finish() == b""


def test_pictures() -> None:
    data = MediaEvent(output=MediaOutput(kind="image", data=b"png", media_type="image/webp"))
    link = MediaEvent(output=MediaOutput(kind="image", url="https://a.test/x.png"))
    hidden = (
        MediaEvent(output=MediaOutput(kind="image", url="https://a.test/ours", needs_credential=True)),
        MediaEvent(output=MediaOutput(kind="audio", data=b"wav")),
    )
    images = [
        {"type": "image_url", "image_url": {"url": "data:image/webp;base64," + base64.b64encode(b"png").decode()}},
        {"type": "image_url", "image_url": {"url": "https://a.test/x.png"}},
    ]
    answer = render_chat(CALL, (data, *hidden, link), CONTEXT)
    assert answer["choices"][0]["message"]["images"] == images
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(stream_of((data, *hidden, link)))]
    assert [image for delta in deltas for image in delta.get("images", [])] == images


def test_what_was_written_reads_back_as_it_was() -> None:
    """Our own reader of this format is the judge: a provider behind us is as good as the provider itself."""
    expected = [
        Started(provider_request_id="msg_1") if isinstance(event, Started) else event
        for event in EVENTS
        if event != ReasoningDelta(encrypted="c2ln") and event != EVENTS[-2]
    ]
    reader = OpenAIChatReader()
    events = [*reader.feed(stream_of(EVENTS, WITH_USAGE)), *reader.close()]
    assert events == expected
    whole = read_whole(orjson.dumps(render_chat(CALL, EVENTS, CONTEXT)))
    assert "".join(event.text for event in whole if isinstance(event, TextDelta)) == "Two calls, then."
    assert [event for event in whole if isinstance(event, Annotation | Finished | UsageReport)] == [
        EVENTS[5],
        EVENTS[9],
        EVENTS[-1],
    ]


DELTAS = st.one_of(
    st.builds(TextDelta, text=st.text(min_size=1)),
    st.builds(ReasoningDelta, text=st.text(min_size=1)),
    st.builds(RefusalDelta, text=st.text(min_size=1)),
)


@given(st.lists(DELTAS, max_size=8), st.sampled_from(FinishReason))
def test_any_text_survives_the_stream(deltas: list[Event], reason: FinishReason) -> None:
    reader = OpenAIChatReader()
    started = Started(provider_request_id="r")
    stream = stream_of([started, *deltas, Finished(reason=reason)])
    assert [*reader.feed(stream), *reader.close()] == [started, *deltas, Finished(reason=reason)]


async def test_openais_client_reads_both(aiohttp_server: AiohttpServer) -> None:
    async def answer(request: web.Request) -> web.Response:
        if (await request.json()).get("stream"):
            return web.Response(content_type="text/event-stream", body=stream_of(EVENTS, WITH_USAGE))
        return web.json_response(dict(render_chat(CALL, EVENTS, CONTEXT)))

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    server = await aiohttp_server(app)
    async with openai_clients.asynchronous(str(server.make_url("/v1"))) as client:
        whole = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        message = whole.choices[0].message
        assert message.content == "Two calls, then."
        assert message.tool_calls is not None
        assert [call.id for call in message.tool_calls] == ["call_a", "call_b"]
        assert message.annotations is not None
        assert message.annotations[0].url_citation.title == "Example"
        assert whole.usage is not None
        assert whole.usage.total_tokens == 110
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Two calls, then."
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 80
