"""Whose turn it is to write, where several processes write all the time.

A writer of SQLite that finds another at work sleeps and tries again, after 1 ms, then 2, 5, 10 and so on, while the
other takes half of one: who comes second comes late, and later still the more there is to do. So each writer first
takes a lock of the kernel (flock(2) on a file beside the database), which wakes the next one the moment it is free, and
dies with its holder. It costs 1 us for a transaction. SQLite's own lock is what keeps the books right; this one only
makes a queue, and whoever does not know of it merely waits as SQLite does.
"""

from __future__ import annotations

import os
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_UN, flock
from pathlib import Path
from types import TracebackType


class Turns:
    """One process's place in the queue. For ``with``, in the writer's thread. ``close`` it at the end."""

    def __init__(self, path: Path) -> None:
        """Makes the file if it is not there. Raises OSError."""
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        flock(self._descriptor, LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What was committed must not be reported as lost. (A lock that could not be given up is with the next turn.)
        with suppress(OSError):
            flock(self._descriptor, LOCK_UN)

    def close(self) -> None:
        """Leave the queue. A thread that still stands in it fails when it is its turn."""
        os.close(self._descriptor)
        self._descriptor = -1
