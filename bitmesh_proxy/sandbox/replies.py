"""Answers on the wire, and everything that directives do to them: stalls, breaks, drips, broken ends.

A *piece* is one event of a stream, else an eighth of the body (16 KiB at most). Handlers hand over what the provider
would say; only this file knows how it is spoilt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterator, Mapping
from dataclasses import dataclass

import orjson
from aiohttp import web

from bitmesh_proxy.sandbox.faults import Directives
from bitmesh_proxy.sandbox.plays import Ask, Json

MAX_PIECE_BYTES = 16 * 1024
PIECES_OF_A_BODY = 8
JSON_TYPE = "application/json"


class HungUp(Exception):
    """The sandbox itself closed the connection. Carries what aiohttp wants back from a handler."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__("the sandbox hung up")
        self.response = response


def hang_up(request: web.Request, response: web.StreamResponse | None = None) -> HungUp:
    """Abort the connection (a reset, not an end). Raise what this returns, with no await in between."""
    if request.transport is not None:
        request.transport.abort()
    return HungUp(response or web.Response())


class Wire:
    """A prepared response, written piece by piece as the directives want it."""

    def __init__(self, request: web.Request, response: web.StreamResponse, directives: Directives) -> None:
        self._request = request
        self._response = response
        self._directives = directives
        self.pieces = 0

    async def send(self, piece: bytes) -> None:
        """Raises HungUp when this is the place to break off."""
        await self._strike()
        self.pieces += 1
        size = 1 if self._directives.drip else self._directives.split
        if size is None:
            await self._response.write(piece)
            return
        for start in range(0, len(piece), size):
            await self._response.write(piece[start : start + size])
            await asyncio.sleep(0)

    async def end(self) -> web.StreamResponse:
        await self._strike()
        await self._response.write_eof()
        return self._response

    async def _strike(self) -> None:
        stall = self._directives.stall_after
        if stall is not None and self.pieces == stall.pieces:
            await asyncio.sleep(stall.seconds_s)
        if self.pieces == self._directives.break_after:
            # What was written so far is to reach the client before the reset overtakes it.
            await asyncio.sleep(0.01)
            raise hang_up(self._request, self._response)


def is_spoilt(directives: Directives) -> bool:
    """Whether a whole answer needs a Wire."""
    return (
        directives.drip
        or directives.split is not None
        or directives.stall_after is not None
        or directives.break_after is not None
    )


def cut(data: bytes) -> Iterator[bytes]:
    """A body's pieces."""
    size = max(1, min(MAX_PIECE_BYTES, -(-len(data) // PIECES_OF_A_BODY)))
    return (data[start : start + size] for start in range(0, len(data), size))


async def send_json(
    ask: Ask, body: Json, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    data = orjson.dumps(body)
    if ask.directives.garbage:
        data = data[: len(data) // 2]
    return await send_bytes(ask, data, media_type=JSON_TYPE, status=status, headers=headers)


async def send_bytes(
    ask: Ask, data: bytes, *, media_type: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """A whole body with its Content-Length."""
    said = {**ask.play.answer_headers(ask.stage), **(headers or {}), "Content-Type": media_type}
    if not is_spoilt(ask.directives):
        return web.Response(body=data, status=status, headers=said)
    response = web.StreamResponse(status=status, headers=said)
    response.content_length = len(data)
    await response.prepare(ask.request)
    wire = Wire(ask.request, response, ask.directives)
    for piece in cut(data):
        await wire.send(piece)
    return await wire.end()


async def send_stream(
    ask: Ask, pieces: AsyncIterable[bytes], *, media_type: str, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Bytes as they come, without a length: each piece is a chunk."""
    said = {**ask.play.answer_headers(ask.stage), **(headers or {}), "Content-Type": media_type}
    response = web.StreamResponse(headers=said)
    response.enable_chunked_encoding()
    await response.prepare(ask.request)
    wire = Wire(ask.request, response, ask.directives)
    async for piece in pieces:
        await wire.send(piece)
    return await wire.end()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One server-sent event. ``is_end`` marks the protocol's own end, which ``no_done`` leaves out."""

    data: bytes
    name: str | None = None
    is_end: bool = False


DONE = Event(data=b"[DONE]", is_end=True)


def json_event(body: Json, name: str | None = None) -> Event:
    return Event(data=orjson.dumps(body), name=name)


async def send_events(ask: Ask, events: AsyncIterable[Event], *, broken: Event) -> web.StreamResponse:
    """A stream of events. ``broken`` is the provider's way to say in mid-stream that it failed."""
    headers = {
        **ask.play.answer_headers(ask.stage),
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
    }
    response = web.StreamResponse(headers=headers)
    await response.prepare(ask.request)
    wire = Wire(ask.request, response, ask.directives)
    async for event in events:
        if event.is_end and ask.directives.no_done:
            continue
        break_at = ask.directives.error_in_stream
        if break_at is not None and (wire.pieces >= break_at or event.is_end):
            await wire.send(render_event(broken, ask.directives))
            break
        await wire.send(render_event(event, ask.directives))
    return await wire.end()


def render_event(event: Event, directives: Directives) -> bytes:
    end = b"\r\n" if directives.crlf else b"\n"
    lines = [b": still here"] if directives.comments else []
    if event.name is not None:
        lines.append(b"event: " + event.name.encode())
    lines.append(b"data: " + event.data)
    return end.join(lines) + end + end
