"""A word that moves when keys change, in memory that all processes with this database share.

To ask SQLite whether anyone has committed costs 6 us, 20 us where someone has, and with busy books someone always has:
that was a twentieth of a request. So whoever commits a change of keys, in whatever process, writes the new
``keys_version`` into eight bytes of a file beside the database, before the change is reported as done; who looks for
changes compares one number in memory.

The word says only *that* something changed, and each version is written at most once, so that in whatever order two
processes come to write theirs, whoever has read one of them sees a difference. What the word does not tell, because
somebody changed the books by hand or was killed between commit and word, is found by asking SQLite after all, now and
then (``key_directory.py``).
"""

from __future__ import annotations

import mmap
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

_WORD_BYTES = 8
_KEYS_VERSION = "SELECT keys_version FROM versions WHERE one = 1"


class KeyChanges:
    """See the module's docstring. ``close`` it at the end."""

    def __init__(self, path: Path) -> None:
        """Makes the file if it is not there. Raises OSError."""
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _WORD_BYTES:
                # Written and not only made longer: a store into a hole of a full disk would end the process.
                os.pwrite(descriptor, bytes(_WORD_BYTES), 0)
            self._map = mmap.mmap(descriptor, _WORD_BYTES)
        finally:
            os.close(descriptor)
        #: The word, alone: who looks for it with each request need not call ``word``.
        self.words = memoryview(self._map).cast("Q")
        self._version_before = 0

    @property
    def word(self) -> int:
        """Differs from what it was if keys have changed meanwhile."""
        return self.words[0]

    def begin(self, connection: sqlite3.Connection) -> None:
        """In the writer's thread, at the beginning of a transaction that may change keys."""
        self._version_before = _version(connection)

    def end(self, connection: sqlite3.Connection) -> Callable[[], None] | None:
        """At its end: what is to be called after the commit, if anything."""
        version = _version(connection)
        return None if version == self._version_before else partial(self._write, version)

    def _write(self, version: int) -> None:
        self.words[0] = version

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self.words.release()
        self._map.close()


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute(_KEYS_VERSION).fetchall()[0][0])
