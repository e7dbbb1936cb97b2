"""Answers that are held open: in time like any other, later kept alive by spaces, and given up with their caller."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.context import RequestContext, Surface
from bitmesh_proxy.errors import InsufficientBalance, InternalError, InvalidRequest, NotFound
from bitmesh_proxy.settings import Answers, Settings
from bitmesh_proxy.web.held_open import WholeReply, answer_held_open
from bitmesh_proxy.web.middlewares import add_common_headers, render_errors

Work = Callable[[], Coroutine[Any, Any, WholeReply]]


@asynccontextmanager
async def serving(work: Work, *, after_s: float = 60.0, errors_as_ok: bool = False) -> AsyncIterator[Callable[[], Any]]:
    """A server whose one route holds ``work`` open, and a way to ask it."""

    @web.middleware
    async def state(request: web.Request, handler: Any) -> web.StreamResponse:
        context = RequestContext(
            request_id="req_1", address="", public_base_url="", received_at_s=0.0, started_s=0.0, surface=Surface.OPENAI
        )
        request[keys.STATE] = keys.RequestState(context=context)
        response: web.StreamResponse = await handler(request)
        return response

    async def handle(request: web.Request) -> web.StreamResponse:
        return await answer_held_open(request, work(), errors_as_ok=errors_as_ok)

    app = web.Application(middlewares=[state, render_errors])
    app[keys.SETTINGS] = Settings(answers=Answers(keep_alive_after_s=after_s, keep_alive_interval_s=0.02))
    app.on_response_prepare.append(add_common_headers)
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield lambda: session.get("/")
    finally:
        await runner.cleanup()


async def leave(work: Work, begun: asyncio.Event, ended: asyncio.Event, *, after_s: float) -> None:
    """Ask, and leave when the work has begun; gives back when it has ended."""
    async with serving(work, after_s=after_s) as ask:
        asking = asyncio.ensure_future(ask())
        await begun.wait()
        asking.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        if asking.done() and not asking.cancelled():
            asking.result().close()


async def made() -> WholeReply:
    return WholeReply(status=200, headers={"Content-Type": "application/json", "X-Bitmesh-Cost": "1"}, body=b'{"a":1}')


async def test_an_answer_in_time_is_like_any_other() -> None:
    async with serving(made) as ask, ask() as answer:
        assert (answer.status, await answer.read(), answer.headers["X-Bitmesh-Cost"]) == (200, b'{"a":1}', "1")


async def test_a_late_answer_has_spaces_in_front() -> None:
    go = asyncio.Event()

    async def late() -> WholeReply:
        await go.wait()
        return await made()

    async with serving(late, after_s=0.01) as ask, ask() as answer:
        assert (answer.status, await answer.content.readexactly(3)) == (200, b"   ")
        go.set()
        assert json.loads(await answer.read()) == {"a": 1}


async def test_a_late_error_stands_in_the_body() -> None:
    go = asyncio.Event()

    async def late() -> WholeReply:
        await go.wait()
        raise NotFound("gone")

    async with serving(late, after_s=0.01) as ask, ask() as answer:
        await answer.content.readexactly(1)
        go.set()
        error = json.loads(await answer.read())["error"]
        assert (answer.status, error["code"]) == (200, "not_found")


@pytest.mark.parametrize(
    ("error", "is_on", "status"),
    [
        (InsufficientBalance("no"), False, 402),
        (InsufficientBalance("no"), True, 200),
        (InvalidRequest("no"), True, 400),
    ],
)
async def test_errors_in_time_keep_their_status_unless_the_older_habit_is_wanted(
    error: Exception, is_on: bool, status: int
) -> None:
    async def failing() -> WholeReply:
        raise error

    async with serving(failing, errors_as_ok=is_on) as ask, ask() as answer:
        assert (answer.status, (await answer.json())["error"]["message"]) == (status, "no")


@pytest.mark.parametrize("after_s", [0.01, 60.0])
async def test_who_leaves_ends_the_work(after_s: float) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> WholeReply:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    await leave(endless, begun, ended, after_s=after_s)


@pytest.mark.parametrize("after_s", [0.01, 60.0])
async def test_what_was_refused_to_one_who_has_left_is_no_fault(
    caplog: pytest.LogCaptureFixture, after_s: float
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def refused() -> WholeReply:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise InsufficientBalance("no") from None  # it was about to be said
        finally:
            ended.set()
        raise AssertionError

    await leave(refused, begun, ended, after_s=after_s)
    gc.collect()  # a task that is forgotten with an error that nobody has asked for says so
    assert caplog.text == ""


async def test_a_whole_reply_takes_no_stream() -> None:
    reply = WholeReply()
    await reply.send(201, {"A": "b"}, b"c")
    assert (reply.status, reply.headers, reply.body, reply.is_started) == (201, {"A": "b"}, b"c", False)
    with pytest.raises(InternalError):
        await reply.start(200, {})
    with pytest.raises(InternalError):
        await reply.write(b"")
    with pytest.raises(InternalError):
        reply.write_now(b"")
