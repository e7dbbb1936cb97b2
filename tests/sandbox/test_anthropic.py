"""Anthropic's API as it publishes it: messages whole and streamed, counting, models, refusals."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import orjson
import pytest

from bitmesh_proxy.sandbox.anthropic import KINDS, render_refusal
from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.plays import Refused
from tests.sandbox.callers import Answer, Caller, assert_published, calling

TOOL = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PNG = base64.b64encode(Picture(prompt="x", width=16, height=16).render()).decode()
HEADERS = {"x-api-key": "some-key", "anthropic-version": "2023-06-01"}


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as caller:
        caller.session.headers.update(HEADERS)
        yield caller


async def ask(caller: Caller, content: Any = "Hello", **more: Any) -> Answer:
    body = {"model": "claude-sonnet-5-5", "max_tokens": 500, "messages": [{"role": "user", "content": content}], **more}
    return await caller.post("/anthropic/v1/messages", body)


def named_events(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event; the name is also the data's type."""
    found = []
    for block in answer.body.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in found)
    return found


def put_together(answer: Answer) -> dict[str, Any]:
    """The message that a stream tells, by the documented order of its events."""
    message: dict[str, Any] = {}
    partial = ""
    for name, event in named_events(answer):
        match name:
            case "message_start":
                assert not message
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                partial = ""
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                if delta["type"] == "input_json_delta":
                    partial += delta["partial_json"]
                else:
                    field = delta["type"].removesuffix("_delta")
                    block[field] += delta[field]
            case "content_block_stop":
                with suppress(json.JSONDecodeError):  # nothing, or a limit has cut it
                    message["content"][event["index"]]["input"] = json.loads(partial)
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
            case "message_stop":
                return message
            case _:
                assert name == "ping"
    raise AssertionError("no message_stop")


async def test_a_whole_message_is_as_published(caller: Caller) -> None:
    answer = await ask(caller, system="Be brief.")
    assert_published("anthropic", "message", answer.json)
    assert "“Hello”" in answer.json["content"][0]["text"]
    assert answer.json["stop_reason"] == "end_turn"
    assert answer.headers["request-id"].startswith("req_01")
    assert answer.headers["anthropic-ratelimit-tokens-reset"].endswith("Z")
    assert answer.json["usage"]["input_tokens"] > (await ask(caller)).json["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("more", "stop_reason"),
    [
        ({}, "end_turn"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"stop_sequences": ["sandbox"]}, "stop_sequence"),
        ({"tools": [TOOL]}, "tool_use"),
        ({"tools": [TOOL], "max_tokens": 2}, "max_tokens"),
        ({"thinking": {"type": "adaptive"}}, "end_turn"),
        ({"thinking": {"type": "adaptive"}, "max_tokens": 3}, "max_tokens"),
    ],
)
async def test_a_stream_tells_the_same_as_the_whole(caller: Caller, more: Mapping[str, Any], stop_reason: str) -> None:
    whole = (await ask(caller, **more)).json
    stream = await ask(caller, stream=True, **more)
    told = put_together(stream)
    assert_published("anthropic", "message", told)
    assert [name for name, _ in named_events(stream)].count("ping") == 1
    for message in (whole, told):
        del message["id"]
        for block in message["content"]:
            block.pop("id", None)
    assert told == whole
    assert whole["stop_reason"] == stop_reason
    assert whole["usage"]["output_tokens"] <= more.get("max_tokens", 10_000)
    assert whole["stop_sequence"] == ("sandbox" if stop_reason == "stop_sequence" else None)


async def test_a_tool_is_called_and_its_result_answered(caller: Caller) -> None:
    called = (await ask(caller, "Rome", tools=[TOOL])).json
    assert called["content"][-1]["input"] == {"city": "Rome"}
    tool_use = called["content"][-1]
    result = {"type": "tool_result", "tool_use_id": tool_use["id"], "content": "It is sunny."}
    messages = [
        {"role": "user", "content": "Rome"},
        {"role": "assistant", "content": called["content"]},
        {"role": "user", "content": [result]},
    ]
    for block in called["content"]:
        block.pop("caller", None)
    answered = await ask(caller, messages=messages, tools=[TOOL])
    assert answered.json["stop_reason"] == "end_turn"
    assert "It is sunny." in answered.json["content"][0]["text"]
    result["tool_use_id"] = "toolu_other"
    refused = await ask(caller, messages=messages, tools=[TOOL])
    assert (refused.status, "messages.2.content.0" in refused.error["message"]) == (400, True)


@pytest.mark.parametrize(
    ("choice", "stop_reason"), [({"type": "none"}, "end_turn"), ({"type": "tool", "name": "weather"}, "tool_use")]
)
async def test_a_choice_of_tools(caller: Caller, choice: Any, stop_reason: str) -> None:
    assert (await ask(caller, tools=[TOOL], tool_choice=choice)).json["stop_reason"] == stop_reason


async def test_a_wanted_format_is_kept(caller: Caller) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = await ask(caller, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert isinstance(json.loads(answer.json["content"][0]["text"])["n"], int)


async def test_a_picture_is_looked_at(caller: Caller) -> None:
    def content(data: str) -> list[Any]:
        source = {"type": "base64", "media_type": "image/png", "data": data}
        return [{"type": "text", "text": "What is it?"}, {"type": "image", "source": source}]

    plain = (await ask(caller, "What is it?")).json["usage"]["input_tokens"]
    seen = await ask(caller, content(PNG))
    assert seen.json["usage"]["input_tokens"] > plain + 50
    refused = await ask(caller, content("bm90IGEgcGljdHVyZQ=="))
    assert (refused.status, refused.error["message"]) == (
        400,
        "messages.0.content.1.image.source.base64.data: Could not process image",
    )


async def test_a_marked_beginning_is_written_once_then_read_until_it_dies(caller: Caller) -> None:
    system = [{"type": "text", "text": "word " * 1200, "cache_control": {"type": "ephemeral"}}]
    usages = []
    for wait_s in (0, 200, 200, 301):
        caller.clock.now_s += wait_s
        usages.append((await ask(caller, system=system)).json["usage"])
    assert [usage["cache_creation_input_tokens"] > 1200 for usage in usages] == [True, False, False, True]
    assert [usage["cache_read_input_tokens"] > 1200 for usage in usages] == [False, True, True, False]
    assert len({usage["input_tokens"] for usage in usages}) == 1
    assert usages[0]["input_tokens"] < 20


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"max_tokens": None}, "max_tokens: "),
        ({"max_tokens": 3, "thinking": {"type": "enabled", "budget_tokens": 1024}}, "`max_tokens` must be greater"),
        ({"thinking": {"type": "adaptive"}, "temperature": 0.5}, "`temperature` may only"),
        ({"thinking": {"type": "adaptive"}, "tools": [TOOL], "tool_choice": {"type": "any"}}, "Thinking may not"),
        ({"messages": []}, "messages: at least one"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "messages.0.content.0.text: "),
        ({"frequency_penalty": 1}, "frequency_penalty: Extra inputs are not permitted"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role: "),
    ],
)
async def test_what_is_refused(caller: Caller, more: Mapping[str, Any], named: str) -> None:
    answer = await ask(caller, **more)
    assert answer.status == 400
    assert_published("anthropic", "error", answer.json)
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["message"].startswith(named)
    assert answer.json["request_id"] == answer.headers["request-id"]


async def test_max_tokens_is_required(caller: Caller) -> None:
    answer = await caller.post("/anthropic/v1/messages", {"model": "m", "messages": []})
    assert (answer.status, answer.error["message"]) == (400, "max_tokens: Field required")


@pytest.mark.parametrize(
    ("header", "value", "status", "message"),
    [
        ("x-api-key", "", 401, "x-api-key header is required"),
        ("x-api-key", "bad-key", 401, "invalid x-api-key"),
        ("anthropic-version", "2020-01-01", 400, 'anthropic-version: "2020-01-01" is not a valid version'),
    ],
)
async def test_headers_are_required(caller: Caller, header: str, value: str, status: int, message: str) -> None:
    answer = await caller.get("/anthropic/v1/models", headers={header: value})
    assert (answer.status, answer.error["message"]) == (status, message)
    assert_published("anthropic", "error", answer.json)


async def test_a_version_has_to_be_named(caller: Caller) -> None:
    del caller.session.headers["anthropic-version"]
    answer = await caller.get("/anthropic/v1/models")
    assert (answer.status, answer.error["message"]) == (400, "anthropic-version: header is required")


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 503, 504, 529])
def test_a_status_has_its_type(status: int) -> None:
    rendered = render_refusal(Refused(status, "no"))
    assert_published("anthropic", "error", rendered)
    expected = KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    assert rendered["error"]["type"] == expected


async def test_faults_are_worded_as_its_own(caller: Caller) -> None:
    busy = await ask(caller, "x [[sandbox: status=429 retry_after=7 code=enforced_spend_limit_reached]]")
    assert (busy.status, busy.headers["Retry-After"], busy.error["type"]) == (429, "7", "rate_limit_error")
    assert busy.error["details"] == {"error_code": "enforced_spend_limit_reached"}
    moderated = await ask(caller, "x [[sandbox: moderated]]")
    assert (moderated.status, moderated.error["type"]) == (400, "invalid_request_error")
    missing = await ask(caller, model="no-such-model")
    assert (missing.status, missing.error["message"]) == (404, "model: no-such-model")


async def test_faults_of_a_stream(caller: Caller) -> None:
    broken = named_events(await ask(caller, "x [[sandbox: error_in_stream=4]]", stream=True))
    assert [name for name, _ in broken][:3] == ["message_start", "ping", "content_block_start"]
    assert broken[-1] == ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert len(broken) == 5
    endless = named_events(await ask(caller, "x [[sandbox: no_done]]", stream=True))
    assert endless[-1][0] == "message_delta"
    silent = named_events(await ask(caller, "x [[sandbox: no_usage tokens=2]]", stream=True))
    assert not any("usage" in event or "usage" in event.get("message", {}) for _, event in silent)
    assert "usage" not in (await ask(caller, "x [[sandbox: no_usage]]")).json


async def test_tokens_are_counted_as_they_are_billed(caller: Caller) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}], "tools": [TOOL]}
    counted = await caller.post("/anthropic/v1/messages/count_tokens", body)
    assert_published("anthropic", "count", counted.json)
    billed = (await caller.post("/anthropic/v1/messages", {**body, "max_tokens": 5})).json["usage"]["input_tokens"]
    assert counted.json["input_tokens"] == billed


async def test_models_are_listed(caller: Caller) -> None:
    answer = await caller.get("/anthropic/v1/models")
    assert_published("anthropic", "models", answer.json)
    assert "claude-sonnet-5-5" in {model["id"] for model in answer.json["data"]}
