"""Bodies of answers, asked for piece by piece or poured: every framing, every break, and who is waited for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from bitmesh_proxy.media.fetch_answer import Answer
from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchError, FetchTimedOut, FetchTooLarge
from bitmesh_proxy.media.guarded_fetch import FetchLimits, GuardedFetcher
from tests.media.outside import Names, Outside, raw_serving, serving

TLS = Path(__file__).parent / "tls"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
BODY = bytes(range(256)) * 40
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answer_of(outside: Outside, limits: FetchLimits | None = None) -> AsyncIterator[Answer]:
    fetcher = GuardedFetcher(limits or FetchLimits(), trusted_origins=[outside.origin])
    async with fetcher, fetcher.open(outside.url("/a")) as answer:
        yield answer


def saying(*pieces: bytes, then_wait: bool = False) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if then_wait:
            await asyncio.Event().wait()

    return script


async def poured(answer: Answer) -> bytes:
    taken = bytearray()
    await answer.pour(taken.extend)
    return bytes(taken)


async def read(answer: Answer) -> bytes:
    return b"".join([piece async for piece in answer.chunks()])


async def read_then_poured(answer: Answer) -> bytes:
    """As a result is taken: its type is found by the first bytes."""
    start = await answer.read()
    return start + await poured(answer)


WAYS = [read, poured, read_then_poured]


@pytest.mark.parametrize("take", WAYS)
@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,),
        (HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY), BODY[:1], BODY[1:5000], BODY[5000:]),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + BODY[:5] + b"\r\n27fb\r\n" + BODY[5:] + b"\r\n0\r\n\r\n",),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\n" + BODY[:5] + b"\r",
            b"\n27f",
            b"b\r\n" + BODY[5:],
            b"\r\n0\r\nX-Trailer: 1\r\n\r\n",
        ),
        (HEAD + b"Connection: close\r\n\r\n" + BODY[:100], BODY[100:]),
        (b"HTTP/1.0 200 OK\r\nContent-Type: image/png\r\n\r\n", BODY),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,),
    ],
)
async def test_every_framing(take: Callable[[Answer], Awaitable[bytes]], pieces: tuple[bytes, ...]) -> None:
    async with raw_serving(saying(*pieces)) as outside, answer_of(outside) as answer:
        assert await take(answer) == BODY
        assert await answer.read() == b""  # the end stays the end
        assert await poured(answer) == b""


@pytest.mark.parametrize("take", WAYS)
@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD + b"Content-Length: 9000\r\n\r\n" + BODY[:5000],),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2000\r\n" + BODY[:8192] + b"\r\n",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2000\r\n" + BODY[:8192] + b"\r\n", b"what is this\r\n"),
    ],
)
async def test_half_a_body_is_no_end(take: Callable[[Answer], Awaitable[bytes]], pieces: tuple[bytes, ...]) -> None:
    async with raw_serving(saying(*pieces)) as outside, answer_of(outside) as answer:
        with pytest.raises(FetchBroken):
            await take(answer)


async def test_it_is_poured_over_tls_as_it_is_without() -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    client_side = ssl.create_default_context(cafile=str(TLS / "certificate.pem"))
    large = bytes(range(256)) * 8192

    async def answering(request: web.Request) -> web.StreamResponse:
        return web.Response(body=large, content_type="image/png")

    async with serving({"/": answering}, tls=server_side) as outside:
        names = Names({"media.test": [["127.0.0.1"]]})
        trusted = [outside.named("media.test")]
        async with GuardedFetcher(
            FetchLimits(), trusted_origins=trusted, resolver=names, ssl_context=client_side
        ) as fetcher:
            for _ in range(2):
                async with fetcher.open(outside.url(host="media.test")) as answer:
                    assert await poured(answer) == large
        assert names.asked == ["media.test"]  # the connection was kept: its end had been reached


# ------------------------------------------------------------ who is waited for


async def test_a_slow_taker_stops_the_sender_and_little_lies_in_between() -> None:
    """What has been read and not been taken is counted: one piece, however much there is to come."""
    total, sent = 64 * 1024 * 1024, 0

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(bytes(64 * 1024))
            sent += 64 * 1024
            await writer.drain()

    may_go_on = asyncio.Semaphore(0)
    given: list[int] = []
    done = 0

    async def slowly(size: int) -> None:
        nonlocal done
        await may_go_on.acquire()
        done += size

    def take(piece: bytes) -> Awaitable[None]:
        given.append(len(piece))
        return slowly(len(piece))

    limits = FetchLimits(max_bytes=total)
    async with raw_serving(script) as outside, answer_of(outside, limits) as answer:
        pouring = asyncio.create_task(answer.pour(take))
        most = 0
        for _ in range(40):
            before = -1
            while sent != before:  # until the sender has come to a stop
                before = sent
                await asyncio.sleep(0.005)
            most = max(most, sum(given) - done)
            may_go_on.release()
        assert len(given) >= 40
        assert 0 < most <= 512 * 1024
        assert sent < total
        pouring.cancel()
        await asyncio.gather(pouring, return_exceptions=True)


async def test_the_time_of_whoever_takes_is_not_counted() -> None:
    limits = FetchLimits(idle_timeout_s=0.3, total_timeout_s=0.3)
    pieces = (HEAD + b"Content-Length: 4\r\n\r\nab", b"cd")
    async with raw_serving(saying(*pieces)) as outside, answer_of(outside, limits) as answer:
        taken = bytearray()

        async def slowly(piece: bytes) -> None:
            await asyncio.sleep(0.5)
            taken.extend(piece)

        await answer.pour(slowly)
        assert taken == b"abcd"


async def test_a_drip_ends_with_the_total_time_also_when_it_is_poured() -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    limits = FetchLimits(idle_timeout_s=5, total_timeout_s=0.3)
    async with raw_serving(script) as outside, answer_of(outside, limits) as answer:
        with pytest.raises(FetchTimedOut):
            await poured(answer)


@pytest.mark.parametrize("take", WAYS)
async def test_silence_ends_it(take: Callable[[Answer], Awaitable[bytes]]) -> None:
    limits = FetchLimits(idle_timeout_s=0.2)
    script = saying(HEAD + b"Content-Length: 100\r\n\r\nhalf", then_wait=True)
    async with raw_serving(script) as outside, answer_of(outside, limits) as answer:
        with pytest.raises(FetchTimedOut):
            await take(answer)


# ------------------------------------------------------------ bounds and ends


@pytest.mark.parametrize("take", WAYS)
async def test_bytes_are_counted_in_every_way(take: Callable[[Answer], Awaitable[bytes]]) -> None:
    limits = FetchLimits(max_bytes=len(BODY) - 1)
    script = saying(HEAD + b"Connection: close\r\n\r\n" + BODY[:5000], BODY[5000:])
    async with raw_serving(script) as outside, answer_of(outside, limits) as answer:
        with pytest.raises(FetchTooLarge):
            await take(answer)


async def test_what_the_taker_raises_is_the_takers() -> None:
    def take(piece: bytes) -> None:
        raise ConnectionResetError("the caller has left")

    ended = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: 100\r\n\r\nhalf")
        await writer.drain()
        try:
            await reader.read()
        finally:
            ended.set()

    async with raw_serving(script) as outside:
        async with answer_of(outside) as answer:
            with pytest.raises(ConnectionResetError):
                await answer.pour(take)
        await ended.wait()  # and the other side learns that nobody listens


async def test_closing_it_ends_a_wait_for_more() -> None:
    script = saying(HEAD + b"Content-Length: 100\r\n\r\nhalf", then_wait=True)
    async with raw_serving(script) as outside, answer_of(outside) as answer:
        pouring = asyncio.create_task(poured(answer))
        await asyncio.sleep(0.01)
        answer.close()
        with pytest.raises(FetchBroken):
            await pouring


async def test_an_answer_that_is_over_has_no_connection_any_more() -> None:
    """Its connection may be another fetch's by then."""
    script = saying(HEAD + b"Content-Length: 4\r\n\r\nbody")
    async with raw_serving(script) as outside:
        async with answer_of(outside) as answer:
            assert await poured(answer) == b"body"
            answer.close()  # at its end there is nothing to break off
        answer.close()
        errors: list[type[FetchError]] = []
        for asked in (answer.read(), answer.pour(lambda piece: None)):
            try:
                await asked
            except FetchError as exc:
                errors.append(type(exc))
        assert errors == [FetchBroken, FetchBroken]
