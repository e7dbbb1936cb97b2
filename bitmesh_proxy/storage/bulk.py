"""The two statements behind every request, for many requests at a time: open rows and close rows of the ledger.
Between them, what a running call has delivered is noted in the same way.

A statement with 64 rows costs a quarter of 64 statements. Its triggers still look at each row; when one opening is
refused the whole statement has undone itself, and each half of the rows is tried for itself, so that somebody without a
balance costs the others a few statements and not one each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

from bitmesh_proxy.errors import BudgetExceeded, Conflict, GatewayError, InsufficientBalance
from bitmesh_proxy.storage.writer import Failed

Item = tuple[Any, ...]

#: Rows of one statement at most. Each number of rows has a statement of its own, kept prepared.
MAX_ROWS = 32
#: So few rows take a statement each: one for several begins with a table of what is given, and that costs as much as
#: four rows.
FEW_ROWS = 3

OPENING_COLUMNS = (
    "id", "account", "key", "instance", "endpoint", "model", "hold_nano_usd", "live", "address", "started_at_ms",
)  # fmt: skip

#: The request's id comes first, then these.
CLOSING_COLUMNS = (
    "state", "provider", "upstream_model", "provider_request_id", "input_tokens", "cached_input_tokens",
    "output_tokens", "images", "characters", "duration_ms", "cost_nano_usd", "charge_nano_usd", "basis",
    "http_status", "outcome", "first_byte_ms", "total_ms",
)  # fmt: skip


def open_requests(connection: sqlite3.Connection, items: Sequence[Item]) -> Sequence[Failed | None]:
    """Insert rows of ``OPENING_COLUMNS``; a row that account, budget or id refuse is ``Failed``."""
    results: list[Failed | None] = []
    for chunk in _chunks(items):
        try:
            connection.execute(_opening(len(chunk)), tuple(chain.from_iterable(chunk)))
            results.extend([None] * len(chunk))
        except sqlite3.IntegrityError as exc:
            if len(chunk) == 1:
                results.append(Failed(_refusal(exc)))
            else:
                for half in _halves(chunk):
                    results += open_requests(connection, half)
    return results


class NotAllOpen(Exception):
    """One of several rows was not open. Which one is known one by one only, once what has been done is undone."""


def close_requests(connection: sqlite3.Connection, items: Sequence[Item]) -> Sequence[bool]:
    """Close rows by ``id`` and ``CLOSING_COLUMNS``. A single row: was it open?

    Raises NotAllOpen where several are not all open, which is so rare that no savepoint is laid for it: the writer
    undoes everything then, and does one by one.
    """
    if len(items) == 1:
        return [connection.execute(_closing(1), items[0]).rowcount == 1]
    if len(items) <= FEW_ROWS:
        changed = connection.executemany(_closing(1), items).rowcount
    else:
        changed = sum(
            connection.execute(_closing(len(chunk)), tuple(chain.from_iterable(chunk))).rowcount
            for chunk in _chunks(items)
        )
    if changed != len(items):
        raise NotAllOpen
    return [True] * len(items)


def note_accrued(connection: sqlite3.Connection, items: Sequence[Item]) -> None:
    """Write what running calls have delivered, items being id, cost and charge. Rows that are not open stay as they
    are."""
    for chunk in _chunks(items):
        if len(chunk) == MAX_ROWS:
            connection.execute(_NOTE_FULL_CHUNK, tuple(chain.from_iterable(chunk)))
        else:
            connection.executemany(_NOTE, chunk)


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    rows = 1 if len(items) <= FEW_ROWS else MAX_ROWS
    for start in range(0, len(items), rows):
        yield items[start : start + rows]


def _halves(chunk: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    middle = len(chunk) // 2
    return chunk[:middle], chunk[middle:]


def _rows(count: int, width: int) -> str:
    row = f"({','.join('?' * width)})"
    return ",".join([row] * count)


@cache
def _opening(count: int) -> str:
    return f"INSERT INTO requests ({', '.join(OPENING_COLUMNS)}) VALUES {_rows(count, len(OPENING_COLUMNS))}"  # noqa: S608


#: What is not known any better at the end stays as it was noted before.
_KEPT = {"provider", "upstream_model", "provider_request_id", "first_byte_ms"}


def _assignments(parameter: str) -> str:
    named = [(name, f"{parameter}{number}") for number, name in enumerate(CLOSING_COLUMNS, start=2)]
    return ", ".join(
        f"{name} = " + (f"coalesce({value}, requests.{name})" if name in _KEPT else value) for name, value in named
    )


@cache
def _closing(count: int) -> str:
    if count == 1:  # the table of values that several are joined to costs as much again
        return f"UPDATE requests SET {_assignments('?')} WHERE id = ?1 AND state = 'open'"  # noqa: S608
    # VALUES names its columns itself: column1, column2 …
    # (Not WITH … UPDATE: of a statement that begins with WITH the driver tells no row count.)
    return (
        f"UPDATE requests SET {_assignments('closing.column')}"  # noqa: S608
        f" FROM (VALUES {_rows(count, 1 + len(CLOSING_COLUMNS))}) AS closing"
        " WHERE requests.id = closing.column1 AND requests.state = 'open'"
    )


_NOTE = """
UPDATE requests SET accrued_cost_nano_usd = ?2, accrued_charge_nano_usd = ?3 WHERE id = ?1 AND state = 'open'
"""

_NOTE_FULL_CHUNK = f"""
UPDATE requests SET accrued_cost_nano_usd = accrued.column2, accrued_charge_nano_usd = accrued.column3
FROM (VALUES {_rows(MAX_ROWS, 3)}) AS accrued
WHERE requests.id = accrued.column1 AND requests.state = 'open'
"""  # noqa: S608 - made of constants


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
