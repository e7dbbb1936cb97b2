"""A fetch for one caller alone, where no copies are kept: in the caller's own task, with nothing in between.

Nobody else reads it, so that nobody is waited for; leaving the context of its answer ends it at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bitmesh_proxy.media.download import READ_BYTES, Incoming, Start


class LoneFetch:
    """The bytes of an answer whose beginning has been read. What was read is gone: offsets only grow."""

    def __init__(self, answer: Incoming, start: Start) -> None:
        self._answer = answer
        self._length_bytes = answer.content_length
        self._piece = start.data
        self._piece_start = 0

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; empty at the true end. Raises FetchError."""
        while offset >= self._piece_start + len(self._piece):
            piece = await self._answer.read()
            if not piece:
                return b""
            self._piece_start += len(self._piece)
            self._piece = piece
        at = offset - self._piece_start
        return self._piece[at : at + size]

    async def pour(
        self, take: Callable[[bytes | memoryview], Awaitable[None] | None], start: int, end: int | None
    ) -> None:
        """The bytes from ``start`` up to ``end``, as ``Delivery.pour``: all of them straight from the connection."""
        if start == 0 and end == self._length_bytes and not self._piece_start:
            await _given(take, self._piece)
            await self._answer.pour(take)
            return
        while end is None or start < end:
            piece = await self.read(start, READ_BYTES if end is None else min(READ_BYTES, end - start))
            if not piece:
                return
            start += len(piece)
            await _given(take, piece)


async def _given(take: Callable[[bytes | memoryview], Awaitable[None] | None], piece: bytes) -> None:
    pending = take(piece)
    if pending is not None:
        await pending
