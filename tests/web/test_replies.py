"""Answers on the wire, and callers who are not there any more."""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bitmesh_proxy.errors import CallerLeft
from bitmesh_proxy.web.replies import HttpReply
from tests.journeys.gateway import eventually, raw_call, running_gateway
from tests.web.extra_routes import add


async def whole(request: web.Request) -> web.StreamResponse:
    reply = HttpReply(request)
    await reply.send(402, {"Content-Type": "application/json", "X-A": "b"}, b"{}")
    assert not reply.is_started
    assert reply.response is not None
    return reply.response


async def streamed(request: web.Request) -> web.StreamResponse:
    reply = HttpReply(request)
    await reply.start(200, {"Content-Type": "text/event-stream"})
    assert reply.is_started
    await reply.write(b"data: 1\n\n")
    await reply.write(b"data: 2\n\n")
    await reply.finish()
    assert reply.response is not None
    return reply.response


async def aborted(request: web.Request) -> web.StreamResponse:
    reply = HttpReply(request)
    await reply.start(200, {})
    await reply.write(b"begun")
    reply.abort()
    raise asyncio.CancelledError


async def test_a_whole_answer_and_a_stream(tmp_path: Path) -> None:
    def prepare(app: web.Application) -> None:
        add(app, "/whole", whole)
        add(app, "/streamed", streamed)

    async with running_gateway(tmp_path, prepare=prepare) as gateway:
        answer = await gateway.get("/whole")
        assert (answer.status, answer.headers["X-A"], answer.body) == (402, "b", b"{}")
        answer = await gateway.get("/streamed")
        assert answer.body == b"data: 1\n\ndata: 2\n\n"
        assert answer.headers["X-Request-Id"]


async def test_an_aborted_answer_cannot_be_taken_for_a_whole_one(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, prepare=lambda app: add(app, "/aborted", aborted)) as gateway:
        async with gateway.http.get(gateway.url + "/aborted") as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()


async def test_writing_to_somebody_who_has_gone_is_an_outcome(tmp_path: Path) -> None:
    """Either the handler is cancelled or the write says it; no write ever waits for nobody."""
    ended: list[type[BaseException]] = []

    async def endless(request: web.Request) -> web.StreamResponse:
        reply = HttpReply(request)
        await reply.start(200, {})
        try:
            while True:
                await reply.write(b"x" * 65536)
        except (CallerLeft, asyncio.CancelledError) as exc:
            ended.append(type(exc))
            raise

    async with running_gateway(tmp_path, prepare=lambda app: add(app, "/endless", endless)) as gateway:
        async with raw_call(gateway, "GET", "/endless") as (reader, _):
            await reader.readexactly(100_000)
        await eventually(lambda: bool(ended), "the handler has ended")


async def test_what_nobody_waits_for_leaves_no_trace(tmp_path: Path) -> None:
    """A call that ends between a write and the waiting for it."""

    async def forgetful(request: web.Request) -> web.StreamResponse:
        reply = HttpReply(request)
        await reply.start(200, {})
        reply.write_now(b"forgotten")
        await reply.write(b"begun, ")
        request.protocol.pause_writing()
        reply.write_now(b"done")
        request.protocol.resume_writing()
        gc.collect()
        await reply.finish()
        assert reply.response is not None
        return reply.response

    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        async with running_gateway(tmp_path, prepare=lambda app: add(app, "/forgetful", forgetful)) as gateway:
            assert (await gateway.get("/forgetful")).body == b"begun, done"
    assert [each for each in complaints if "never awaited" in str(each.message)] == []
