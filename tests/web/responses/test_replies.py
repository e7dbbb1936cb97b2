from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Any

import pytest
from aiohttp import web

from bitmesh_proxy.errors import CallerLeft, Unavailable
from bitmesh_proxy.web.responses.replies import CapturedReply, EventLog, HeldReply, SocketReply
from tests.web.responses.examples import served

QUICK_S = 0.02


def held(request: web.Request, **more: Any) -> HeldReply:
    settings: dict[str, Any] = {"is_stream": False, "opens_after_s": QUICK_S, "interval_s": QUICK_S}
    return HeldReply(request, begin=lambda: b"begin|", **{**settings, **more})


def done(reply: HeldReply) -> web.StreamResponse:
    assert reply.response is not None
    return reply.response


async def test_a_quick_answer_is_a_plain_one() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        async with held(request, opens_after_s=60.0) as reply:
            await reply.send(201, {"X-Cost": "1", "Content-Type": "application/json"}, b"{}")
        return done(reply)

    async with served(handle) as client:
        answer = await client.get("/")
        assert (answer.status, await answer.read(), answer.headers["X-Cost"]) == (201, b"{}", "1")
        assert answer.headers["Content-Length"] == "2"
        assert answer.headers["OpenResponses-Version"] == "2026-04-24"


async def test_a_slow_answer_begins_with_spaces_and_cannot_change_its_status() -> None:
    opened: list[bool] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        async with held(request) as reply:
            await asyncio.sleep(QUICK_S * 10)
            opened.append(reply.is_open and not reply.is_started)
            await reply.send(500, {}, b"{}")
        return done(reply)

    async with served(handle) as client:
        answer = await client.get("/")
        body = await answer.read()
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert body.startswith(b"  ")
        assert body.strip() == b"{}"
    assert opened == [True]


async def test_a_stream_that_is_opened_by_the_clock_begins_with_its_first_events() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        async with held(request, is_stream=True) as reply:
            await asyncio.sleep(QUICK_S * 10)
            await reply.send(200, {}, b"end")
        return done(reply)

    async with served(handle) as client:
        answer = await client.get("/")
        body = await answer.read()
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert body.startswith(b"begin|: keep-alive\n\n")
        assert body.endswith(b"end")


async def test_a_chat_stream_is_opened_by_its_model_alone_and_kept_alive_after() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        async with held(request, is_stream=True, opens_after_s=None) as reply:
            await asyncio.sleep(QUICK_S * 5)
            assert not reply.is_open
            await reply.start(200, {"Content-Type": "text/event-stream"})
            assert reply.is_started
            await reply.write(b"one|")
            await asyncio.sleep(QUICK_S * 5)
            assert reply.write_now(b"two|") is None
            await reply.finish()
        return done(reply)

    async with served(handle) as client:
        body = await (await client.get("/")).read()
        assert body.startswith(b"one|: keep-alive\n\n")
        assert body.endswith(b"two|")


async def test_nothing_is_said_into_a_busy_stream() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        async with held(request, is_stream=True, opens_after_s=None, interval_s=5.0) as reply:
            await reply.start(200, {})
            for _ in range(20):
                await reply.write(b"x")
                await asyncio.sleep(0.001)
            await reply.finish()
        return done(reply)

    async with served(handle) as client:
        assert await (await client.get("/")).read() == b"x" * 20


async def test_what_is_written_at_once_breaks_the_silence_too() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        async with held(request, is_stream=True, opens_after_s=None, interval_s=0.5) as reply:
            first = reply.write_now(b"x")  # the head is still to go out
            assert first is not None
            await first
            for _ in range(30):
                assert reply.write_now(b"x") is None
                await asyncio.sleep(QUICK_S)
            await reply.finish()
        return done(reply)

    async with served(handle) as client:
        assert await (await client.get("/")).read() == b"x" * 31


async def test_a_caller_of_http_1_0_gets_the_bytes_without_a_frame() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        async with held(request, is_stream=True, opens_after_s=None) as reply:
            await reply.start(200, {})
            await reply.write(b"one|")
            assert reply.write_now(b"two") is None
            await reply.finish()
        return done(reply)

    async with served(handle) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        assert body == b"one|two"
        writer.close()


async def test_a_slow_reader_is_waited_for_and_one_who_left_is_noticed() -> None:
    ended = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        async with held(request, is_stream=True, opens_after_s=None) as reply:
            await reply.start(200, {})
            await reply.write(b"begun")
            try:
                while (waiting := reply.write_now(b"x" * 65536)) is None:
                    pass
                await waiting
            except (CallerLeft, asyncio.CancelledError):  # the server cancels whose caller has gone
                with pytest.raises(CallerLeft):
                    reply.write_now(b"more")
                ended.set()
                raise
        return done(reply)

    async with served(handle) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"begun" in await reader.readuntil(b"begun")
        writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 5)


async def test_captured_bytes_are_all_there() -> None:
    reply = CapturedReply()
    await reply.start(200, {"Content-Type": "audio/mpeg"})
    await reply.write(b"a")
    assert reply.write_now(b"b") is None
    await reply.finish()
    assert (reply.body, reply.headers["Content-Type"], reply.is_started) == (b"ab", "audio/mpeg", False)
    await reply.send(201, {}, b"c")
    assert (reply.status, reply.body) == (201, b"c")


def frame(number: int) -> bytes:
    return b'event: e\ndata: {"sequence_number":%d}\n\n' % number


async def test_a_log_that_breaks_off_has_no_end() -> None:
    log = EventLog()
    await log.write(frame(0))
    log.break_off()
    await log.finish()
    follower = log.follow()
    assert await anext(follower) == frame(0)
    with pytest.raises(Unavailable):
        await anext(follower)


async def test_a_log_can_be_followed_by_many_from_anywhere() -> None:
    log = EventLog()

    async def follow(after: int) -> bytes:
        return b"".join([frames async for frames in log.follow(after=after)])

    followers = [asyncio.create_task(follow(after)) for after in (-1, 0, 2, 99)]
    await log.write(frame(0) + frame(1))
    await asyncio.sleep(0)
    await log.write(frame(2))
    await log.send(200, {}, frame(3) + b"data: [DONE]\n\n")
    frames = [frame(number) for number in range(4)]
    assert await asyncio.gather(*followers) == [b"".join(frames[start:]) for start in (0, 1, 3, 4)]
    assert await follow(1) == frame(2) + frame(3)


async def test_what_nobody_waits_for_leaves_no_trace() -> None:
    """A call that ends between a write and the waiting for it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        async with held(request, is_stream=True) as reply:
            reply.write_now(b"forgotten")
            await reply.write(b"begun, ")
            request.protocol.pause_writing()
            reply.write_now(b"done")
            request.protocol.resume_writing()
            await reply.finish()
        return done(reply)

    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        async with served(handle) as client:
            assert (await (await client.get("/")).read()).endswith(b"begun, done")
        SocketReply(web.WebSocketResponse()).write_now(b"forgotten")
        gc.collect()
    assert [each for each in complaints if "never awaited" in str(each.message)] == []
