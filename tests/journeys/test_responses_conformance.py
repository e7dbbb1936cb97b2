"""The checks of the standard's official suite, in our own words, all at the same moment on one key, as it makes them.

What they do not see is held beside them: every event and response to the schema, every stream to the state machine.
Source: the Open Responses compliance suite, version 2026-04-24.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.endpoints.responses.grammar import check, events_of
from tests.endpoints.responses.specification import check_event, check_response, violations
from tests.journeys.gateway import CHAT_MODEL, Gateway, running_gateway

pytestmark = pytest.mark.journey

PATH = "/v1/responses"
VISION_MODEL = "openai/gpt-4o-mini"
TERMINAL = ("response.completed", "response.failed", "response.incomplete", "error")
PNG = (
    "data:image/png;base64,"
    + base64.b64encode(
        bytes.fromhex(
            "89504e470d0a1a0a0000000d494844520000000100000001080600000"
            "01f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
        )
    ).decode()
)

Check = Callable[[Gateway], Awaitable[None]]


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content, **more}


async def create(gateway: Gateway, given: Any, model: str = CHAT_MODEL, **more: Any) -> Any:
    """A whole answer that completes."""
    answer = await gateway.post(PATH, {"model": model, "input": given, **more})
    assert answer.status == 200, answer.json
    assert "application/json" in answer.headers["Content-Type"]
    check_response(answer.json)
    assert answer.json["output"]
    assert answer.json["status"] == "completed"
    return answer.json


async def turn(socket: aiohttp.ClientWebSocketResponse, given: Any, **more: Any) -> list[Any]:
    """The messages of one turn, up to the one that ends it."""
    await socket.send_json({"type": "response.create", "model": CHAT_MODEL, "input": given, **more})
    messages = []
    while True:
        message = await socket.receive_json(timeout=8)
        messages.append(message)
        if message["type"] in TERMINAL:
            return messages


def completed(messages: list[Any]) -> Any:
    for message in messages:
        check_event(message)
    response = check(messages)
    check_response(response)
    assert response["status"] == "completed"
    return response


def code_of(messages: list[Any]) -> str | None:
    last = messages[-1]
    if last["type"] == "error":
        assert violations("WebSocketErrorEvent", last) == []
        return str(last["error"]["code"])
    assert last["type"] == "response.failed"
    return str(last["response"]["error"]["code"])


def opened(gateway: Gateway) -> Any:
    return gateway.http.ws_connect(gateway.url + PATH, headers=gateway.bearer)


async def basic(gateway: Gateway) -> None:
    await create(gateway, [said("user", "Say hello in exactly 3 words.")])


async def phases(gateway: Gateway) -> None:
    history = [
        said("user", "What is 2+2?"),
        said("assistant", "Let me think.", phase="commentary"),
        said("assistant", "4", phase="final_answer"),
        said("user", "And 3+3?"),
    ]
    await create(gateway, history)


async def streaming(gateway: Gateway) -> None:
    body = {"model": CHAT_MODEL, "input": [said("user", "Count from 1 to 5.")], "stream": True}
    answer = await gateway.post(PATH, body)
    assert answer.headers["Content-Type"] == "text/event-stream"
    completed(events_of([answer.body]))


async def websocket(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        completed(await turn(socket, [said("user", "Count from 1 to 5.")]))


async def websocket_sequence(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        for text in ("one", "two"):
            completed(await turn(socket, text, store=False))


async def websocket_continuation(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        first = completed(await turn(socket, "Remember: 7", store=False))
        second = completed(await turn(socket, "Which?", store=False, previous_response_id=first["id"]))
        assert second["previous_response_id"] == first["id"]


async def websocket_reconnect(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        first = completed(await turn(socket, "Remember: 7", store=False))
    async with opened(gateway) as socket:
        lost = await turn(socket, "Which?", store=False, previous_response_id=first["id"])
        assert code_of(lost) == "previous_response_not_found"
        completed(await turn(socket, "Anew.", store=False))


async def websocket_unknown(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        messages = await turn(socket, "x", store=False, previous_response_id="resp_nowhere")
        assert code_of(messages) == "previous_response_not_found"


async def websocket_eviction(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        first = completed(await turn(socket, "Hello", store=False))
        orphan = [{"type": "function_call_output", "call_id": "call_nowhere", "output": "x"}]
        assert code_of(await turn(socket, orphan, store=False, previous_response_id=first["id"]))
        again = await turn(socket, "Hello?", store=False, previous_response_id=first["id"])
        assert code_of(again) == "previous_response_not_found"


async def websocket_after_compaction(gateway: Gateway) -> None:
    history = [said("user", "I am Ada."), said("assistant", "Hello, Ada."), said("user", "Remember it.")]
    answer = await gateway.post(f"{PATH}/compact", {"model": CHAT_MODEL, "input": history})
    assert answer.status == 200
    async with opened(gateway) as socket:
        completed(await turn(socket, [*answer.json["output"], said("user", "Who am I?")], tools=[]))


async def system_prompt(gateway: Gateway) -> None:
    await create(gateway, [said("system", "You are a pirate."), said("user", "Say hello.")])


async def tool_calling(gateway: Gateway) -> None:
    tool = {
        "type": "function",
        "name": "get_weather",
        "description": "Get the current weather for a location",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    }
    response = await create(gateway, [said("user", "What's the weather in San Francisco?")], tools=[tool])
    assert [item["name"] for item in response["output"] if item["type"] == "function_call"] == ["get_weather"]
    assert {"description", "parameters", "strict"} <= response["tools"][0].keys()


async def tool_calling_streamed(gateway: Gateway) -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    body = {"model": CHAT_MODEL, "input": "Weather?", "tools": [tool], "stream": True}
    events = events_of([(await gateway.post(PATH, body)).body])
    completed(events)
    kinds = {event["type"] for event in events}
    assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= kinds


async def image_input(gateway: Gateway) -> None:
    parts = [{"type": "input_text", "text": "What do you see?"}, {"type": "input_image", "image_url": PNG}]
    await create(gateway, [said("user", parts)], VISION_MODEL)


async def multi_turn(gateway: Gateway) -> None:
    await create(gateway, [said("user", "I am Alice."), said("assistant", "Hello Alice!"), said("user", "My name?")])


async def compaction(gateway: Gateway) -> None:
    history = [said("user", "Hello"), said("assistant", "Hello!")]
    body = {"model": CHAT_MODEL, "input": history, "prompt_cache_key": "k"}
    answer = await gateway.post(f"{PATH}/compact", body)
    assert violations("CompactResource", answer.json) == []
    assert [item["type"] for item in answer.json["output"]] == ["message", "compaction"]


async def compaction_without_model(gateway: Gateway) -> None:
    assert (await gateway.post(f"{PATH}/compact", {"input": "Hello"})).status == 400


CHECKS: list[Check] = [
    basic,
    phases,
    streaming,
    websocket,
    websocket_sequence,
    websocket_continuation,
    websocket_reconnect,
    websocket_unknown,
    websocket_eviction,
    websocket_after_compaction,
    system_prompt,
    tool_calling,
    tool_calling_streamed,
    image_input,
    multi_turn,
    compaction,
    compaction_without_model,
]


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[Gateway]:
    """With the limits of a fresh start, which have to let the whole suite through at once."""
    limits = {"address_per_minute": 1200, "key_per_minute": 600, "key_max_concurrent": 64}
    async with running_gateway(tmp_path / "data", {"limits": limits}) as gateway:
        yield gateway


@pytest.mark.parametrize("one", CHECKS, ids=lambda one: one.__name__)
async def test_each_check_passes(gateway: Gateway, one: Check) -> None:
    await one(gateway)
    await gateway.check_books()


async def test_all_checks_pass_at_the_same_moment_on_one_key(fresh: Gateway) -> None:
    await asyncio.gather(*(one(fresh) for one in CHECKS))
    await fresh.check_books()
