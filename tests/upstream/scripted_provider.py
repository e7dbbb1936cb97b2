"""A provider on a real socket that says exactly the bytes it is told to, in exactly the pieces."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.providers.base import bearer
from bitmesh_proxy.providers.openai_compatible import make
from bitmesh_proxy.settings import Upstream as UpstreamSettings
from bitmesh_proxy.upstream.access import ProviderAccess

Script = Callable[["Exchange"], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Exchange:
    """One connection, from the provider's side. ``number`` counts connections from 1."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heads: list[bytes] = field(default_factory=list)

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request. Raises IncompleteReadError when there is none."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return head, await self.reader.readexactly(length)

    async def say(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        """Write piece by piece, each by itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(pause_s)

    def reset(self) -> None:
        """Break the connection off."""
        self.writer.transport.abort()


@dataclass(slots=True)
class Provider:
    """``connections`` are all that were ever opened to it; ``is_left`` is set when one of them ended."""

    port: int
    connections: list[Exchange] = field(default_factory=list)
    is_left: asyncio.Event = field(default_factory=asyncio.Event)

    def access(self, *, max_concurrent: int = 0, scheme: str = "http") -> ProviderAccess:
        """How the gateway reaches it."""
        url = f"{scheme}://127.0.0.1:{self.port}"
        return ProviderAccess(
            provider=make("scripted", base_urls={"default": url}),
            roots={"default": url},
            auth_headers=bearer("secret"),
            max_concurrent=max_concurrent,
        )


@asynccontextmanager
async def provider(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Provider]:
    """Runs ``script`` for every connection; when it returns, the connection is closed cleanly."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        exchange = Exchange(len(running.connections) + 1, reader, writer)
        running.connections.append(exchange)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await script(exchange)
        running.is_left.set()
        writer.close()
        with suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**22, ssl=tls)
    running = Provider(server.sockets[0].getsockname()[1])
    try:
        yield running
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def answering(*pieces: bytes) -> Script:
    """Every request of every connection gets the same answer, in these pieces."""

    async def script(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await exchange.say(*pieces)

    return script


def settings(**changes: float) -> UpstreamSettings:
    """Short patience, unless said otherwise."""
    values: dict[str, float] = {"connect_timeout_s": 2.0, "first_byte_timeout_s": 5.0, "idle_timeout_s": 5.0, **changes}
    return UpstreamSettings(**values)  # type: ignore[arg-type]  # msgspec takes the numbers as they are


def post(body: bytes = b"{}", *, headers: Sequence[tuple[str, str]] = ()) -> UpstreamRequest:
    """A request with a body."""
    return UpstreamRequest(path="/x", headers=dict(headers), body=body)


def get() -> UpstreamRequest:
    """A request without one."""
    return UpstreamRequest(method="GET", path="/x")
