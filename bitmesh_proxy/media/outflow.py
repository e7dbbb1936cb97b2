"""The body of an answer on its way to a caller of ``/imgrslt``, written straight into the caller's transport.

aiohttp writes the head, the first piece and the end; what lies between goes past its writer, in the framing that the
head announced. While a body flows, the transport counts as full as soon as anything is left in it: so it never keeps
more than one piece, and a piece may lie in a buffer that is used again once the transport is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.http import HttpVersion11

from bitmesh_proxy.awaitables import Deferred


class Outflow:
    """One body. ``prepare`` the response by it, then ``write_now`` within ``flowing``."""

    def __init__(self, request: web.Request, response: web.StreamResponse, *, stall_timeout_s: float) -> None:
        """``stall_timeout_s``: how long a caller may take nothing at all."""
        self._request = request
        self._response = response
        self._stall_timeout_s = stall_timeout_s
        self._has_begun = False

    async def prepare(self) -> None:
        """Write the head, or keep it for the first piece. Raises ConnectionError."""
        response = self._response
        if response.content_length is None and self._request.version >= HttpVersion11:
            response.enable_chunked_encoding()  # as it would by itself, but then it would not say so
        await response.prepare(self._request)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Within it, the transport is full with the first byte that it cannot pass on."""
        transport = self._transport()
        low, high = transport.get_write_buffer_limits()
        # TLS is full at its limit, and at 0 would be so for ever; plain transports are full only above theirs.
        transport.set_write_buffer_limits(high=0 if transport.get_extra_info("sslcontext") is None else 1, low=0)
        try:
            yield
        finally:
            if self._request.transport is not None:
                self._request.transport.set_write_buffer_limits(high=high, low=low)

    def write_now(self, piece: bytes | memoryview) -> Awaitable[None] | None:
        """More of the body. What it gives is to be awaited before more is written, and before ``piece`` may change.

        Raises ConnectionError when the caller has left; so does what it gives, and TimeoutError when the caller stalls.
        """
        if not self._has_begun:
            return Deferred(lambda: self._write_first(piece))
        framed = b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")) if self._response.chunked else piece
        self._transport().write(framed)
        return Deferred(self._drain) if self._request.protocol.writing_paused else None

    async def finish(self) -> None:
        """The clean end. Raises ConnectionError."""
        await self._response.write_eof()

    async def _write_first(self, piece: bytes | memoryview) -> None:
        self._has_begun = True
        async with asyncio.timeout(self._stall_timeout_s):
            await self._response.write(piece)
        await self._drain()

    async def _drain(self) -> None:
        """Until the transport is empty. It is only a stall when the caller takes nothing at all."""
        left_bytes = self._transport().get_write_buffer_size()
        while True:
            try:
                async with asyncio.timeout(self._stall_timeout_s):
                    return await self._request.writer.drain()
            except TimeoutError:
                now_bytes = self._transport().get_write_buffer_size()
                if now_bytes >= left_bytes:
                    raise
                left_bytes = now_bytes

    def _transport(self) -> asyncio.Transport:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the caller has left")
        return transport
