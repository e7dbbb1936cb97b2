"""The ledger: one row per request, opened with its hold before the call is sent, and closed exactly once.

Opening and closing are one statement each; the triggers of ``schema/0001_create_books.sql`` move holds, entries and
budgets with them. Rows tell what was used and what it cost, never what was asked or answered.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.errors import AuthenticationFailed, BudgetExceeded, Conflict, GatewayError, InsufficientBalance
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.names import Names, number_of

State = Literal["open", "settled", "released"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A request that is about to be made. ``instance`` is the number of this process (``instances.py``)."""

    request_id: str
    account_id: str
    key_id: str
    instance: int
    endpoint: str
    model: str
    hold_nano_usd: NanoUsd
    is_live: bool
    address: str
    started_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """How a request ended. ``outcome`` is one word; ``charge_nano_usd`` must not be above the hold."""

    request_id: str
    outcome: str
    http_status: int | None
    cost_nano_usd: NanoUsd
    charge_nano_usd: NanoUsd
    basis: Basis | None
    usage: Usage
    provider: str | None = None
    upstream_model: str | None = None
    provider_request_id: str | None = None
    first_byte_ms: int | None = None
    total_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accrued:
    """What an open request has delivered so far."""

    cost_nano_usd: NanoUsd
    charge_nano_usd: NanoUsd


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """A request as the ledger has it. Token counts and the like are 0 where nothing was used."""

    request_id: str
    account_id: str
    key_id: str
    key_name: str
    instance: int
    endpoint: str
    model: str
    provider: str | None
    upstream_model: str | None
    provider_request_id: str | None
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    images: int
    characters: int
    duration_ms: int
    hold_nano_usd: NanoUsd
    accrued_cost_nano_usd: NanoUsd
    accrued_charge_nano_usd: NanoUsd
    cost_nano_usd: NanoUsd
    charge_nano_usd: NanoUsd
    basis: Basis | None
    is_live: bool
    state: State
    http_status: int | None
    outcome: str | None
    first_byte_ms: int | None
    total_ms: int | None
    address: str
    started_at_s: float


class LedgerStore:
    """Opens, closes and finds requests. Reports are in ``usage.py``, the proof of the books in ``verification.py``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._names = Names(database)

    async def open_reservation(self, opening: Opening) -> None:
        """Write the request's row and take its hold from account and budgets, all or nothing.

        Raises InsufficientBalance, BudgetExceeded, AuthenticationFailed (the key is gone), Conflict (the id is in use)
        or Unavailable; then nothing is held.
        """
        endpoint, model = self._names.find(opening.endpoint), self._names.find(opening.model)

        def insert(connection: sqlite3.Connection) -> None:
            parameters = (
                opening.request_id,
                opening.instance,
                number_of(connection, endpoint),
                number_of(connection, model),
                opening.hold_nano_usd,
                opening.is_live,
                opening.address,
                int(opening.started_at_s * 1000),
                opening.key_id,
                opening.account_id,
            )
            try:
                added = connection.execute(_OPEN, parameters).rowcount
            except sqlite3.IntegrityError as exc:
                raise _refusal(exc) from exc
            if not added:
                raise AuthenticationFailed("The API key does not exist any more.")

        await self._database.write(insert, is_new_work=True)

    def settle(self, closing: Closing) -> asyncio.Future[bool]:
        """Close a request with its charge; the rest of the hold is free again. Queued at once, even if never awaited.

        The future says whether this closed it (False: it was closed before, or never opened), or raises Unavailable.
        """
        return self._close("settled", closing)

    def release(self, closing: Closing) -> asyncio.Future[bool]:
        """Close a request without a charge. Otherwise as ``settle``."""
        return self._close("released", closing)

    def checkpoint(self, accrued: Mapping[str, Accrued]) -> asyncio.Future[None]:
        """Note for open requests (by id) what they have delivered so far. Closed ones are left as they are."""
        rows = [(each.cost_nano_usd, each.charge_nano_usd, request_id) for request_id, each in accrued.items()]

        def update(connection: sqlite3.Connection) -> None:
            connection.executemany(_CHECKPOINT, rows)

        return self._database.submit(update)

    async def request(self, request_id: str) -> LedgerRow | None:
        """One request, whatever its state."""
        row = self._database.lookup(_SELECT + "WHERE requests.id = ?", (request_id,))
        return None if row is None else _ledger_row(row)

    async def find_open(self) -> Sequence[LedgerRow]:
        """All open requests, of every process, oldest first."""
        rows = await self._database.read(_SELECT + "WHERE requests.state = 'open' ORDER BY requests.number")
        return [_ledger_row(row) for row in rows]

    def _close(self, state: State, closing: Closing) -> asyncio.Future[bool]:
        find = self._names.find
        provider = None if closing.provider is None else find(closing.provider)
        upstream_model = None if closing.upstream_model is None else find(closing.upstream_model)

        def update(connection: sqlite3.Connection) -> bool:
            return close_request(
                connection,
                closing,
                state=state,
                provider=None if provider is None else number_of(connection, provider),
                upstream_model=None if upstream_model is None else number_of(connection, upstream_model),
            )

        return self._database.submit(update)


def close_request(
    connection: sqlite3.Connection, closing: Closing, *, state: State, provider: int | None, upstream_model: int | None
) -> bool:
    """The statement behind settle and release, for operations that close a request together with something else."""
    usage = closing.usage
    changed = connection.execute(
        _CLOSE,
        (
            state,
            provider,
            upstream_model,
            closing.provider_request_id,
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.output_tokens,
            usage.images,
            usage.characters,
            usage.duration_ms,
            closing.cost_nano_usd,
            closing.charge_nano_usd,
            closing.basis,
            closing.http_status,
            closing.outcome,
            closing.first_byte_ms,
            closing.total_ms,
            closing.request_id,
        ),
    ).rowcount
    return changed == 1


_OPEN = """
INSERT INTO requests (id, account, key, instance, endpoint, model, hold_nano_usd, live, address, started_at_ms)
SELECT ?1, keys.account, keys.number, ?2, ?3, ?4, ?5, ?6, ?7, ?8
FROM keys JOIN accounts ON accounts.number = keys.account
WHERE keys.id = ?9 AND accounts.id = ?10
"""

_CLOSE = """
UPDATE requests
SET state = ?, provider = coalesce(?, provider), upstream_model = coalesce(?, upstream_model),
    provider_request_id = coalesce(?, provider_request_id), input_tokens = ?, cached_input_tokens = ?,
    output_tokens = ?, images = ?, characters = ?, duration_ms = ?, cost_nano_usd = ?, charge_nano_usd = ?, basis = ?,
    http_status = ?, outcome = ?, first_byte_ms = coalesce(?, first_byte_ms), total_ms = ?
WHERE id = ? AND state = 'open'
"""

_CHECKPOINT = """
UPDATE requests SET accrued_cost_nano_usd = ?, accrued_charge_nano_usd = ? WHERE id = ? AND state = 'open'
"""

_SELECT = """
SELECT requests.id, accounts.id, keys.id, keys.name, requests.instance, endpoints.name, models.name, providers.name,
       upstream_models.name, provider_request_id, input_tokens, cached_input_tokens, output_tokens, images, characters,
       duration_ms, hold_nano_usd, accrued_cost_nano_usd, accrued_charge_nano_usd, cost_nano_usd, charge_nano_usd,
       basis, live, state, http_status, outcome, first_byte_ms, total_ms, address, started_at_ms
FROM requests
JOIN accounts ON accounts.number = requests.account
JOIN keys ON keys.number = requests.key
JOIN names AS endpoints ON endpoints.number = requests.endpoint
JOIN names AS models ON models.number = requests.model
LEFT JOIN names AS providers ON providers.number = requests.provider
LEFT JOIN names AS upstream_models ON upstream_models.number = requests.upstream_model
"""


def _refusal(exc: sqlite3.IntegrityError) -> GatewayError:
    """What a refused opening means. The words are those of the triggers' RAISE."""
    match str(exc):
        case "insufficient_balance":
            return InsufficientBalance("The account's balance does not cover this request.")
        case "budget_day_exceeded":
            return BudgetExceeded("The API key's budget of this day does not cover this request.")
        case "budget_month_exceeded":
            return BudgetExceeded("The API key's budget of this month does not cover this request.")
        case "UNIQUE constraint failed: requests.id":
            return Conflict("A request with this id is in the ledger already.")
    raise exc


def _ledger_row(row: Row) -> LedgerRow:
    values: list[Any] = list(row)
    fields = LedgerRow.__dataclass_fields__
    named = dict(zip(fields, values, strict=True))
    named["basis"] = None if named["basis"] is None else Basis(named["basis"])
    named["is_live"] = bool(named["is_live"])
    named["started_at_s"] = named["started_at_s"] / 1000
    return LedgerRow(**named)
