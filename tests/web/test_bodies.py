"""JSON bodies over a real socket: what is read, what is refused, with which status, and how soon."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pytest_aiohttp.plugin import AiohttpServer

from bitmesh_proxy.context import Surface
from bitmesh_proxy.endpoints.json_bodies import MAX_VALUES
from bitmesh_proxy.errors import CallerLeft, GatewayError, InvalidRequest
from bitmesh_proxy.upstream.off_loop import THREAD_PARSE_BYTES
from bitmesh_proxy.web.bodies import check_json_type, parse_json_object, read_body
from bitmesh_proxy.web.error_formats import render_error

MAX_BYTES = 512 * 1024
MAX_DEPTH = 8
TIMEOUT_S = 0.3


@pytest.fixture
async def server(aiohttp_server: AiohttpServer) -> TestServer:
    """Answers with the number of bytes and the object that it read, or with the error."""

    async def echo(request: web.Request) -> web.Response:
        try:
            check_json_type(request)
            raw = await read_body(request, max_bytes=MAX_BYTES, timeout_s=TIMEOUT_S)
            body = await parse_json_object(raw, max_depth=MAX_DEPTH)
        except GatewayError as error:
            rendered = render_error(error, Surface.BITMESH, "")
            return web.Response(status=rendered.status, headers=rendered.headers, body=rendered.body)
        return web.Response(body=orjson.dumps({"bytes": len(raw), "body": body}))

    app = web.Application()
    app.router.add_post("/", echo)
    # The real server does not unpack what nobody asked it to, either: an unknown packing is then ours to refuse.
    server: TestServer = await aiohttp_server(app, auto_decompress=False)
    return server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


Post = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
def post(server: TestServer, session: aiohttp.ClientSession) -> Post:
    async def post(data: Any, content_type: str | None = "application/json", **headers: str) -> tuple[int, Any]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type is not None:
            sent["Content-Type"] = content_type
        skip = ("Content-Type",) if content_type is None else ()
        async with session.post(server.make_url("/"), data=data, headers=sent, skip_auto_headers=skip) as response:
            return response.status, json.loads(await response.read())

    return post


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/json;charset=us-ascii",
        "application/vnd.api+json",
        None,
    ],
)
async def test_json_is_read(post: Post, content_type: str | None) -> None:
    data = ' {"a": ["ä", 1, 2.5, null, {"b": true}]}\n'.encode()
    assert await post(data, content_type) == (
        200,
        {"bytes": len(data), "body": {"a": ["ä", 1, 2.5, None, {"b": True}]}},
    )


async def test_a_byte_order_mark_is_overlooked_but_counted(post: Post) -> None:
    assert await post(b"\xef\xbb\xbf{}") == (200, {"bytes": 5, "body": {}})


async def test_the_last_of_two_equal_names_counts(post: Post) -> None:
    assert (await post(b'{"a":1,"a":2}'))[1]["body"] == {"a": 2}


@pytest.mark.parametrize(
    ("content_type", "says"),
    [
        ("text/plain", "application/json"),
        ("application/x-www-form-urlencoded", "application/json"),
        ("multipart/form-data; boundary=x", "application/json"),
        ("nonsense", "application/json"),
        ("application/json; charset=utf-16", "UTF-8"),
        ("application/json; charset=iso-8859-1", "UTF-8"),
    ],
)
async def test_other_content_types_are_415(post: Post, content_type: str, says: str) -> None:
    status, body = await post(b"{}", content_type)
    assert status == 415
    assert says in body["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x-unknown"])
async def test_compressed_bodies_are_415(server: TestServer, encoding: str) -> None:
    body = gzip.compress(b"{}") if encoding == "gzip" else b"{}"
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    async with connected(server) as (reader, writer):
        writer.write(head.encode() + body)
        assert b" 415 " in await reader.readline()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "The request body is empty; a JSON object was expected."),
        (b" \r\n\t", "The request body is empty; a JSON object was expected."),
        (b'{"a":}', "expected a JSON value (line 1, column 6)."),
        (b'{"a": 1,\n "b" 2}', "(line 2, column 6)."),
        (b'{"a": NaN}', "The request body is not valid JSON"),
        (b'{"a": Infinity}', "The request body is not valid JSON"),
        (b'{"a": 1e999}', "The request body is not valid JSON"),
        (b'{"a": "\\ud800"}', "The request body is not valid JSON"),
        (b"{} {}", "The request body is not valid JSON"),
        (b'{"a": "\xff"}', "The request body is not valid UTF-8: byte 7."),
        (b'{"a": "\xed\xa0\x80"}', "The request body is not valid UTF-8: byte 7."),
        (b"[]", "The request body must be a JSON object."),
        (b'"text"', "The request body must be a JSON object."),
        (b"null", "The request body must be a JSON object."),
    ],
)
async def test_malformed_bodies_are_400(post: Post, data: bytes, says: str) -> None:
    status, body = await post(data)
    assert status == 400
    assert says in body["error"]


@pytest.mark.parametrize("pair", [(b'{"a":', b"}"), (b"[", b"]"), (b'[{"a":', b"}]")])
async def test_deep_bodies_are_400(post: Post, pair: tuple[bytes, bytes]) -> None:
    def nested(depth: int) -> bytes:
        levels = pair[0].count(b"[") + pair[0].count(b"{")
        return b'{"x":' + pair[0] * (depth // levels) + b"0" + pair[1] * (depth // levels) + b"}"

    assert (await post(nested(MAX_DEPTH - 2)))[0] == 200
    status, body = await post(nested(MAX_DEPTH))
    assert (status, body) == (400, {"error": "The request body is nested more than 8 levels deep."})
    assert (await post(nested(50_000)))[0] == 400


async def test_depth_is_counted_exactly_and_brackets_in_strings_are_not() -> None:
    assert await parse_json_object(b'{"a":[["' + b"[{" * 50 + b'"]]}', max_depth=3)
    with pytest.raises(InvalidRequest, match="more than 3 levels"):
        await parse_json_object(b'{"a":[[[]]]}', max_depth=3)


async def test_a_body_of_too_many_values_is_not_parsed() -> None:
    with pytest.raises(InvalidRequest, match="more than 2000000 values"):
        await parse_json_object(b'{"a":[' + b"[]," * MAX_VALUES + b"[]]}", max_depth=8)


async def test_large_bodies_are_read_whole(post: Post) -> None:
    data = orjson.dumps({"prompt": "x" * (THREAD_PARSE_BYTES + 1), "deep": [[[]]]})
    status, body = await post(data)
    assert status == 200
    assert body["bytes"] == len(data)
    assert len(body["body"]["prompt"]) == THREAD_PARSE_BYTES + 1


async def test_a_large_malformed_body_is_400(post: Post) -> None:
    status, body = await post(b'{"prompt": "' + b"x" * THREAD_PARSE_BYTES + b'\xff"}')
    assert status == 400
    assert body["error"] == f"The request body is not valid UTF-8: byte {12 + THREAD_PARSE_BYTES}."


async def test_exactly_the_limit_is_taken(post: Post) -> None:
    data = b'{"a":"' + b"x" * (MAX_BYTES - 8) + b'"}'
    assert len(data) == MAX_BYTES
    assert (await post(data))[0] == 200
    assert (await post(data + b" "))[0] == 413


# ---------------------------------------------------------------- byte by byte


@asynccontextmanager
async def connected(server: TestServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    assert server.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_declared_size_over_the_limit_is_413_before_a_byte_of_it_came(server: TestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 413 " in head
        assert b"Connection: close" in head


async def test_an_undeclared_size_is_counted(server: TestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(MAX_BYTES // 0x10000 + 1):
            writer.write(chunk)
        assert b" 413 " in await reader.readline()


async def test_a_chunked_body_is_read(server: TestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for byte in b'{"a":1}':
            writer.write(b"1\r\n" + bytes([byte]) + b"\r\n")
        writer.write(b"0\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head


async def test_a_broken_chunk_is_400(server: TestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        writer.write(b"zz\r\n{}\r\n")
        assert b" 400 " in await reader.readline()


async def test_a_body_that_does_not_come_is_408(server: TestServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert b" 408 " in await reader.readline()


async def test_a_caller_who_leaves_in_the_body_is_no_error() -> None:
    outcome: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def read(request: web.Request) -> web.Response:
        with pytest.raises(CallerLeft) as caught:
            await read_body(request, max_bytes=MAX_BYTES, timeout_s=5)
        outcome.set_result(caught.value)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", read)
    runner = web.AppRunner(app, handler_cancellation=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        _, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert isinstance(await outcome, CallerLeft)
    finally:
        await runner.cleanup()
