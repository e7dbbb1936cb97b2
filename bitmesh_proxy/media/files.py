"""File operations off the event loop, in threads of this room's own: a slow disk holds up pictures, nothing else.

An operation that was begun is waited for even when its task is cancelled. Otherwise a file could be closed, and its
descriptor given to another file, while a thread still writes to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bitmesh_proxy.shielded import shielded

T = TypeVar("T")


class Files:
    """The blocking operations. A class, so that a test can hand in a disk that fails."""

    def create(self, path: Path) -> int:
        """Open a new file for writing and reading. Raises FileExistsError rather than touching another's."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:  # somebody has emptied the cache by hand
            make_directories(path.parent)
            return os.open(path, flags, 0o600)

    def open(self, path: Path) -> int:
        """Open an existing file for reading, never through a symbolic link."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of ``data``. Raises OSError (ENOSPC, EDQUOT, EIO)."""
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes."""
        return os.pread(descriptor, size, offset)

    def settle(self, descriptor: int, partial: Path, final: Path, *, at_s: float) -> None:
        """Give a whole file its name, once its bytes are on the disk: a name never stands for half a file."""
        os.utime(descriptor, (at_s, at_s))
        os.fsync(descriptor)
        os.rename(partial, final)

    def touch(self, path: Path, *, used_at_s: float, created_at_s: float) -> None:
        """Write down the last use, so that a restart knows it."""
        os.utime(path, (used_at_s, created_at_s), follow_symlinks=False)

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone already."""
        path.unlink(missing_ok=True)

    def free_bytes(self, directory: Path) -> int:
        """What the file system has left for us."""
        try:
            status = os.statvfs(directory)
        except FileNotFoundError:  # as above
            status = os.statvfs(directory.parent)
        return status.f_bavail * status.f_frsize


def make_directories(partial: Path) -> None:
    """The directory of half copies and the one of whole ones, its parent. Raises OSError."""
    # Whoever may read a name has the id in it, and with that the result. (The mode is only that of the innermost.)
    partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial.mkdir(mode=0o700, exist_ok=True)


class FileThreads:
    """A few threads for ``Files``."""

    def __init__(self, *, threads: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="media-files")

    async def run(self, work: Callable[..., T], *args: Any, undo: Callable[[T], None] | None = None, **named: Any) -> T:
        """``work`` in a thread. A cancellation is passed on, but only after the work is done (and then undone)."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **named))
        try:
            return await shielded(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            if future.exception() is None and undo is not None:
                undo(future.result())
            raise

    async def close(self) -> None:
        """Wait for what runs."""
        await asyncio.to_thread(self._pool.shutdown)


def read_if_cached(descriptor: int, size: int, offset: int) -> bytes | None:
    """Up to ``size`` bytes if they are in memory already, so that no thread is needed; None if they are not.

    ``RWF_NOWAIT`` (Linux 4.14, preadv2(2)) never waits for the disk. Where it does not exist the answer is always None.
    """
    buffer = bytearray(size)
    count = read_into_if_cached(descriptor, memoryview(buffer), offset)
    return bytes(memoryview(buffer)[:count]) if count else None


def read_into_if_cached(descriptor: int, buffer: memoryview, offset: int) -> int:
    """The same into ``buffer``: gives how many bytes, 0 if they are not in memory."""
    no_wait = getattr(os, "RWF_NOWAIT", 0)
    if not no_wait:
        return 0
    try:
        return os.preadv(descriptor, [buffer], offset, no_wait)
    except OSError:  # EAGAIN: on the disk; EOPNOTSUPP: a file system without this
        return 0
