"""Copies of results on disk, because a provider's link dies within the hour.

- ``max_bytes`` holds for everything in the directory at every moment: whole copies, running ones (their declared length
  is set aside before the first byte), and files that somebody still reads. The least recently used make room.
- A copy has its final name (``{id}.{ending}``) only when it is whole. What is in ``partial/`` at the start is removed.
- The directory is the index: the ending names the type, the modification time the age, the access time (set by us, so
  that mount options do not matter) the last use. A restart loses nothing.
- Several processes may share a directory (``shared_as``). Then a copy that one has made is found by the others when it
  is asked for, half copies are removed by their owner's replacement only, and each process looks at what the others
  have made before it makes room, at most every 5 s: by so much ``max_bytes`` may be exceeded.
- A full or broken disk costs the copy, never the answer: ``begin`` gives None, ``append`` and ``finish`` raise
  ``CopyFailed``.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from bitmesh_proxy.media.copy_room import CopyEntry, CopyRoom
from bitmesh_proxy.media.files import Files, FileThreads, read_if_cached, read_into_if_cached
from bitmesh_proxy.media.sniff import EXTENSIONS

logger = logging.getLogger(__name__)

#: A running copy of undeclared length sets aside this much at a time.
GROWTH_BYTES = 4 * 1024 * 1024
#: The last use is written down at most this often.
TOUCH_INTERVAL_S = 60.0
#: What is poured out in one piece.
POUR_BYTES = 256 * 1024

#: Takes a piece, which is its own until what it returns, if anything, is done.
TakeView = Callable[[bytes | memoryview], Awaitable[None] | None]


class CopyFailed(Exception):
    """The copy cannot go on: no room, or the disk refused. The answer can."""


class CopyReader:
    """An open copy, which stays readable whatever happens to its name. ``close`` it."""

    def __init__(self, entry: CopyEntry, descriptor: int, *, files: Files, threads: FileThreads) -> None:
        self.media_type = entry.media_type
        self.size_bytes = entry.size_bytes
        self.created_at_s = entry.created_at_s
        self._entry = entry
        self._descriptor = descriptor
        self._files = files
        self._threads = threads

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; at least one before the end. Raises OSError."""
        size = min(size, self.size_bytes - offset)
        return await _read(self._descriptor, size, offset, files=self._files, threads=self._threads)

    async def pour(self, take: TakeView, start: int, end: int | None) -> None:
        """The bytes from ``start`` up to ``end`` (not included), as ``Delivery.pour``. Raises OSError."""
        end = self.size_bytes if end is None else end
        # One buffer for all pieces: a new one for each has to be given its memory, page by page, each time.
        buffer = memoryview(bytearray(min(POUR_BYTES, max(0, end - start))))
        while start < end:
            space = buffer[: end - start]
            count = read_into_if_cached(self._descriptor, space, start)
            piece = space[:count] if count else await self._read_in_thread(len(space), start)
            start += len(piece)
            pending = take(piece)
            await (asyncio.sleep(0) if pending is None else pending)  # others have their turn however fast this goes

    async def _read_in_thread(self, size: int, offset: int) -> bytes:
        piece = await self._threads.run(self._files.read, self._descriptor, size, offset)
        if not piece:
            raise OSError(errno.EIO, "the copy is shorter than it was")
        return piece

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)
        self._descriptor = -1  # the number may soon be another file's
        self._entry.readers -= 1


class RunningCopy:
    """A copy being written. It can be read meanwhile. ``close`` it in any case, after ``finish`` or instead of it."""

    def __init__(
        self,
        media_id: str,
        *,
        media_type: str,
        path: Path,
        final: Path,
        descriptor: int,
        reserved_bytes: int,
        room: CopyRoom,
        clock: Callable[[], float],
        files: Files,
        threads: FileThreads,
    ) -> None:
        self.size_bytes = 0
        self._media_id = media_id
        self._media_type = media_type
        self._path = path
        self._final = final
        self._descriptor = descriptor
        self._reserved_bytes = reserved_bytes
        self._room = room
        self._clock = clock
        self._files = files
        self._threads = threads
        self._is_settling = False
        self._entry: CopyEntry | None = None

    async def append(self, data: bytes) -> None:
        """Write ``data`` at the end. Raises CopyFailed; what was written before stays readable."""
        missing = self.size_bytes + len(data) - self._reserved_bytes
        if missing > 0:
            step = max(missing, GROWTH_BYTES)
            if not await self._room.set_aside(step):
                raise CopyFailed("there is no room for the rest of the copy")
            self._reserved_bytes += step
        try:
            await self._threads.run(self._files.write, self._descriptor, data, self.size_bytes)
        except OSError as exc:
            raise CopyFailed(f"the disk refused: {exc.strerror}") from exc
        self.size_bytes += len(data)

    async def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes of what has been appended. Raises OSError."""
        size = min(size, self.size_bytes - offset)
        return await _read(self._descriptor, size, offset, files=self._files, threads=self._threads)

    async def finish(self) -> None:
        """All bytes are there: give the copy its name. Raises CopyFailed."""
        now_s = self._clock()
        self._is_settling = True
        try:
            await self._threads.run(self._files.settle, self._descriptor, self._path, self._final, at_s=now_s)
        except OSError as exc:
            raise CopyFailed(f"the disk refused: {exc.strerror}") from exc
        self._entry = CopyEntry(
            media_id=self._media_id,
            path=self._final,
            media_type=self._media_type,
            size_bytes=self.size_bytes,
            created_at_s=now_s,
            used_at_s=now_s,
            readers=1,
        )
        self._room.give_back(self._reserved_bytes)
        await self._room.add(self._entry)

    async def close(self) -> None:
        """Nobody reads it any more. Without ``finish`` before, it is thrown away."""
        os.close(self._descriptor)
        self._descriptor = -1
        if self._entry is not None:
            self._entry.readers -= 1
            return
        try:
            await self._threads.run(self._files.remove, self._path)
            if self._is_settling:  # a cancellation may have come between the renaming and our knowing of it
                await self._threads.run(self._files.remove, self._final)
        except OSError as exc:
            logger.warning("half a copy cannot be removed: %s", exc.strerror)
        finally:
            self._room.give_back(self._reserved_bytes)


class CopyStore:
    """The directory of copies. See the module's docstring. ``start`` it before use, ``close`` it at the end.

    ``shared_as`` is this process's name among those that share the directory; None: it has it for itself. ``is_first``:
    none of them is at work yet, so all half copies are nobody's.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        keep_s: float,
        clock: Callable[[], float],
        min_free_bytes: int = 0,
        files: Files | None = None,
        shared_as: str | None = None,
        is_first: bool = True,
    ) -> None:
        self.keep_s = keep_s
        self._is_shared = shared_as is not None
        self._own_mark = "" if shared_as is None else f"{shared_as}-"
        self._is_first = is_first
        #: No copy is ever made.
        self.is_off = max_bytes <= 0
        self._directory = directory
        self._partial = directory / "partial"
        self._clock = clock
        self._files = files or Files()
        self._threads = FileThreads()
        self._numbers = itertools.count()
        self._room = CopyRoom(
            directory,
            max_bytes=max_bytes,
            keep_s=keep_s,
            min_free_bytes=min_free_bytes,
            clock=clock,
            files=self._files,
            threads=self._threads,
            is_shared=self._is_shared,
        )

    @property
    def used_bytes(self) -> int:
        """What all copies take, the running ones with what is set aside for them."""
        return self._room.used_bytes

    async def start(self) -> None:
        """Make the directory, throw away half copies, take up the whole ones. Raises OSError if it cannot be used."""
        await self._room.load(self._partial, mark="" if self._is_first else self._own_mark)

    async def close(self) -> None:
        """Wait for what the threads are doing."""
        await self._threads.close()

    async def open(self, media_id: str) -> CopyReader | None:
        """The copy of ``media_id`` if there is a whole one that is not too old. Does not wait where there is none."""
        entry = self._room.find(media_id)
        if entry is None and self._is_shared:
            entry = await self._room.discover(media_id)
        if entry is None:
            return None
        entry.readers += 1
        try:
            descriptor = await self._threads.run(self._open_file, entry, self._clock(), undo=os.close)
        except OSError as exc:
            entry.readers -= 1
            logger.warning("a copy cannot be opened, it is forgotten: %s", exc.strerror)
            await self._room.forget(entry)
            return None
        except BaseException:
            entry.readers -= 1
            raise
        return CopyReader(entry, descriptor, files=self._files, threads=self._threads)

    async def begin(self, media_id: str, *, media_type: str, length_bytes: int | None) -> RunningCopy | None:
        """Set room aside and open the file; None if there is no room or the disk refuses."""
        reserved_bytes = GROWTH_BYTES if length_bytes is None else length_bytes
        if not await self._room.set_aside(reserved_bytes):
            return None
        path = self._partial / f"{media_id}.{self._own_mark}{next(self._numbers)}"
        try:
            descriptor = await self._threads.run(self._files.create, path, undo=os.close)
        except OSError as exc:
            self._room.give_back(reserved_bytes)
            logger.warning("no copy is made: %s", exc.strerror)
            return None
        except BaseException:
            self._room.give_back(reserved_bytes)
            raise
        return RunningCopy(
            media_id,
            media_type=media_type,
            path=path,
            final=self._directory / f"{media_id}.{EXTENSIONS[media_type]}",
            descriptor=descriptor,
            reserved_bytes=reserved_bytes,
            room=self._room,
            clock=self._clock,
            files=self._files,
            threads=self._threads,
        )

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

    def _open_file(self, entry: CopyEntry, now_s: float) -> int:
        descriptor = self._files.open(entry.path)
        if now_s - entry.used_at_s >= TOUCH_INTERVAL_S:
            self._files.touch(entry.path, used_at_s=now_s, created_at_s=entry.created_at_s)
            entry.used_at_s = now_s
        return descriptor


async def _read(descriptor: int, size: int, offset: int, *, files: Files, threads: FileThreads) -> bytes:
    """Read at an offset: what is in memory at once, what is on the disk in a thread."""
    cached = read_if_cached(descriptor, size, offset)
    return cached if cached is not None else await threads.run(files.read, descriptor, size, offset)
