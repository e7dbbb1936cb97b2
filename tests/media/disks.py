"""Disks that fail as they are told."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from bitmesh_proxy.media.files import Files


class FailingFiles(Files):
    """A disk with room for ``room_bytes`` in all; then every write fails as on a full disk."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """See Files."""
        if len(data) > self.room_bytes:
            super().write(descriptor, data[: self.room_bytes], offset)
            self.room_bytes = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room_bytes -= len(data)
        super().write(descriptor, data, offset)


class RefusingFiles(Files):
    """A disk that refuses the operations named in ``refused``."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)

    def create(self, path: Path) -> int:
        """See Files."""
        self._check("create")
        return super().create(path)

    def open(self, path: Path) -> int:
        """See Files."""
        self._check("open")
        return super().open(path)

    def settle(self, descriptor: int, partial: Path, final: Path, *, at_s: float) -> None:
        """See Files."""
        self._check("settle")
        super().settle(descriptor, partial, final, at_s=at_s)

    def remove(self, path: Path) -> None:
        """See Files."""
        self._check("remove")
        super().remove(path)

    def _check(self, operation: str) -> None:
        if operation in self.refused:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


class ShortFiles(Files):
    """A disk of ``size_bytes`` for the whole copies of a directory and nothing else; None: nobody can ask."""

    def __init__(self, size_bytes: int | None) -> None:
        self.size_bytes = size_bytes

    def free_bytes(self, directory: Path) -> int:
        """See Files."""
        if self.size_bytes is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self.size_bytes - sum(path.stat().st_size for path in directory.iterdir() if path.is_file())


class SlowFiles(Files):
    """A disk whose writes wait until they are let go. ``writing`` is set once one is under way."""

    def __init__(self) -> None:
        self.writing = threading.Event()
        self.may_write = threading.Event()

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """See Files."""
        self.writing.set()
        self.may_write.wait(5)
        super().write(descriptor, data, offset)
