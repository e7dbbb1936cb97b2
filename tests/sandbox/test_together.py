"""Together's API as it publishes it: chat, embeddings, models."""

from __future__ import annotations

import json

import pytest

from tests.sandbox.callers import Caller, assert_published

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


async def test_a_whole_answer_is_as_published(caller: Caller) -> None:
    answer = await caller.chat("together", "Hello", seed=7)
    assert_published("together", "chat", answer.json)
    choice = answer.json["choices"][0]
    assert "“Hello”" in choice["message"]["content"]
    assert (choice["finish_reason"], choice["seed"]) == ("stop", 7)
    assert (await caller.chat("together", "Hello", seed=1e300)).json["choices"][0]["seed"] == 2**63 - 1
    assert answer.headers["x-ratelimit-limit"]
    usage = answer.json["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"] > 5


async def test_a_streamed_answer_is_the_same_as_the_whole(caller: Caller) -> None:
    whole = (await caller.chat("together", "Hello")).json
    stream = await caller.chat("together", "Hello", stream=True)
    chunks = stream.json_events
    for chunk in chunks:
        assert_published("together", "chat_chunk", chunk)
    assert stream.events[-1] == b"[DONE]"
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["usage"] == whole["usage"]
    assert len(chunks) == whole["usage"]["completion_tokens"] + 1
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_several_choices_share_one_usage(caller: Caller) -> None:
    chunks = (await caller.chat("together", "Hello", stream=True, n=3, max_tokens=5)).json_events
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0] * 6 + [1] * 6 + [2] * 6
    assert [bool(chunk["usage"]) for chunk in chunks] == [False] * 17 + [True]
    assert chunks[-1]["usage"]["completion_tokens"] == 15
    assert {chunk["choices"][0]["finish_reason"] for chunk in chunks} == {None, "length"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_tool_call_is_as_published(caller: Caller, stream: bool) -> None:
    answer = await caller.chat("together", "Rome", tools=[TOOL], stream=stream)
    if stream:
        first, last = answer.json_events
        assert_published("together", "chat_chunk", first)
        assert last["choices"][0]["finish_reason"] == "tool_calls"
        calls = first["choices"][0]["delta"]["tool_calls"]
    else:
        assert_published("together", "chat", answer.json)
        message = answer.json["choices"][0]["message"]
        assert message["content"] is None
        calls = message["tool_calls"]
    assert calls[0]["function"]["name"] == "weather"
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Rome"}


@pytest.mark.parametrize("stream", [True, False])
async def test_no_usage(caller: Caller, stream: bool) -> None:
    answer = await caller.chat("together", "[[sandbox: no_usage]]", stream=stream)
    bodies = answer.json_events if stream else [answer.json]
    assert not any(body.get("usage") for body in bodies)


async def test_embeddings(caller: Caller) -> None:
    body = {"model": "BAAI/bge-base-en-v1.5", "input": ["a red fox", "a blue box"]}
    answer = await caller.post("/together/v1/embeddings", body)
    assert_published("together", "embedding", answer.json)
    assert [len(item["embedding"]) for item in answer.json["data"]] == [768, 768]
    single = await caller.post("/together/v1/embeddings", {**body, "input": "a red fox"})
    assert single.json["data"][0] == answer.json["data"][0]


async def test_models(caller: Caller) -> None:
    answer = await caller.get("/together/v1/models")
    assert_published("together", "models", answer.json)
    assert "black-forest-labs/FLUX.1-schnell" in [model["id"] for model in answer.json]
