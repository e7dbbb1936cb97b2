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
from aiohttp.web_protocol import RequestHandler

from bitmesh_proxy import keys
from bitmesh_proxy.web import unreadable
from tests.journeys.gateway import Gateway, eventually, running_gateway
from tests.web.lane.callers import Caller
from tests.web.private_names import private_names_of

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


def test_all_private_names_of_aiohttp_that_are_used_are_there() -> None:
    of_the_connection = {"_messages", "_payload_parser", "_upgraded", "_waiter"}
    own = {"_head_bytes", "_last_body", "_max_head_bytes"}
    assert private_names_of(unreadable) - own == of_the_connection
    assert all(hasattr(RequestHandler, name) for name in of_the_connection)


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "behind another"])
async def test_a_head_that_does_not_end_is_refused(gateway: Gateway, is_first: bool) -> None:
    """Each of its lines is short enough, and there are not too many of them: together they are two megabytes."""
    async with calling(gateway) as caller:
        if not is_first:
            caller.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await caller.answer()).status == 200
        caller.send(
            b"GET /test HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 16_000) for n in range(120))
        )
        answer = await caller.answer()
        assert (answer.status, answer.json) == (431, {"error": "The request's headers are larger than 65536 bytes."})
        assert await caller.is_closed_by_gateway()


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9"])
async def test_a_version_that_is_not_spoken_is_refused_before_anybody_is_asked(
    gateway: Gateway, version: bytes
) -> None:
    body = b'{"model": "openai/gpt-oss-120b", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
    request = b"POST /v1/chat/completions %b\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n" % (
        version, gateway.key.token.encode(), len(body),
    )  # fmt: skip
    async with calling(gateway) as caller:
        caller.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await caller.answer()).status == 200
        caller.send(request + b"Content-Type: application/json\r\n\r\n" + body)
        answer = await caller.answer()
        said = {"error": "The versions of HTTP that are spoken here are 1.0 and 1.1."}
        assert (answer.status, answer.json) == (505, said)
        assert await caller.is_closed_by_gateway()
    assert gateway.upstream_calls() == []


async def test_what_comes_in_pieces_is_bounded_in_its_head_alone(gateway: Gateway) -> None:
    async with calling(gateway) as caller:
        for _ in range(3):
            head = b"POST /test HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\nX-A: %b\r\n" % (b"y" * 15_000)
            caller.send(head)
            caller.send(b"X-B: %b\r\n\r\n" % (b"y" * 15_000))
            for _ in range(4):
                caller.send(b"z" * 50_000)
            assert (await caller.answer()).status == 405


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
