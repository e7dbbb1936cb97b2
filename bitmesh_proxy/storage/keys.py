"""API keys: what a key may do (``KeySpec``), and the store that changes it.

The database never sees a token or a secret in the clear: a token comes in as the digest that ``auth`` makes, OAuth
secrets are derived from the master secret, or come in sealed with it. Whose a token is, is asked of
``key_directory.py``.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from bitmesh_proxy.context import Caller
from bitmesh_proxy.errors import Conflict, NotFound
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.failures import is_double
from bitmesh_proxy.storage.spending import CountedSpending, OnPart, count_spending, laid_before


class KeySpec(msgspec.Struct, frozen=True, kw_only=True):
    """A key to be made. ``id`` comes from the maker, because secrets are derived from it.

    ``token_digest`` (32 bytes) or ``consumer_key`` or both. ``token_hint``: the token's last characters, for people.
    ``sealed_secret``: the consumer secret, where it was made elsewhere and is not derived.
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


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be different about a key, as in ``KeySpec``; UNSET stays as it is."""

    name: str | UnsetType = UNSET
    bound_model: str | UnsetType | None = UNSET
    allowed_models: Sequence[str] | UnsetType | None = UNSET
    rate_per_minute: int | UnsetType | None = UNSET
    max_concurrent: int | UnsetType | None = UNSET
    budget_day_nano_usd: NanoUsd | UnsetType | None = UNSET
    budget_month_nano_usd: NanoUsd | UnsetType | None = UNSET
    expires_at_s: float | UnsetType | None = UNSET


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A key as it is in the books. ``is_disabled`` counts the account's switch in."""

    caller: Caller
    consumer_key: str | None
    token_hint: str
    generation: int
    has_token: bool
    is_disabled: bool
    created_at_s: float
    sealed_secret: bytes | None = None

    def is_expired(self, now_s: float) -> bool:
        """Is the key's time over at ``now_s`` (Unix time)?"""
        expires_at_s = self.caller.expires_at_s
        return expires_at_s is not None and expires_at_s <= now_s


#: For ``record_of``.
SELECT_KEYS: Final = """
    SELECT
    keys.id, accounts.id, keys.name, keys.bound_model, keys.allowed_models, keys.rate_per_minute,
    keys.max_concurrent, keys.budget_day_nano_usd, keys.budget_month_nano_usd, keys.expires_at_ms,
    keys.consumer_key, keys.token_hint, keys.generation, keys.token_digest IS NOT NULL,
    keys.disabled_at_ms IS NOT NULL OR accounts.disabled_at_ms IS NOT NULL, keys.created_at_ms,
    accounts.number, keys.number, keys.sealed_secret
    FROM keys JOIN accounts ON accounts.number = keys.account
"""


#: All names of the model that a key is bound to by one of them.
NamesOf = Callable[[str], Collection[str]]


def check_binding(bound_model: str | None, allowed_models: Collection[str] | None, names_of: NamesOf) -> None:
    """Raises Conflict for a key that is bound to a model which it may not use: no call could be made with it."""
    if bound_model is None or allowed_models is None or not set(allowed_models).isdisjoint(names_of(bound_model)):
        return
    listed = ", ".join(map(repr, sorted(allowed_models)))
    raise Conflict(
        f"The model that the key is bound to ({bound_model!r}) is not among those that it may use: {listed}."
    )


_BUDGETS: Final = ("budget_day_nano_usd", "budget_month_nano_usd")


class KeyStore:
    """Makes and changes keys."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(self, spec: KeySpec) -> KeyRecord:
        """Write a new key. Raises NotFound for an unknown account, Conflict for an id, token or consumer key in use."""
        now_ms = int(self._clock() * 1000)

        def insert(connection: sqlite3.Connection) -> Row:
            _insert(connection, spec, now_ms=now_ms)
            return _fetch(connection, spec.id)

        return record_of(await self._database.write(insert))

    async def take_over(self, specs: Sequence[KeySpec], sealed_secrets: Mapping[str, bytes]) -> None:
        """Write new keys, and give others, by their ids, secrets that were made elsewhere in place of those that they
        have: all or, where it raises, nothing. Raises NotFound and Conflict."""
        now_ms = int(self._clock() * 1000)

        def write(connection: sqlite3.Connection) -> None:
            for spec in specs:
                _insert(connection, spec, now_ms=now_ms)
            for key_id, sealed in sealed_secrets.items():
                if not connection.execute(_RESEAL, (sealed, key_id)).rowcount:
                    raise NotFound(f"No such key: {key_id}")

        await self._database.write(write)

    async def get(self, key_id: str) -> KeyRecord | None:
        """The key as it is now."""
        row = self._database.lookup(SELECT_KEYS + "WHERE keys.id = ?", (key_id,))
        return None if row is None else record_of(row)

    async def list(self, account_id: str | None = None) -> tuple[KeyRecord, ...]:
        """All keys, or those of one account, oldest first."""
        if account_id is None:
            rows = await self._database.read(SELECT_KEYS + "ORDER BY keys.number")
        else:
            rows = await self._database.read(SELECT_KEYS + "WHERE accounts.id = ? ORDER BY keys.number", (account_id,))
        return tuple(record_of(row) for row in rows)

    async def ids_by_consumer_key(self) -> Mapping[str, str]:
        """The ids of all keys that have a consumer key."""
        rows = await self._database.read("SELECT consumer_key, id FROM keys WHERE consumer_key IS NOT NULL")
        return dict(rows)

    async def sealed_secrets(self) -> Mapping[str, bytes]:
        """Those of all keys whose secrets were made elsewhere, by id."""
        rows = await self._database.read("SELECT id, sealed_secret FROM keys WHERE sealed_secret IS NOT NULL")
        return dict(rows)

    async def count_consumers(self) -> int:
        """How many keys have a consumer key, and so a secret that needs the master secret."""
        ((count,),) = await self._database.read("SELECT count(*) FROM keys WHERE consumer_key IS NOT NULL")
        return int(count)

    def secret_fingerprint(self) -> bytes | None:
        """That of the master secret from which consumer secrets are derived; None if nobody has noted it yet."""
        row = self._database.lookup("SELECT fingerprint FROM master_secret")
        return None if row is None else bytes(row[0])

    async def note_secret_fingerprint(self, fingerprint: bytes) -> None:
        """From now on consumer secrets are derived from this one."""
        sql = "INSERT INTO master_secret VALUES (1, ?) ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint"
        await self._database.write(lambda connection: connection.execute(sql, (fingerprint,)).rowcount)

    async def disable(self, key_id: str) -> KeyRecord:
        """Switch a key off; it fails with its next request, in every process. Raises NotFound."""
        # The first moment it was switched off is kept.
        sql = "UPDATE keys SET disabled_at_ms = coalesce(disabled_at_ms, ?) WHERE id = ?"
        return await self._update(sql, (int(self._clock() * 1000), key_id), key_id)

    async def enable(self, key_id: str) -> KeyRecord:
        """Switch a key on again. Raises NotFound."""
        return await self._update("UPDATE keys SET disabled_at_ms = NULL WHERE id = ?", (key_id,), key_id)

    async def change(
        self,
        key_id: str,
        change: KeyChange,
        names_of: NamesOf = lambda name: (name,),
        *,
        on_part: OnPart = lambda done, parts: None,
    ) -> KeyRecord:
        """Change what a key may do, in every process with its next request; what it spent already counts.

        Where a budget changes, that is counted first: ``on_part`` hears how far it has come. Raises NotFound, Conflict
        as ``check_binding`` does, and ValueError where nothing is to be changed.
        """
        given = {name: value for name in KeyChange.__struct_fields__ if (value := getattr(change, name)) is not UNSET}
        if not given:
            raise ValueError("there is nothing to change")
        columns = ", ".join(f"{_column_of(name)} = ?" for name in given)
        values = [_as_column(name, value) for name, value in given.items()]

        def check(changed: KeyRecord) -> None:
            if not given.keys().isdisjoint(("bound_model", "allowed_models")):
                check_binding(changed.caller.bound_model, changed.caller.allowed_models, names_of)

        counted = None if given.keys().isdisjoint(_BUDGETS) else await self._count_spending(key_id, given, on_part)
        sql = f"UPDATE keys SET {columns} WHERE id = ?"  # noqa: S608 - names of ours
        return await self._update(sql, (*values, key_id), key_id, check, counted)

    async def rotate(self, key_id: str, *, token_digest: bytes | None, token_hint: str = "") -> KeyRecord:
        """Give a key a new token and, by the next generation, a new derived secret, also where it was made elsewhere.
        The old ones end at once.

        Raises NotFound, or Conflict when the digest is another key's.
        """
        sql = """UPDATE keys SET token_digest = ?, token_hint = ?, generation = generation + 1, sealed_secret = NULL
            WHERE id = ?"""
        return await self._update(sql, (token_digest, token_hint, key_id), key_id)

    async def _count_spending(self, key_id: str, given: Mapping[str, Any], on_part: OnPart) -> CountedSpending | None:
        """None where the key is left without a budget, or is not there."""
        key = await self.get(key_id)
        if key is None or key.caller.row_numbers is None:
            return None
        if all(given.get(name, getattr(key.caller, name)) is None for name in _BUDGETS):
            return None
        return await count_spending(self._database, key.caller.row_numbers[1], on_part=on_part)

    async def _update(
        self,
        sql: str,
        parameters: Sequence[Any],
        key_id: str,
        check: Callable[[KeyRecord], None] = lambda changed: None,
        counted: CountedSpending | None = None,
    ) -> KeyRecord:
        """Where ``check`` raises, nothing has changed."""
        now_ms = int(self._clock() * 1000)

        def update(connection: sqlite3.Connection) -> Row:
            try:
                with laid_before(connection, counted, now_ms):
                    changed = connection.execute(sql, parameters).rowcount
            except sqlite3.IntegrityError as exc:
                raise _double(exc) from exc
            if not changed:
                raise NotFound(f"No such key: {key_id}")
            row = _fetch(connection, key_id)
            check(record_of(row))
            return row

        return record_of(await self._database.write(update))


_INSERT = """
INSERT INTO keys (id, account, name, token_digest, token_hint, consumer_key, sealed_secret, bound_model, allowed_models,
                  rate_per_minute, max_concurrent, budget_day_nano_usd, budget_month_nano_usd, expires_at_ms,
                  created_at_ms)
SELECT ?, number, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM accounts WHERE id = ?
"""
_RESEAL = "UPDATE keys SET sealed_secret = ?, generation = generation + 1 WHERE id = ? AND consumer_key IS NOT NULL"


def _insert(connection: sqlite3.Connection, spec: KeySpec, *, now_ms: int) -> None:
    try:
        added = connection.execute(_INSERT, _parameters(spec, now_ms=now_ms)).rowcount
    except sqlite3.IntegrityError as exc:
        raise _double(exc) from exc
    if not added:
        raise NotFound(f"No such account: {spec.account_id}")


def _parameters(spec: KeySpec, *, now_ms: int) -> tuple[Any, ...]:
    return (
        spec.id,
        spec.name,
        spec.token_digest,
        spec.token_hint,
        spec.consumer_key,
        spec.sealed_secret,
        spec.bound_model,
        _as_column("allowed_models", spec.allowed_models),
        spec.rate_per_minute,
        spec.max_concurrent,
        spec.budget_day_nano_usd,
        spec.budget_month_nano_usd,
        _as_column("expires_at_s", spec.expires_at_s),
        now_ms,
        spec.account_id,
    )


def _column_of(field: str) -> str:
    return "expires_at_ms" if field == "expires_at_s" else field


def _as_column(field: str, value: Any) -> Any:
    """A field's value as the books have it."""
    if value is None:
        return None
    if field == "allowed_models":
        return json.dumps(sorted(value))
    return int(value * 1000) if field == "expires_at_s" else value


def _double(exc: sqlite3.IntegrityError) -> Exception:
    if not is_double(exc):
        return exc
    what = str(exc).rpartition(".")[2].replace("_", " ").replace("token digest", "token")
    return Conflict(f"There is a key with this {what} already.")


def _fetch(connection: sqlite3.Connection, key_id: str) -> Row:
    row: Row = connection.execute(SELECT_KEYS + "WHERE keys.id = ?", (key_id,)).fetchall()[0]
    return row


def record_of(row: Sequence[Any]) -> KeyRecord:
    """The key that a row of ``SELECT_KEYS`` tells of."""
    (
        key_id, account_id, name, bound_model, allowed_models, rate_per_minute, max_concurrent, budget_day,
        budget_month, expires_at_ms, consumer_key, token_hint, generation, has_token, is_disabled,
        created_at_ms, account_number, key_number, sealed_secret,
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
        generation=generation,
        has_token=bool(has_token),
        is_disabled=bool(is_disabled),
        created_at_s=created_at_ms / 1000,
        sealed_secret=sealed_secret,
    )
