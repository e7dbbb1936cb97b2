"""A listener for tests: notes the answer, and ends the exchange when it has ended."""

from __future__ import annotations

import asyncio

from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.heads import AnswerHead


class Call:
    """A listener that finishes its exchange at the end, whatever end."""

    def __init__(self) -> None:
        self.connection: ProviderConnection | None = None
        self.code = 0
        self.headers: tuple[tuple[str, str], ...] = ()
        self.body = b""
        self.error: Exception | None = None
        self.ended = asyncio.Event()

    def on_head(self, head: AnswerHead) -> None:
        self.code = head.code
        self.headers = tuple(head.headers.items())

    def on_piece(self, data: bytes, framed: bytes | None) -> None:
        self.body += data

    def on_end(self) -> None:
        self._end()

    def on_error(self, error: Exception) -> None:
        self.error = error
        self._end()

    def _end(self) -> None:
        assert self.connection is not None, "nothing is told before begin has returned"
        self.connection.finish()
        self.ended.set()
