"""Answers out: the pipeline's ``Reply`` on aiohttp's response classes.

The head of a stream and its first bytes go out through aiohttp, and so does its end. What lies between may be written
straight into the transport (``write_now``), in the framing that aiohttp announced in the head: that takes no task and
no turn of the event loop for a piece.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Final

import orjson
from aiohttp import web
from aiohttp.http import HttpVersion11

from bitmesh_proxy.awaitables import Deferred
from bitmesh_proxy.errors import CallerLeft

#: Who answers (``Server``). Versions would be of use to nobody but those who look for faults in them.
SERVER: Final = "bitmesh-proxy"


def json_answer(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A whole answer of JSON, for routes that ask no provider."""
    return web.Response(status=status, headers=headers, body=orjson.dumps(body), content_type="application/json")


class HttpReply:
    """One answer to one request. ``response`` is what the handler has to return afterwards."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None
        self._is_head_out = False

    @property
    def is_started(self) -> bool:
        """Has the head gone out?"""
        return self.response is not None and self.response.prepared

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer; aiohttp writes it when the handler returns."""
        self.response = web.Response(status=status, headers=headers, body=body)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of a stream."""
        self.response = web.StreamResponse(status=status, headers=headers)
        if self._request.version >= HttpVersion11:
            self.response.enable_chunked_encoding()  # as it would by itself, but then it would not say so
        try:
            await self.response.prepare(self._request)
        except ConnectionError as exc:
            raise CallerLeft from exc

    async def write(self, data: bytes) -> None:
        """More of a stream. Waits while the caller reads slowly."""
        assert self.response is not None, "start comes first"
        try:
            await self.response.write(data)
        except ConnectionError as exc:
            raise CallerLeft from exc
        self._is_head_out = True

    def write_now(self, data: bytes) -> Awaitable[None] | None:
        """The same at once. When the caller reads slowly, what it gives has to be awaited before more is written."""
        assert self.response is not None, "start comes first"
        if not self._is_head_out or not data:  # aiohttp keeps the head until the first bytes
            return Deferred(lambda: self.write(data))
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise CallerLeft
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self.response.chunked else data)
        return Deferred(self._drain) if self._request.protocol.writing_paused else None

    async def _drain(self) -> None:
        try:
            await self._request.writer.drain()
        except ConnectionError as exc:
            raise CallerLeft from exc

    async def finish(self) -> None:
        """The clean end of a stream."""
        assert self.response is not None, "start comes first"
        try:
            await self.response.write_eof()
        except ConnectionError as exc:
            raise CallerLeft from exc

    def abort(self) -> None:
        """Close the connection without a clean end."""
        if self._request.transport is not None:
            self._request.transport.abort()
