"""The pool over real sockets: who is used again, who is not, and who has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bitmesh_proxy.errors import UpstreamTimeout, UpstreamUnreachable
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.connections import Connections
from bitmesh_proxy.upstream.opening import Origin
from tests.closed_port import closed_port
from tests.upstream.scripted_provider import Exchange, answering, provider

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def pool(*, keepalive_s: float = 30.0, max_per_origin: int = 10) -> AsyncIterator[Connections]:
    """A pool that is closed afterwards."""
    connections = Connections(connect_timeout_s=2.0, keepalive_s=keepalive_s, max_per_origin=max_per_origin)
    try:
        yield connections
    finally:
        await connections.close()


def origin(port: int) -> Origin:
    return Origin("127.0.0.1", port, False)


async def taken(
    connections: Connections, port: int, *, is_fresh: bool = False, wait_s: float = 2.0
) -> ProviderConnection:
    until_s = asyncio.get_running_loop().time() + wait_s
    return await connections.take(origin(port), is_fresh=is_fresh, until_s=until_s)


async def ask(connection: ProviderConnection) -> bytes:
    connection.send(
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", is_head_only=False, first_byte_s=1e12, idle_s=5.0, deadline_s=1e12
    )
    await connection.head()
    return await connection.read()


async def exchange(connections: Connections, port: int) -> ProviderConnection:
    connection = await taken(connections, port)
    assert await ask(connection) == b"ok"
    connections.give_back(connection)
    return connection


async def test_a_connection_is_used_again_the_last_one_first() -> None:
    async with provider(answering(ANSWER)) as running, pool() as connections:
        first, second = await taken(connections, running.port), await taken(connections, running.port)
        for connection in (first, second):
            await ask(connection)
            connections.give_back(connection)
        assert connections.take_idle(origin(running.port)) is second
        assert connections.take_idle(origin(running.port)) is first
        assert connections.take_idle(origin(running.port)) is None
        assert len(running.connections) == 2


async def test_other_origins_have_other_connections() -> None:
    async with provider(answering(ANSWER)) as one, provider(answering(ANSWER)) as other, pool() as connections:
        await exchange(connections, one.port)
        assert connections.take_idle(origin(other.port)) is None


async def test_one_that_the_provider_has_closed_is_not_used() -> None:
    async def once(connection: Exchange) -> None:
        await connection.request()
        await connection.say(ANSWER)

    async with provider(once) as running, pool() as connections:
        first = await exchange(connections, running.port)
        await running.is_left.wait()
        assert await exchange(connections, running.port) is not first
        assert len(running.connections) == 2


async def test_an_end_that_the_loop_has_not_seen_yet_is_seen_before_use() -> None:
    closing: list[asyncio.StreamWriter] = []

    async def script(connection: Exchange) -> None:
        closing.append(connection.writer)
        await answering(ANSWER)(connection)

    async with provider(script) as running, pool() as connections:
        await exchange(connections, running.port)
        closing[0].transport.abort()
        await asyncio.sleep(0)  # the provider's loop is ours: its end goes out now, and is read in a later turn
        assert connections.take_idle(origin(running.port)) is None


async def test_one_that_has_waited_too_long_is_closed() -> None:
    async with provider(answering(ANSWER)) as running, pool(keepalive_s=0.02) as connections:
        await exchange(connections, running.port)
        await asyncio.wait_for(running.is_left.wait(), 2)
        assert connections.take_idle(origin(running.port)) is None


async def test_beyond_the_limit_one_waits_for_another_to_end() -> None:
    async with provider(answering(ANSWER)) as running, pool(max_per_origin=1) as connections:
        first = await taken(connections, running.port)
        waiting = asyncio.create_task(taken(connections, running.port))
        await ask(first)
        assert not waiting.done()
        connections.give_back(first)
        assert await waiting is first


@pytest.mark.parametrize("how", ["given back", "closed", "reset by the provider"])
async def test_a_place_is_free_again_however_its_connection_ended(how: str) -> None:
    async with provider(answering(ANSWER)) as running, pool(max_per_origin=1) as connections:
        for _ in range(3):
            connection = await taken(connections, running.port)
            await ask(connection)
            if how == "closed":
                connection.close()
            elif how == "reset by the provider":
                running.connections[-1].reset()
                await asyncio.sleep(0.01)
            connections.give_back(connection)
        assert len(running.connections) == (1 if how == "given back" else 3)


async def test_whoever_waits_in_vain_is_told() -> None:
    async with provider(answering(ANSWER)) as running, pool(max_per_origin=1) as connections:
        first = await taken(connections, running.port)
        with pytest.raises(UpstreamTimeout):
            await taken(connections, running.port, wait_s=0.02)
        await ask(first)
        connections.give_back(first)
        assert await taken(connections, running.port) is first


async def test_a_cancelled_waiter_passes_its_turn_on() -> None:
    async with provider(answering(ANSWER)) as running, pool(max_per_origin=1) as connections:
        first = await taken(connections, running.port)
        waiting = [asyncio.create_task(taken(connections, running.port)) for _ in range(2)]
        await ask(first)
        await asyncio.sleep(0)
        connections.give_back(first)
        waiting[0].cancel()
        assert await asyncio.wait_for(waiting[1], 2) is first


async def test_a_waiter_may_be_cancelled_at_the_moment_when_it_would_be_its_turn() -> None:
    async with provider(answering(ANSWER)) as running, pool(max_per_origin=1) as connections:
        first = await taken(connections, running.port)
        await ask(first)
        waiting = [asyncio.create_task(taken(connections, running.port)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        first.finish()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        assert await waiting[1] is first


async def test_a_fresh_one_is_fresh_also_at_the_limit() -> None:
    async with provider(answering(ANSWER)) as running, pool(max_per_origin=1) as connections:
        first = await exchange(connections, running.port)
        assert await taken(connections, running.port, is_fresh=True) is not first


async def test_nobody_listens() -> None:
    with closed_port() as port:
        async with pool(max_per_origin=1) as connections:
            for _ in range(2):  # the place was given back
                with pytest.raises(UpstreamUnreachable):
                    await taken(connections, port)


async def test_one_that_speaks_no_tls_cannot_be_reached() -> None:
    async def script(connection: Exchange) -> None:
        await connection.say(b"220 mail.example.test\r\n")

    async with provider(script) as running, pool(max_per_origin=1) as connections:
        until_s = asyncio.get_running_loop().time() + 5
        for _ in range(2):  # the place was given back
            with pytest.raises(UpstreamUnreachable):
                await connections.take(Origin("127.0.0.1", running.port, True), is_fresh=False, until_s=until_s)


@pytest.mark.parametrize(
    ("connect_timeout_s", "wait_s", "error"), [(0.05, 5.0, UpstreamUnreachable), (5.0, 0.05, UpstreamTimeout)]
)
async def test_opening_takes_no_longer_than_either_patience(
    connect_timeout_s: float, wait_s: float, error: type[Exception]
) -> None:
    """The provider never says a word of TLS."""
    silent = asyncio.Event()

    async def script(connection: Exchange) -> None:
        await silent.wait()

    async with provider(script) as running:
        connections = Connections(connect_timeout_s=connect_timeout_s, keepalive_s=30.0, max_per_origin=1)
        try:
            for _ in range(2):  # the place was given back
                until_s = asyncio.get_running_loop().time() + wait_s
                with pytest.raises(error):
                    await connections.take(Origin("127.0.0.1", running.port, True), is_fresh=False, until_s=until_s)
        finally:
            silent.set()
            await connections.close()


async def test_another_way_of_opening_is_not_waited_for_longer_either() -> None:
    async def never(wanted: Origin, make: Callable[[], ProviderConnection]) -> ProviderConnection:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never any

    connections = Connections(connect_timeout_s=0.01, keepalive_s=30.0, max_per_origin=1, connect=never)
    until_s = asyncio.get_running_loop().time() + 0.05
    with pytest.raises(UpstreamTimeout):
        await connections.take(origin(1), is_fresh=False, until_s=until_s)
    assert connections.origins == 0
    await connections.close()


async def test_closing_ends_those_in_use_too() -> None:
    async with provider(answering(ANSWER)) as running:
        async with pool() as connections:
            await taken(connections, running.port)
        await asyncio.wait_for(running.is_left.wait(), 2)
        with pytest.raises(RuntimeError):
            await taken(connections, running.port)


async def test_connections_may_be_opened_in_another_way() -> None:
    """By whoever knows better than the origin's name where it leads; what stands in its way is passed on as it is."""
    asked: list[Origin] = []

    async def elsewhere(wanted: Origin, make: Callable[[], ProviderConnection]) -> ProviderConnection:
        asked.append(wanted)
        if wanted.host != "name.test":
            raise PermissionError(wanted.host)
        _, connection = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", wanted.port)
        return connection

    async with provider(answering(ANSWER)) as running:
        connections = Connections(connect_timeout_s=2.0, keepalive_s=30.0, max_per_origin=1, connect=elsewhere)
        try:
            named = Origin("name.test", running.port, False)
            first = await connections.take(named, is_fresh=False, until_s=1e12)
            assert await ask(first) == b"ok"
            connections.give_back(first)
            assert connections.take_idle(named) is first
            with pytest.raises(PermissionError, match=r"inside\.test"):
                await connections.take(named._replace(host="inside.test"), is_fresh=False, until_s=1e12)
            assert [found.host for found in asked] == ["name.test", "inside.test"]
        finally:
            await connections.close()


async def test_an_origin_without_connections_is_forgotten() -> None:
    """Otherwise callers who name ever new hosts would fill the memory."""
    async with provider(answering(ANSWER)) as running, pool() as connections:
        assert connections.origins == 0
        first = await exchange(connections, running.port)
        assert connections.origins == 1
        first.close()
        while connections.origins:  # noqa: ASYNC110  # the transport ends with the loop's next turn
            await asyncio.sleep(0)
        async with provider(answering(ANSWER)) as gone:
            pass
        with pytest.raises(UpstreamUnreachable):
            await taken(connections, gone.port)
        assert connections.origins == 0
        assert await exchange(connections, running.port) is not first


async def test_closing_ends_those_that_are_being_opened_too() -> None:
    may_open = asyncio.Event()

    async def slowly(wanted: Origin, make: Callable[[], ProviderConnection]) -> ProviderConnection:
        await may_open.wait()
        _, connection = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", wanted.port)
        return connection

    async with provider(answering(ANSWER)) as running:
        connections = Connections(connect_timeout_s=2.0, keepalive_s=30.0, max_per_origin=1, connect=slowly)
        opening = asyncio.create_task(connections.take(origin(running.port), is_fresh=False, until_s=1e12))
        await asyncio.sleep(0)
        await connections.close()
        may_open.set()
        connection = await opening
        assert not connection.is_alive()
        connections.give_back(connection)
        assert connections.take_idle(origin(running.port)) is None
