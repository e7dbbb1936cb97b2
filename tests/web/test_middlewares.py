"""What happens to every request on its way in, whatever the handler does."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.errors import CallerLeft, InternalError
from bitmesh_proxy.pipeline import Incoming
from bitmesh_proxy.web.call_bodies import received_of
from bitmesh_proxy.web.middlewares import MIDDLEWARES
from tests.journeys.gateway import Gateway, chat, eventually, raw_call, running_gateway
from tests.web.extra_routes import add


async def boom(request: web.Request) -> web.StreamResponse:
    raise ZeroDivisionError("planted detail")


async def boom_late(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begun")
    raise ZeroDivisionError("planted detail")


async def left(request: web.Request) -> web.StreamResponse:
    raise CallerLeft


async def fault_of_ours(request: web.Request) -> web.StreamResponse:
    raise InternalError("planted detail") from ValueError("planted cause")


def prepare(app: web.Application) -> None:
    add(app, "/boom", boom)
    add(app, "/boom-late", boom_late)
    add(app, "/left", left)
    add(app, "/fault", fault_of_ours)


def test_they_stand_in_their_order() -> None:
    assert [each.__name__ for each in MIDDLEWARES] == [
        "request_state",
        "access_line",
        "render_errors",
        "limit_address",
        "authenticate",
        "limit_key",
    ]


@pytest.mark.parametrize("path", ["/boom", "/fault"])
async def test_a_fault_of_ours_is_logged_and_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with running_gateway(tmp_path, prepare=prepare) as gateway:
        with caplog.at_level(logging.INFO, "bitmesh_proxy.web.middlewares"):
            answer = await gateway.get(path)
        assert (answer.status, answer.json) == (500, {"error": "Internal server error"})
        (line,) = [each for each in caplog.records if each.name == "bitmesh_proxy.web.middlewares"]
        assert vars(line)["request_id"] == answer.headers["X-Request-Id"]
        assert (line.exc_info is not None) is (path == "/boom")


async def test_after_the_first_byte_the_connection_is_cut(tmp_path: Path) -> None:
    """Another head would be written into the open body."""
    async with running_gateway(tmp_path, prepare=prepare) as gateway:
        async with gateway.http.get(gateway.url + "/boom-late") as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()


async def test_who_has_left_gets_no_answer(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, prepare=prepare) as gateway:
        async with raw_call(gateway, "GET", "/left") as (reader, _):
            assert await reader.read() == b""
        assert (await gateway.get("/test")).status == 200


async def test_every_request_has_a_line_and_it_names_no_secret(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "bitmesh_proxy.access"):
        answer = await gateway.get("/test?secret=planted")
        await gateway.get("/nowhere")
    first, second = (each for each in caplog.records if each.name == "bitmesh_proxy.access")
    assert first.getMessage() == "GET /test 200"
    said = vars(first)
    assert (said["request_id"], said["key_id"], said["code"]) == (
        answer.headers["X-Request-Id"],
        gateway.key.id,
        None,
    )
    assert (said["address"], said["duration_ms"] >= 0) == ("127.0.0.1", True)
    assert (second.getMessage(), vars(second)["code"], vars(second)["key_id"]) == (
        "GET /nowhere 404",
        "not_found",
        None,
    )


async def test_who_leaves_is_499_in_the_log(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    gateway.fault("stall=60")
    with caplog.at_level(logging.INFO, "bitmesh_proxy.access"):
        async with raw_call(gateway, "POST", "/chat", aiohttp.payload.JsonPayload(chat()).decode().encode()):
            await eventually(lambda: bool(gateway.upstream_calls()), "the upstream is called")
        await eventually(lambda: "POST /chat 499" in caplog.text, "the line is written")


async def test_through_a_unix_socket_a_caller_is_who_the_proxy_says(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        path = str(tmp_path / "socket")
        await web.UnixSite(gateway.runner, path).start()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as http:
            for headers, address in ({}, "unknown"), ({"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"):
                async with http.post(
                    "http://ai.example.org/chat", json=chat(), headers={**gateway.bearer, **headers}
                ) as answer:
                    assert answer.status == 200
                assert (await gateway.last_row()).address == address


async def test_request_ids_are_never_the_same(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(gateway.get("/test", headers={"X-Request-Id": "mine"}) for _ in range(20)))
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == 20
    assert all(each.startswith("req_") and len(each) == 28 for each in ids)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/image", {"model": "black-forest-labs/FLUX-2-dev", "pad": ["x" * 300_000]}, 422),
        ("/v1/chat/completions", chat("x" * 300_000), 502),
        ("/v1/responses", {"model": "openai/gpt-oss-120b", "input": "x" * 300_000}, 502),
    ],
    ids=["invalid", "broken", "broken response"],
)
async def test_what_was_refused_is_not_kept(tmp_path: Path, path: str, body: dict[str, object], status: int) -> None:
    """A body of megabytes, or an answer that was too large, until the collector comes by."""
    async with running_gateway(tmp_path) as gateway:
        gateway.fault("html=502", times=9)
        gc.collect()
        gc.disable()
        try:
            assert (await gateway.post(path, body)).status == status
            assert [each for each in gc.get_objects() if isinstance(each, Incoming)] == []
        finally:
            gc.enable()


async def big(request: web.Request) -> web.StreamResponse:
    await received_of(request)
    return web.Response(body=b"y" * 300_000)


async def test_a_connection_that_waits_holds_neither_body_nor_answer(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, prepare=lambda app: add(app, "/big", big)) as gateway:
        server = gateway.runner.server
        assert server is not None
        async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as session:
            async with session.get("/big", json={"pad": "x" * 300_000}) as answer:
                assert len(await answer.read()) == 300_000
            (connection,) = server.connections
            task = connection._task_handler
            assert task is not None
            coroutine: Any = task.get_coro()
            held = coroutine.cr_frame.f_locals  # as long as no other request comes
            await eventually(lambda: held["resp"].body is None, "the answer is let go")
            assert held["request"][keys.STATE].received is None
