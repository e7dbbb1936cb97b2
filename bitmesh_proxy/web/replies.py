"""Answers out: the pipeline's ``Reply`` on aiohttp's response classes."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from bitmesh_proxy.errors import CallerLeft


class HttpReply:
    """One answer to one request. ``response`` is what the handler has to return afterwards."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None

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
