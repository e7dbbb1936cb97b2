"""The ledger: one row per request, opened with its hold before the call is sent, and closed exactly once.

Opening and closing are one statement each; the triggers of ``schema/0001_create_books.sql`` move holds, entries and
budgets with them. Rows tell what was used and what it cost, never what was asked or answered.

Old rows become part of their months' sums (``months.py``): then a request is not found by its id any more.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec import Struct

from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.errors import AuthenticationFailed
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.bulk import Item, close_requests, note_accrued, open_requests
from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.names import MAX_REMEMBERED, NameOrNumber, Names, make_number
from bitmesh_proxy.storage.runs import Runs
from bitmesh_proxy.storage.writer import Failed, end_future

State = Literal["open", "settled", "released"]

#: More than any account has, which the books can still add to what it holds. Callers name figures that come to more
#: (answers to a call, tokens of an answer), and a number that SQLite cannot take would fail all who write with it.
MOST_HELD = NanoUsd(2**62)
#: What a single call is entered with at most, as its cost or milliseconds, so that sums of millions stay numbers.
#: Providers may name any figure.
MOST_ENTERED = 2**43


# Structs and not dataclasses: one of each is made for every request, and a frozen dataclass takes ten times as long.
class Opening(Struct, frozen=True):
    """A request that is about to be made. ``instance`` is the number of this process (``instances.py``)."""

    request_id: str
    account_id: str
    key_id: str
    instance: int
    endpoint: str
    model: NameOrNumber
    hold_nano_usd: NanoUsd
    is_live: bool
    address: str
    started_at_s: float
    #: Of the account and the key, if known.
    row_numbers: tuple[int, int] | None = None


class Closing(Struct, frozen=True):
    """How a request ended. ``outcome`` is one word; ``charge_nano_usd`` must not be above the hold.

    ``basis`` says what cost and charge rest on; None when nothing was used, so that there is nothing to charge.
    """

    request_id: str
    outcome: str
    http_status: int | None
    cost_nano_usd: NanoUsd
    charge_nano_usd: NanoUsd
    basis: Basis | None
    usage: Usage
    provider: str | None = None
    upstream_model: NameOrNumber | None = None
    provider_request_id: str | None = None
    first_byte_ms: int | None = None
    total_ms: int | None = None

    @property
    def state(self) -> State:
        """A request without a basis for a bill is released, any other settled."""
        return "released" if self.basis is None else "settled"


class Accrued(msgspec.Struct, frozen=True, kw_only=True):
    """What an open request has delivered so far."""

    cost_nano_usd: NanoUsd
    charge_nano_usd: NanoUsd


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
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
    """Opens, closes and finds requests. Sums are in ``usage.py``, the proof of the books in ``verification.py``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._names = Names(database)
        self._runs = Runs(database)
        self._numbers: dict[tuple[str, str], tuple[int, int]] = {}

    def number_of(self, name: str) -> int | None:
        """What an opening or a closing may say instead of a model's name; None until the name is in the books."""
        return self._names.find(name)

    def open_reservation(self, opening: Opening) -> asyncio.Future[None]:
        """Write the request's row and take its hold from account and budgets, all or nothing. Queued at once.

        The future raises InsufficientBalance, BudgetExceeded, Conflict (the id is in use) or Unavailable; then nothing
        is held. Raises AuthenticationFailed when the key is not in the books, Unavailable when the queue is full.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open_now(opening, partial(end_future, future))
        return future

    def open_now(self, opening: Opening, on_done: Callable[[Failed | None], None]) -> None:
        """As ``open_reservation``, without a future: ``on_done`` is called once, on the event loop, after this returns.

        It gets None when the row and its hold are durable, or ``Failed`` with one of the future's errors; then nothing
        is held. Raises what ``open_reservation`` raises; then ``on_done`` is not called.
        """
        account, key = opening.row_numbers or self._numbers_of(opening.account_id, opening.key_id)
        known, find = self._names.known, self._names.find
        endpoint = known.get(opening.endpoint) or find(opening.endpoint)
        name = opening.model
        model = name if isinstance(name, int) else known.get(name) or find(name)
        if endpoint is not None and model is not None:
            item = _opening_item(opening, account, key, endpoint, model)
            self._database.submit_item_now(open_requests, item, on_done, is_new_work=True)
        else:
            self._database.submit_now(partial(_open_by_new_names, opening, account, key), on_done, is_new_work=True)
        runs = self._runs
        runs.openings_left -= 1
        if runs.openings_left < 0:
            runs.look()  # behind the opening, whose place in the queue it must not take

    def close(self, closing: Closing) -> asyncio.Future[bool]:
        """Settle or release a request; what is not charged of its hold is free again. Queued at once, and written even
        if nobody awaits it.

        The future says whether this closed it (False: it was closed before, or never opened), or raises Unavailable.
        May be repeated.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.close_now(closing, partial(end_future, future))
        return future

    def close_now(self, closing: Closing, on_done: Callable[[Failed | bool], None]) -> None:
        """As ``close``, without a future: ``on_done`` is called once, on the event loop, after this returns.

        It gets what the future would: whether this closed the row, or ``Failed``. Raises Unavailable when the queue is
        full; then ``on_done`` is not called.
        """
        provider = upstream_model = None
        if closing.provider is not None and closing.upstream_model is not None:
            known, find = self._names.known, self._names.find
            provider = known.get(closing.provider) or find(closing.provider)
            name = closing.upstream_model
            upstream_model = name if isinstance(name, int) else known.get(name) or find(name)
            if provider is None or upstream_model is None:
                self._database.submit_now(partial(_close_by_new_names, closing), on_done)
                return
        self._database.submit_item_now(close_requests, _closing_item(closing, provider, upstream_model), on_done)

    async def close_after_all(self, closing: Closing) -> bool:
        """As ``close``, but surely after every opening that was queued before: within one batch there is no order."""
        await self._database.write(_do_nothing)
        return await self.close(closing)

    def checkpoint(self, accrued: Mapping[str, Accrued]) -> asyncio.Future[None]:
        """Note for open requests (by id) what they have delivered so far. Closed ones are left as they are."""
        items = [
            (request_id, min(each.cost_nano_usd, MOST_ENTERED), each.charge_nano_usd)
            for request_id, each in accrued.items()
        ]
        return self._database.submit(partial(note_accrued, items=items))

    async def resolve_interrupted(self, *, alive: Sequence[int], newest: int | None = None) -> int:
        """At start: close the open requests that no living process serves and no open job holds. Gives how many.

        They are charged what had been noted as delivered, never more than their hold; the figure is an estimate.
        Requests of processes above ``newest`` are left alone: those came after ``alive`` had been counted.
        """
        living = json.dumps(list(alive))

        def update(connection: sqlite3.Connection) -> int:
            return connection.execute(_RESOLVE, (living, newest)).rowcount

        return await self._database.write(update)

    async def request(self, request_id: str) -> LedgerRow | None:
        """One request, whatever its state."""
        row = self._database.lookup(_SELECT + "WHERE requests.id = ?", (request_id,))
        return None if row is None else _ledger_row(row)

    async def find_open(self) -> Sequence[LedgerRow]:
        """All open requests, of every process, oldest first."""
        rows = await self._database.read(_SELECT + _OPEN)
        return [_ledger_row(row) for row in rows]

    def _numbers_of(self, account_id: str, key_id: str) -> tuple[int, int]:
        """Row numbers of an account and its key; they never change, so they are looked up once."""
        numbers = self._numbers.get((account_id, key_id))
        if numbers is None:
            row = self._database.lookup(
                "SELECT accounts.number, keys.number FROM keys JOIN accounts ON accounts.number = keys.account"
                " WHERE keys.id = ? AND accounts.id = ?",
                (key_id, account_id),
            )
            if row is None:
                raise AuthenticationFailed("The API key does not exist any more.")
            if len(self._numbers) >= MAX_REMEMBERED:
                self._numbers.clear()
            numbers = self._numbers[account_id, key_id] = row[0], row[1]
        return numbers


def _do_nothing(connection: sqlite3.Connection) -> None:
    """What waits for it has waited for everything that was queued before."""


# Not closures: what those know costs a little with every request, and few have a new name.
def _open_by_new_names(opening: Opening, account: int, key: int, connection: sqlite3.Connection) -> None:
    endpoint, model = make_number(connection, opening.endpoint), make_number(connection, opening.model)
    failed = open_requests(connection, (_opening_item(opening, account, key, endpoint, model),))[0]
    if failed is not None:
        raise failed.error


def _close_by_new_names(closing: Closing, connection: sqlite3.Connection) -> bool:
    return close_request(connection, closing)


def close_request(connection: sqlite3.Connection, closing: Closing) -> bool:
    """``LedgerStore.close`` within an operation that does more than that. False: the request was not open."""
    provider = None if closing.provider is None else make_number(connection, closing.provider)
    upstream_model = None if closing.upstream_model is None else make_number(connection, closing.upstream_model)
    result = close_requests(connection, (_closing_item(closing, provider, upstream_model),))[0]
    return result is True


def _opening_item(opening: Opening, account: int, key: int, endpoint: int, model: int) -> Item:
    return (
        opening.request_id,
        account,
        key,
        opening.instance,
        endpoint,
        model,
        MOST_HELD if opening.hold_nano_usd > MOST_HELD else opening.hold_nano_usd,  # noqa: FURB136 - min takes a call
        1 if opening.is_live else 0,
        opening.address,
        int(opening.started_at_s * 1000),
    )


# Items hold plain int, str and None: for a subclass (bool, an enumeration) the driver looks for an adapter each time.
def _closing_item(closing: Closing, provider: int | None, upstream_model: int | None) -> Item:
    usage, basis = closing.usage, closing.basis
    cost_nano_usd, duration_ms = closing.cost_nano_usd, usage.duration_ms
    if cost_nano_usd > MOST_ENTERED or duration_ms > MOST_ENTERED:
        cost_nano_usd, duration_ms = NanoUsd(min(cost_nano_usd, MOST_ENTERED)), min(duration_ms, MOST_ENTERED)
    return (
        closing.request_id,
        "released" if basis is None else "settled",
        provider,
        upstream_model,
        closing.provider_request_id,
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        usage.images,
        usage.characters,
        duration_ms,
        cost_nano_usd,
        closing.charge_nano_usd,
        None if basis is None else basis._value_,  # ``value`` takes a call
        closing.http_status,
        closing.outcome,
        closing.first_byte_ms,
        closing.total_ms,
    )


_RESOLVE = """
UPDATE requests
SET state = CASE WHEN accrued_cost_nano_usd + accrued_charge_nano_usd > 0 THEN 'settled' ELSE 'released' END,
    cost_nano_usd = accrued_cost_nano_usd, charge_nano_usd = min(accrued_charge_nano_usd, hold_nano_usd),
    basis = 'estimated', outcome = 'interrupted'
WHERE number IN (SELECT number FROM open_requests)
  AND instance NOT IN (SELECT value FROM json_each(?1))
  AND (?2 IS NULL OR instance <= ?2)
  AND id NOT IN (SELECT request_id FROM jobs WHERE next_poll_at_ms IS NOT NULL)
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

_OPEN = "WHERE requests.number IN (SELECT number FROM open_requests) ORDER BY requests.number"


def _ledger_row(row: Row) -> LedgerRow:
    values: list[Any] = list(row)
    fields = LedgerRow.__struct_fields__
    named = dict(zip(fields, values, strict=True))
    named["basis"] = None if named["basis"] is None else Basis(named["basis"])
    named["is_live"] = bool(named["is_live"])
    named["started_at_s"] = named["started_at_s"] / 1000
    return LedgerRow(**named)
