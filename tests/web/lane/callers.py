"""Callers on bare sockets, who see every byte; and gateways whose provider says exactly what a test wants."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from bitmesh_proxy import keys
from tests.journeys.gateway import Changes, Gateway, eventually, running_gateway
from tests.journeys.scripted import MODEL, at, whole_answer
from tests.upstream.scripted_provider import Exchange, Provider, Script, provider

#: Ours to serve on: uvloop where it is installed, and asyncio's own.
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
with suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop

#: Headers that are another's in every answer: names, moments, and what is left of a bucket.
PASSING = frozenset({"date", "x-request-id"})

WHOLE = orjson.dumps(whole_answer())
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = b'data: {"id":"c-1","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
LAST = (
    b'data: {"id":"c-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\ndata: [DONE]\n\n'
)


def json_answer(body: bytes = WHOLE, status: bytes = b"200 OK") -> bytes:
    """A provider's whole answer as bytes."""
    return (
        b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; empty for the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """What a caller got: the status line, the headers as they came, the body without its framing."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_chunked: bool
    #: The body ended as its framing says.
    is_whole: bool

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.line.split(" ")[1])

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    def get(self, name: str) -> str | None:
        """The value of a header, by its name in any case."""
        return next((value for each, value in self.headers if each.lower() == name.lower()), None)


class Caller:
    """One connection to a gateway."""

    def __init__(self, gateway: Gateway, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.gateway = gateway
        self.reader = reader
        self.writer = writer

    def request(
        self,
        body: bytes | Mapping[str, Any] | None = None,
        *,
        method: str = "POST",
        path: str = "/chat",
        version: str = "1.1",
        headers: Mapping[str, str | None] | None = None,
        extra: bytes = b"",
    ) -> bytes:
        """A request as bytes. A header of None is left out; ``extra`` are further lines as they are."""
        if body is None:
            body = say()
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        lines: dict[str, str | None] = {
            "Host": f"127.0.0.1:{self.gateway.port}",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **self.gateway.bearer,
            **(headers or {}),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
        return f"{method} {path} HTTP/{version}\r\n{head}".encode() + extra + b"\r\n" + data

    def send(self, data: bytes) -> None:
        """Write, at once if the socket takes it."""
        self.writer.write(data)

    async def ask(self, *arguments: Any, **more: Any) -> RawAnswer:
        """One request and its answer."""
        self.send(self.request(*arguments, **more))
        return await self.answer()

    async def answer(self) -> RawAnswer:
        """The next answer, or as much of it as comes before the connection ends. Raises EOFError for none at all."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            raise EOFError("no answer") from exc
        line, *rest = head[:-4].decode("utf-8", "surrogateescape").split("\r\n")
        headers = tuple((name, value) for name, _, value in (each.partition(": ") for each in rest))
        fields = {name.lower(): value for name, value in headers}
        is_chunked = fields.get("transfer-encoding") == "chunked"
        if line.startswith("HTTP/1.1 1"):
            body, is_whole = b"", True
        elif is_chunked:
            body, is_whole = await self._chunked()
        elif "content-length" in fields:
            body, is_whole = await self._sized(int(fields["content-length"]))
        else:
            body, is_whole = await self._until_closed(), True
        return RawAnswer(line=line, headers=headers, body=body, is_chunked=is_chunked, is_whole=is_whole)

    async def _sized(self, size: int) -> tuple[bytes, bool]:
        try:
            return await self.reader.readexactly(size), True
        except asyncio.IncompleteReadError as exc:
            return exc.partial, False

    async def _chunked(self) -> tuple[bytes, bool]:
        body = b""
        try:
            while size := int((await self.reader.readuntil(b"\r\n"))[:-2], 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        except (asyncio.IncompleteReadError, ConnectionError):
            return body, False
        return body, True

    async def _until_closed(self) -> bytes:
        return await self.reader.read()

    async def is_closed_by_gateway(self) -> bool:
        """Waits for the end of the connection: True if it comes without a further byte."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def leave(self) -> None:
        """Hang up, now."""
        self.writer.transport.abort()


def say(text: str = "Hello", **more: Any) -> dict[str, Any]:
    """The body of a chat call to the scripted provider."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


@dataclass(slots=True, kw_only=True)
class Room:
    """A gateway, its provider, and the requests that went aiohttp's plain way."""

    gateway: Gateway
    provider: Provider
    plain: list[str] = field(default_factory=list)

    @property
    def under_way(self) -> int:
        """Calls that have begun and not ended."""
        return self.gateway.app[keys.METRICS].under_way

    @property
    def slots(self) -> int:
        """How many calls of the key hold a place."""
        return self.gateway.app[keys.CONCURRENCY_LIMIT].running(self.gateway.key.id)

    @asynccontextmanager
    async def caller(self, *, receive_bytes: int = 0) -> AsyncIterator[Caller]:
        """A connection to the gateway. ``receive_bytes``: what the system keeps for one who does not read."""
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.gateway.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**16)
        try:
            yield Caller(self.gateway, reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def room(tmp_path: Path, script: Script, changes: Changes | None = None) -> AsyncIterator[Room]:
    """A gateway in front of a provider that follows ``script`` on every connection."""
    async with provider(script) as scripted:
        plain: list[str] = []

        async def note(request: web.Request, response: web.StreamResponse) -> None:
            plain.append(request.path)

        def prepare(app: web.Application) -> None:
            app.on_response_prepare.append(note)

        settings = at(tmp_path / "rows", one=f"http://127.0.0.1:{scripted.port}/v1")
        async with running_gateway(tmp_path / "data", {**settings, **(changes or {})}, prepare=prepare) as gateway:
            yield Room(gateway=gateway, provider=scripted, plain=plain)


async def asked(there: Room, count: int = 1) -> None:
    """Wait until the provider has got so many requests."""
    await eventually(
        lambda: sum(len(each.heads) for each in there.provider.connections) >= count, "the provider is asked"
    )


async def begin_and_stall(exchange: Exchange) -> None:
    """A provider's stream of which nothing more comes after the first token."""
    await exchange.request()
    await exchange.say(STREAM_HEAD, chunk(TOKEN))
    await exchange.reader.read()
