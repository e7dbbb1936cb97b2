from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitmesh_proxy.errors import Conflict, InsufficientBalance
from bitmesh_proxy.storage.bulk import (
    CLOSING_COLUMNS,
    OPENING_COLUMNS,
    NotAllOpen,
    close_requests,
    note_accrued,
    open_requests,
)
from bitmesh_proxy.storage.migrations import load_migrations, split_statements
from bitmesh_proxy.storage.writer import Failed


@cache
def empty_books() -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
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


@pytest.fixture
def small_books() -> Iterator[Callable[[int], sqlite3.Connection]]:
    """Books with one account, which has so much."""
    with ExitStack() as stack:
        yield lambda balance: stack.enter_context(closing(make_books(balance)))


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
    row = connection.execute("SELECT balance_nano_usd, held_nano_usd FROM balances").fetchone()
    return row[0], row[1]


def test_columns_exist_and_fit_the_items(small_books: Callable[[int], sqlite3.Connection]) -> None:
    connection = small_books(1000)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(requests)")}
    assert set(OPENING_COLUMNS) | set(CLOSING_COLUMNS) <= columns
    assert len(OPENING_COLUMNS) == len(opened("r", 1))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 32, 33, 100, 512])
def test_many_open_and_close(count: int, small_books: Callable[[int], sqlite3.Connection]) -> None:
    connection = small_books(1000)
    ids = [f"r{number}" for number in range(count)]
    assert open_requests(connection, [opened(request_id, 1) for request_id in ids]) == [None] * count
    assert account(connection) == (1000, count)
    assert close_requests(connection, [closed(request_id, 1) for request_id in ids]) == [True] * count
    assert account(connection) == (1000 - count, 0)


def test_one_refusal_in_a_bulk_is_its_own(small_books: Callable[[int], sqlite3.Connection]) -> None:
    connection = small_books(10)
    results = open_requests(connection, [opened("a", 4), opened("b", 7), opened("a", 1), opened("c", 6)])
    assert outcome(results) == [None, InsufficientBalance, Conflict, None]
    assert account(connection) == (10, 10)


@pytest.mark.parametrize("others", [1, 5, 40])
def test_closing_again_does_nothing_and_has_several_done_one_by_one(
    others: int, small_books: Callable[[int], sqlite3.Connection]
) -> None:
    connection = small_books(100)
    ids = [f"r{number}" for number in range(others)]
    open_requests(connection, [opened(request_id, 2) for request_id in ["a", *ids]])
    assert close_requests(connection, [closed("a", 2)]) == [True]
    for again in (closed("a", 1), closed("unknown", 1), closed(ids[0], 1)):
        assert close_requests(connection, [again]) == [again[0] == ids[0]]
        connection.execute("SAVEPOINT before")
        with pytest.raises(NotAllOpen):
            close_requests(connection, [closed(ids[-1], 1), again, *[closed(each, 1) for each in ids[1:]]])
        connection.execute("ROLLBACK TO before")
    assert account(connection) == (97, 2 * (others - 1))


@pytest.mark.parametrize("count", [1, 3, 31, 32, 33, 64, 100])
def test_what_was_delivered_is_noted_of_open_rows_only(
    count: int, small_books: Callable[[int], sqlite3.Connection]
) -> None:
    connection = small_books(1000)
    ids = [f"r{number}" for number in range(count)]
    open_requests(connection, [opened(request_id, 1) for request_id in [*ids, "unasked"]])
    close_requests(connection, [closed(ids[0], 1)])
    note_accrued(connection, [(request_id, 2**62 + at, at) for at, request_id in enumerate([*ids, "unknown"])])
    noted = connection.execute("SELECT id, accrued_cost_nano_usd, accrued_charge_nano_usd FROM requests")
    assert {row[0]: row[1:] for row in noted} == {
        **{request_id: (2**62 + at, at) for at, request_id in enumerate(ids)},
        ids[0]: (0, 0),
        "unasked": (0, 0),
    }
    assert account(connection) == (999, count)


def test_what_is_not_known_at_the_end_stays_as_it_was(small_books: Callable[[int], sqlite3.Connection]) -> None:
    connection = small_books(10)
    open_requests(connection, [opened("a", 2)])
    connection.execute("UPDATE requests SET provider = 1, provider_request_id = 'p', first_byte_ms = 5")
    close_requests(connection, [closed("a", 1, upstream_model=2)])
    row = connection.execute("SELECT provider, upstream_model, provider_request_id, first_byte_ms FROM requests")
    assert row.fetchone() == (1, 2, "p", 5)


def make_large_books(balances: Sequence[int]) -> sqlite3.Connection:
    """Accounts with these balances, and of each a key without a budget and one with 20 a day and 30 a month."""
    connection = make_books(balances[0])
    for number, balance in enumerate(balances[1:], start=2):
        connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES (?, '', 0)", (f"a{number}",))
        connection.execute(
            "INSERT INTO entries (number, account, kind, amount_nano_usd, created_at_ms) VALUES (?, ?, 'credit', ?, 0)",
            (-number, number, balance),
        )
    for number in range(1, len(balances) + 1):
        for name, day, month in (("free", None, None), ("bounded", 20, 30)):
            connection.execute(
                "INSERT INTO keys (id, account, name, consumer_key, budget_day_nano_usd, budget_month_nano_usd,"
                " created_at_ms) VALUES (?, ?, '', ?, ?, ?, 0)",
                (f"{name}{number}", number, f"{name}{number}", day, month),
            )
    return connection


def books_of(connection: sqlite3.Connection) -> list[Any]:
    return [
        connection.execute(sql).fetchall()
        for sql in (
            "SELECT account, balance_nano_usd, held_nano_usd FROM balances ORDER BY account",
            "SELECT key, period, spent_nano_usd, held_nano_usd FROM key_spend ORDER BY key, period",
            "SELECT id, account, key, state, hold_nano_usd, charge_nano_usd FROM requests ORDER BY id",
            "SELECT requests.id, kind, amount_nano_usd FROM entries LEFT JOIN requests USING (number)"
            " WHERE kind = 'charge' ORDER BY requests.id",
        )
    ]


def as_the_writer_closes(connection: sqlite3.Connection, items: Sequence[Any]) -> Sequence[bool]:
    """All together, and one by one where that is undone."""
    connection.execute("SAVEPOINT before")
    try:
        results = close_requests(connection, items)
    except NotAllOpen:
        connection.execute("ROLLBACK TO before")
        results = [close_requests(connection, [item])[0] for item in items]
    connection.execute("RELEASE before")
    return results


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    balances=st.lists(st.integers(1, 80), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 70)), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_batches_give_the_books_that_one_by_one_gives(
    balances: list[int], steps: list[tuple[bool, int]], seed: int
) -> None:
    """Some are refused for their balance, some for a budget, some ids come twice, and some rows are closed twice."""
    with closing(make_large_books(balances)) as many, closing(make_large_books(balances)) as single:
        random = Random(seed)  # Hypothesis' own would take longer than the books
        holds: dict[str, int] = {}
        still_open: set[str] = set()
        for is_opening, count in steps:
            items = []
            ids = list(holds)
            if random.random() < 0.5:  # so that several are closed together
                ids = sorted(still_open)
                random.shuffle(ids)
            for at in range(count):
                if is_opening:
                    request_id = f"r{random.randrange(300)}"
                    account_number = random.randint(1, len(balances))
                    key = 2 * account_number + random.randint(0, 1)
                    started_at_ms = random.randrange(3) * 86_400_000
                    hold = random.choice((0, 1, 1, 2, 5, 12))
                    items.append((request_id, account_number, key, 1, 1, 2, hold, 1, "", started_at_ms))
                elif ids:
                    request_id = ids[at % len(ids)]
                    items.append(closed(request_id, random.randint(0, min(1, holds[request_id]))))
            run = open_requests if is_opening else as_the_writer_closes
            results = outcome(run(many, items))
            assert results == [outcome(run(single, [item]))[0] for item in items]
            if is_opening:
                opened_now = {item[0]: item[6] for item, result in zip(items, results, strict=True) if result is None}
                holds |= opened_now
                still_open |= opened_now.keys()
            still_open -= {item[0] for item in items if not is_opening}
            assert books_of(many) == books_of(single)
        assert many.execute("PRAGMA foreign_key_check").fetchall() == []
        held = "SELECT coalesce(sum(hold_nano_usd), 0) FROM requests WHERE state = 'open'"
        assert many.execute(held).fetchone() == many.execute("SELECT sum(held_nano_usd) FROM balances").fetchone()
        total = "SELECT sum(amount_nano_usd) FROM entries"
        assert many.execute(total).fetchone() == many.execute("SELECT sum(balance_nano_usd) FROM balances").fetchone()
