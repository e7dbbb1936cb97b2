"""``/v1/responses`` over a WebSocket: turns one after another, what is remembered, what is refused, who leaves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.storage.keys import KeyStore
from tests.endpoints.responses.grammar import check
from tests.endpoints.responses.specification import check_event, check_response, violations
from tests.journeys.gateway import CHAT_MODEL, IMAGE_MODEL, VIDEO_MODEL, Gateway, eventually, running_gateway

pytestmark = pytest.mark.journey

Socket = aiohttp.ClientWebSocketResponse
PATH = "/v1/responses"
TERMINAL = ("response.completed", "response.failed", "response.incomplete", "error")


def opened(gateway: Gateway) -> Any:
    return gateway.http.ws_connect(gateway.url + PATH, headers=gateway.bearer)


def create(given: Any = "Hello", **more: Any) -> dict[str, Any]:
    return {"type": "response.create", "model": CHAT_MODEL, "input": given, **more}


async def answered(socket: Socket) -> list[Any]:
    """The messages up to the one that ends a turn."""
    messages = []
    while True:
        messages.append(await socket.receive_json(timeout=8))
        if messages[-1]["type"] in TERMINAL:
            return messages


async def response_of(socket: Socket) -> Any:
    """The response of a turn that keeps grammar and schema."""
    messages = await answered(socket)
    for message in messages:
        check_event(message)
    response = check(messages)
    check_response(response)
    return response


async def refused(socket: Socket) -> Any:
    """The one message that ends a turn before it began."""
    (message,) = await answered(socket)
    assert violations("WebSocketErrorEvent", message) == []
    return message


async def test_turns_wait_for_each_other_and_are_never_mixed(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        for number in range(3):
            await socket.send_json(create(f"[[sandbox: tokens=4]] {number}"))
        responses = [await response_of(socket) for _ in range(3)]
    assert len({response["id"] for response in responses}) == 3
    sent = [call.body["messages"][0]["content"] for call in gateway.upstream_calls("/chat/completions")]
    assert [text[-1] for text in sent] == ["0", "1", "2"]
    assert len(await gateway.books.rows()) == 3
    await gateway.last_row()
    await gateway.check_books()


async def test_what_is_not_stored_is_remembered_by_the_connection_alone(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        await socket.send_json(create("One", store=False))
        first = await response_of(socket)
        await socket.send_json(create("Two", store=False, previous_response_id=first["id"]))
        second = await response_of(socket)
        assert (await gateway.get(f"{PATH}/{first['id']}")).status == 404
        sent = gateway.upstream_calls("/chat/completions")[-1].body["messages"]
        assert [message["role"] for message in sent] == ["user", "assistant", "user"]
        # Only the latest is remembered.
        await socket.send_json(create("x", store=False, previous_response_id=first["id"]))
        assert (await refused(socket))["error"]["code"] == "previous_response_not_found"
        await socket.send_json(create("Three", store=False, previous_response_id=second["id"]))
        assert (await response_of(socket))["status"] == "completed"


async def test_what_is_stored_is_found_on_any_connection(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        await socket.send_json(create("One"))
        first = await response_of(socket)
    async with opened(gateway) as socket:
        await socket.send_json(create("Two", previous_response_id=first["id"]))
        assert (await response_of(socket))["previous_response_id"] == first["id"]


async def test_a_turn_may_say_that_it_is_a_stream(gateway: Gateway) -> None:
    """It is one anyway. The standard has no such field here, but OpenAI's agents and Codex send it."""
    async with opened(gateway) as socket:
        await socket.send_json(create("One", stream=True))
        assert (await response_of(socket))["status"] == "completed"


async def test_what_is_only_sent_ahead_asks_no_model_and_costs_nothing(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        await socket.send_json(create("One", store=False, generate=False))
        ahead = await response_of(socket)
        assert (ahead["status"], ahead["output"]) == ("completed", [])
        assert (ahead["usage"]["total_tokens"], ahead["usage"]["total_cost"]) == (0, 0)
        assert gateway.upstream_calls() == []
        await socket.send_json(create("Two", store=False, previous_response_id=ahead["id"], generate=True))
        assert (await response_of(socket))["output"]
    (call,) = gateway.upstream_calls()
    assert [message["content"] for message in call.body["messages"]] == ["One", "Two"]
    await gateway.check_books()


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (create(generate="no"), "generate"),
        (create(stream=False), "stream"),
        (create(stream=None), "stream"),
        (create(stream_options={}), "stream_options"),
        (create(background=False), "background"),
        ({**create(), "type": "response.cancel"}, "type"),
        ({"type": "response.create", "input": "x"}, "model"),
        (create(temperature=9), "temperature"),
        (create(model="no/such"), "model"),
        ("not JSON", None),
        ("[]", None),
        (b"bytes", None),
    ],
)
async def test_a_bad_turn_is_refused_and_the_next_one_goes_on(
    gateway: Gateway, message: Any, param: str | None
) -> None:
    async with opened(gateway) as socket:
        if isinstance(message, bytes):
            await socket.send_bytes(message)
        else:
            await socket.send_str(message if isinstance(message, str) else json.dumps(message))
        error = await refused(socket)
        assert 400 <= error["status"] < 500
        assert error["error"].get("param") == param
        await socket.send_json(create())
        assert (await response_of(socket))["status"] == "completed"


async def test_a_turn_that_breaks_ends_with_its_failed_response_alone(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        await socket.send_json(create("One", store=False))
        first = await response_of(socket)
        gateway.fault("break_after=3")
        await socket.send_json(create("Two", store=False, previous_response_id=first["id"]))
        messages = await answered(socket)
        assert messages[-2]["type"] == "response.output_text.delta"
        assert check(messages)["error"]["code"]
        await socket.send_json(create("Three", store=False, previous_response_id=first["id"]))
        assert (await refused(socket))["error"]["code"] == "previous_response_not_found"
    await gateway.last_row()
    await gateway.check_books()


@pytest.mark.parametrize(("model", "more"), [(IMAGE_MODEL, {"size": "256x256"}), (VIDEO_MODEL, {})])
async def test_media_come_over_a_socket_too(gateway: Gateway, model: str, more: dict[str, Any]) -> None:
    async with opened(gateway) as socket:
        await socket.send_json(create("A cat", model=model, **more))
        response = await response_of(socket)
    assert response["items"][0]["content"][0]["type"] in ("image_url", "video_url")
    await gateway.last_row()
    await gateway.check_books()


async def test_who_leaves_in_the_middle_stops_the_meter(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        await socket.send_json(create("[[sandbox: tokens=2000 interval_ms=20]]"))
        for _ in range(6):
            await socket.receive_json(timeout=8)
    row = await gateway.last_row()
    assert row.outcome == "caller_left"
    await eventually(lambda: gateway.upstream_calls("/chat/completions")[0].cancelled, "the upstream was told")
    await gateway.check_books()


async def test_a_key_that_is_switched_off_gets_no_further_turn(gateway: Gateway) -> None:
    async with opened(gateway) as socket:
        await socket.send_json(create())
        assert (await response_of(socket))["status"] == "completed"
        await KeyStore(gateway.app[keys.DATABASE]).disable(gateway.key.id)
        await socket.send_json(create())
        assert (await refused(socket))["status"] == 401


async def test_the_way_in_is_the_same_as_for_every_call(gateway: Gateway) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
        await gateway.http.ws_connect(gateway.url + PATH, headers={"Authorization": "Bearer bm_nobody"})
    assert raised.value.status == 401


async def test_a_connection_does_not_live_for_ever(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", {"responses": {"websocket_max_s": 0.3}}) as gateway:
        async with opened(gateway) as socket:
            await socket.send_json(create("[[sandbox: tokens=20 interval_ms=30]]"))
            assert (await response_of(socket))["status"] == "completed"  # a turn under way comes to its end
            error = await refused(socket)
            assert error["error"]["code"] == "websocket_connection_limit_reached"
            async with asyncio.timeout(5):
                assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_too_many_waiting_turns_end_the_connection(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", {"responses": {"websocket_max_queued": 2}}) as gateway:
        async with opened(gateway) as socket:
            await socket.send_json(create("[[sandbox: stall=20]]"))
            await eventually(lambda: bool(gateway.upstream_calls("/chat/completions")), "the first turn is under way")
            for _ in range(3):
                await socket.send_json(create())
            error = await refused(socket)
            assert error["status"] == 429
            async with asyncio.timeout(5):
                assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        await gateway.last_row()
        await gateway.check_books()


async def test_a_stop_lets_the_turn_under_way_end_and_no_other_begin(gateway: Gateway) -> None:
    async with opened(gateway) as busy, opened(gateway) as idle:
        await busy.send_json(create("[[sandbox: tokens=10 interval_ms=30]]"))
        await busy.send_json(create("Too late"))
        await eventually(lambda: bool(gateway.upstream_calls("/chat/completions")), "the turn is under way")
        gateway.app[keys.DRAINING].set()
        assert (await response_of(busy))["status"] == "completed"
        for socket in (idle, busy):
            async with asyncio.timeout(5):
                assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
    assert len(await gateway.books.rows()) == 1
    await gateway.check_books()


async def test_a_stop_that_waits_no_longer_ends_the_turn(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", {"http": {"shutdown_timeout_s": 0.1}}) as gateway:
        socket = await opened(gateway)
        await socket.send_json(create("[[sandbox: stall=30]]"))
        await eventually(lambda: bool(gateway.upstream_calls("/chat/completions")), "the turn is under way")
        async with asyncio.timeout(8):
            await gateway.runner.cleanup()
    async with running_gateway(tmp_path / "data") as again:
        (row,) = await again.books.rows()
        assert (row.outcome, row.http_status) == ("interrupted", 503)
        await again.check_books()
