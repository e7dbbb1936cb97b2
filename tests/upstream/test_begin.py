"""Calls that wait for nothing, over real sockets: begun at once where that can be, and told by plain calls."""

from __future__ import annotations

import asyncio

import pytest

from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.errors import UpstreamBroken, UpstreamUnreachable
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.client import Upstream
from bitmesh_proxy.upstream.connection import WRITE_BYTES
from bitmesh_proxy.upstream.opening import Origin
from tests.closed_port import closed_port
from tests.upstream.calls import Call
from tests.upstream.scripted_provider import Exchange, Provider, answering, post, provider, settings

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


def origin(running: Provider) -> Origin:
    return Origin("127.0.0.1", running.port, False)


def begun(upstream: Upstream, access: ProviderAccess, at: Origin) -> Call | None:
    call = Call()
    call.connection = upstream.begin(access, at, head=HEAD, body=b"{}", listener=call)
    return call if call.connection is not None else None


async def begun_when_free(upstream: Upstream, access: ProviderAccess, at: Origin) -> Call:
    call = Call()
    call.connection = await upstream.begin_when_free(access, at, head=HEAD, body=b"{}", listener=call)
    return call


async def ended(call: Call | None) -> Call:
    assert call is not None
    await asyncio.wait_for(call.ended.wait(), 5)
    return call


async def test_without_a_connection_nothing_is_begun_and_with_one_at_once() -> None:
    async with provider(answering(OK)) as running, Upstream(settings()) as upstream:
        access, at = running.access(), origin(running)
        assert begun(upstream, access, at) is None
        first = await ended(await begun_when_free(upstream, access, at))
        assert (first.code, first.body, first.error) == (200, b"ok", None)
        for _ in range(3):
            assert (await ended(begun(upstream, access, at))).body == b"ok"
        assert len(running.connections) == 1
        assert running.connections[0].heads == [HEAD] * 4


async def test_both_ways_share_connections_and_places() -> None:
    async with provider(answering(OK)) as running, Upstream(settings()) as upstream:
        access, at = running.access(max_concurrent=1), origin(running)
        async with upstream.open(access, post()) as answer:
            assert begun(upstream, access, at) is None  # the one place is taken
            waiting = asyncio.create_task(begun_when_free(upstream, access, at))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            assert await answer.read(10) == b"ok"
        await ended(await waiting)
        assert (await ended(begun(upstream, access, at))).body == b"ok"
        async with upstream.open(access, post()) as answer:
            assert await answer.read(10) == b"ok"


async def test_a_place_is_free_again_when_the_call_is_over() -> None:
    async with provider(answering(OK)) as running, Upstream(settings()) as upstream:
        access, at = running.access(max_concurrent=1), origin(running)
        await ended(await begun_when_free(upstream, access, at))
        call = begun(upstream, access, at)
        assert begun(upstream, access, at) is None
        await ended(call)
        left = begun(upstream, access, at)
        assert left is not None
        assert left.connection is not None
        left.connection.finish()  # before the answer
        await ended(await asyncio.wait_for(begun_when_free(upstream, access, at), 5))


async def test_nobody_there() -> None:
    with closed_port() as port:
        gone = Provider(port)
        access, at = gone.access(max_concurrent=1), origin(gone)
        async with Upstream(settings()) as upstream:
            for _ in range(2):  # the place was given back
                with pytest.raises(UpstreamUnreachable):
                    await begun_when_free(upstream, access, at)


async def test_a_dead_connection_is_found_before_use() -> None:
    async def once(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(OK)

    async with provider(once) as running, Upstream(settings()) as upstream:
        access, at = running.access(), origin(running)
        await ended(await begun_when_free(upstream, access, at))
        await running.is_left.wait()
        assert begun(upstream, access, at) is None


async def test_a_request_that_may_have_arrived_is_not_sent_again() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(OK)
        await exchange.request()  # taken, and never answered

    async with provider(script) as running, Upstream(settings()) as upstream:
        access, at = running.access(), origin(running)
        await ended(await begun_when_free(upstream, access, at))
        call = await ended(begun(upstream, access, at))
        assert isinstance(call.error, UpstreamBroken)
        assert len(running.connections) == 1


async def test_a_large_body_goes_out_whole_while_the_listener_waits() -> None:
    seen: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        while True:
            _, body = await exchange.request()
            seen.append(body)
            await exchange.say(OK)

    body = bytes(range(256)) * (WRITE_BYTES // 256 * 8)
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with provider(script) as running, Upstream(settings()) as upstream:
        access, at = running.access(), origin(running)
        await ended(await begun_when_free(upstream, access, at))
        call = Call()
        call.connection = upstream.begin(access, at, head=head, body=body, listener=call)
        assert (await ended(call)).body == b"ok"
    assert seen[1] == body


async def test_whoever_is_cancelled_while_waiting_gives_the_place_back() -> None:
    async with provider(answering(OK)) as running, Upstream(settings()) as upstream:
        access, at = running.access(max_concurrent=1), origin(running)
        waiting = asyncio.create_task(begun_when_free(upstream, access, at))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await ended(await asyncio.wait_for(begun_when_free(upstream, access, at), 5))


async def test_closing_tells_those_who_listen() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.reader.read()

    async with provider(script) as running:
        async with Upstream(settings()) as upstream:
            call = await begun_when_free(upstream, running.access(), origin(running))
        assert isinstance((await ended(call)).error, UpstreamBroken)


async def test_a_head_request_has_no_body() -> None:
    async with provider(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as running:
        async with Upstream(settings()) as upstream:
            call = Call()
            call.connection = await upstream.begin_when_free(
                running.access(), origin(running), head=HEAD, body=b"{}", listener=call, is_head_only=True
            )
            assert (await ended(call)).body == b""
            async with upstream.open(running.access(), UpstreamRequest(method="HEAD", path="/x")) as answer:
                assert answer.content_length == 5
        assert len(running.connections) == 1
