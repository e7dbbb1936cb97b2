"""``/v1/responses`` read by a client that no one here wrote: the ``openai`` package, sync, async, over a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.clients import openai_clients
from tests.journeys.gateway import CHAT_MODEL, IMAGE_MODEL, Gateway

pytestmark = pytest.mark.journey

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather at a place.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai_clients.asynchronous(f"{gateway.url}/v1", gateway.key.token) as client:
        yield client


async def test_a_whole_answer(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    response = await client.responses.create(model=CHAT_MODEL, input="Hello")
    assert response.status == "completed"
    assert response.output_text
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    await gateway.check_books()


async def test_a_stream(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    text = ""
    async with client.responses.stream(model=CHAT_MODEL, input="Hello") as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
        final = await stream.get_final_response()
    assert text == final.output_text
    await gateway.check_books()


async def test_tools_there_and_back(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model=CHAT_MODEL, input="Weather in Oslo?", tools=[TOOL])
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather"
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}]
    second = await client.responses.create(model=CHAT_MODEL, input=output, previous_response_id=first.id, tools=[TOOL])
    assert second.output_text


class Point(BaseModel):
    x: int
    y: int


async def test_structured_output_is_parsed(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.parse(model=CHAT_MODEL, input="A point", text_format=Point)
    assert isinstance(response.output_parsed, Point)


async def test_state(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model=CHAT_MODEL, input="One", metadata={"a": "b"})
    again = await client.responses.retrieve(first.id)
    assert again.output_text == first.output_text
    assert again.metadata == {"a": "b"}
    items = await client.responses.input_items.list(first.id)
    assert [item.type for item in items.data] == ["message"]
    counted = await client.responses.input_tokens.count(model=CHAT_MODEL, input="One two")
    assert counted.input_tokens > 0
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)


async def test_background_and_cancel(client: openai.AsyncOpenAI) -> None:
    queued = await client.responses.create(model=CHAT_MODEL, input="[[sandbox: stall=30]] Hi", background=True)
    assert queued.status == "queued"
    assert (await client.responses.cancel(queued.id)).status == "cancelled"
    quick = await client.responses.create(model=CHAT_MODEL, input="Hi", background=True)
    async with asyncio.timeout(5):
        for _ in range(100):
            if (await client.responses.retrieve(quick.id)).status == "completed":
                break
            await asyncio.sleep(0.05)


async def test_a_picture_is_in_the_text_for_clients_that_know_nothing_else(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=IMAGE_MODEL, input="A cat", extra_body={"size": "256x256"})
    assert response.output_text.startswith("![image](http")


async def test_errors_are_the_clients_own(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.responses.create(model=CHAT_MODEL, input="x", temperature=9)
    assert (raised.value.param, raised.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="no/such", input="x")
    gateway.fault("error_in_stream=3")
    with pytest.raises(openai.APIError):
        async for _ in await client.responses.create(model=CHAT_MODEL, input="x", stream=True):
            pass


async def test_the_sync_client(gateway: Gateway) -> None:
    def talk() -> tuple[str, str]:
        with openai_clients.synchronous(f"{gateway.url}/v1", gateway.key.token) as client:
            whole = client.responses.create(model=CHAT_MODEL, input="Hello").output_text
            pieces = [
                event.delta
                for event in client.responses.create(model=CHAT_MODEL, input="Hello", stream=True)
                if event.type == "response.output_text.delta"
            ]
            return whole, "".join(pieces)

    whole, streamed = await asyncio.to_thread(talk)
    assert whole == streamed


async def test_turns_on_a_websocket(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    async with client.responses.connect() as connection:
        previous: str | None = None
        for text in ("One", "Two"):
            await connection.response.create(
                model=CHAT_MODEL, input=text, store=False, previous_response_id=previous or openai.omit
            )
            while True:
                event = await connection.recv()
                assert event.type not in ("error", "response.failed"), event
                if event.type == "response.completed":
                    break
            previous = event.response.id
            assert event.response.output_text
    sent = gateway.upstream_calls("/chat/completions")[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    await gateway.check_books()


async def test_compaction(client: openai.AsyncOpenAI) -> None:
    compacted = await client.responses.compact(model=CHAT_MODEL, input="I am Ada.")
    given: Any = compacted.to_dict(warnings=False)["output"]  # its types know no messages of users in there
    answer = await client.responses.create(model=CHAT_MODEL, input=[*given, {"role": "user", "content": "Who am I?"}])
    assert answer.output_text


async def test_a_custom_tool_there_and_back(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    tool: Any = {"type": "custom", "name": "patch", "description": "Edits.", "format": {"type": "text"}}
    async with client.responses.stream(model="openai/gpt-5.5", input="Mend it.", tools=[tool]) as stream:
        text = "".join([event.delta async for event in stream if event.type == "response.custom_tool_call_input.delta"])
        first = await stream.get_final_response()
    (call,) = [item for item in first.output if item.type == "custom_tool_call"]
    assert (call.name, call.input) == ("patch", "Mend it.")
    assert text == call.input
    output: Any = [{"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done."}]
    second = await client.responses.create(
        model="openai/gpt-5.5", input=output, previous_response_id=first.id, tools=[tool]
    )
    assert second.output_text
    await gateway.check_books()


async def test_a_custom_tool_is_refused_where_the_model_takes_functions_only(client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "custom", "name": "patch"}
    with pytest.raises(openai.BadRequestError, match="no tools of the type 'custom'"):
        await client.responses.create(model="anthropic/claude-haiku-5-5", input="Mend it.", tools=[tool])
