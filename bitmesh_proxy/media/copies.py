"""Copies of results on disk, because a provider's link dies within the hour.

- ``max_bytes`` holds for everything in the directory at every moment: whole copies, running ones (their declared length
  is set aside before the first byte), and files that somebody still reads. The least recently used make room.
- A copy has its final name (``{id}.{ending}``) only when it is whole. What is in ``partial/`` at the start is removed.
- The directory is the index: the ending names the type, the modification time the age, the access time (set by us, so
  that mount options do not matter) the last use. A restart loses nothing.
- A full or broken disk costs the copy, never the answer: ``begin`` gives None, ``append`` raises ``CopyFailed``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitmesh_proxy.media.files import Files, FileThreads, read_if_cached
from bitmesh_proxy.media.ids import is_media_id
from bitmesh_proxy.media.sniff import EXTENSIONS

logger = logging.getLogger(__name__)

#: A running copy of undeclared length sets aside this much at a time.
GROWTH_BYTES = 4 * 1024 * 1024
#: The last use is written down at most this often.
TOUCH_INTERVAL_S = 60.0
SWEEP_INTERVAL_S = 600.0
_TYPES = {ending: media_type for media_type, ending in EXTENSIONS.items()}


class CopyFailed(Exception):
    """The copy cannot go on: no room, or the disk refused. The answer can."""


@dataclass(slots=True, kw_only=True)
class _Entry:
    path: Path
    media_type: str
    size_bytes: int
    created_at_s: float
    used_at_s: float
    readers: int = 0


class CopyReader:
    """An open copy, which stays readable whatever happens to its name. ``close`` it."""

    def __init__(self, store: CopyStore, entry: _Entry, descriptor: int) -> None:
        self.media_type = entry.media_type
        self.size_bytes = entry.size_bytes
        self.created_at_s = entry.created_at_s
        self._store = store
        self._entry = entry
        self._descriptor = descriptor

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; at least one before the end. Raises OSError."""
        return await self._store.read(self._descriptor, offset, size)

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)
        self._entry.readers -= 1


class RunningCopy:
    """A copy being written. It can be read meanwhile. ``close`` it in any case, after ``finish`` or instead of it."""

    def __init__(self, store: CopyStore, *, media_id: str, media_type: str, path: Path, reserved_bytes: int) -> None:
        self.media_id = media_id
        self.media_type = media_type
        self.path = path
        self.size_bytes = 0
        self.reserved_bytes = reserved_bytes
        self.descriptor = -1
        self.entry: _Entry | None = None
        self._store = store

    async def append(self, data: bytes) -> None:
        """Write ``data`` at the end. Raises CopyFailed; what was written before stays readable."""
        await self._store.append(self, data)

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes of what has been appended. Raises OSError."""
        return await self._store.read(self.descriptor, offset, min(size, self.size_bytes - offset))

    async def finish(self) -> None:
        """All bytes are there: give the copy its name. Raises CopyFailed."""
        await self._store.finish(self)

    async def close(self) -> None:
        """Nobody reads it any more. Without ``finish`` before, it is thrown away."""
        await self._store.close_running(self)


class CopyStore:
    """The directory of copies. See the module's docstring. ``start`` it before use, ``close`` it at the end."""

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        keep_s: float,
        clock: Callable[[], float],
        min_free_bytes: int = 0,
        files: Files | None = None,
    ) -> None:
        self._directory = directory
        self._partial = directory / "partial"
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._min_free_bytes = min_free_bytes
        self._files = files or Files()
        self._threads = FileThreads()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._used_bytes = 0
        self._room = asyncio.Lock()
        self._numbers = itertools.count()
        self._next_sweep_s = 0.0

    @property
    def keep_s(self) -> float:
        """How long a copy is kept, in seconds."""
        return self._keep_s

    @property
    def used_bytes(self) -> int:
        """What all copies take, the running ones with what is set aside for them."""
        return self._used_bytes

    async def start(self) -> None:
        """Make the directory, throw away half copies, take up the whole ones. Raises OSError if it cannot be used."""
        for media_id, entry in await self._threads.run(_scan, self._directory, self._partial):
            self._entries[media_id] = entry
            self._used_bytes += entry.size_bytes
        await self._make_room(0)

    def close(self) -> None:
        """Wait for what the threads are doing."""
        self._threads.close()

    async def open(self, media_id: str) -> CopyReader | None:
        """The copy of ``media_id`` if there is a whole one that is not too old."""
        entry = self._entries.get(media_id)
        if entry is None or self._is_expired(entry):
            return None
        self._entries.move_to_end(media_id)
        entry.readers += 1
        try:
            descriptor = await self._threads.run(self._open_file, entry, self._clock())
        except OSError as exc:
            entry.readers -= 1
            logger.warning("a copy cannot be opened, it is forgotten: %s", exc.strerror)
            await self._evict(media_id)
            return None
        except BaseException:
            entry.readers -= 1
            raise
        return CopyReader(self, entry, descriptor)

    async def begin(self, media_id: str, *, media_type: str, length_bytes: int | None) -> RunningCopy | None:
        """Set room aside and open the file; None if there is no room or the disk refuses."""
        reserve = GROWTH_BYTES if length_bytes is None else length_bytes
        if not await self._make_room(reserve):
            return None
        path = self._partial / f"{media_id}.{next(self._numbers)}"
        copy = RunningCopy(self, media_id=media_id, media_type=media_type, path=path, reserved_bytes=reserve)
        try:
            copy.descriptor = await self._threads.run(self._files.create, path)
        except OSError as exc:
            self._used_bytes -= reserve
            logger.warning("no copy is made: %s", exc.strerror)
            return None
        except BaseException:
            self._used_bytes -= reserve
            raise
        return copy

    async def put(self, media_id: str, data: bytes, *, media_type: str) -> None:
        """Keep bytes that exist nowhere else. Raises CopyFailed."""
        copy = await self.begin(media_id, media_type=media_type, length_bytes=len(data))
        if copy is None:
            raise CopyFailed("there is no room for the result")
        try:
            await copy.append(data)
            await copy.finish()
        finally:
            await copy.close()

    # ------------------------------------------------------------ what the readers and running copies call

    async def read(self, descriptor: int, offset: int, size: int) -> bytes:
        """Read at an offset, from memory at once, from the disk in a thread."""
        cached = read_if_cached(descriptor, size, offset)
        if cached is not None:
            return cached
        return await self._threads.run(self._files.read, descriptor, size, offset)

    async def append(self, copy: RunningCopy, data: bytes) -> None:
        """See RunningCopy."""
        missing = copy.size_bytes + len(data) - copy.reserved_bytes
        if missing > 0:
            step = max(missing, GROWTH_BYTES)
            if not await self._make_room(step):
                raise CopyFailed("there is no room for the rest of the copy")
            copy.reserved_bytes += step
        try:
            await self._threads.run(self._files.write, copy.descriptor, data, copy.size_bytes)
        except OSError as exc:
            raise CopyFailed(f"the disk refused: {exc.strerror}") from exc
        copy.size_bytes += len(data)

    async def finish(self, copy: RunningCopy) -> None:
        """See RunningCopy."""
        final = self._directory / f"{copy.media_id}.{EXTENSIONS[copy.media_type]}"
        now_s = self._clock()
        former = self._entries.pop(copy.media_id, None)
        if former is not None:  # too old, or it would have been used
            await self._remove(former)
        try:
            await self._threads.run(self._files.settle, copy.descriptor, copy.path, final, at_s=now_s)
        except OSError as exc:
            raise CopyFailed(f"the disk refused: {exc.strerror}") from exc
        self._used_bytes += copy.size_bytes - copy.reserved_bytes
        copy.reserved_bytes = 0
        copy.entry = self._entries[copy.media_id] = _Entry(
            path=final,
            media_type=copy.media_type,
            size_bytes=copy.size_bytes,
            created_at_s=now_s,
            used_at_s=now_s,
            readers=1,
        )

    async def close_running(self, copy: RunningCopy) -> None:
        """See RunningCopy."""
        os.close(copy.descriptor)
        if copy.entry is not None:
            copy.entry.readers -= 1
            return
        try:
            await self._threads.run(self._files.remove, copy.path)
        finally:
            self._used_bytes -= copy.reserved_bytes

    # ------------------------------------------------------------ room

    async def _make_room(self, size_bytes: int) -> bool:
        """Set ``size_bytes`` aside; copies that nobody reads go for it, longest unused first. False: no room."""
        async with self._room:
            await self._sweep()
            victims = self._victims(self._used_bytes + size_bytes - self._max_bytes)
            if victims is None:
                return False
            for media_id in victims:
                await self._evict(media_id)
            if self._min_free_bytes and size_bytes:
                free = await self._threads.run(self._files.free_bytes, self._directory)
                if free - size_bytes < self._min_free_bytes:
                    return False
            self._used_bytes += size_bytes
            return True

    def _victims(self, wanted_bytes: int) -> list[str] | None:
        victims: list[str] = []
        for media_id, entry in self._entries.items():
            if wanted_bytes <= 0:
                break
            if not entry.readers:
                victims.append(media_id)
                wanted_bytes -= entry.size_bytes
        return victims if wanted_bytes <= 0 else None

    async def _sweep(self) -> None:
        """Remove what is too old, now and then: the look over all copies is not for every request."""
        if self._clock() < self._next_sweep_s:
            return
        self._next_sweep_s = self._clock() + SWEEP_INTERVAL_S
        for media_id in [key for key, entry in self._entries.items() if self._is_expired(entry) and not entry.readers]:
            await self._evict(media_id)

    async def _evict(self, media_id: str) -> None:
        entry = self._entries.get(media_id)
        if entry is None or entry.readers:  # somebody came while we waited for a thread
            return
        del self._entries[media_id]
        await self._remove(entry)

    async def _remove(self, entry: _Entry) -> None:
        try:
            await self._threads.run(self._files.remove, entry.path)
        except OSError as exc:
            # Still there, so still counted: less room for copies, but never more bytes than allowed.
            logger.warning("a copy cannot be removed: %s", exc.strerror)
        else:
            self._used_bytes -= entry.size_bytes

    def _is_expired(self, entry: _Entry) -> bool:
        return self._clock() - entry.created_at_s >= self._keep_s

    def _open_file(self, entry: _Entry, now_s: float) -> int:
        descriptor = self._files.open(entry.path)
        if now_s - entry.used_at_s >= TOUCH_INTERVAL_S:
            self._files.touch(entry.path, used_at_s=now_s, created_at_s=entry.created_at_s)
            entry.used_at_s = now_s
        return descriptor


def _scan(directory: Path, partial: Path) -> list[tuple[str, _Entry]]:
    """The whole copies, least recently used first. Files with other names are not ours and stay untouched."""
    partial.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in partial.iterdir():
        path.unlink(missing_ok=True)
    found: list[tuple[str, _Entry]] = []
    for path in directory.iterdir():
        media_id, _, ending = path.name.partition(".")
        if ending not in _TYPES or not is_media_id(media_id) or path.is_symlink() or not path.is_file():
            continue
        status = path.stat()
        found.append(
            (
                media_id,
                _Entry(
                    path=path,
                    media_type=_TYPES[ending],
                    size_bytes=status.st_size,
                    created_at_s=status.st_mtime,
                    used_at_s=max(status.st_atime, status.st_mtime),
                ),
            )
        )
    return sorted(found, key=lambda item: item[1].used_at_s)
