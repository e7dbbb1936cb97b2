"""The way onto a WebSocket. What happens on it: ``tests/journeys/test_responses_socket.py``."""

from __future__ import annotations

from pathlib import Path

from tests.journeys.gateway import CHAT_MODEL, running_gateway

PATH = "/v1/responses"


async def test_without_an_upgrade_nothing_is_there(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        answer = await gateway.get(PATH)
        assert (answer.status, answer.json["error"]["code"]) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == "POST"


async def test_the_handshake_says_the_version(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        async with gateway.http.ws_connect(gateway.url + PATH, headers=gateway.bearer) as socket:
            assert socket._response.headers["OpenResponses-Version"] == "2026-04-24"


async def test_a_message_may_be_as_large_as_a_body_and_no_larger(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"http": {"max_body_bytes": 6_000_000}}) as gateway:
        async with gateway.http.ws_connect(gateway.url + PATH, headers=gateway.bearer) as socket:
            turn = {"type": "response.create", "model": CHAT_MODEL, "input": "x" * 5_000_000, "truncation": "disabled"}
            await socket.send_json(turn)
            message = await socket.receive_json(timeout=8)
            assert message["error"]["code"] == "context_length_exceeded"  # it was read
            await socket.send_json({**turn, "input": "x" * 7_000_000})
            await socket.receive(timeout=8)
            assert socket.closed
