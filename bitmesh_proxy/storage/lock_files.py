"""The lock files of processes that serve a database, and whether anyone holds one. What they are: ``instances.py``.

Nothing is asked of the database here, so that it can be said of one of any version.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def lock_directory(database: Path) -> Path:
    """Beside the database."""
    return database.with_name(database.name + ".instances")


def see_that_nobody_serves(database: Path) -> None:
    """Raises BlockingIOError when a process that serves this database is alive."""
    for path in sorted(lock_directory(database).glob("*.lock")):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # it has ended just now
            continue
        try:
            # Shared, so that several who look at once do not take each other for it.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
