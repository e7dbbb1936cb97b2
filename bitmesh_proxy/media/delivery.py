"""From an id to bytes: the copy on disk, else a fetch that is under way, else a new one.

One id is fetched once at a time as long as there is room for its copy; whoever asks meanwhile reads along. Without room
each caller has a fetch of their own, and where no copies are kept at all it runs in the caller's own task. The number
of fetches is bounded; whoever comes later waits, for a bounded time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from bitmesh_proxy.errors import NotFound
from bitmesh_proxy.media.copies import CopyReader, CopyStore, TakeView
from bitmesh_proxy.media.download import READ_BYTES, Download, DownloadReader, read_start
from bitmesh_proxy.media.fetch_answer import Answer
from bitmesh_proxy.media.fetch_answer import Kind as FetchKind
from bitmesh_proxy.media.fetch_errors import FetchGone, FetchTimedOut
from bitmesh_proxy.media.guarded_fetch import GuardedFetcher
from bitmesh_proxy.media.lone_fetch import LoneFetch
from bitmesh_proxy.media.origins import origin_of
from bitmesh_proxy.media.sources import ResultSource
from bitmesh_proxy.storage.media import MediaRecord

logger = logging.getLogger(__name__)

_KINDS: frozenset[FetchKind] = frozenset({"image", "video", "audio"})

CredentialHeaders = Callable[[str], Mapping[str, str]]


class DeliveryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many fetches at once, how long one waits for its turn, how much is finished for nobody.

    ``max_waiting_copies`` bounds the copies that are made ahead of anybody asking; beyond it none is made ahead.
    """

    max_concurrent_fetches: int = 64
    turn_timeout_s: float = 30.0
    finish_alone_bytes: int = 128 * 1024 * 1024
    max_waiting_copies: int = 256


class ByteSource(Protocol):
    """Where bytes are read from."""

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the true end. Raises FetchError or OSError when they break off."""

    async def pour(self, take: TakeView, start: int, end: int | None) -> None:
        """See ``Delivery.pour``."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A result that can be read.

    ``length_bytes`` is None when nobody knows it yet; then it can only be read whole. ``is_kept`` says that the bytes
    lie on our disk, or are on their way there; ``age_s`` is how long a whole copy has been there.
    """

    media_type: str
    length_bytes: int | None
    is_kept: bool
    age_s: float
    source: ByteSource

    async def chunks(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from ``start`` up to ``end`` (not included). Raises FetchError or OSError when they break off."""
        while end is None or start < end:
            piece = await self.source.read(start, READ_BYTES if end is None else min(READ_BYTES, end - start))
            if not piece:
                return
            start += len(piece)
            yield piece

    async def pour(self, take: TakeView, start: int = 0, end: int | None = None) -> None:
        """The same bytes, each piece given to ``take`` as soon as it is there, and what that gives is awaited.

        A piece is the taker's until that is done, and not longer: it may lie in a buffer that is used again. Raises as
        ``chunks``, and what ``take`` raises.
        """
        await self.source.pour(take, start, self.length_bytes if end is None else end)


class Deliveries:
    """See the module's docstring. ``close`` it before the fetcher and the copies."""

    def __init__(
        self,
        *,
        copies: CopyStore,
        fetcher: GuardedFetcher,
        sources: Mapping[str, ResultSource],
        credential_headers: CredentialHeaders,
        clock: Callable[[], float],
        limits: DeliveryLimits,
    ) -> None:
        self._copies = copies
        self._fetcher = fetcher
        self._sources = sources
        self._credential_headers = credential_headers
        self._clock = clock
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.max_concurrent_fetches)
        self._ahead_turns = asyncio.Semaphore(max(1, limits.max_concurrent_fetches // 4))
        self._downloads: dict[str, Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ahead: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End every fetch; readers get an error."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def open(self, record: MediaRecord) -> AsyncIterator[Delivery]:
        """The bytes of a result. Raises NotFound when they are gone, FetchError when they cannot be had now."""
        copy = await self._copies.open(record.media_id)
        if copy is not None:
            try:
                yield self._from_copy(copy)
            finally:
                copy.close()
        elif self._copies.is_off:
            async with self._open_alone(record) as delivery:
                yield delivery
        else:
            async with self._open_shared(record) as delivery:
                yield delivery

    @asynccontextmanager
    async def _open_alone(self, record: MediaRecord) -> AsyncIterator[Delivery]:
        try:
            async with self._fetch(record) as answer:
                start = await read_start(answer, kind=record.kind)
                yield Delivery(
                    media_type=start.media_type,
                    length_bytes=answer.content_length,
                    is_kept=False,
                    age_s=0.0,
                    source=LoneFetch(answer, start),
                )
        except FetchGone as exc:
            raise NotFound("Resource not found") from exc

    @asynccontextmanager
    async def _open_shared(self, record: MediaRecord) -> AsyncIterator[Delivery]:
        reader = await self._join(record)
        try:
            head = await reader.head()
            yield Delivery(
                media_type=head.media_type,
                length_bytes=head.length_bytes,
                is_kept=reader.is_copied,
                age_s=0.0,
                source=reader,
            )
        finally:
            reader.close()

    def copy_ahead(self, record: MediaRecord) -> None:
        """Make a copy before anybody asks for it. Does nothing if there are too many of these already."""
        if len(self._ahead) < self._limits.max_waiting_copies:
            task = asyncio.create_task(self._copy_ahead(record), name=f"copy {record.media_id}")
            self._ahead.add(task)
            task.add_done_callback(self._ahead.discard)
            self._keep(task)

    async def _copy_ahead(self, record: MediaRecord) -> None:
        async with self._ahead_turns:
            copy = await self._copies.open(record.media_id)
            if copy is not None:
                copy.close()
                return
            download = self._downloads.get(record.media_id)
            if download is None or not download.may_join:
                download = self._start(record)
            download.keep_going = True
            await download.over()

    async def _join(self, record: MediaRecord) -> DownloadReader:
        """A reader whose head is there: of the fetch that is under way, if it makes a copy, else of one of its own."""
        download = self._downloads.get(record.media_id)
        if download is not None and download.may_join:
            reader = download.join()
            if await self._is_shared(reader):
                return reader
        reader = self._start(record).join()
        await self._await_head(reader)
        return reader

    async def _is_shared(self, reader: DownloadReader) -> bool:
        await self._await_head(reader)
        if not reader.is_copied:
            reader.close()
        return reader.is_copied

    async def _await_head(self, reader: DownloadReader) -> None:
        try:
            await reader.head()
        except FetchGone as exc:
            reader.close()
            raise NotFound("Resource not found") from exc
        except BaseException:
            reader.close()
            raise

    def _start(self, record: MediaRecord) -> Download:
        download = Download(
            record.media_id,
            kind=record.kind,
            open_answer=lambda: self._fetch(record),
            copies=self._copies,
            finish_alone_bytes=self._limits.finish_alone_bytes,
        )
        self._downloads[record.media_id] = download
        self._keep(asyncio.create_task(self._run(download), name=f"fetch {record.media_id}"))
        return download

    async def _run(self, download: Download) -> None:
        try:
            await download.run()
        finally:
            if self._downloads.get(download.media_id) is download:
                del self._downloads[download.media_id]

    @asynccontextmanager
    async def _fetch(self, record: MediaRecord) -> AsyncIterator[Answer]:
        link, headers = self._link(record)
        if not self._turns.locked():
            await self._turns.acquire()  # at once
        else:
            await self._wait_for_turn()
        try:
            async with self._fetcher.open(link, headers=headers, kinds=_KINDS) as answer:
                yield answer
        finally:
            self._turns.release()

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(self._limits.turn_timeout_s):
                await self._turns.acquire()
        except TimeoutError as exc:
            raise FetchTimedOut("too many fetches are under way") from exc

    def _link(self, record: MediaRecord) -> tuple[str, Mapping[str, str]]:
        """Where the bytes are, and the credential if they need it and lie at the provider's own address."""
        source = self._sources.get(record.provider)
        if record.is_short:
            if source is None or not source.short_base:
                raise FetchGone("the provider is no longer configured")
            return source.short_link(record.media_id), {}
        if record.url is None:
            raise FetchGone("the bytes are no longer on our disk")
        if record.needs_credential and source is not None and origin_of(record.url) in source.origins:
            return record.url, self._credential_headers(record.provider)
        return record.url, {}

    def _from_copy(self, copy: CopyReader) -> Delivery:
        return Delivery(
            media_type=copy.media_type,
            length_bytes=copy.size_bytes,
            is_kept=True,
            age_s=max(0.0, self._clock() - copy.created_at_s),
            source=copy,
        )

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody waits for it: its readers have heard, and what else went wrong is said here."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s broke off: %s", task.get_name(), error, exc_info=error)
