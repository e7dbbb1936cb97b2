"""Where a response's bytes go: an HTTP answer that is held open, a log that others read, or nowhere yet.

An answer that takes long is held open: after a while its head goes out, and then, in silence, a comment (in a stream)
or a space (before a whole answer), so that no proxy on the way gives up. From then on an error can only stand in it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType

from aiohttp import web
from aiohttp.http import HttpVersion11

from bitmesh_proxy.awaitables import Deferred
from bitmesh_proxy.errors import CallerLeft, Unavailable
from bitmesh_proxy.upstream.reply import STREAM_HEADERS

KEEP_ALIVE = b": keep-alive\n\n"
#: A stream of media is opened so long after its call began: until then an error can still be a status.
MEDIA_GRACE_S = 1.0
VERSION_HEADERS = {"OpenResponses-Version": "2026-04-24"}
#: What becomes of a response whose process ends before it does.
STOPPED = "The service was stopped while it worked on this response."


class HeldReply:
    """The pipeline's ``Reply`` on HTTP. ``async with`` it: the clock of keep-alives stops at its end.

    ``opens_after_s``: when the head goes out although nothing has come yet; None: never by itself (a chat stream begins
    with the model's first byte). ``begin`` gives what a stream that is opened so begins with.

    The head of a stream and its first bytes go out through aiohttp, and so does its end. What lies between may be
    written straight into the transport (``write_now``), in the framing that aiohttp announced in the head. The clock is
    one timer, which looks when it rings how long the silence has been: a write moves no timer.
    """

    def __init__(
        self,
        request: web.Request,
        *,
        is_stream: bool,
        opens_after_s: float | None,
        interval_s: float,
        begin: Callable[[], bytes],
    ) -> None:
        self._request = request
        self._protocol = request.protocol
        self._is_stream = is_stream
        self._opens_after_s = opens_after_s
        self._interval_s = interval_s
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None
        self._opens_at_s = math.inf
        self._wrote_at_s = 0.0
        self._is_over = False
        self._is_pipelines = False
        #: Where bytes may be written straight to: there is one from the first bytes of a stream on.
        self._transport: asyncio.Transport | None = None
        self._is_chunked = False
        self.response: web.StreamResponse | None = None

    async def __aenter__(self) -> HeldReply:
        if self._opens_after_s is not None:
            self._opens_at_s = self._loop.time() + self._opens_after_s
            self._wind(self._opens_at_s)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        beat, self._beat = self._beat, None
        if beat is not None:
            beat.cancel()
            # A caller who left is noticed by whoever writes next; the clock need not say it.
            with suppress(asyncio.CancelledError, CallerLeft):
                await beat

    @property
    def is_started(self) -> bool:
        """Has the pipeline begun a stream? A head that the clock sent does not count: another offer may be tried."""
        return self._is_pipelines

    @property
    def is_open(self) -> bool:
        """Has the head gone out, so that no other status can be said?"""
        return self.response is not None and self.response.prepared

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """The answer, or all that is left of it."""
        async with self._lock:
            self._is_over = True
            if not self.is_open and not self._is_stream:
                self.response = web.Response(status=status, headers={**headers, **VERSION_HEADERS}, body=body)
                return
            if not self.is_open:
                await self._open({**headers, **STREAM_HEADERS})
            await self._write(body)
            await self._write_eof()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of a stream."""
        async with self._lock:
            self._is_pipelines = True
            if not self.is_open:
                await self._open(headers)

    async def write(self, data: bytes) -> None:
        """More of a stream."""
        async with self._lock:
            if not self.is_open:
                await self._open(STREAM_HEADERS)
            await self._write(data)

    def write_now(self, data: bytes) -> Awaitable[None] | None:
        """The same at once. When the caller reads slowly, what it gives has to be awaited before more is written."""
        transport = self._transport
        if transport is None or not data:
            return Deferred(lambda: self.write(data))
        if transport.is_closing():
            raise CallerLeft
        self._wrote_at_s = self._loop.time()
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
        return Deferred(self._drain) if self._protocol.writing_paused else None

    async def finish(self) -> None:
        """The clean end of a stream."""
        async with self._lock:
            self._is_over = True
            await self._write_eof()

    def abort(self) -> None:
        """Close the connection without a clean end."""
        if self._request.transport is not None:
            self._request.transport.abort()

    # ------------------------------------------------------------ inside

    async def _open(self, headers: Mapping[str, str]) -> None:
        self.response = web.StreamResponse(status=200, headers={**headers, **VERSION_HEADERS})
        if self._request.version >= HttpVersion11:
            self.response.enable_chunked_encoding()  # as it would by itself, but then it would not say so
            self._is_chunked = True
        try:
            await self.response.prepare(self._request)
        except ConnectionError as exc:
            raise CallerLeft from exc
        self._wrote_at_s = self._loop.time()
        self._wind(self._wrote_at_s + self._interval_s)

    async def _write(self, data: bytes) -> None:
        assert self.response is not None, "the head comes first"
        self._wrote_at_s = self._loop.time()
        try:
            await self.response.write(data)
        except ConnectionError as exc:
            raise CallerLeft from exc
        if data:
            self._transport = self._request.transport

    async def _drain(self) -> None:
        try:
            await self._request.writer.drain()
        except ConnectionError as exc:
            raise CallerLeft from exc

    async def _write_eof(self) -> None:
        assert self.response is not None, "the head comes first"
        self._transport = None
        try:
            await self.response.write_eof()
        except ConnectionError as exc:
            raise CallerLeft from exc

    # ------------------------------------------------------------ the clock

    def _wind(self, at_s: float) -> None:
        """Ring at this moment of the loop's clock, and not when it was to ring before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._is_over:
            return
        due_s = self._wrote_at_s + self._interval_s if self.is_open else self._opens_at_s
        if self._loop.time() < due_s:
            self._wind(due_s)
        else:
            self._beat = self._loop.create_task(self._say_something())

    async def _say_something(self) -> None:
        """A sign of life, or the head; nothing when something else was said, or all of it, while this waited."""
        async with self._lock:
            if self._is_over:
                return
            if not self.is_open:
                await self._open_by_clock()
            elif self._loop.time() >= self._wrote_at_s + self._interval_s:
                await self._write(KEEP_ALIVE if self._is_stream else b" ")
        self._wind(self._wrote_at_s + self._interval_s)

    async def _open_by_clock(self) -> None:
        if self._is_stream:
            await self._open(STREAM_HEADERS)
            await self._write(self._begin())
        else:
            await self._open({"Content-Type": "application/json"})
            await self._write(b" ")


class CapturedReply:
    """A whole answer, kept for what comes after it: a job's."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.is_started = False
        self._pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(self._pieces)

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Keep it."""
        self.status, self.headers, self._pieces = status, headers, [body]

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of bytes that come as a stream (speech)."""
        self.status, self.headers = status, headers

    async def write(self, data: bytes) -> None:
        """More of them."""
        self._pieces.append(data)

    def write_now(self, data: bytes) -> Awaitable[None] | None:
        """The same."""
        self._pieces.append(data)
        return None

    async def finish(self) -> None:
        """All is there."""

    def abort(self) -> None:
        """Nobody to hang up on."""


class EventLog:
    """The stream of a background response: kept while it runs, and for whoever follows it.

    ``frames`` are whole events; the place of each is its sequence number.
    """

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.is_started = False
        self.is_over = False
        self._is_broken = False
        self._changed = asyncio.Event()

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """All that is left."""
        await self.write(body)
        await self.finish()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """A stream begins."""
        self.is_started = True

    async def write(self, data: bytes) -> None:
        """Whole events."""
        self.write_now(data)

    def write_now(self, data: bytes) -> Awaitable[None] | None:
        """Whole events."""
        self.frames += [frame + b"\n\n" for frame in data.split(b"\n\n") if frame.startswith(b"event: ")]
        self._wake()
        return None

    async def finish(self) -> None:
        """Nothing follows."""
        self.is_over = True
        self._wake()

    def abort(self) -> None:
        """Nobody to hang up on."""

    def break_off(self) -> None:
        """Nothing follows, although there is more to come."""
        self.is_over = self._is_broken = True
        self._wake()

    async def follow(self, *, after: int = -1) -> AsyncIterator[bytes]:
        """The events behind a sequence number, as they come, up to the end. Raises Unavailable when they break off."""
        place = after + 1
        while True:
            changed = self._changed
            if place < len(self.frames):
                new = b"".join(self.frames[place:])
                place = len(self.frames)
                yield new
            elif self._is_broken:
                raise Unavailable(STOPPED)
            elif self.is_over:
                return
            else:
                await changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class SocketReply:
    """One turn on a WebSocket: each line of what is written is a message."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self.is_started = False
        self.has_written = False

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """All that is left."""
        await self.write(body)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """There are no heads here."""
        self.is_started = True

    async def write(self, data: bytes) -> None:
        """More messages."""
        for line in data.split(b"\n"):
            if not line:
                continue
            self.has_written = True
            try:
                await self._socket.send_str(line.decode())
            except (ConnectionError, RuntimeError) as exc:  # closed, or closing
                raise CallerLeft from exc

    def write_now(self, data: bytes) -> Awaitable[None] | None:
        """The same."""
        return Deferred(lambda: self.write(data))

    async def finish(self) -> None:
        """The turn is over, the connection is not."""

    def abort(self) -> None:
        """The next turn may still come."""
