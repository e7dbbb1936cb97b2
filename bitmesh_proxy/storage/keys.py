"""API keys: what a key may do (``KeySpec``), the store that changes it, and the directory that the request's way asks.

The database never sees a token or a secret in the clear: a token comes in as the digest that ``auth`` makes, OAuth
secrets are derived from the master secret, or sealed by it.

A change of a key, made by this program in whatever process, counts with the next request: before each look-up the
directory looks at a word that all processes share (``key_changes.py``). What was changed in another way, with SQLite's
own shell for example, counts within ``LOOK_INTERVAL_S``: that often the directory asks SQLite whether anyone has
committed, and if so, whether ``keys_version`` moved.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from bitmesh_proxy.context import Caller
from bitmesh_proxy.errors import Conflict, NotFound, Unavailable
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.failures import StorageError, is_double
from bitmesh_proxy.storage.packed_keys import PackedKeys, read_caller

log = logging.getLogger(__name__)

#: How long a change of keys that no program of ours made may go unseen.
LOOK_INTERVAL_S = 0.05
#: So many keys that were not in memory, since keys last changed, are taken as a sign that many more will be asked for.
MISSES_BEFORE_LOAD = 256
#: All keys are read no more often than this, however often keys change: a hundred thousand take half a second of CPU.
LOAD_INTERVAL_S = 30.0


class KeySpec(msgspec.Struct, frozen=True, kw_only=True):
    """A key to be made. ``id`` comes from the maker, because secrets are derived from it.

    ``token_digest`` (32 bytes) or ``consumer_key`` or both. ``token_hint``: the token's last characters, for people.
    ``sealed_secret``: a secret taken over from elsewhere, encrypted.
    """

    id: str
    account_id: str
    name: str = ""
    token_digest: bytes | None = None
    token_hint: str = ""
    consumer_key: str | None = None
    sealed_secret: bytes | None = None
    bound_model: str | None = None
    allowed_models: Sequence[str] | None = None
    rate_per_minute: int | None = None
    max_concurrent: int | None = None
    budget_day_nano_usd: NanoUsd | None = None
    budget_month_nano_usd: NanoUsd | None = None
    expires_at_s: float | None = None


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A key as it is in the books. ``is_disabled`` counts the account's switch in."""

    caller: Caller
    consumer_key: str | None
    token_hint: str
    sealed_secret: bytes | None
    generation: int
    has_token: bool
    has_oauth: bool
    is_disabled: bool
    created_at_s: float

    def is_expired(self, now_s: float) -> bool:
        """Is the key's time over at ``now_s`` (Unix time)?"""
        expires_at_s = self.caller.expires_at_s
        return expires_at_s is not None and expires_at_s <= now_s


_SELECT = """
    SELECT
    keys.id, accounts.id, keys.name, keys.bound_model, keys.allowed_models, keys.rate_per_minute,
    keys.max_concurrent, keys.budget_day_nano_usd, keys.budget_month_nano_usd, keys.expires_at_ms,
    keys.consumer_key, keys.token_hint, keys.sealed_secret, keys.generation, keys.token_digest IS NOT NULL,
    keys.disabled_at_ms IS NOT NULL OR accounts.disabled_at_ms IS NOT NULL, keys.created_at_ms,
    accounts.number, keys.number
    FROM keys JOIN accounts ON accounts.number = keys.account
"""
_BY_DIGEST = _SELECT + "WHERE keys.token_digest = ?"
_BY_CONSUMER_KEY = _SELECT + "WHERE keys.consumer_key = ?"


class KeyStore:
    """Makes and changes keys."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(self, spec: KeySpec) -> KeyRecord:
        """Write a new key. Raises NotFound for an unknown account, Conflict for an id, token or consumer key in use."""
        parameters = _parameters(spec, now_ms=int(self._clock() * 1000))

        def insert(connection: sqlite3.Connection) -> Row:
            try:
                added = connection.execute(_INSERT, parameters).rowcount
            except sqlite3.IntegrityError as exc:
                raise _double(exc) from exc
            if not added:
                raise NotFound(f"No such account: {spec.account_id}")
            return _fetch(connection, spec.id)

        return _record(await self._database.write(insert))

    async def get(self, key_id: str) -> KeyRecord | None:
        """The key as it is now."""
        row = self._database.lookup(_SELECT + "WHERE keys.id = ?", (key_id,))
        return None if row is None else _record(row)

    async def list(self, account_id: str | None = None) -> tuple[KeyRecord, ...]:
        """All keys, or those of one account, oldest first."""
        if account_id is None:
            rows = await self._database.read(_SELECT + "ORDER BY keys.number")
        else:
            rows = await self._database.read(_SELECT + "WHERE accounts.id = ? ORDER BY keys.number", (account_id,))
        return tuple(_record(row) for row in rows)

    async def disable(self, key_id: str) -> KeyRecord:
        """Switch a key off; it fails with its next request, in every process. Raises NotFound."""
        # The first moment it was switched off is kept.
        sql = "UPDATE keys SET disabled_at_ms = coalesce(disabled_at_ms, ?) WHERE id = ?"
        return await self._update(sql, (int(self._clock() * 1000), key_id), key_id)

    async def enable(self, key_id: str) -> KeyRecord:
        """Switch a key on again. Raises NotFound."""
        return await self._update("UPDATE keys SET disabled_at_ms = NULL WHERE id = ?", (key_id,), key_id)

    async def set_budgets(
        self, key_id: str, *, day_nano_usd: NanoUsd | None, month_nano_usd: NanoUsd | None
    ) -> KeyRecord:
        """Change what a key may spend per UTC day and month; what it spent already counts. Raises NotFound."""
        sql = "UPDATE keys SET budget_day_nano_usd = ?, budget_month_nano_usd = ? WHERE id = ?"
        return await self._update(sql, (day_nano_usd, month_nano_usd, key_id), key_id)

    async def rotate(
        self, key_id: str, *, token_digest: bytes | None, token_hint: str = "", sealed_secret: bytes | None = None
    ) -> KeyRecord:
        """Give a key a new token and, by the next generation, a new derived secret. The old ones end at once.

        Raises NotFound, or Conflict when the digest is another key's.
        """
        sql = (
            "UPDATE keys SET token_digest = ?, token_hint = ?, sealed_secret = ?, generation = generation + 1"
            " WHERE id = ?"
        )
        return await self._update(sql, (token_digest, token_hint, sealed_secret, key_id), key_id)

    async def _update(self, sql: str, parameters: Sequence[Any], key_id: str) -> KeyRecord:
        def update(connection: sqlite3.Connection) -> Row:
            try:
                changed = connection.execute(sql, parameters).rowcount
            except sqlite3.IntegrityError as exc:
                raise _double(exc) from exc
            if not changed:
                raise NotFound(f"No such key: {key_id}")
            return _fetch(connection, key_id)

        return _record(await self._database.write(update))


class KeyDirectory:
    """Who a token or consumer key belongs to. Synchronous, for the request's way; use it on the event loop's thread.

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
        self.current_version()
        text = self._packed.texts.get(digest)
        if text is not None:
            try:
                return read_caller(text)
            except msgspec.DecodeError:  # the books say what it is, then
                pass
        found = self._by_digest.get(digest)
        if found is not None:
            self._by_digest.move_to_end(digest)
            return found
        row = self._database.lookup(_BY_DIGEST, (digest,))
        if row is None:
            return None
        self._missed()
        record = _record(row)
        found = self._by_digest[digest] = record if record.is_disabled else record.caller
        if len(self._by_digest) > self._max_cached:
            self._by_digest.popitem(last=False)
        return found

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
        record = cache[consumer_key] = _record(row)
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


_INSERT = """
INSERT INTO keys (id, account, name, token_digest, token_hint, consumer_key, sealed_secret, bound_model,
                  allowed_models, rate_per_minute, max_concurrent, budget_day_nano_usd, budget_month_nano_usd,
                  expires_at_ms, created_at_ms)
SELECT ?, number, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM accounts WHERE id = ?
"""


def _parameters(spec: KeySpec, *, now_ms: int) -> tuple[Any, ...]:
    return (
        spec.id,
        spec.name,
        spec.token_digest,
        spec.token_hint,
        spec.consumer_key,
        spec.sealed_secret,
        spec.bound_model,
        None if spec.allowed_models is None else json.dumps(sorted(spec.allowed_models)),
        spec.rate_per_minute,
        spec.max_concurrent,
        spec.budget_day_nano_usd,
        spec.budget_month_nano_usd,
        None if spec.expires_at_s is None else int(spec.expires_at_s * 1000),
        now_ms,
        spec.account_id,
    )


def _double(exc: sqlite3.IntegrityError) -> Exception:
    if not is_double(exc):
        return exc
    what = str(exc).rpartition(".")[2].replace("_", " ").replace("token digest", "token")
    return Conflict(f"There is a key with this {what} already.")


def _fetch(connection: sqlite3.Connection, key_id: str) -> Row:
    row: Row = connection.execute(_SELECT + "WHERE keys.id = ?", (key_id,)).fetchall()[0]
    return row


def _record(row: Sequence[Any]) -> KeyRecord:
    (
        key_id, account_id, name, bound_model, allowed_models, rate_per_minute, max_concurrent, budget_day,
        budget_month, expires_at_ms, consumer_key, token_hint, sealed_secret, generation, has_token, is_disabled,
        created_at_ms, account_number, key_number,
    ) = row  # fmt: skip
    return KeyRecord(
        caller=Caller(
            account_id=account_id,
            key_id=key_id,
            key_name=name,
            bound_model=bound_model,
            allowed_models=None if allowed_models is None else frozenset(json.loads(allowed_models)),
            rate_per_minute=rate_per_minute,
            max_concurrent=max_concurrent,
            budget_day_nano_usd=None if budget_day is None else NanoUsd(budget_day),
            budget_month_nano_usd=None if budget_month is None else NanoUsd(budget_month),
            expires_at_s=None if expires_at_ms is None else expires_at_ms / 1000,
            row_numbers=(account_number, key_number),
        ),
        consumer_key=consumer_key,
        token_hint=token_hint,
        sealed_secret=sealed_secret,
        generation=generation,
        has_token=bool(has_token),
        has_oauth=consumer_key is not None,
        is_disabled=bool(is_disabled),
        created_at_s=created_at_ms / 1000,
    )
