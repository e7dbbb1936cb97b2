"""Answers out of the lane, written as aiohttp writes them: the same bytes, without its response objects.

``head_bytes`` makes a head as ``web.Response`` would, in the same order of headers; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from http import HTTPStatus
from time import time
from typing import Final, Protocol

from aiohttp.helpers import rfc822_formatted_time
from msgspec import Struct

from bitmesh_proxy.errors import CallerLeft, InternalError
from bitmesh_proxy.limits.base import Passed, lines_of, snapshots_of
from bitmesh_proxy.limits.headers import rate_limit_headers
from bitmesh_proxy.upstream.reply import STREAM_HEADERS
from bitmesh_proxy.web.replies import SERVER

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


class _Moment:
    """What all heads of one second have in common."""

    __slots__ = ("lines", "second")

    def __init__(self) -> None:
        self.second = -1
        self.lines = ""

    def next(self) -> str:
        """The lines of this second."""
        self.second = int(time())
        self.lines = f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER}\r\n"
        return self.lines


_moment: Final = _Moment()

#: The lines that nearly all streams begin with.
_STREAM_LINES: Final = "HTTP/1.1 200 OK\r\n{}Transfer-Encoding: chunked\r\n".format(
    "".join([f"{name}: {value}\r\n" for name, value in STREAM_HEADERS.items()])
)


def head_bytes(
    status: int,
    headers: Mapping[str, str],
    length_bytes: int | None,
    request_id: str,
    passed: Sequence[Passed],
) -> bytes:
    """A head; ``length_bytes`` None for a body in chunks. A refusal brings headers of its own for what all have.

    Raises InternalError for a header that would not stay one line.
    """
    fields = ""
    for name, value in headers.items():
        fields += f"{name}: {value}\r\n"
    if fields.count("\n") != len(headers) or fields.count("\r") != len(headers) or "\0" in fields:
        raise InternalError("a header of the answer holds a line end")
    framing = "Transfer-Encoding: chunked" if length_bytes is None else f"Content-Length: {length_bytes}"
    request_line = "" if "X-Request-Id" in headers else f"X-Request-Id: {request_id}\r\n"
    if "RateLimit-Limit" not in headers:
        limits = lines_of(passed)
    else:  # those of the limit that refused
        more = rate_limit_headers(snapshots_of(passed))
        limits = "".join([f"{name}: {value}\r\n" for name, value in more.items() if name not in headers])
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n{fields}{framing}\r\n"
        f"{_moment.lines if int(time()) == _moment.second else _moment.next()}{request_line}{limits}\r\n"
    ).encode()


class LaneReply(Struct, eq=False):
    """The pipeline's ``Reply`` on a bare transport.

    ``status`` is what the caller got in the end: 499 until all of it is out. ``passed`` are the limits that the
    request has passed, for its headers.
    """

    connection: Connection
    request_id: str
    passed: Sequence[Passed] = ()
    status: int = 499
    #: Kept until the first bytes, so that both go out together.
    _head: bytes = b""
    _begun_status: int = 0

    @property
    def is_started(self) -> bool:
        """Has the head been decided?"""
        return self._begun_status != 0

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer."""
        self.send_now(status, headers, body)

    def send_now(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """The same, at once."""
        head = head_bytes(status, headers, len(body), self.request_id, self.passed)
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise CallerLeft
        transport.write(head + body)
        self.status = self._begun_status = status

    def send_json_now(self, headers: Mapping[str, str], lines: str, body: bytes) -> None:
        """A whole answer with status 200; ``lines`` are further headers as they are written, behind the others.
        What nearly every answer has takes no mapping, which would cost as much as the rest of the head."""
        if headers:
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]) + lines
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{lines}Content-Length: {len(body)}\r\n"
            f"{_moment.lines if int(time()) == _moment.second else _moment.next()}"
            f"X-Request-Id: {self.request_id}\r\n{lines_of(self.passed)}\r\n"
        ).encode()
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise CallerLeft
        transport.write(head + body)
        self.status = self._begun_status = 200

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of a stream."""
        self.start_now(status, headers)

    def start_now(self, status: int, headers: Mapping[str, str]) -> None:
        """The same, at once."""
        self._head = head_bytes(status, headers, None, self.request_id, self.passed)
        self._begun_status = status

    def begin_now(self, headers: Mapping[str, str], data: bytes, framed: bytes | None) -> Transport:
        """The head of a stream with status 200 and its first bytes, together; ``framed`` as in ``push``. Gives where
        whole chunks may be written from now on by whoever looks whether it is closing."""
        if headers is STREAM_HEADERS:
            head = (
                f"{_STREAM_LINES}{_moment.lines if int(time()) == _moment.second else _moment.next()}"
                f"X-Request-Id: {self.request_id}\r\n{lines_of(self.passed)}\r\n"
            ).encode()
        else:
            head = head_bytes(200, headers, None, self.request_id, self.passed)
        self._begun_status = 200
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise CallerLeft
        transport.write(head + (b"%x\r\n%b\r\n" % (len(data), data) if framed is None else framed))
        return transport

    async def write(self, data: bytes) -> None:
        """More of a stream. Waits while the caller reads slowly."""
        waiting = self.write_now(data)
        if waiting is not None:
            await waiting

    def write_now(self, data: bytes) -> Awaitable[None] | None:
        """The same at once. What it gives has to be awaited before more is written."""
        if data:
            self.push(data)
        return self._drained() if self.connection.writing_paused else None

    def push(self, data: bytes, framed: bytes | None = None) -> None:
        """The same without a word about who reads slowly. ``framed``: ``data`` as whole chunks, if it came in such."""
        transport = self.connection.transport
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
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise CallerLeft
        transport.write(self._head + last + CHUNKS_END)
        self.status = self._begun_status

    def abort(self) -> None:
        """Close the connection without a clean end."""
        if self.connection.transport is not None:
            self.connection.transport.abort()

    async def _drained(self) -> None:
        try:
            await self.connection.drained()
        except ConnectionError as exc:
            raise CallerLeft from exc
