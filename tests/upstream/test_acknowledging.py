"""What the kernel is told, looked up in the kernel, on connections to a real server."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from bitmesh_proxy.upstream.acknowledging import acknowledge_in_pairs
from bitmesh_proxy.upstream.connection import ProviderConnection
from tests.upstream.test_connection import Alone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_QUICKACK is Linux's")

QUICK = getattr(socket, "TCP_QUICKACK", 0)
#: Gives the port.
Say = Callable[[bytes], Awaitable[int]]

STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: a\n\n\r\n"
)
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n{}"


@pytest.fixture
async def say() -> AsyncIterator[Say]:
    """Starts a server that answers whatever it hears with these bytes, and leaves the answer open."""
    servers: list[asyncio.Server] = []

    async def start(answer: bytes) -> int:
        async def heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(heard, "127.0.0.1", 0)
        servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize(("answer", "is_quick"), [(STREAM, 0), (JSON, 1)])
async def test_a_streams_pieces_are_acknowledged_in_pairs_from_its_beginning(
    say: Say, answer: bytes, is_quick: int
) -> None:
    loop = asyncio.get_running_loop()
    port = await say(answer)
    transport, connection = await loop.create_connection(lambda: ProviderConnection(loop, Alone()), "127.0.0.1", port)
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, QUICK) == 1
    end_s = loop.time() + 30
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", is_head_only=False, first_byte_s=end_s, idle_s=30, deadline_s=end_s)
    await connection.head()
    assert await connection.read()
    assert sock.getsockopt(socket.IPPROTO_TCP, QUICK) == is_quick
    connection.close()


async def test_a_connection_that_has_ended_is_let_be(say: Say) -> None:
    port = await say(JSON)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", port)
    transport.abort()
    await asyncio.sleep(0)
    acknowledge_in_pairs(transport)
    assert transport.is_closing()
