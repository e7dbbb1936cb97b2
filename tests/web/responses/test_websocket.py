"""The way onto a WebSocket. What happens on it: ``tests/journeys/test_responses_socket.py``."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.web.request_ids import RequestIds
from tests.journeys.gateway import CHAT_MODEL, eventually, running_gateway

PATH = "/v1/responses"


async def test_without_an_upgrade_nothing_is_there(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        answer = await gateway.get(PATH)
        assert (answer.status, answer.json["error"]["code"]) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == "POST"


async def test_a_client_who_leaves_before_the_handshake_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_gateway(tmp_path) as gateway:
        server = gateway.runner.server
        assert server is not None
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:  # accepted by the kernel, by nobody yet
            client.sendall(
                f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {gateway.bearer['Authorization']}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
        assert (await gateway.get("/test")).status == 200  # accepted later
        await eventually(lambda: len(server.connections) == 1, "the connection is forgotten")
        assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
        assert gateway.app[keys.METRICS].under_way == 0


async def test_the_handshake_says_the_version(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        async with gateway.http.ws_connect(gateway.url + PATH, headers=gateway.bearer) as connection:
            assert connection._response.headers["OpenResponses-Version"] == "2026-04-24"


async def test_a_message_may_be_as_large_as_a_body_and_no_larger(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"http": {"max_body_bytes": 6_000_000}}) as gateway:
        async with gateway.http.ws_connect(gateway.url + PATH, headers=gateway.bearer) as connection:
            turn = {"type": "response.create", "model": CHAT_MODEL, "input": "x" * 5_000_000, "truncation": "disabled"}
            await connection.send_json(turn)
            message = await connection.receive_json(timeout=8)
            assert message["error"]["code"] == "context_length_exceeded"  # it was read
            await connection.send_json({**turn, "input": "x" * 7_000_000})
            await connection.receive(timeout=8)
            assert connection.closed


async def test_turns_are_called_as_other_requests_are(tmp_path: Path) -> None:
    """The time comes first in their ids, so that each belongs at the end of the ledger's index."""
    async with running_gateway(tmp_path) as gateway:
        ids = RequestIds()
        before = ids.make()
        async with gateway.http.ws_connect(gateway.url + PATH, headers=gateway.bearer) as client:
            await client.send_json({"type": "response.create", "model": CHAT_MODEL, "input": "Hello"})
            while (await client.receive_json(timeout=8))["type"] != "response.completed":
                pass
        digits = len("req_") + 10
        assert before[:digits] <= (await gateway.last_row()).request_id[:digits] <= ids.make()[:digits]
