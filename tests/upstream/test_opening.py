from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest

from bitmesh_proxy.errors import UpstreamUnreachable
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.names import Names
from bitmesh_proxy.upstream.opening import NamedConnect, Origin
from bitmesh_proxy.upstream.watch import Watch
from tests.upstream.answers import SIZED
from tests.upstream.scripted_provider import Exchange, answering, provider
from tests.upstream.test_connection import Alone

#: Nobody listens there: providers of tests have 127.0.0.1 only.
NOBODY, SOMEBODY = "127.0.0.2", "127.0.0.1"


class Book:
    """A resolver that says one thing after the other, the last one again and again."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return list(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


@asynccontextmanager
async def opening(book: Book, *, timeout_s: float = 5.0) -> AsyncIterator[NamedConnect]:
    watch = Watch(asyncio.get_running_loop())
    connect = NamedConnect(timeout_s=timeout_s, watch=watch, names=Names(book))
    try:
        yield connect
    finally:
        connect.close()
        watch.close()


@contextmanager
def silence(address: str, port: int) -> Iterator[None]:
    """A port that answers no more: its queue is full."""
    with socket.socket() as listening, ExitStack() as stack:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(0)
        for _ in range(3):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex((address, port))
        yield


async def opened(connect: NamedConnect, port: int, *, is_tls: bool = False) -> str:
    """The address that it led to."""
    loop = asyncio.get_running_loop()
    connection = await connect(Origin("a.test", port, is_tls), lambda: ProviderConnection(loop, Alone()))
    assert connection._transport is not None
    address: str = connection._transport.get_extra_info("peername")[0]
    connection.close()
    return address


async def test_where_nobody_listens_the_next_address_is_tried() -> None:
    book = Book([NOBODY, SOMEBODY])
    async with provider(answering(SIZED)) as running, opening(book) as connect:
        assert [await opened(connect, running.port) for _ in range(3)] == [SOMEBODY] * 3
        assert connect._names.proven("a.test", running.port) == SOMEBODY
    assert book.asked == 1


async def test_an_address_that_keeps_silent_does_not_hold_up_the_next() -> None:
    """As IPv6 does where it is set up, and leads nowhere."""
    async with provider(answering(SIZED)) as running, opening(Book([NOBODY, SOMEBODY])) as connect:
        with silence(NOBODY, running.port):
            assert [await opened(connect, running.port) for _ in range(3)] == [SOMEBODY] * 3


async def test_where_somebody_was_and_is_no_more_the_others_are_tried() -> None:
    async with opening(Book([NOBODY, SOMEBODY])) as connect:
        async with provider(answering(SIZED)) as running:
            assert await opened(connect, running.port) == SOMEBODY
        server = await asyncio.start_server(lambda _, writer: writer.close(), NOBODY, running.port)
        assert await opened(connect, running.port) == NOBODY
        server.close()
        await server.wait_closed()
        with pytest.raises(UpstreamUnreachable):
            await opened(connect, running.port)


async def test_a_provider_that_has_moved_is_found_at_the_second_try() -> None:
    book = Book([NOBODY], [SOMEBODY])
    async with provider(answering(SIZED)) as running, opening(book) as connect:
        with pytest.raises(UpstreamUnreachable):
            await opened(connect, running.port)
        assert await opened(connect, running.port) == SOMEBODY


async def test_who_answers_without_tls_is_not_passed_over() -> None:
    """The other address is for when nobody is there."""
    calls = 0

    async def script(exchange: Exchange) -> None:
        nonlocal calls
        calls += 1
        await exchange.say(b"220 mail.example.test\r\n")

    async with provider(script) as running, opening(Book([SOMEBODY, SOMEBODY])) as connect:
        with pytest.raises(UpstreamUnreachable):
            await opened(connect, running.port, is_tls=True)
    assert calls == 1


async def test_a_name_server_that_says_nothing_is_not_waited_for_long() -> None:
    asked = asyncio.Event()

    async def silent(host: str, port: int) -> list[str]:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    watch = Watch(asyncio.get_running_loop())
    connect = NamedConnect(timeout_s=0.05, watch=watch, names=Names(silent))
    with pytest.raises(UpstreamUnreachable, match="timed out"):
        await opened(connect, 9)
    assert asked.is_set()
    connect.close()
    watch.close()
