"""All keys with a token, in memory, in little room.

To ask SQLite for one key costs 30 us on the event loop, and the interpreter's lock besides, which the writer's thread
is waiting for. With a hundred thousand keys nearly every call is the first of its key for a long time. So where many
keys are asked for, all are read, in the background, a few hundred at a time, and kept as they are told by SQLite: one
short text for each, which is made into a ``Caller`` when its key calls (1 us). A text takes some 200 bytes with its
place, and the collector of garbage has nothing to walk through. Nearly always it comes from cold memory, so that it is
as short as can be: a list of the caller's fields without those at its end that it does not have.

A part is read in one moment of the books and taken over only if nothing has changed since, so what is held is always of
the one version that the directory knows; when that moves, everything is forgotten (``KeyDirectory``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from bitmesh_proxy.context import Caller
from bitmesh_proxy.storage.database import Database

#: Keys that are held at most (60 MB); the others are looked up in the database.
MAX_PACKED = 262_144
#: Keys that are read at once. Taking them over keeps the event loop for half a millisecond.
PART_KEYS = 512
#: Characters of a digest in hexadecimal digits, which each line begins with.
_DIGEST_CHARS = 64

#: Those of a ``Caller``, in its order.
_COLUMNS = """
    accounts.id, keys.id, keys.name, json_array(accounts.number, keys.number), keys.bound_model,
    json(keys.allowed_models), keys.rate_per_minute, keys.max_concurrent, keys.budget_day_nano_usd,
    keys.budget_month_nano_usd, keys.expires_at_ms / 1000.0
"""
# One row for all, or SQLite would let go of the interpreter's lock and take it again for each key. Nulls at the end are
# cut off; what stands before them ends with a bracket, a quotation mark or a digit. Keys that are switched off are left
# to the database: they are few, and there is more to say of them. So are times with more digits than SQLite writes.
_PART = f"""
    SELECT max(number), group_concat(line, char(10)) FROM (
        SELECT number, digest || rtrim(substr(fields, 1, length(fields) - 1), ',nul') || ']' AS line FROM (
            SELECT keys.number AS number, hex(keys.token_digest) AS digest, json_array({_COLUMNS}) AS fields
            FROM keys JOIN accounts ON accounts.number = keys.account
            WHERE keys.number > ? AND keys.token_digest IS NOT NULL
                AND keys.disabled_at_ms IS NULL AND accounts.disabled_at_ms IS NULL
                AND (keys.expires_at_ms IS NULL OR keys.expires_at_ms BETWEEN 0 AND 999999999999999)
            ORDER BY keys.number LIMIT {PART_KEYS}
        )
    )"""  # noqa: S608 - made of constants

#: Makes a caller of a text. Raises msgspec.DecodeError where somebody has written into the books what is no such thing.
read_caller: Final = msgspec.json.Decoder(Caller).decode


class PackedKeys:
    """Callers by the digest of the token."""

    def __init__(self, database: Database, *, max_keys: int = MAX_PACKED) -> None:
        self._database = database
        self._max_keys = max_keys
        #: For ``read_caller``. Another one after each change.
        self.texts: dict[bytes, bytes] = {}
        #: Is all there that will ever be, as long as no key changes?
        self.is_complete = False

    def __len__(self) -> int:
        return len(self.texts)

    def forget(self) -> None:
        """Keys have changed."""
        self.texts = {}  # another one, so that a load under way sees that it is not wanted any more
        self.is_complete = False

    async def load(self, is_current: Callable[[int], bool]) -> None:
        """Read all, or as many as may be held.

        Ends early when ``is_current`` says no to the ``keys_version`` of what was read, or after ``forget``. Raises
        Unavailable and StorageError.
        """
        texts, last = self.texts, 0
        while len(texts) < self._max_keys:
            async with self._database.snapshot() as snapshot:
                version = await snapshot.row("SELECT keys_version FROM versions WHERE one = 1")
                part = await snapshot.row(_PART, (last,))
            if version is None or part is None or not is_current(version[0]) or texts is not self.texts:
                return
            last, lines = part
            if last is None:
                break
            for line in lines.split("\n"):
                texts[bytes.fromhex(line[:_DIGEST_CHARS])] = line[_DIGEST_CHARS:].encode()
        self.is_complete = True
