from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable

import pytest

from bitmesh_proxy.errors import UpstreamBroken, UpstreamUnreachable
from bitmesh_proxy.upstream.connections import Connections
from bitmesh_proxy.upstream.opening import Origin
from bitmesh_proxy.upstream.tls import MAX_RESUMED_S, TlsSessions, make_tls_context
from tests.hand_clock import HandClock
from tests.upstream.scripted_provider import Exchange, answering, provider
from tests.upstream.tls_provider import PEM, serving
from tests.web.lane.callers import LOOPS

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
#: What ends when the connection does.
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"


def trusting(clock: Callable[[], float] = time.monotonic) -> Connections:
    """Connections that trust the certificate."""
    connections = Connections(connect_timeout_s=5.0, keepalive_s=30.0, max_per_origin=10)
    context = make_tls_context()
    context.load_verify_locations(PEM)
    assert connections.named is not None
    connections.named.tls = TlsSessions(context, clock=clock)
    return connections


async def asked(
    connections: Connections, port: int, *, host: str = "localhost", is_tls: bool = True
) -> tuple[bool, bytes]:
    """Whether a new connection took a session up again, and what was answered on it."""
    now_s = asyncio.get_running_loop().time()
    connection = await connections.take(Origin(host, port, is_tls), is_fresh=True, until_s=now_s + 5)
    transport = connection._transport
    assert transport is not None
    tls = transport.get_extra_info("ssl_object")
    until_s = now_s + 5
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection.send(head, b"", is_head_only=False, first_byte_s=until_s, idle_s=5, deadline_s=until_s)
    try:
        await connection.head()
        body = b""
        while piece := await connection.read():
            body += piece
        return tls is not None and tls.session_reused, body
    finally:
        connection.finish()


def on_both_loops(journey: Callable[[], Awaitable[None]]) -> None:
    """Production has uvloop where it installs, and they have each a TLS of their own."""

    async def whole() -> None:
        await asyncio.wait_for(journey(), 20)

    for new_loop in LOOPS.values():
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(whole())


# ------------------------------------------------------------ sessions


@pytest.mark.parametrize("version", VERSIONS)
def test_a_new_connection_takes_up_the_session_of_an_earlier_one(version: ssl.TLSVersion) -> None:
    async def journey() -> None:
        connections = trusting()
        async with provider(answering(LAST), tls=serving(version)) as running:
            assert [await asked(connections, running.port) for _ in range(3)] == [
                (False, b"hello"),
                (True, b"hello"),
                (True, b"hello"),
            ]
        await connections.close()

    on_both_loops(journey)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_provider_that_does_not_know_the_session_any_more_is_none_the_worse(version: ssl.TLSVersion) -> None:
    """It has been started anew, with another key for its tickets."""

    async def journey() -> None:
        connections = trusting()
        for _ in range(2):
            async with provider(answering(LAST), tls=serving(version)) as running:
                assert [(await asked(connections, running.port))[0] for _ in range(2)] == [False, True]
        await connections.close()

    on_both_loops(journey)


def test_nobody_is_believed_for_ever() -> None:
    async def journey() -> None:
        clock = HandClock()
        connections = trusting(clock)
        async with provider(answering(LAST), tls=serving()) as running:
            seen = []
            for wait_s in (0, MAX_RESUMED_S / 2, MAX_RESUMED_S / 2, 1, 1):
                clock.now_s += wait_s
                seen.append((await asked(connections, running.port))[0])
        assert seen == [False, True, True, False, True]
        await connections.close()

    on_both_loops(journey)


def test_a_session_is_of_one_host_only() -> None:
    async def journey() -> None:
        connections = trusting()
        async with provider(answering(LAST), tls=serving()) as running:
            hosts = ("localhost", "127.0.0.1", "localhost", "127.0.0.1")
            seen = [(await asked(connections, running.port, host=host))[0] for host in hosts]
        assert seen == [False, False, True, True]
        await connections.close()

    on_both_loops(journey)


def test_after_a_failed_handshake_the_next_is_a_full_one() -> None:
    async def no_tls(exchange: Exchange) -> None:
        await exchange.say(b"220 mail.example.test\r\n")

    async def journey() -> None:
        connections = trusting()
        async with provider(answering(LAST), tls=serving()) as running, provider(no_tls) as other:
            assert [(await asked(connections, running.port))[0] for _ in range(2)] == [False, True]
            with pytest.raises(UpstreamUnreachable):
                await asked(connections, other.port)
            assert [(await asked(connections, running.port))[0] for _ in range(2)] == [False, True]
        await connections.close()

    on_both_loops(journey)


def test_connections_made_at_once_agree_on_a_session() -> None:
    async def journey() -> None:
        connections = trusting()
        async with provider(answering(LAST), tls=serving()) as running:
            first = await asyncio.gather(*(asked(connections, running.port) for _ in range(4)))
            then = await asyncio.gather(*(asked(connections, running.port) for _ in range(4)))
        assert not all(reused for reused, _ in first)
        assert all(reused for reused, _ in then)
        await connections.close()

    on_both_loops(journey)


def test_nothing_is_noted_of_a_connection_without_tls_or_of_another_context() -> None:
    async def journey() -> None:
        ours, others = trusting(), trusting()
        assert ours.named is not None
        async with provider(answering(LAST)) as plain, provider(answering(LAST), tls=serving()) as running:
            now_s = asyncio.get_running_loop().time()
            for origin in (Origin("127.0.0.1", plain.port, False), Origin("localhost", running.port, True)):
                connection = await others.take(origin, is_fresh=True, until_s=now_s + 5)
                assert connection._transport is not None
                ours.named.note_answer(connection._transport)
                connection.close()
            assert not (await asked(ours, running.port))[0]
        await ours.close()
        await others.close()

    on_both_loops(journey)


# ------------------------------------------------------------ the end


@pytest.mark.parametrize("version", VERSIONS)
def test_an_answer_that_ends_with_the_connection_is_whole_only_if_the_end_was_said(version: ssl.TLSVersion) -> None:
    async def polite(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(UNTIL_CLOSED + b"half of", b" it")

    async def cut_off(exchange: Exchange) -> None:
        await polite(exchange)
        exchange.reset()

    async def journey() -> None:
        connections = trusting()
        async with provider(polite, tls=serving(version)) as running:
            assert (await asked(connections, running.port))[1] == b"half of it"
        async with provider(cut_off, tls=serving(version)) as running:
            with pytest.raises(UpstreamBroken):
                await asked(connections, running.port)
        await connections.close()

    on_both_loops(journey)


def test_a_sized_answer_needs_no_goodbye() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(LAST)
        exchange.reset()

    async def journey() -> None:
        connections = trusting()
        async with provider(script, tls=serving()) as running:
            assert (await asked(connections, running.port))[1] == b"hello"
        await connections.close()

    on_both_loops(journey)


def test_without_tls_an_end_is_an_end() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(UNTIL_CLOSED + b"all of it")

    async def journey() -> None:
        connections = trusting()
        async with provider(script) as running:
            assert (await asked(connections, running.port, is_tls=False))[1] == b"all of it"
        await connections.close()

    on_both_loops(journey)
