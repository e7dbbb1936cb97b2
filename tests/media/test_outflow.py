"""Bodies written straight into a caller's transport: in which framing, how much of them waits, and who is cut off.

Both event loops, because they keep what cannot be sent yet in ways of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from bitmesh_proxy.media.outflow import Outflow
from tests.media.callers import SlowCaller, ask, slow_caller

try:
    import uvloop
except ImportError:  # where it does not install, asyncio's own is what runs
    LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Sending = Callable[[Outflow, web.Request], Awaitable[None]]
MIB = 1024 * 1024
TLS = Path(__file__).parent / "tls"


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Runs a coroutine on one loop after the other."""

    def on_loop(coroutine: Awaitable[None]) -> None:
        async def main() -> None:
            await coroutine

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main())

    return on_loop


@asynccontextmanager
async def sending(
    send: Sending,
    *,
    length: int | None,
    stall_timeout_s: float = 5.0,
    sent_bytes: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A server whose answers ``send`` writes. ``sent_bytes`` bounds what the kernel keeps of them."""

    async def answer(base: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(base, web.BaseRequest)
        request: web.Request = base  # type: ignore[assignment]  # the one kind that a server below the application has
        if sent_bytes is not None and request.transport is not None:
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sent_bytes)
        response = web.StreamResponse()
        response.content_length = length
        out = Outflow(request, response, stall_timeout_s=stall_timeout_s)
        await out.prepare()
        await send(out, request)
        await out.finish()
        return response

    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def put(out: Outflow, piece: bytes | memoryview) -> None:
    pending = out.write_now(piece)
    if pending is not None:
        await pending


PIECES = [b"first", b"s" * 300_000, b"x", b"third" * 1000]


async def send_pieces(out: Outflow, _request: web.Request) -> None:
    with out.flowing():
        for piece in PIECES:
            await put(out, piece)


@pytest.mark.parametrize("length", [len(b"".join(PIECES)), None])
def test_the_body_comes_as_it_was_written(run: Callable[[Awaitable[None]], None], length: int | None) -> None:
    async def journey() -> None:
        async with sending(send_pieces, length=length) as link:
            for _ in range(2):
                answer = await ask(link)
                assert answer.body == b"".join(PIECES)
                assert ("Content-Length" in answer.headers) == (length is not None)
                assert ("chunked" in answer.headers.get("Transfer-Encoding", "")) == (length is None)

    run(journey())


def test_a_caller_of_the_old_version_gets_no_chunks(run: Callable[[Awaitable[None]], None]) -> None:
    async def journey() -> None:
        async with sending(send_pieces, length=None) as link, slow_caller(link, version="1.0") as caller:
            assert b"chunked" not in await caller.read_head()
            assert await everything(caller) == b"".join(PIECES)

    run(journey())


def test_an_empty_body_is_an_end(run: Callable[[Awaitable[None]], None]) -> None:
    async def send(out: Outflow, _request: web.Request) -> None:
        with out.flowing():
            pass

    async def journey() -> None:
        for length in (0, None):
            async with sending(send, length=length) as link:
                assert (await ask(link)).body == b""

    run(journey())


def test_pieces_may_lie_in_one_buffer_that_is_used_again(run: Callable[[Awaitable[None]], None]) -> None:
    """With callers so slow that hardly a piece goes out at once: what is written next must not change what waits."""
    count, size = 60, 40_000

    async def send(out: Outflow, _request: web.Request) -> None:
        buffer = bytearray(size)
        with out.flowing():
            for number in range(count):
                buffer[:] = bytes([number]) * size
                await put(out, memoryview(buffer))
        buffer[:] = b"\xff" * size

    async def journey() -> None:
        expected = b"".join(bytes([number]) * size for number in range(count))
        for length in (count * size, None):
            async with (
                sending(send, length=length, sent_bytes=8192) as link,
                slow_caller(link, version="1.0") as caller,
            ):
                await caller.read_head()
                assert await everything(caller) == expected

    run(journey())


def test_the_same_over_tls(run: Callable[[Awaitable[None]], None]) -> None:
    count, size = 60, 40_000

    async def send(out: Outflow, _request: web.Request) -> None:
        buffer = bytearray(size)
        with out.flowing():
            for number in range(count):
                buffer[:] = bytes([number]) * size
                await put(out, memoryview(buffer))
        buffer[:] = b"\xff" * size

    async def journey() -> None:
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_side.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
        client_side = ssl.create_default_context(cafile=str(TLS / "certificate.pem"))
        async with sending(send, length=count * size, sent_bytes=8192, tls=server_side) as link:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", URL(link).port, ssl=client_side, server_hostname="media.test", limit=4096
            )
            writer.write(b"GET / HTTP/1.1\r\nHost: media.test\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(count * size) == b"".join(bytes([number]) * size for number in range(count))
            writer.transport.abort()

    run(journey())


def test_no_more_than_one_piece_waits_for_a_slow_caller(run: Callable[[Awaitable[None]], None]) -> None:
    """Counted in the transport itself, after each piece that was written."""
    size, waiting = 100_000, list[int]()
    may_end = asyncio.Event()

    async def send(out: Outflow, request: web.Request) -> None:
        transport = request.transport
        assert transport is not None
        with out.flowing():
            await put(out, b"first")
            for _ in range(20):
                pending = out.write_now(bytes(size))
                waiting.append(transport.get_write_buffer_size())
                if pending is not None:
                    await pending
                    assert transport.get_write_buffer_size() == 0
        may_end.set()

    async def journey() -> None:
        async with sending(send, length=5 + 20 * size, sent_bytes=8192) as link, slow_caller(link) as caller:
            await caller.read_head()
            assert len(await everything(caller)) == 5 + 20 * size
            await may_end.wait()

    run(journey())
    assert 0 < max(waiting) <= size


def test_afterwards_the_transport_is_as_it_was(run: Callable[[Awaitable[None]], None]) -> None:
    """Its connection serves other answers too."""
    seen: list[tuple[int, int]] = []

    async def send(out: Outflow, request: web.Request) -> None:
        transport = request.transport
        assert transport is not None
        transport.set_write_buffer_limits(high=5000, low=100)
        with out.flowing():
            seen.append(transport.get_write_buffer_limits())
        seen.append(transport.get_write_buffer_limits())

    async def journey() -> None:
        async with sending(send, length=0) as link:
            await ask(link)

    run(journey())
    assert seen == [(0, 0), (100, 5000)]


# ------------------------------------------------------------ callers who stall, and who leave


def test_a_caller_that_takes_nothing_is_given_up(run: Callable[[Awaitable[None]], None]) -> None:
    outcome: list[BaseException] = []

    async def send(out: Outflow, _request: web.Request) -> None:
        try:
            with out.flowing():
                for _ in range(100):
                    await put(out, bytes(MIB))
        except TimeoutError as exc:
            outcome.append(exc)
            raise ConnectionResetError from exc

    async def journey() -> None:
        async with sending(send, length=100 * MIB, stall_timeout_s=0.1) as link, slow_caller(link):
            while not outcome:  # noqa: ASYNC110  # set by the server's own task
                await asyncio.sleep(0.01)

    run(journey())


def test_a_caller_that_takes_a_little_is_waited_for(run: Callable[[Awaitable[None]], None]) -> None:
    """One piece takes many times the bound, and yet it is no stall as long as there is something taken within it."""
    total = 2 * MIB

    async def send(out: Outflow, _request: web.Request) -> None:
        with out.flowing():
            await put(out, bytes(total))

    async def journey() -> None:
        async with sending(send, length=total, stall_timeout_s=0.15, sent_bytes=8192) as link:
            async with slow_caller(link) as caller:
                await caller.read_head()
                taken = 0
                while taken < total:
                    taken += len(await caller.read(64 * 1024))
                    await asyncio.sleep(0.01)
                assert taken == total

    run(journey())


def test_who_has_left_is_written_to_no_more(run: Callable[[Awaitable[None]], None]) -> None:
    outcome: list[BaseException] = []

    async def send(out: Outflow, _request: web.Request) -> None:
        try:
            with out.flowing():
                for _ in range(10_000):
                    await put(out, bytes(64 * 1024))
        except ConnectionError as exc:
            outcome.append(exc)
            raise

    async def journey() -> None:
        async with sending(send, length=10_000 * 64 * 1024) as link:
            async with slow_caller(link) as caller:
                await caller.read_head()
            while not outcome:  # noqa: ASYNC110  # set by the server's own task
                await asyncio.sleep(0.01)

    run(journey())


async def everything(caller: SlowCaller) -> bytes:
    """All up to the end, and of a body with a length the connection's."""
    taken = bytearray()
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.5):
                piece = await caller.read(16 * 1024)
            if not piece:
                break
            taken += piece
    return bytes(taken)
