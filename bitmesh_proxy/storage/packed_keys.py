"""All keys with a token, in memory, in little room.

To ask SQLite for one key costs 30 us on the event loop, and the interpreter's lock besides, which the writer's thread
is waiting for. With a hundred thousand keys nearly every call is the first of its key for a long time. So where many
keys are asked for, all are read, in the background, a few hundred at a time, and kept as they are told by SQLite: one
short text for each, which is made into a record when its key calls (3 us). A text takes some 300 bytes with its place,
a record 800, which the collector of garbage has to walk through as well.

A part is read in one moment of the books and taken over only if nothing has changed since, so what is held is always of
the one version that the directory knows; when that moves, everything is forgotten (``KeyDirectory``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bitmesh_proxy.storage.database import Database

#: Keys that are held at most (80 MB); the others are looked up in the database.
MAX_PACKED = 262_144
#: Keys that are read at once. Taking them over keeps the event loop for half a millisecond.
PART_KEYS = 512
#: Characters of a digest in hexadecimal digits, which each line begins with.
_DIGEST_CHARS = 64


class PackedKeys:
    """Rows by the digest of the token. ``columns`` and ``tables`` are those of the directory's own query."""

    def __init__(self, database: Database, *, columns: str, tables: str, max_keys: int = MAX_PACKED) -> None:
        self._database = database
        self._max_keys = max_keys
        # One row for all, or SQLite would let go of the interpreter's lock and take it again for each key. JSON knows
        # no bytes, so keys with a sealed secret, which are few, are left to the database.
        self._part = f"""
            SELECT max(number), group_concat(line, char(10)) FROM (
                SELECT keys.number AS number, hex(keys.token_digest) || json_array({columns}) AS line FROM {tables}
                WHERE keys.number > ? AND keys.token_digest IS NOT NULL AND keys.sealed_secret IS NULL
                ORDER BY keys.number LIMIT {PART_KEYS}
            )"""  # noqa: S608 - made of constants
        self._texts: dict[bytes, bytes] = {}
        #: Is all there that will ever be, as long as no key changes?
        self.is_complete = False

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, digest: bytes) -> list[Any] | None:
        """The row of the key with this token, if it is held."""
        text = self._texts.get(digest)
        if text is None:
            return None
        row: list[Any] = msgspec.json.decode(text)
        return row

    def forget(self) -> None:
        """Keys have changed."""
        self._texts = {}  # another one, so that a load under way sees that it is not wanted any more
        self.is_complete = False

    async def load(self, is_current: Callable[[int], bool]) -> None:
        """Read all, or as many as may be held.

        Ends early when ``is_current`` says no to the ``keys_version`` of what was read, or after ``forget``. Raises
        Unavailable and StorageError.
        """
        texts, last = self._texts, 0
        while len(texts) < self._max_keys:
            async with self._database.snapshot() as snapshot:
                version = await snapshot.row("SELECT keys_version FROM versions WHERE one = 1")
                part = await snapshot.row(self._part, (last,))
            if version is None or part is None or not is_current(version[0]) or texts is not self._texts:
                return
            last, lines = part
            if last is None:
                break
            for line in lines.split("\n"):
                texts[bytes.fromhex(line[:_DIGEST_CHARS])] = line[_DIGEST_CHARS:].encode()
        self.is_complete = True
