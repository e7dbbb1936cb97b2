"""What no middleware sees is refused in JSON, with the lane and without, and is not quoted."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from bitmesh_proxy import keys
from tests.journeys.gateway import Gateway, eventually, running_gateway
from tests.web.lane.callers import Caller

SECRET = "bm_" + "s" * 43


@pytest.fixture(params=[True, False], ids=["lane", "plain"])
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path, {"http": {"lane": request.param}}) as gateway:
        yield gateway


@asynccontextmanager
async def calling(gateway: Gateway) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield Caller(gateway, reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_text", "words"),
    [
        (f"GET /test HTTP/1.1\r\nHost: x\r\nX-Api-Key: {SECRET}{'x' * 17_000}\r\n\r\n", "is too long"),
        (f"GET /test?key={SECRET}{'x' * 17_000} HTTP/1.1\r\nHost: x\r\n\r\n", "is too long"),
        ("GET /test HTTP/1.1\r\nHost: x\r\n" + "X: y\r\n" * 200 + "\r\n", "not valid HTTP"),
        (f"GET /test HTTP/1.1\r\nHost: x\r\nX-Api-Key {SECRET}\r\n\r\n", "not valid HTTP"),
        (f"{SECRET}\r\n\r\n", "not valid HTTP"),
    ],
    ids=["header", "address", "headers", "line", "nothing"],
)
async def test_what_cannot_be_read_is_refused_in_json(gateway: Gateway, request_text: str, words: str) -> None:
    async with calling(gateway) as caller:
        caller.send(request_text.encode())
        answer = await caller.answer()
        assert (answer.status, answer.get("Content-Type")) == (400, "application/json")
        assert words in answer.json["error"]
        assert SECRET not in answer.body.decode()
        assert (answer.get("X-Request-Id") or "").startswith("req_")
        assert answer.get("Server") == "bitmesh-proxy"
        assert await caller.is_closed_by_gateway()


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("path", ["/chat", "/image", "/v1/responses", "/nowhere"])
async def test_a_caller_who_leaves_before_he_is_told_to_go_on_is_no_error(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, path: str, is_reset: bool
) -> None:
    caplog.set_level(logging.INFO)
    server = gateway.runner.server
    assert server is not None
    with socket.create_connection(("127.0.0.1", gateway.port)) as caller:  # accepted by the kernel, and by nobody yet
        caller.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {gateway.bearer['Authorization']}\r\n"
            "Content-Type: application/json\r\nContent-Length: 50\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        if is_reset:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert (await gateway.get("/test")).status == 200  # accepted later
    await eventually(lambda: len(server.connections) == 1, "the connection is forgotten")
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
    assert gateway.app[keys.METRICS].under_way == 0
    await gateway.check_books()


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions", "/nowhere", "/v1/nowhere"])
async def test_an_expectation_that_nobody_knows_is_refused_in_the_callers_dialect(gateway: Gateway, path: str) -> None:
    async with calling(gateway) as caller:
        caller.send(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {gateway.bearer['Authorization']}\r\n"
            "Content-Type: application/json\r\nContent-Length: 2\r\nExpect: a miracle\r\n\r\n{}".encode()
        )
        answer = await caller.answer()
        assert (answer.status, answer.get("Content-Type")) == (417, "application/json")
        error = answer.json["error"]
        assert "100-continue" in (error["message"] if path.startswith("/v1/") else error)
        assert (answer.get("X-Request-Id") or "").startswith("req_")
        assert await caller.is_closed_by_gateway()
