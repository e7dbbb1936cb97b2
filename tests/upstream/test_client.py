"""Calls to providers over real sockets; and against aiohttp's own client, answer by answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import aiohttp
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bitmesh_proxy.dialects.base import FormPart, UpstreamRequest
from bitmesh_proxy.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from bitmesh_proxy.upstream.client import Upstream
from bitmesh_proxy.upstream.opening import Origin
from tests.closed_port import closed_port
from tests.upstream.answers import answers
from tests.upstream.calls import Call
from tests.upstream.scripted_provider import Exchange, Provider, answering, get, post, provider, settings
from tests.upstream.tls_provider import PEM, serving

OK = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=utf-8\r\nContent-Length: 2\r\n\r\nok"


async def test_a_call_and_its_answer() -> None:
    async with provider(answering(OK)) as running, Upstream(settings()) as upstream:
        sent: list[int] = []
        async with upstream.open(running.access(), post(b'{"a":1}'), on_sent=lambda: sent.append(1)) as answer:
            assert (answer.status, answer.media_type, answer.content_length) == (200, "text/plain", 2)
            assert await answer.read(100) == b"ok"
        assert sent == [1]
        head = running.connections[0].heads[0]
        assert head.startswith(b"POST /x HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nAuthorization: Bearer secret\r\n" in head
        assert b"\r\nContent-Length: 7\r\n" in head


async def test_the_connection_is_used_again() -> None:
    async with provider(answering(OK)) as running, Upstream(settings()) as upstream:
        for _ in range(3):
            async with upstream.open(running.access(), post()) as answer:
                assert await answer.read(100) == b"ok"
        assert len(running.connections) == 1


async def test_pieces_come_as_they_are_read() -> None:
    async def script(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await exchange.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await exchange.say(b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n", b"0\r\n\r\n", pause_s=0.02)

    async with provider(script) as running, Upstream(settings()) as upstream:
        async with upstream.open(running.access(), post()) as answer:
            assert [chunk async for chunk in answer.chunks()] == [b"a", b"b", b"c"]
        async with upstream.open(running.access(), post()) as answer:
            poured: list[bytes] = []
            await answer.pour(poured.append)
            assert poured == [b"a", b"b", b"c"]


async def test_a_body_beyond_the_bound_is_refused() -> None:
    async with provider(answering(OK)) as running, Upstream(settings()) as upstream:
        async with upstream.open(running.access(), post()) as answer:
            with pytest.raises(UpstreamBroken, match="larger"):
                await answer.read(1)


async def test_a_form() -> None:
    seen: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        seen.extend(await exchange.request())
        await exchange.say(OK)

    async with provider(script) as running, Upstream(settings()) as upstream:
        request = UpstreamRequest(path="/x", form=(FormPart(name="a", value=b"1"),))
        async with upstream.open(running.access(), request) as answer:
            assert answer.status == 200
    assert b"Content-Type: multipart/form-data; boundary=" in seen[0]
    assert b'name="a"' in seen[1]


async def test_whoever_leaves_ends_the_call_at_once() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        assert await exchange.reader.read() == b""

    async with provider(script) as running, Upstream(settings()) as upstream:
        async with upstream.open(running.access(), post()) as answer:
            assert await answer.piece() == b"first"
        await asyncio.wait_for(running.is_left.wait(), 1)


async def test_whoever_leaves_before_the_head_does_too() -> None:
    is_asked = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.request()
        is_asked.set()
        await exchange.reader.read()

    async def call() -> None:
        async with upstream.open(running.access(), post()):
            raise AssertionError("there is no answer")

    async with provider(script) as running, Upstream(settings()) as upstream:
        calling = asyncio.create_task(call())
        await is_asked.wait()
        calling.cancel()
        await asyncio.wait_for(running.is_left.wait(), 1)


async def test_no_answer_in_time() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reader.read()

    async with provider(script) as running, Upstream(settings(first_byte_timeout_s=0.05)) as upstream:
        with pytest.raises(UpstreamTimeout):
            async with upstream.open(running.access(), post()):
                pass


async def test_nobody_there() -> None:
    with closed_port() as port:
        async with Upstream(settings()) as upstream:
            sent: list[int] = []
            with pytest.raises(UpstreamUnreachable):
                async with upstream.open(Provider(port).access(), post(), on_sent=lambda: sent.append(1)):
                    pass
            assert not sent


async def test_a_post_that_may_have_arrived_is_not_sent_again() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(OK)
        await exchange.request()  # taken, and never answered

    async with provider(script) as running, Upstream(settings()) as upstream:
        async with upstream.open(running.access(), post()) as answer:
            await answer.read(10)
        with pytest.raises(UpstreamBroken):
            async with upstream.open(running.access(), post()):
                pass
        assert len(running.connections) == 1


async def test_a_get_on_a_used_connection_is_sent_again_once() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(OK)
        await exchange.request()

    async with provider(script) as running, Upstream(settings()) as upstream:
        for _ in range(2):
            async with upstream.open(running.access(), get()) as answer:
                assert await answer.read(10) == b"ok"
        assert len(running.connections) == 2


async def test_a_get_on_a_new_connection_is_not() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.request()

    async with provider(script) as running, Upstream(settings()) as upstream:
        with pytest.raises(UpstreamBroken):
            async with upstream.open(running.access(), get()):
                pass
        assert len(running.connections) == 1


async def test_calls_to_a_provider_are_bounded_by_its_setting() -> None:
    async with provider(answering(OK)) as running, Upstream(settings()) as upstream:
        access = running.access(max_concurrent=1)
        first = upstream.open(access, post())
        await first.__aenter__()
        second = asyncio.create_task(upstream.open(access, post()).__aenter__())
        await asyncio.sleep(0.02)
        assert not second.done()
        await first.__aexit__(None, None, None)
        assert (await asyncio.wait_for(second, 2)).status == 200


async def test_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    async with provider(answering(OK), tls=serving()) as running:
        access = running.access(scheme="https")
        async with Upstream(settings()) as upstream:
            with pytest.raises(UpstreamUnreachable):  # nobody vouches for it
                await upstream.open(access, post()).__aenter__()
        monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
        async with Upstream(settings()) as upstream:
            for _ in range(3):
                async with upstream.open(access, post()) as answer:
                    assert await answer.read(10) == b"ok"
        assert len(running.connections) == 1


# ------------------------------------------------------------ against aiohttp's own client


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client makes of an answer. ``error``: it broke off, or was refused."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    error: bool = False


async def seen_by_aiohttp(url: str) -> Seen:
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as session, session.post(url, data=b"{}") as answer:
            return Seen(answer.status, tuple(answer.headers.items()), await answer.read())
    except (aiohttp.ClientError, ValueError):
        return Seen(error=True)


async def seen_by_us(upstream: Upstream, access: object) -> Seen:
    try:
        async with upstream.open(access, post()) as answer:  # type: ignore[arg-type]
            body = await answer.read(10**6)
            return Seen(answer.status, tuple(answer.headers.items()), body)
    except UpstreamBroken:
        return Seen(error=True)


async def heard_by_us(upstream: Upstream, running: Provider) -> Seen:
    """The same, told to a listener."""
    call = Call()
    call.connection = await upstream.begin_when_free(
        running.access(),
        Origin("127.0.0.1", running.port, False),
        head=b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
        body=b"{}",
        listener=call,
    )
    await call.ended.wait()
    return Seen(call.code, call.headers, call.body) if call.error is None else Seen(error=True)


#: In three reads, the last of them the faulty body, aiohttp's own client (3.14.5) waits for more of it for ever.
WAITED_FOR: Final = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 Reason\r\nX-A: a, b\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"zz\r\n1\r\n~\r\n0\r\n\r\n"
)


@pytest.mark.timeout(120)  # hundreds of connections, on a machine that may have other things to do
@hypothesis_settings(max_examples=150, deadline=None)
@given(data=answers(), cuts=st.lists(st.integers(min_value=1, max_value=300), max_size=3))
@example(data=WAITED_FOR, cuts=[40, len(WAITED_FOR) - 15])
def test_we_see_what_aiohttp_sees(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]

    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(*pieces)

    async def compare() -> None:
        async with provider(script) as running, Upstream(settings()) as upstream:
            try:
                async with asyncio.timeout(0.1 if data == WAITED_FOR else 5):
                    theirs = await seen_by_aiohttp(f"http://127.0.0.1:{running.port}/x")
            except TimeoutError:  # it takes a broken body for one that is still to come
                theirs = Seen(error=True)
            assert await seen_by_us(upstream, running.access()) == theirs
            assert await heard_by_us(upstream, running) == theirs

    asyncio.run(compare())
