"""The outside world for these tests: servers on the loopback that behave as told, and names that lead there."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from aiohttp import abc, web

from bitmesh_proxy.media.origins import Origin

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(kw_only=True)
class Outside:
    """A running server. ``requests`` is what it was asked, in order: method, path and headers."""

    origin: Origin
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)

    def url(self, path: str = "/", *, host: str | None = None) -> str:
        """A link to it, under its address or another name."""
        return f"{self.origin.scheme}://{host or self.origin.host}:{self.origin.port}{path}"

    def named(self, host: str) -> Origin:
        """Its origin under another name."""
        return self.origin._replace(host=host)


@asynccontextmanager
async def serving(
    routes: Mapping[str, Answering],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Outside]:
    """A server that answers each path by its function, and everything else with 404."""

    async def answer(base: web.BaseRequest) -> web.StreamResponse:
        request = cast(web.Request, base)
        outside.requests.append((request.method, request.path_qs, dict(request.headers)))
        handler = routes.get(request.path)
        if handler is None:
            return web.Response(status=404, text="nothing here")
        return await handler(request)

    runner = web.ServerRunner(web.Server(answer, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=tls)
    await site.start()
    outside = Outside(origin=Origin("https" if tls else "http", host, runner.addresses[0][1]))
    try:
        yield outside
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_serving(
    script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Outside]:
    """A server below HTTP: ``script`` is called once a request's head has been read, and writes what it likes."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path = head.split(b" ", 2)[:2]
            outside.requests.append((method.decode(), path.decode(), {}))
            await script(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # asyncio.start_server reports a cancelled callback as an error
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    outside = Outside(origin=Origin("http", "127.0.0.1", server.sockets[0].getsockname()[1]))
    try:
        yield outside
    finally:
        server.close()
        running = list(tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


class Names(abc.AbstractResolver):
    """A name service of the tests' own. A name with several answers gives one after the other, the last for ever."""

    def __init__(self, answers: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.asked: list[str] = []
        self._answers = {name: list(given) for name, given in answers.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[abc.ResolveResult]:
        """See AbstractResolver."""
        self.asked.append(host)
        given = self._answers.get(host)
        if given is None:
            raise OSError(f"no such name: {host}")
        addresses = given.pop(0) if len(given) > 1 else given[0]
        return [
            abc.ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """See AbstractResolver."""


def body(data: bytes, media_type: str | None = "image/png", *, status: int = 200) -> Answering:
    """An answer with this body."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.Response(status=status, body=data)
        if media_type is None:
            response.headers["Content-Type"] = ""
        else:
            response.content_type = media_type
        return response

    return answer


def redirect(location: str, *, status: int = 302) -> Answering:
    """A redirect."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location})

    return answer
