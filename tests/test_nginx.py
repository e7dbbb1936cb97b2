"""The nginx configuration, tried with a real nginx between a real client and a real server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from multidict import CIMultiDict
from pytest_aiohttp import AiohttpServer
from yarl import URL

SITE = Path(__file__).parent.parent / "config" / "nginx" / "bitmesh-proxy.conf"

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert isinstance(port, int)
    return port


def configuration(directory: Path, *, port: int, upstream_port: int, changes: Mapping[str, str]) -> Path:
    """The shipped file at other addresses and with ``changes``, and around it the little that nginx needs to run by
    itself."""
    site = SITE.read_text(encoding="utf-8")
    site, upstreams = re.subn(r"server 127\.0\.0\.1:3000;", f"server 127.0.0.1:{upstream_port};", site)
    site, listens = re.subn(
        r"^    listen 80;\n    listen \[::\]:80;$", f"    listen 127.0.0.1:{port};", site, flags=re.MULTILINE
    )
    assert (upstreams, listens) == (1, 1)
    for old, new in changes.items():
        assert site.count(old) == 1, old
        site = site.replace(old, new)
    (directory / "site.conf").write_text(site)
    temporary = "".join(
        f"    {kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    )
    main = directory / "nginx.conf"
    main.write_text(
        f"daemon off;\nmaster_process off;\npid {directory}/pid;\nevents {{}}\n"
        f"http {{\n    access_log off;\n{temporary}    include {directory}/site.conf;\n}}\n"
    )
    return main


@contextlib.asynccontextmanager
async def nginx_before(
    upstream_port: int, directory: Path, *, changes: Mapping[str, str] | None = None
) -> AsyncIterator[URL]:
    port = free_port()
    main = configuration(directory, port=port, upstream_port=upstream_port, changes=changes or {})
    process = await asyncio.create_subprocess_exec(
        "nginx", "-c", main, "-p", directory, "-e", "stderr", stdin=asyncio.subprocess.DEVNULL
    )
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                assert process.returncode is None, "nginx did not start"
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                break
        yield URL(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await process.wait()


async def test_what_a_signature_covers_arrives_as_it_was_sent(aiohttp_server: AiohttpServer, tmp_path: Path) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"path": request.raw_path, "headers": dict(request.headers)})

    app = web.Application()
    app.router.add_get("/{any:.*}", echo)
    server = await aiohttp_server(app)
    sent = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    async with nginx_before(server.port or 0, tmp_path) as url, aiohttp.ClientSession() as client:
        target = URL(f"{url}/video/a%2Fb%20c//d?x=%C3%A9&y=a+b", encoded=True)
        async with client.get(target, headers=sent) as answer:
            seen = await answer.json()
    host = f"127.0.0.1:{url.port}"
    assert seen["path"] == "/video/a%2Fb%20c//d?x=%C3%A9&y=a+b"
    assert seen["headers"]["Host"] == host
    assert seen["headers"]["X-Forwarded-Host"] == host
    assert seen["headers"]["X-Forwarded-For"] == "127.0.0.1"
    assert seen["headers"]["X-Forwarded-Proto"] == "http"


async def test_no_chunk_waits_for_the_next(aiohttp_server: AiohttpServer, tmp_path: Path) -> None:
    """The second event is written only once the first has been read; where something buffers, this never ends."""
    first_was_read = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await first_was_read.wait()
        await response.write(b"data: 2\n\n")
        return response

    app = web.Application()
    app.router.add_post("/chat", stream)
    server = await aiohttp_server(app)
    async with nginx_before(server.port or 0, tmp_path) as url, aiohttp.ClientSession() as client:
        async with client.post(url / "chat", headers={"Accept-Encoding": "gzip"}) as answer:
            assert await answer.content.readany() == b"data: 1\n\n"
            first_was_read.set()
            assert await answer.content.read() == b"data: 2\n\n"


async def test_an_upload_arrives_while_it_is_sent(aiohttp_server: AiohttpServer, tmp_path: Path) -> None:
    first_arrived = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        size = len(await request.content.readany())
        first_arrived.set()
        async for chunk in request.content.iter_any():
            size += len(chunk)
        return web.Response(text=str(size))

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await first_arrived.wait()
        yield b"x" * (3 * 1024 * 1024)  # more than nginx takes by default

    app = web.Application()
    app.router.add_post("/image", take)
    server = await aiohttp_server(app)
    async with nginx_before(server.port or 0, tmp_path) as url, aiohttp.ClientSession() as client:
        async with client.post(url / "image", data=body()) as answer:
            assert await answer.text() == str(1000 + 3 * 1024 * 1024)


async def test_a_web_socket_goes_through_and_other_connections_are_kept(
    aiohttp_server: AiohttpServer, tmp_path: Path
) -> None:
    async def say(request: web.Request) -> web.StreamResponse:
        if not web.WebSocketResponse().can_prepare(request):
            return web.json_response({"connection": request.headers.get("Connection"), "keep": request.keep_alive})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("heard " + await socket.receive_str())
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/v1/responses", say)
    server = await aiohttp_server(app)
    async with nginx_before(server.port or 0, tmp_path) as url, aiohttp.ClientSession() as client:
        async with client.ws_connect(url / "v1/responses") as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "heard hello"
        for headers in ({}, {"Connection": "upgrade", "Upgrade": "h2c"}):
            async with client.get(url / "v1/responses", headers=headers) as answer:
                assert await answer.json() == {"connection": None, "keep": True}


async def test_a_kept_connection_that_has_ended_costs_nobody_but_a_post_an_answer(tmp_path: Path) -> None:
    """A service that restarts closes connections on which nginx has just sent a request. A POST may have been heard."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            for answer in (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""):  # only the first is answered
                heard.append((await reader.readuntil(b"\r\n\r\n")).partition(b" HTTP")[0])
                writer.write(answer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, nginx_before(server.sockets[0].getsockname()[1], tmp_path) as url:
        async with aiohttp.ClientSession() as client:
            statuses = []
            for method, path in (("GET", "/test"), ("GET", "/v1/models"), ("POST", "/chat")):
                async with client.request(method, url.join(URL(path))) as answer:
                    statuses.append(answer.status)
    assert heard == [b"GET /test", b"GET /v1/models", b"GET /v1/models", b"POST /chat"]
    assert statuses == [200, 200, 502]


async def test_while_the_service_is_down_callers_get_json_of_their_own_api(tmp_path: Path) -> None:
    async with nginx_before(free_port(), tmp_path) as url, aiohttp.ClientSession() as client:
        for path in ("chat", "v1/chat", "v1/image/", "v1/video", "v1/video/job-1", "v1/test", "openai/x"):
            async with client.get(url / path) as answer:
                assert answer.status == 502, path
                assert isinstance((await answer.json())["error"], str), path
                assert answer.headers["Retry-After"], path
        for path in ("v1/openai/chat/completions", "v1/chat/completions", "v1/responses", "v1/videos", "v1/models"):
            async with client.get(url / path) as answer:
                assert answer.status == 502, path
                assert set((await answer.json())["error"]) == {"message", "type", "param", "code"}, path


#: As the service takes them (``make_runner``).
MOST = {"max_line_size": 16_380, "max_field_size": 16_380}


async def exchange(url: URL, request: bytes) -> tuple[int, Mapping[str, str], dict[str, Any]]:
    """Send these bytes; gives the status, the headers and the JSON of the answer."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        headers = CIMultiDict[str]()
        for line in filter(None, head[1:]):
            name, _, value = line.partition(": ")
            headers.add(name, value)
        body = orjson.loads(await reader.readexactly(int(headers["Content-Length"])))
        assert isinstance(body, dict)
        return int(head[0].split(" ")[1]), headers, body
    finally:
        writer.close()
        await writer.wait_closed()


def request_of(target: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/{version}", "Host: ai.example.org", *headers, "", "")).encode("ascii")


async def test_headers_as_long_as_the_service_takes_them_arrive(aiohttp_server: AiohttpServer, tmp_path: Path) -> None:
    async def measure(request: web.Request) -> web.Response:
        lengths = [len(value) for name, value in request.headers.items() if name.startswith("X-Long-")]
        return web.json_response({"path": len(request.raw_path), "headers": lengths})

    app = web.Application()
    app.router.add_get("/{any:.*}", measure)
    server = await aiohttp_server(app, **MOST)
    async with nginx_before(server.port or 0, tmp_path) as url:
        target = "/".ljust(16_380, "x")
        longs = [f"X-Long-{number}: {'x' * 16_380}" for number in range(20)]
        status, _, seen = await exchange(url, request_of(target, *longs))
    assert (status, seen) == (200, {"path": 16_380, "headers": [16_380] * 20})


@pytest.mark.parametrize(
    ("request_bytes", "status", "words"),
    [
        (request_of("/chat", f"X-Long: {'x' * 20_000}"), 431, "headers are too large"),
        (request_of("/chat", *[f"X-Long: {'x' * 16_000}"] * 40), 431, "headers are too large"),
        (request_of("/".ljust(20_000, "x")), 414, "address is too long"),
        (request_of("/chat", "no header"), 400, "not valid HTTP"),
        (b"no request\r\n\r\n", 400, "not valid HTTP"),
        (request_of("/chat", method="TRACE"), 405, "Method not allowed"),
        (request_of("/chat", "Transfer-Encoding: gzip", method="POST"), 501, "not supported"),
        (request_of("/chat", version="3.0"), 505, "not supported"),
        (request_of("/bitmesh-proxy-error"), 404, "Not found"),
    ],
)
async def test_what_nginx_refuses_it_refuses_in_json(
    tmp_path: Path, request_bytes: bytes, status: int, words: str
) -> None:
    async with nginx_before(free_port(), tmp_path) as url:
        found, headers, said = await exchange(url, request_bytes)
    assert (found, headers["Content-Type"]) == (status, "application/json")
    assert set(said) == {"error"}
    assert words in said["error"]
    assert "Retry-After" not in headers


async def test_what_nginx_refuses_is_said_in_the_words_of_the_callers_api(tmp_path: Path) -> None:
    changes = {"client_max_body_size 0;": "client_max_body_size 1k;"}
    too_large = "Content-Length: 5000"
    async with nginx_before(free_port(), tmp_path, changes=changes) as url:
        for path in ("/image", "/v1/image?x=1", "/v1/video/a/b?x=/v1/models"):
            status, _, said = await exchange(url, request_of(path, too_large, method="POST"))
            assert (status, said) == (413, {"error": "The request body is too large."}), path
        for path in ("/v1/responses", "/v1/images/generations?x=1", "/v1/chat/completions?x=/chat"):
            status, _, said = await exchange(url, request_of(path, too_large, method="POST"))
            assert status == 413, path
            assert said["error"] == {
                "message": "The request body is too large.",
                "type": "invalid_request_error",
                "param": None,
                "code": "request_too_large",
            }, path


async def test_a_service_that_keeps_silent_is_told_in_json(aiohttp_server: AiohttpServer, tmp_path: Path) -> None:
    async def wait(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("nobody wakes it")

    app = web.Application()
    app.router.add_get("/v1/models", wait)
    server = await aiohttp_server(app)
    changes = {"proxy_read_timeout 3600s;": "proxy_read_timeout 50ms;"}
    async with nginx_before(server.port or 0, tmp_path, changes=changes) as url:
        status, headers, said = await exchange(url, request_of("/v1/models"))
    assert (status, headers["Retry-After"]) == (504, "5")
    assert (said["error"]["type"], said["error"]["code"]) == ("internal_error", "gateway_unavailable")


async def test_what_the_service_itself_refuses_goes_through(aiohttp_server: AiohttpServer, tmp_path: Path) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"own": True}, status=int(request.match_info["status"]), headers={"Retry-After": "77"})

    app = web.Application()
    app.router.add_get("/{status}", refuse)
    server = await aiohttp_server(app)
    async with nginx_before(server.port or 0, tmp_path) as url:
        for status in (400, 404, 405, 413, 414, 429, 431, 500, 501, 502, 503, 504, 505):
            found, headers, said = await exchange(url, request_of(f"/{status}"))
            assert (found, headers["Retry-After"], said) == (status, "77", {"own": True})
