"""One connection to a provider: a request out, the head of an answer in, and its body piece by piece as it is read.

Heads are parsed by aiohttp's own parser (llhttp) and then looked at once more, strictly; bodies are only framed
(``framing.py``). Nothing is collected: a piece is what one read of the socket returned. Whoever is slower than the
provider makes it wait (reading is paused), and whoever leaves before the end closes the connection at once.

One timer serves a whole exchange. It is not moved with every piece; when it fires it looks how long ago the last one
came, and waits for the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from aiohttp.http import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser, RawResponseMessage

from bitmesh_proxy.errors import UpstreamBroken, UpstreamTimeout
from bitmesh_proxy.upstream.framing import ChunkedBody, Framing, FramingError, NoBody, SizedBody, UntilClosed

#: Heads above this size are refused before the parser sees them.
MAX_HEAD_BYTES: Final = 64 * 1024
#: Interim answers (100, 103) before the real one.
MAX_INTERIM_ANSWERS: Final = 16
#: Body that nobody has asked for yet; above it the provider has to wait.
HIGH_WATER_BYTES: Final = 128 * 1024

#: A request's body above this size goes out in pieces of it, so that other streams get their turn in between.
WRITE_BYTES: Final = 256 * 1024

#: Takes a piece of the body at once. What it returns, if anything, is awaited before more is read.
Take = Callable[[bytes], Awaitable[None] | None]


class ProviderConnection(asyncio.Protocol):
    """A connection, and the exchange that is under way on it. Made by the pool."""

    __slots__ = (
        "_deadline_s",
        "_error",
        "_framing",
        "_head",
        "_idle_s",
        "_interim",
        "_is_head_only",
        "_is_paused",
        "_is_sending",
        "_is_write_paused",
        "_last_s",
        "_loop",
        "_on_lost",
        "_parser",
        "_pending",
        "_ready",
        "_ready_bytes",
        "_take",
        "_timer",
        "_transport",
        "_waiter",
        "answer",
        "idle_since_s",
        "is_busy",
        "is_complete",
        "is_counted",
        "is_lost",
        "is_reused",
        "pool",
        "was_refused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, *, pool: object, on_lost: Callable[..., None]) -> None:
        self._loop = loop
        self.pool = pool
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        # It sees heads only, so that it never has a body to keep.
        self._parser: Any = HttpResponseParser(
            None,  # only a body would need the protocol
            loop,
            2**16,
            response_with_body=False,
            auto_decompress=False,
        )
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ready: deque[bytes] = deque()
        self.is_busy = False
        self.is_lost = False
        self.is_counted = False
        self.is_reused = False
        self.was_refused = False
        self.idle_since_s = 0.0
        self._is_write_paused = False
        self._reset()

    def _reset(self) -> None:
        self._head = b""
        self._interim = 0
        self._framing: Framing | None = None
        self._error: Exception | None = None
        self._ready_bytes = 0
        self._take: Take | None = None
        self._pending: Awaitable[None] | None = None
        self._is_paused = False
        self._is_head_only = False
        self._is_sending = False
        self._last_s = 0.0
        self._idle_s = 0.0
        self._deadline_s = 0.0
        self.answer: RawResponseMessage | None = None
        self.is_complete = False

    # ------------------------------------------------------------ an exchange

    @property
    def is_usable(self) -> bool:
        """Could a request be sent on it?"""
        return self._transport is not None and not self.is_lost and not self._transport.is_closing()

    @property
    def is_silent(self) -> bool:
        """Has the provider not said a single byte in this exchange?"""
        return self._framing is None and not self._head and not self._interim

    @property
    def fileno(self) -> int:
        """Of the socket; -1 when there is none."""
        if self._transport is None:
            return -1
        sock = self._transport.get_extra_info("socket")
        return int(sock.fileno()) if sock is not None else -1

    def send(
        self, head: bytes, body: bytes, *, is_head_only: bool, first_byte_s: float, idle_s: float, deadline_s: float
    ) -> bool:
        """Send a request. ``first_byte_s`` and ``deadline_s`` are moments of the loop's clock, ``idle_s`` a span.

        ``is_head_only``: the answer will have no body whatever it says (HEAD). Gives whether all is on its way; a large
        body is not, and ``send_rest`` has to follow.
        """
        assert self._transport is not None, "the pool hands out connected ones"
        self._reset()
        self.is_busy = True
        self._is_head_only = is_head_only
        self._idle_s = idle_s
        self._deadline_s = deadline_s
        self.was_refused = self.is_lost
        if self.is_lost:
            self._error = UpstreamBroken("The provider closed the connection without an answer.")
            return True
        self._timer = self._loop.call_at(min(first_byte_s, deadline_s), self._on_timer)
        is_whole = len(body) <= WRITE_BYTES
        self._transport.write(head + body if is_whole else head)
        # The one case where it is certain that not a byte has gone out: the socket refused the very first one.
        self.was_refused = self._transport.is_closing()
        self._is_sending = not is_whole
        return is_whole

    async def send_rest(self, body: bytes) -> None:
        """A large body, in pieces and no faster than it goes out, until all is sent or the provider has answered."""
        assert self._transport is not None
        view = memoryview(body)
        for start in range(0, len(body), WRITE_BYTES):
            while self._is_write_paused and self.answer is None and self._error is None:
                await self._wait()
            if self.answer is not None or self._error is not None:
                return  # answered early, or lost: the rest interests nobody
            self._transport.write(view[start : start + WRITE_BYTES])
        self._is_sending = False

    async def head(self) -> RawResponseMessage:
        """The answer's head. Raises UpstreamBroken or UpstreamTimeout."""
        while self.answer is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self.answer

    async def read(self) -> bytes:
        """The next piece of the body, or all that has come meanwhile; empty at the end.

        Raises UpstreamBroken when it breaks off, UpstreamTimeout when nothing comes for too long or all takes too long.
        """
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self.is_complete:
                return b""
            await self._wait()
        return self._take_ready()

    async def pour(self, take: Take) -> None:
        """Give each piece to ``take`` the moment it is read, until the end. Raises as ``read``, and what it raises."""
        while True:
            if self._pending is not None:
                pending, self._pending = self._pending, None
                await pending
                self._resume()
            elif self._ready:
                self._pending = take(self._take_ready())
            elif self._error is not None:
                raise self._error
            elif self.is_complete:
                return
            else:
                self._take = take
                try:
                    await self._wait()
                finally:
                    self._take = None

    def end(self) -> bool:
        """The exchange is over, in whichever way. Gives whether another one may follow; if not, it is closed."""
        self._stop_timer()
        framing, answer = self._framing, self.answer
        may_follow = (
            self.is_complete
            and self.is_usable
            and answer is not None
            and not answer.should_close
            and not self._is_sending
            and framing is not None
            and not framing.rest
        )
        self._ready.clear()
        self._reset()
        if may_follow:
            self.is_busy = False
            self.is_reused = True
        else:
            self.close()
        return may_follow

    def close(self) -> None:
        """At once: what is still to be written is dropped. A provider learns so that nobody listens any more."""
        self._stop_timer()
        if self._transport is not None and not self.is_lost:
            self._transport.abort()

    # ------------------------------------------------------------ the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by descent

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if not self.is_busy or self.is_complete or self._error is not None:
            # Nobody asked: whatever it is, it must not be taken for the next answer.
            if self._framing is not None:
                self._framing.rest += data
            if not self.is_busy:
                self.close()
            return
        try:
            is_head_new = self._framing is None
            if is_head_new:
                found = self._read_head(data)
                if found is None:
                    return
                data = found
            self._read_body(data, is_first=is_head_new)
        except (FramingError, HttpProcessingError) as exc:
            self._fail(UpstreamBroken("The provider's answer was not valid HTTP."), exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._is_write_paused = True

    def resume_writing(self) -> None:
        """See asyncio."""
        self._is_write_paused = False
        self._wake()

    def eof_received(self) -> bool:
        """See asyncio. The connection is closed then."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.is_lost = True
        self._stop_timer()
        self._on_lost(self)
        if not self.is_busy or self.is_complete or self._error is not None:
            return
        if self._framing is None:
            self._fail(UpstreamBroken("The provider closed the connection without an answer."), exc)
        elif exc is None and self._framing.ends_here():
            self.is_complete = True
            self._wake()
        else:
            self._fail(UpstreamBroken("The provider's answer broke off."), exc)

    def _read_head(self, data: bytes) -> bytes | None:
        """Add to the head; when it is whole, what came behind it. Raises HttpProcessingError, FramingError."""
        head = self._head + data if self._head else data
        start = max(0, len(self._head) - 3)
        while True:
            end = head.find(b"\r\n\r\n", start)
            if end < 0 or end > MAX_HEAD_BYTES:
                if len(head) > MAX_HEAD_BYTES:
                    raise FramingError("the head is too long")
                self._head = head
                return None
            messages, _, _ = self._parser.feed_data(head[: end + 4])
            if not messages:
                raise FramingError("the head is incomplete")
            message: RawResponseMessage = messages[0][0]
            head = head[end + 4 :]
            if message.code >= 200:
                break
            self._interim += 1
            if message.code == 101 or self._interim > MAX_INTERIM_ANSWERS:
                raise FramingError("an interim answer that nobody asked for")
            start = 0
        self._head = b""
        self._framing = framing_of(message, is_head_only=self._is_head_only)
        self.answer = message
        return head

    def _read_body(self, data: bytes, *, is_first: bool) -> None:
        framing = self._framing
        assert framing is not None
        piece = framing.feed(data) if data else b""
        self._last_s = self._loop.time()
        if framing.is_done:
            self.is_complete = True
            self._stop_timer()
        elif is_first:
            self._watch_silence()
        if piece:
            if self._take is not None and self._pending is None and not self._ready:
                if self._hand_over(piece) and not self.is_complete:
                    return  # nobody need be woken for it
            else:
                self._keep(piece)
        self._wake()

    def _hand_over(self, piece: bytes) -> bool:
        """Give it to whoever pours. False when there is something to wait for, or to be said."""
        assert self._take is not None
        try:
            self._pending = self._take(piece)
        except Exception as exc:  # noqa: BLE001 - it belongs to whoever pours, not to the event loop
            self._fail(exc)
            return False
        if self._pending is None:
            return True
        self._pause()
        return False

    def _keep(self, piece: bytes) -> None:
        self._ready.append(piece)
        self._ready_bytes += len(piece)
        if self._ready_bytes > HIGH_WATER_BYTES:
            self._pause()

    def _take_ready(self) -> bytes:
        if len(self._ready) == 1:
            data = self._ready.popleft()
        else:
            data = b"".join(self._ready)
            self._ready.clear()
        self._ready_bytes = 0
        if self._pending is None:
            self._resume()
        return data

    def _pause(self) -> None:
        if not self._is_paused and self.is_usable and not self.is_complete:
            assert self._transport is not None
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._last_s = self._loop.time()  # the silence was ours
            if self.is_usable:
                assert self._transport is not None
                self._transport.resume_reading()

    # ------------------------------------------------------------ waiting

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: Exception, cause: Exception | None = None) -> None:
        """End the exchange, and with it the connection. The first who waits or reads is told."""
        if cause is not None:
            error.__cause__ = cause
        self._error = error
        self.close()
        self._wake()

    def _watch_silence(self) -> None:
        """From the head on it is silence that is timed."""
        self._stop_timer()
        self._last_s = self._loop.time()
        self._timer = self._loop.call_at(min(self._last_s + self._idle_s, self._deadline_s), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        if self._framing is None:
            self._fail(UpstreamTimeout("The provider did not answer in time."))
            return
        # What has come and is not taken yet, or what was held back by us, is no silence of the provider's.
        is_ours = self._is_paused or bool(self._ready)
        limit_s = min((now_s if is_ours else self._last_s) + self._idle_s, self._deadline_s)
        if now_s >= limit_s:
            self._fail(UpstreamTimeout("The provider fell silent."))
        else:
            self._timer = self._loop.call_at(limit_s, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def framing_of(message: RawResponseMessage, *, is_head_only: bool) -> Framing:
    """How the body behind a head is framed. Raises FramingError where two readers might disagree."""
    headers: Mapping[str, str] = message.headers
    lengths = message.headers.getall("Content-Length", ())
    codings = message.headers.getall("Transfer-Encoding", ())
    if codings and (lengths or len(codings) > 1 or codings[0].strip().lower() != "chunked"):
        raise FramingError("the head names two framings, or one that nobody knows")
    if len(lengths) > 1:
        raise FramingError("the head names two lengths")
    if is_head_only or message.code in (204, 304):
        return NoBody()
    if codings:
        return ChunkedBody()
    if lengths:
        length = headers["Content-Length"].strip()
        if not (length.isascii() and length.isdecimal()):
            raise FramingError("the length is no number")
        return SizedBody(int(length))
    return UntilClosed()
