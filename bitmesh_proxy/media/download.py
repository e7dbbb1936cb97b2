"""One fetch from a provider, shared by everybody who wants the same result, with the copy written on the way.

While there is a copy, the disk is the buffer: the fetch runs as fast as the provider gives, each reader reads at its
own pace, and what is in memory is one piece. Without one (no room, disk full, also in mid-way) the pieces go through by
hand: the next is fetched only when every reader has taken the last, so that a slow caller slows the provider and memory
stays flat. To a reader that is alone and pours they go straight from the connection, without a turn of the event loop.

Nobody left to read: the fetch goes on alone, if there is a copy and not much is missing; else it ends, with the next
piece (who comes back before finds it going on), and without a copy at once.
A fetch that breaks ends with an error for every reader, and its copy is thrown away. It is never a clean end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

import msgspec

from bitmesh_proxy.awaitables import Deferred
from bitmesh_proxy.media.copies import CopyFailed, CopyStore, RunningCopy
from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchError, FetchGone, FetchNotMedia
from bitmesh_proxy.media.sniff import SNIFF_BYTES, served_type
from bitmesh_proxy.upstream.inbox import Take

#: Statuses with which object stores and providers say that a link is no longer good: a pre-signed link that has expired
#: is 403 at S3 and its likes. Nothing that a caller could do brings the picture back.
_GONE_STATUSES = frozenset({401, 403, 404, 410})
READ_BYTES = 128 * 1024


class Incoming(Protocol):
    """What a download needs of an answer; ``fetch_answer.Answer`` is one."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def media_type(self) -> str | None:
        """As declared; None when nothing useful was."""

    @property
    def content_length(self) -> int | None:
        """As declared."""

    async def read(self) -> bytes:
        """What comes next of the body; empty at its end. Raises FetchError."""

    async def pour(self, take: Take) -> None:
        """The rest of the body; what ``take`` gives is awaited before more is read. Raises FetchError."""

    def close(self) -> None:
        """Break it off, if there is more to come: whoever reads gets FetchError."""


class MediaHead(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before the first byte. ``length_bytes`` is None when the provider did not declare it."""

    media_type: str
    length_bytes: int | None


class Download:
    """A running fetch. ``run`` is its task's whole body; the rest is for the readers' tasks, on the same loop.

    ``keep_going`` finishes the copy even when nobody reads it and however much is missing.
    """

    def __init__(
        self,
        media_id: str,
        *,
        kind: Literal["image", "video", "audio"],
        open_answer: Callable[[], AbstractAsyncContextManager[Incoming]],
        copies: CopyStore | None,
        finish_alone_bytes: int,
    ) -> None:
        self.media_id = media_id
        self.size_bytes = 0
        self.is_over = False
        #: False once pieces go through by hand; the copy's file may stay open for what was written before.
        self.is_copying = False
        self.keep_going = False
        self._kind = kind
        self._open_answer = open_answer
        self._copies = copies
        self._finish_alone_bytes = finish_alone_bytes
        self._head: MediaHead | None = None
        self._error: FetchError | None = None
        self._answer: Incoming | None = None
        self._copy: RunningCopy | None = None
        self._is_given_up = False
        self._is_whole = False
        self._piece = b""
        self._readers: set[DownloadReader] = set()
        self._alone_since_bytes = 0
        self._changed = asyncio.Event()

    # ------------------------------------------------------------ for the readers

    @property
    def may_join(self) -> bool:
        """Can another reader still get everything from the first byte on?"""
        return not self.is_over and not self._is_given_up and (self._head is None or self.is_copying)

    def join(self) -> DownloadReader:
        """One more reader, from the first byte on."""
        reader = DownloadReader(self)
        self._readers.add(reader)
        return reader

    async def head(self) -> MediaHead:
        """Wait for what is known before the first byte. Raises FetchError."""
        while self._head is None:
            self.check()
            await self.changed()
        return self._head

    @property
    def length_bytes(self) -> int | None:
        """As declared; None as long as it is not known."""
        return self._head.length_bytes if self._head is not None else None

    async def over(self) -> None:
        """Wait for the end, whichever it is."""
        while not self.is_over:
            await self.changed()

    async def changed(self) -> None:
        """Wait until something may have changed."""
        await self._changed.wait()

    def check(self) -> None:
        """Raise the error that the fetch ended with, if it did."""
        if self._error is not None:
            raise type(self._error)(str(self._error)) from self._error

    async def read(self, offset: int, size: int) -> bytes:
        """Bytes that are there, at least one; ``offset`` lies below ``size_bytes``. Raises OSError."""
        piece_start = self.size_bytes - len(self._piece)
        if offset >= piece_start:
            at = offset - piece_start
            return self._piece[at : at + size] if at or size < len(self._piece) else self._piece
        if self._copy is None:
            raise FetchBroken("the bytes have passed already")
        return await self._copy.read(offset, min(size, piece_start - offset))

    def progressed(self) -> None:
        """A reader has taken something, or has left."""
        self._announce()

    def left(self, reader: DownloadReader) -> None:
        """A reader goes."""
        self._readers.discard(reader)
        if not self._readers:
            self._alone_since_bytes = self.size_bytes
            if self._answer is not None and self._head is not None and not self.is_copying:
                self._is_given_up = True
                self._answer.close()
        self._announce()

    # ------------------------------------------------------------ the fetch

    async def run(self) -> None:
        """Fetch to the end. Raises nothing but CancelledError: how it ended, the readers are told."""
        try:
            async with self._open_answer() as answer:
                try:
                    self._answer = answer
                    await self._transfer(answer)
                finally:
                    self._answer = None
        except FetchError as exc:
            self._error = exc
        except asyncio.CancelledError:
            self._readers.clear()  # the service stops; nobody is waited for
            raise
        finally:
            if not self._is_whole and self._error is None:  # cancelled, or a mistake of ours: never a clean end
                self._error = FetchBroken("the fetch was given up")
            self.is_over = True
            self._announce()
            await self._close()

    async def _transfer(self, answer: Incoming) -> None:
        start = await read_start(answer, kind=self._kind)
        await self._begin_copy(start.media_type, answer.content_length)
        self._head = MediaHead(media_type=start.media_type, length_bytes=answer.content_length)
        await self._pass_on(start.data)
        await answer.pour(self._take)
        if self._copy is not None and self.is_copying:
            try:
                await self._copy.finish()
            except CopyFailed:
                self.is_copying = False
        self._is_whole = True

    async def _begin_copy(self, media_type: str, length_bytes: int | None) -> None:
        if self._copies is not None:
            self._copy = await self._copies.begin(self.media_id, media_type=media_type, length_bytes=length_bytes)
            self.is_copying = self._copy is not None

    def _take(self, piece: bytes) -> Awaitable[None] | None:
        if not self.is_copying and len(self._readers) == 1:
            (reader,) = self._readers
            if reader.is_pouring:
                self._piece = b""
                self.size_bytes += len(piece)
                return reader.hand(piece)
        return Deferred(lambda: self._pass_on(piece))

    async def _pass_on(self, piece: bytes) -> None:
        if self._copy is not None and self.is_copying:
            try:
                await self._copy.append(piece)
            except CopyFailed:
                self.is_copying = False
        self._piece = piece
        self.size_bytes += len(piece)
        self._announce()
        while not self.is_copying and any(reader.position < self.size_bytes for reader in self._readers):
            await self.changed()
        if not self._readers and not self._goes_on_alone():
            self._is_given_up = True
            raise FetchBroken("nobody is left to read it")

    def _goes_on_alone(self) -> bool:
        if not self.is_copying or self.keep_going:
            return self.is_copying
        length = self.length_bytes
        if length is None:
            return self.size_bytes - self._alone_since_bytes <= self._finish_alone_bytes
        return length - self._alone_since_bytes <= self._finish_alone_bytes

    async def _close(self) -> None:
        """The file is there as long as somebody reads it."""
        try:
            while self._readers:
                await self.changed()
        finally:
            if self._copy is not None:
                await self._copy.close()

    def _announce(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()


class DownloadReader:
    """One reader's place in a download. ``close`` it."""

    def __init__(self, download: Download) -> None:
        self.position = 0
        self._download = download
        self._take: Take | None = None
        self._failure: Exception | None = None

    @property
    def is_copied(self) -> bool:
        """Do the bytes go to the disk? Then readers do not wait for each other."""
        return self._download.is_copying

    async def head(self) -> MediaHead:
        """See Download."""
        return await self._download.head()

    async def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``, which only grows; empty at the true end.

        Raises FetchError when the fetch did not reach it, OSError when the copy cannot be read.
        """
        if offset > self.position:  # the bytes in between are not wanted
            self.position = offset
            self._download.progressed()
        while offset >= self._download.size_bytes:
            self._download.check()
            if self._download.is_over:
                return b""
            await self._download.changed()
        piece = await self._download.read(offset, size)
        self.position = offset + len(piece)
        self._download.progressed()
        return piece

    async def pour(self, take: Take, start: int, end: int | None) -> None:
        """The bytes from ``start`` up to ``end`` (not included; None: to the true end), as ``Delivery.pour``."""
        at = start
        while end is None or at < end:
            if self._may_pour(at, end):
                await self._wait_pouring(take)
                at = self.position
            else:
                piece = await self.read(at, READ_BYTES if end is None else min(READ_BYTES, end - at))
                if not piece:
                    return
                at += len(piece)
                pending = take(piece)
                if pending is not None:
                    await pending

    @property
    def is_pouring(self) -> bool:
        """Does it wait for pieces straight from the connection?"""
        return self._take is not None

    def hand(self, piece: bytes) -> Awaitable[None] | None:
        """A piece for one that is pouring. Raises FetchBroken when the one behind it will take no more."""
        assert self._take is not None
        self.position += len(piece)
        try:
            pending = self._take(piece)
        except Exception as exc:
            raise self._failed(exc) from exc
        return None if pending is None else Deferred(lambda: self._handed(pending))

    def close(self) -> None:
        """Leave."""
        self._download.left(self)

    def _may_pour(self, at: int, end: int | None) -> bool:
        """Has it got all that is there, wants all that is to come, and comes it by hand?"""
        download = self._download
        return (
            at == self.position == download.size_bytes
            and not download.is_copying
            and not download.is_over
            and end == download.length_bytes
        )

    async def _wait_pouring(self, take: Take) -> None:
        """Until something changes, pieces are handed to ``take``. Raises what it raised."""
        self._take = take
        try:
            await self._download.changed()
        finally:
            self._take = None
        if self._failure is not None:
            raise self._failure

    async def _handed(self, pending: Awaitable[None]) -> None:
        try:
            await pending
        except Exception as exc:
            raise self._failed(exc) from exc

    def _failed(self, error: Exception) -> FetchBroken:
        """What takes has failed: the error is the reader's own, the fetch only loses a reader."""
        self._failure = error
        self._download.left(self)
        return FetchBroken("nobody is left to read it")


class Start(NamedTuple):
    """The first bytes of a result, and what they are."""

    data: bytes
    media_type: str


async def read_start(answer: Incoming, *, kind: Literal["image", "video", "audio"]) -> Start:
    """The first pieces of a result, as many as sniffing needs; all of one that is shorter.

    Raises FetchGone when the provider has it no longer, FetchBroken for any other status, FetchNotMedia for what is no
    result.
    """
    if answer.status in _GONE_STATUSES:
        raise FetchGone("the provider has it no longer")
    if answer.status != 200:
        raise FetchBroken(f"the provider answered {answer.status}")
    data = b""
    while len(data) < SNIFF_BYTES and (piece := await answer.read()):
        data += piece
    media_type = served_type(data, answer.media_type, kind=kind) if data else None
    if media_type is None:
        raise FetchNotMedia("the provider's answer is not a picture, film or sound")
    return Start(data, media_type)
