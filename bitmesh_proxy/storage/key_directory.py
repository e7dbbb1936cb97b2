"""Whose a token or consumer key is, as the request's way asks.

A change of a key, made by this program in whatever process, counts with the next request: before each look-up the
directory looks at a word that all processes share (``key_changes.py``). What was changed in another way, with SQLite's
own shell for example, counts within ``LOOK_INTERVAL_S``: that often the directory asks SQLite whether anyone has
committed, and if so, whether ``keys_version`` moved.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from bitmesh_proxy.context import Caller
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.keys import SELECT_KEYS, KeyRecord, record_of
from bitmesh_proxy.storage.packed_keys import PackedKeys, read_caller

log = logging.getLogger(__name__)

#: How long a change of keys that no program of ours made may go unseen.
LOOK_INTERVAL_S = 0.05
#: So many keys that were not in memory, since keys last changed, are taken as a sign that many more will be asked for.
MISSES_BEFORE_LOAD = 256
#: All keys are read no more often than this, however often keys change: a hundred thousand take half a second of CPU.
LOAD_INTERVAL_S = 30.0

_BY_DIGEST: Final = SELECT_KEYS + "WHERE keys.token_digest = ?"
_BY_CONSUMER_KEY: Final = SELECT_KEYS + "WHERE keys.consumer_key = ?"


class KeyDirectory:
    """See the module's docstring. Synchronous; use it on the event loop's thread.

    Keys in use stay in memory, ``max_cached`` at most (under 1 KB each), and where many are in use, all those with a
    token (``packed_keys.py``). Unknown ones are not remembered, so guessing fills nothing.
    Raises Unavailable when the database cannot be read. ``close`` it before the database.
    """

    def __init__(
        self, database: Database, *, max_cached: int = 16_384, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._words = database.key_changes.words
        self._max_cached = max_cached
        self._clock = clock
        self._word = -1
        self._next_look_s = float("-inf")
        self._data_version = -1
        self._keys_version = -1
        #: Moves whenever keys have changed; what was told before is good until then.
        self.version = 0
        self._by_digest: OrderedDict[bytes, Caller | KeyRecord] = OrderedDict()
        self._by_consumer_key: OrderedDict[str, KeyRecord] = OrderedDict()
        self._packed = PackedKeys(database)
        self._misses = 0
        self._next_load_s = float("-inf")
        self._loading: asyncio.Task[None] | None = None

    def by_token_digest(self, digest: bytes) -> Caller | KeyRecord | None:
        """The caller with this token, or the record of a key that is switched off. Expired ones are included."""
        caller = self.in_memory(digest)
        if caller is not None:
            return caller
        found: Caller | KeyRecord | None = self._by_digest.get(digest)
        if found is not None:
            self._by_digest.move_to_end(digest)
            return found
        row = self._database.lookup(_BY_DIGEST, (digest,))
        if row is None:
            return None
        self._missed()
        record = record_of(row)
        found = self._by_digest[digest] = record if record.is_disabled else record.caller
        if len(self._by_digest) > self._max_cached:
            self._by_digest.popitem(last=False)
        return found

    def in_memory(self, digest: bytes) -> Caller | None:
        """The caller with this token, if nobody has to be asked; expired ones included."""
        now_s = self._clock()
        if self._words[0] != self._word or now_s >= self._next_look_s:  # as ``current_version``
            self._look(now_s)
        text = self._packed.texts.get(digest)
        if text is not None:
            try:
                return read_caller(text)
            except msgspec.DecodeError:  # the books say what it is, then
                pass
        found = self._by_digest.get(digest)
        if type(found) is Caller:
            self._by_digest.move_to_end(digest)
            return found
        return None

    def by_consumer_key(self, consumer_key: str) -> KeyRecord | None:
        """The key with this OAuth consumer key, switched off and expired ones included."""
        self.current_version()
        cache = self._by_consumer_key
        record = cache.get(consumer_key)
        if record is not None:
            cache.move_to_end(consumer_key)
            return record
        row = self._database.lookup(_BY_CONSUMER_KEY, (consumer_key,))
        if row is None:
            return None
        record = cache[consumer_key] = record_of(row)
        if len(cache) > self._max_cached:
            cache.popitem(last=False)
        return record

    def current_version(self) -> int:
        """``version``, once it has been looked whether keys have changed."""
        now_s = self._clock()
        if self._words[0] != self._word or now_s >= self._next_look_s:
            self._look(now_s)
        return self.version

    async def close(self) -> None:
        """Read no more."""
        loading, self._loading = self._loading, None
        if loading is not None:
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading

    def _missed(self) -> None:
        """A key had to be looked up that might have been in memory."""
        self._misses += 1
        if (
            self._misses >= MISSES_BEFORE_LOAD
            and self._loading is None
            and not self._packed.is_complete
            and self._clock() >= self._next_load_s
        ):
            self._next_load_s = self._clock() + LOAD_INTERVAL_S
            self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            await self._packed.load(self._is_current)
        except (Unavailable, StorageError) as exc:  # they are looked up one by one, as ever
            log.info("the keys could not be read into memory: %s", exc)
        finally:
            self._loading = None

    def _is_current(self, keys_version: int) -> bool:
        self.current_version()
        return keys_version == self._keys_version

    def _look(self, now_s: float) -> None:
        """Forget everything if keys have changed."""
        word = self._words[0]
        data_version = self._database.data_version()
        if data_version != self._data_version:
            row = self._database.lookup("SELECT keys_version FROM versions WHERE one = 1")
            keys_version = -1 if row is None else row[0]
            if keys_version != self._keys_version:
                self._by_digest.clear()
                self._by_consumer_key.clear()
                self._packed.forget()
                self._misses = 0
                self._keys_version = keys_version
                self.version += 1
            self._data_version = data_version
        # Only now, so that a failed look is not taken for one. The word is of before it: what came after it differs.
        self._word = word
        self._next_look_s = now_s + LOOK_INTERVAL_S
