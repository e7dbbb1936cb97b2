"""Answers out of the lane, written as aiohttp writes them: the same bytes, without its response objects.

``head_bytes`` makes a head as ``web.Response`` would, in the same order of headers; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final, Protocol

from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from bitmesh_proxy.errors import CallerLeft, InternalError

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
CHUNKS_END: Final = b"0\r\n\r\n"


class Transport(Protocol):
    """What is needed of the caller's transport (uvloop's are none of asyncio's by descent)."""

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool: ...

    def abort(self) -> None: ...


class Connection(Protocol):
    """What is needed of the connection."""

    @property
    def transport(self) -> Transport | None: ...

    @property
    def writing_paused(self) -> bool: ...

    async def drained(self) -> None: ...


def head_bytes(status: int, headers: Mapping[str, str], more: Mapping[str, str], *, length_bytes: int | None) -> bytes:
    """A head; ``length_bytes`` None for a body in chunks. ``more`` come last, those that ``headers`` has not.

    Raises InternalError for a header that would not stay one line.
    """
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append("Transfer-Encoding: chunked" if length_bytes is None else f"Content-Length: {length_bytes}")
    lines.append(f"Date: {rfc822_formatted_time()}")
    lines.append(f"Server: {SERVER_SOFTWARE}")
    lines += [f"{name}: {value}" for name, value in more.items() if name not in headers]
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
        raise InternalError("a header of the answer holds a line end")
    return f"{text}\r\n\r\n".encode()


class LaneReply:
    """The pipeline's ``Reply`` on a bare transport. ``common`` gives the headers that every answer has."""

    __slots__ = ("_begun_status", "_common", "_connection", "_head", "status")

    def __init__(self, connection: Connection, common: Callable[[], Mapping[str, str]]) -> None:
        self._connection = connection
        self._common = common
        #: Kept until the first bytes, so that both go out together.
        self._head = b""
        self._begun_status = 0
        #: What the caller got in the end: 499 until all of it is out.
        self.status = 499

    @property
    def is_started(self) -> bool:
        """Has the head been decided?"""
        return self._begun_status != 0

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer."""
        self.send_now(status, headers, body)

    def send_now(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """The same, at once."""
        head = head_bytes(status, headers, self._common(), length_bytes=len(body))
        self._transport().write(head + body)
        self.status = self._begun_status = status

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of a stream."""
        self.start_now(status, headers)

    def start_now(self, status: int, headers: Mapping[str, str]) -> None:
        """The same, at once."""
        self._head = head_bytes(status, headers, self._common(), length_bytes=None)
        self._begun_status = status

    async def write(self, data: bytes) -> None:
        """More of a stream. Waits while the caller reads slowly."""
        waiting = self.write_now(data)
        if waiting is not None:
            await waiting

    def write_now(self, data: bytes) -> Awaitable[None] | None:
        """The same at once. What it gives has to be awaited before more is written."""
        if data:
            self.push(data)
        return self._drained() if self._connection.writing_paused else None

    def push(self, data: bytes, framed: bytes | None = None) -> None:
        """The same without a word about who reads slowly. ``framed``: ``data`` as whole chunks, if it came in such."""
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise CallerLeft
        if framed is None:
            framed = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            framed, self._head = self._head + framed, b""
        transport.write(framed)

    async def finish(self) -> None:
        """The clean end of a stream."""
        self.finish_now()

    def finish_now(self, tail: bytes = b"") -> None:
        """The same at once, behind its last bytes."""
        last = b"%x\r\n%b\r\n" % (len(tail), tail) if tail else b""
        self._transport().write(self._head + last + CHUNKS_END)
        self.status = self._begun_status

    def abort(self) -> None:
        """Close the connection without a clean end."""
        if self._connection.transport is not None:
            self._connection.transport.abort()

    async def _drained(self) -> None:
        try:
            await self._connection.drained()
        except ConnectionError as exc:
            raise CallerLeft from exc

    def _transport(self) -> Transport:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise CallerLeft
        return transport
