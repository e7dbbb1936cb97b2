"""Answers on their way to a caller: where they go, and what is left of them when an attempt has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Protocol

import msgspec

from bitmesh_proxy.errors import GatewayError

STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx with default buffering would hold the stream back
}


class Reply(Protocol):
    """Where an answer goes: a whole one by ``send``, a stream by ``start``, ``write`` and ``finish``.

    Every method raises CallerLeft when there is nobody left. ``write`` waits while the caller reads slowly;
    ``write_now`` writes at once, and gives something to wait for if the caller does.
    ``abort`` closes the connection so that the caller cannot take the answer for complete.
    """

    @property
    def is_started(self) -> bool: ...

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None: ...

    async def start(self, status: int, headers: Mapping[str, str]) -> None: ...

    async def write(self, data: bytes) -> None: ...

    def write_now(self, data: bytes) -> Awaitable[None] | None: ...

    async def finish(self) -> None: ...

    def abort(self) -> None: ...


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is ready to be sent in one piece."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = msgspec.field(default_factory=lambda: {"Content-Type": "application/json"})


class Streamed(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that has gone to the caller, but for ``tail`` and the end.

    ``is_broken``: it came to no good end, and what was relayed, or the tail, says what went wrong.
    """

    tail: bytes = b""
    is_broken: bool = False
    error: GatewayError | None = None
