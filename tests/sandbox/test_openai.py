"""OpenAI's chat, embeddings, moderations and models; OpenAI's own client is the judge beside the published schemas."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.clients import openai_clients
from tests.sandbox.callers import Caller, assert_published

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "custom", "custom": {"name": "note"}},
]
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def client(caller: Caller) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai_clients.asynchronous(f"{caller.sandbox.url}/openai/v1") as client:
        yield client


async def test_a_whole_answer_is_as_published(caller: Caller) -> None:
    answer = await caller.chat("openai", "Hello", n=2)
    assert_published("openai", "chat", answer.json)
    assert [choice["index"] for choice in answer.json["choices"]] == [0, 1]
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-ratelimit-reset-tokens"] == "6m0s"


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_a_stream_has_usage_only_when_asked(caller: Caller, wants_usage: bool) -> None:
    whole = (await caller.chat("openai", "Hello")).json
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    stream = await caller.chat("openai", "Hello", stream=True, **options)
    chunks = stream.json_events
    for chunk in chunks:
        assert_published("openai", "chat_chunk", chunk)
    assert stream.events[-1] == b"[DONE]"
    told = [chunk for chunk in chunks if chunk["choices"]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in told)
    assert text == whole["choices"][0]["message"]["content"]
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert told[-1]["choices"][0]["finish_reason"] == "stop"
    if wants_usage:
        assert [chunk["usage"] for chunk in told] == [None] * len(told)
        assert chunks[-1] == {**chunks[-1], "choices": [], "usage": whole["usage"]}
    else:
        assert not any("usage" in chunk for chunk in chunks)


async def test_usage_that_was_asked_for_can_be_left_out(caller: Caller) -> None:
    text = "[[sandbox: no_usage]]"
    chunks = (await caller.chat("openai", text, stream=True, stream_options={"include_usage": True})).json_events
    assert not any(chunk["usage"] for chunk in chunks)
    assert "usage" not in (await caller.chat("openai", text)).json


async def test_the_client_reads_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="gpt-5.4", messages=HELLO, stream=True, stream_options={"include_usage": True}, max_completion_tokens=7
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7
    assert chunks[-2].choices[0].finish_reason == "length"


async def test_the_client_reads_a_streamed_tool_call(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="gpt-5.4", messages=HELLO, tools=TOOLS, stream=True)
    arguments = ""
    names = []
    async for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or ():
            assert call.function is not None
            names.append(call.function.name)
            arguments += call.function.arguments or ""
    assert names[0] == "weather"
    assert set(names[1:]) == {None}
    assert json.loads(arguments) == {"city": "Hello"}


async def test_a_custom_tool(caller: Caller) -> None:
    choice = {"type": "custom", "custom": {"name": "note"}}
    whole = (await caller.chat("openai", "Hello", tools=TOOLS, tool_choice=choice)).json
    assert_published("openai", "chat", whole)
    assert whole["choices"][0]["message"]["tool_calls"][0]["custom"] == {"name": "note", "input": "Hello"}
    chunks = (await caller.chat("openai", "Hello", tools=TOOLS, tool_choice=choice, stream=True)).json_events
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert "".join(call["custom"]["input"] for call in calls) == "Hello"


@pytest.mark.parametrize("model", ["gpt-5.4-mini", "o3"])
async def test_reasoning_models_want_the_newer_limit(caller: Caller, model: str) -> None:
    answer = await caller.chat("openai", "Hello", model=model, max_tokens=5)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "unsupported_parameter", "max_tokens")
    answer = await caller.chat("openai", "Hello", model=model, max_completion_tokens=5)
    assert answer.json["usage"]["completion_tokens"] == 5
    assert (await caller.chat("openai", "Hello", model="gpt-4o-mini", max_tokens=5)).status == 200


async def test_the_clients_errors(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "[[sandbox: status=429 code=insufficient_quota]]"}]
        )
    assert limited.value.code == "insufficient_quota"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="no-such-model", messages=HELLO)
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="bad-key").models.list()
    with pytest.raises(openai.APIError, match="had an error while processing"):
        async for _ in await client.chat.completions.create(
            model="m", stream=True, messages=[{"role": "user", "content": "[[sandbox: error_in_stream]]"}]
        ):
            pass


async def test_embeddings_as_numbers_and_as_bytes(caller: Caller) -> None:
    body = {"model": "text-embedding-3-small", "input": ["a red fox", "a blue box"], "dimensions": 32}
    plain = await caller.post("/openai/v1/embeddings", body)
    assert_published("openai", "embedding", plain.json)
    coded = await caller.post("/openai/v1/embeddings", {**body, "encoding_format": "base64"})
    for one, other in zip(plain.json["data"], coded.json["data"], strict=True):
        assert struct.unpack("<32f", base64.b64decode(other["embedding"])) == pytest.approx(one["embedding"])
    assert plain.json["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


@pytest.mark.parametrize(("given", "count"), [("x", 1), (["x", "y"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)])
async def test_any_input_is_embedded(caller: Caller, given: Any, count: int) -> None:
    answer = await caller.post("/openai/v1/embeddings", {"model": "text-embedding-3-large", "input": given})
    assert [len(item["embedding"]) for item in answer.json["data"]] == [3072] * count


async def test_more_dimensions_than_the_model_has(caller: Caller) -> None:
    body = {"model": "text-embedding-3-small", "input": "x", "dimensions": 1537}
    answer = await caller.post("/openai/v1/embeddings", body)
    assert (answer.status, answer.error["param"]) == (400, "dimensions")


@pytest.mark.parametrize(
    ("given", "flagged"),
    [
        ("good morning", [False]),
        (["good morning", "I will kill you"], [False, True]),
        ([{"type": "text", "text": "you idiot"}, {"type": "image_url", "image_url": {"url": "https://e.org"}}], [True]),
    ],
)
async def test_moderations(caller: Caller, given: Any, flagged: list[bool]) -> None:
    answer = await caller.post("/openai/v1/moderations", {"input": given})
    assert_published("openai", "moderation", answer.json)
    assert [result["flagged"] for result in answer.json["results"]] == flagged


async def test_models(caller: Caller) -> None:
    answer = await caller.get("/openai/v1/models")
    assert_published("openai", "models", answer.json)
    one = await caller.get("/openai/v1/models/gpt-5.4")
    assert_published("openai", "model", one.json)
    assert one.json in answer.json["data"]
    assert (await caller.get("/openai/v1/models/gpt-1")).status == 404
