from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitmesh_proxy.errors import Conflict, InsufficientBalance
from bitmesh_proxy.storage.bulk import CLOSING_COLUMNS, OPENING_COLUMNS, close_requests, open_requests
from bitmesh_proxy.storage.migrations import load_migrations, split_statements
from bitmesh_proxy.storage.writer import Failed


@cache
def empty_books() -> bytes:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for migration in load_migrations():
        for statement in split_statements(migration.sql):
            connection.execute(statement)
    return connection.serialize()


def make_books(balance: int) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(empty_books())
    connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES ('a', 'Ada', 0)")
    connection.execute(
        "INSERT INTO entries (number, account, kind, amount_nano_usd, created_at_ms) VALUES (-1, 1, 'credit', ?, 0)",
        (balance,),
    )
    connection.execute("INSERT INTO keys (id, account, name, consumer_key, created_at_ms) VALUES ('k', 1, '', 'c', 0)")
    connection.execute("INSERT INTO names (name) VALUES ('chat'), ('model')")
    connection.execute("BEGIN")
    return connection


def opened(request_id: str, hold: int) -> tuple[Any, ...]:
    return (request_id, 1, 1, 1, 1, 2, hold, 1, "", 0)


def closed(request_id: str, charge: int, **changes: Any) -> tuple[Any, ...]:
    values = dict.fromkeys(CLOSING_COLUMNS) | {
        "state": "settled", "input_tokens": 1, "cached_input_tokens": 0, "output_tokens": 0, "images": 0,
        "characters": 0, "duration_ms": 0, "cost_nano_usd": charge, "charge_nano_usd": charge, "basis": "measured",
    }  # fmt: skip
    return (request_id, *(values | changes).values())


def outcome(results: Sequence[Any]) -> list[Any]:
    return [type(result.error) if isinstance(result, Failed) else result for result in results]


def account(connection: sqlite3.Connection) -> tuple[int, int]:
    row = connection.execute("SELECT balance_nano_usd, held_nano_usd FROM accounts").fetchone()
    return row[0], row[1]


def test_columns_exist_and_fit_the_items() -> None:
    connection = make_books(1000)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(requests)")}
    assert set(OPENING_COLUMNS) | set(CLOSING_COLUMNS) <= columns
    assert len(OPENING_COLUMNS) == len(opened("r", 1))


@pytest.mark.parametrize("count", [1, 2, 4, 5, 16, 64, 100, 512])
def test_many_open_and_close(count: int) -> None:
    connection = make_books(1000)
    ids = [f"r{number}" for number in range(count)]
    assert open_requests(connection, [opened(request_id, 1) for request_id in ids]) == [None] * count
    assert account(connection) == (1000, count)
    assert close_requests(connection, [closed(request_id, 1) for request_id in ids]) == [True] * count
    assert account(connection) == (1000 - count, 0)


def test_one_refusal_in_a_bulk_is_its_own() -> None:
    connection = make_books(10)
    results = open_requests(connection, [opened("a", 4), opened("b", 7), opened("a", 1), opened("c", 6)])
    assert outcome(results) == [None, InsufficientBalance, Conflict, None]
    assert account(connection) == (10, 10)


def test_closing_again_does_nothing() -> None:
    connection = make_books(10)
    open_requests(connection, [opened(request_id, 2) for request_id in "abcd"])
    assert close_requests(connection, [closed("a", 2)]) == [True]
    twice = [closed("a", 1), closed("b", 2), closed("b", 1), closed("unknown", 1), closed("c", 2)]
    assert close_requests(connection, twice) == [False, True, False, False, True]
    assert account(connection) == (4, 2)


def test_what_is_not_known_at_the_end_stays_as_it_was() -> None:
    connection = make_books(10)
    open_requests(connection, [opened("a", 2)])
    connection.execute("UPDATE requests SET provider = 1, provider_request_id = 'p', first_byte_ms = 5")
    close_requests(connection, [closed("a", 1, upstream_model=2)])
    row = connection.execute("SELECT provider, upstream_model, provider_request_id, first_byte_ms FROM requests")
    assert row.fetchone() == (1, 2, "p", 5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    balance=st.integers(1, 60),
    holds=st.lists(st.integers(0, 12), min_size=1, max_size=90),
    shares=st.lists(st.integers(0, 100), min_size=90, max_size=90),
)
def test_bulk_is_what_one_by_one_would_be(balance: int, holds: list[int], shares: list[int]) -> None:
    many, single = make_books(balance), make_books(balance)
    items = [opened(f"r{number}", hold) for number, hold in enumerate(holds)]
    results = outcome(open_requests(many, items))
    assert results == [outcome(open_requests(single, [item]))[0] for item in items]
    held = sum(hold for hold, result in zip(holds, results, strict=True) if result is None)
    assert account(many) == account(single) == (balance, held)
    assert held <= balance

    closings = [closed(f"r{number}", hold * shares[number] // 100) for number, hold in enumerate(holds)]
    assert close_requests(many, closings) == [close_requests(single, [item])[0] for item in closings]
    assert account(many) == account(single)
    assert account(many)[1] == 0
    total = many.execute("SELECT sum(amount_nano_usd) FROM entries").fetchone()[0]
    assert total == account(many)[0]
