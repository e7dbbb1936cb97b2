"""Which copies there are, how many bytes they take, and which of them make room for new ones.

``used_bytes`` counts whole copies and what is set aside for running ones; it never exceeds ``max_bytes``. Copies also
leave ``min_free_bytes`` of the disk to others. A copy that somebody reads stays: its bytes would stay on the disk
anyway until the last reader closes it.
"""

from __future__ import annotations

import asyncio
import logging
import stat
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from bitmesh_proxy.media.files import Files, FileThreads, make_directories
from bitmesh_proxy.media.ids import is_media_id
from bitmesh_proxy.media.sniff import EXTENSIONS
from bitmesh_proxy.storage.sweeps import NowAndThen

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 600.0
#: Where others work in the same directory, it is looked through so often at most.
LOOK_INTERVAL_S = 5.0
_TYPES = {ending: media_type for media_type, ending in EXTENSIONS.items()}


class CopyEntry(msgspec.Struct, kw_only=True):
    """One whole copy. Times are Unix times."""

    media_id: str
    path: Path
    media_type: str
    size_bytes: int
    created_at_s: float
    used_at_s: float
    readers: int = 0


class CopyRoom:
    """The index of the copies and their budget. See the module's docstring."""

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        keep_s: float,
        min_free_bytes: int,
        clock: Callable[[], float],
        files: Files,
        threads: FileThreads,
        is_shared: bool = False,
    ) -> None:
        self.used_bytes = 0
        self._is_shared = is_shared
        self._looks = NowAndThen(LOOK_INTERVAL_S)
        self._directory = directory
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._files = files
        self._threads = threads
        self._entries: OrderedDict[str, CopyEntry] = OrderedDict()
        self._deciding = asyncio.Lock()
        self._sweeps = NowAndThen(SWEEP_INTERVAL_S)

    async def load(self, partial: Path, *, mark: str = "") -> None:
        """Take up what is there from before, throw away half copies whose second name begins with ``mark``.

        Raises OSError if the directory cannot be used.
        """
        await self._threads.run(_clear, partial, mark)
        for entry in await self._threads.run(_scan, self._directory):
            await self.add(entry)
        async with self._deciding:
            await self._sweep()
            await self._free(self.used_bytes - self._max_bytes)

    def find(self, media_id: str) -> CopyEntry | None:
        """The copy of an id, if it is not too old; it is now the most recently used."""
        entry = self._entries.get(media_id)
        if entry is None or self._is_expired(entry):
            return None
        self._entries.move_to_end(media_id)
        return entry

    async def discover(self, media_id: str) -> CopyEntry | None:
        """A copy that another process has made, if it is there and not too old."""
        entry = await self._threads.run(_find, self._directory, media_id)
        if entry is None or self._is_expired(entry):
            return None
        known = self._entries.get(media_id)  # found meanwhile by somebody else
        if known is not None:
            return known
        await self.add(entry)
        return entry

    async def add(self, entry: CopyEntry) -> None:
        """Count a whole copy in, in place of an older one of the same id."""
        former = self._entries.pop(entry.media_id, None)
        self._entries[entry.media_id] = entry
        self.used_bytes += entry.size_bytes
        if former is not None:
            await self._remove(former, keep_file=former.path == entry.path)

    async def forget(self, entry: CopyEntry) -> None:
        """Drop a copy whose file does not work, unless somebody reads it."""
        if not entry.readers:
            await self._evict(entry)

    async def set_aside(self, size_bytes: int) -> bool:
        """Count in ``size_bytes`` for a running copy, after removing what must go for it. False: there is no room."""
        async with self._deciding:
            await self._look_around()
            await self._sweep()
            if (missing_bytes := await self._missing_bytes(size_bytes)) > 0:
                await self._free(missing_bytes)
                if await self._missing_bytes(size_bytes) > 0:
                    return False
            self.used_bytes += size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        """Count out what was set aside."""
        self.used_bytes -= size_bytes

    async def _missing_bytes(self, size_bytes: int) -> int:
        """How much has to go before there is room for so much more; 0 or less where nothing has."""
        over_bytes = self.used_bytes + size_bytes - self._max_bytes
        if not self._min_free_bytes:
            return over_bytes
        try:
            free_bytes = await self._threads.run(self._files.free_bytes, self._directory)
        except OSError as exc:
            logger.warning("the disk's free space cannot be asked: %s", exc.strerror)
            return self.used_bytes + 1  # more than can go
        return max(over_bytes, self._min_free_bytes + size_bytes - free_bytes)

    async def _free(self, wanted_bytes: int) -> None:
        """Remove the copies that were not used for longest, unless all of them together are not enough."""
        victims: list[CopyEntry] = []
        for entry in self._entries.values():
            if wanted_bytes <= 0:
                break
            if not entry.readers:
                victims.append(entry)
                wanted_bytes -= entry.size_bytes
        if wanted_bytes > 0:
            return
        for entry in victims:
            if not entry.readers:  # or somebody came while a thread was at work
                await self._evict(entry)

    async def _look_around(self) -> None:
        """Take up what other processes have made, and drop what they have removed."""
        began_s = self._clock()
        if not self._is_shared or not self._looks.is_due(began_s):
            return
        there = {entry.media_id: entry for entry in await self._threads.run(_scan, self._directory)}
        for media_id, entry in list(self._entries.items()):
            if media_id not in there and not entry.readers and entry.created_at_s < began_s:
                del self._entries[media_id]
                self.used_bytes -= entry.size_bytes
        for media_id, entry in there.items():
            if media_id not in self._entries:
                await self.add(entry)

    async def _sweep(self) -> None:
        """Remove what is too old, now and then: the look over all copies is not for every request."""
        if not self._sweeps.is_due(self._clock()):
            return
        for entry in [entry for entry in self._entries.values() if self._is_expired(entry)]:
            if not entry.readers:
                await self._evict(entry)

    async def _evict(self, entry: CopyEntry) -> None:
        if self._entries.get(entry.media_id) is entry:
            del self._entries[entry.media_id]
            await self._remove(entry)

    async def _remove(self, entry: CopyEntry, *, keep_file: bool = False) -> None:
        try:
            if not keep_file:
                await self._threads.run(self._files.remove, entry.path)
        except OSError as exc:
            # Still there, so still counted: less room for copies, but never more bytes than allowed.
            logger.warning("a copy cannot be removed: %s", exc.strerror)
        except asyncio.CancelledError:  # the thread has finished all the same
            self.used_bytes -= entry.size_bytes
            raise
        else:
            self.used_bytes -= entry.size_bytes

    def _is_expired(self, entry: CopyEntry) -> bool:
        return self._clock() - entry.created_at_s >= self._keep_s


def _clear(partial: Path, mark: str) -> None:
    make_directories(partial)
    for path in partial.iterdir():
        if path.name.partition(".")[2].startswith(mark):
            path.unlink(missing_ok=True)


def _scan(directory: Path) -> list[CopyEntry]:
    """The whole copies, least recently used first. Files with other names are not ours and stay untouched."""
    with suppress(FileNotFoundError):  # somebody has emptied the cache by hand
        found = [entry for path in directory.iterdir() if (entry := _entry_of(path)) is not None]
        return sorted(found, key=lambda entry: entry.used_at_s)
    return []


def _find(directory: Path, media_id: str) -> CopyEntry | None:
    paths = (directory / f"{media_id}.{ending}" for ending in _TYPES)
    return next((entry for path in paths if (entry := _entry_of(path)) is not None), None)


def _entry_of(path: Path) -> CopyEntry | None:
    media_id, _, ending = path.name.partition(".")
    if ending not in _TYPES or not is_media_id(media_id):
        return None
    try:
        status = path.lstat()
    except FileNotFoundError:  # another process has made room
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return CopyEntry(
        media_id=media_id,
        path=path,
        media_type=_TYPES[ending],
        size_bytes=status.st_size,
        created_at_s=status.st_mtime,
        used_at_s=max(status.st_atime, status.st_mtime),
    )
