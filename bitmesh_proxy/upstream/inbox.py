"""The listener of those who wait: keeps what has come until somebody takes it, with ``head``, ``read`` or ``pour``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from bitmesh_proxy.upstream.heads import AnswerHead

#: Body that nobody has asked for yet; above it the provider has to wait.
HIGH_WATER_BYTES: Final = 128 * 1024

#: Takes a piece of the body at once. What it returns, if anything, is awaited before more is read, up to the exchange's
#: deadline.
Take = Callable[[bytes], Awaitable[None] | None]


class Source(Protocol):
    """The connection, as an inbox sees it."""

    is_held: bool

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    async def taken(self, pending: Awaitable[None]) -> None: ...


class Inbox:
    """Of one exchange."""

    __slots__ = (
        "_error",
        "_head",
        "_is_complete",
        "_loop",
        "_pending",
        "_ready",
        "_ready_bytes",
        "_source",
        "_take",
        "_waiter",
    )

    def __init__(self, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._loop = loop
        self._head: AnswerHead | None = None
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._take: Take | None = None
        self._pending: Awaitable[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._is_complete = False

    # ------------------------------------------------------------ whoever waits

    async def head(self) -> AnswerHead:
        """The answer's head. Raises UpstreamBroken or UpstreamTimeout."""
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self._head

    async def read(self) -> bytes:
        """The next piece of the body, or all that has come meanwhile; empty at the end.

        Raises UpstreamBroken when it breaks off, UpstreamTimeout when nothing comes for too long or all takes too long.
        """
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self._is_complete:
                return b""
            await self._wait()
        return self._take_ready()

    async def pour(self, take: Take) -> None:
        """Give each piece to ``take`` the moment it is read, until the end. Raises as ``read``, and what it raises.

        Raises CallerLeft when what it has given is not taken before all is over.
        """
        while True:
            if self._pending is not None:
                pending, self._pending = self._pending, None
                await self._source.taken(pending)
                self._source.resume()
            elif self._ready:
                self._pending = take(self._take_ready())
            elif self._error is not None:
                raise self._error
            elif self._is_complete:
                return
            else:
                self._take = take
                try:
                    await self._wait()
                finally:
                    self._take = None

    # ------------------------------------------------------------ the connection

    def on_head(self, head: AnswerHead) -> None:
        """See Listener."""
        self._head = head
        self._wake()

    def on_piece(self, data: bytes, framed: bytes | None) -> None:
        """See Listener."""
        take = self._take
        if take is None or self._pending is not None or self._ready:
            self._keep(data)
            self._wake()
            return
        self._pending = take(data)
        if self._pending is not None:
            self._source.pause()
            self._wake()

    def on_end(self) -> None:
        """See Listener."""
        self._is_complete = True
        self._wake()

    def on_error(self, error: Exception) -> None:
        """See Listener."""
        self._error = error
        self._wake()

    def _keep(self, piece: bytes) -> None:
        self._ready.append(piece)
        self._ready_bytes += len(piece)
        self._source.is_held = True
        if self._ready_bytes > HIGH_WATER_BYTES:
            self._source.pause()

    def _take_ready(self) -> bytes:
        data = self._ready[0] if len(self._ready) == 1 else b"".join(self._ready)
        self._ready.clear()
        self._ready_bytes = 0
        self._source.resume()
        return data

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
