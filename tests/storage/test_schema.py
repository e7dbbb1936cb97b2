"""The rules that the database itself keeps, tried with bare SQL: no code of ours can break them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitmesh_proxy.storage.migrations import load_migrations, migrate
from bitmesh_proxy.storage.runs import extend_runs

START_MS = 1_787_227_200_000  # 2026-08-20 12:00 UTC


@pytest.fixture
def books(path: Path) -> Iterator[sqlite3.Connection]:
    """Account 1 with 1,000, key 1 without a budget and key 2 with one of 300 a day and 500 a month."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection, path)
    connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES ('a', 'Ada', 0)")
    enter(connection, number=-1, kind="credit", amount_nano_usd=1000)
    for name in ("chat", "model"):
        connection.execute("INSERT INTO names (name) VALUES (?)", (name,))
    for number, day, month in ((1, None, None), (2, 300, 500)):
        connection.execute(
            "INSERT INTO keys"
            " (id, account, name, consumer_key, budget_day_nano_usd, budget_month_nano_usd, created_at_ms)"
            " VALUES (?, 1, '', ?, ?, ?, 0)",
            (f"k{number}", f"c{number}", day, month),
        )
    yield connection
    connection.close()


def enter(connection: sqlite3.Connection, **values: Any) -> None:
    row = {"account": 1, "created_at_ms": 0, **values}
    connection.execute(
        f"INSERT INTO entries ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
    )


def open_request(connection: sqlite3.Connection, request_id: str, hold: int, **values: Any) -> None:
    row = {
        "id": request_id, "account": 1, "key": 1, "instance": 1, "endpoint": 1, "model": 2, "hold_nano_usd": hold,
        "live": 1, "address": "", "started_at_ms": START_MS, **values,
    }  # fmt: skip
    connection.execute(
        f"INSERT INTO requests ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
    )


def settle(connection: sqlite3.Connection, request_id: str, charge: int, state: str = "settled") -> None:
    connection.execute(
        "UPDATE requests SET state = ?, charge_nano_usd = ?, cost_nano_usd = ?, basis = 'measured' WHERE id = ?",
        (state, charge, charge, request_id),
    )


def account(connection: sqlite3.Connection) -> tuple[int, int]:
    row = connection.execute("SELECT balance_nano_usd, held_nano_usd FROM balances").fetchone()
    return row[0], row[1]


def spend(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    rows = connection.execute("SELECT period, spent_nano_usd, held_nano_usd FROM key_spend")
    return {period: (spent, held) for period, spent, held in rows}


def test_opening_holds_and_closing_charges(books: sqlite3.Connection) -> None:
    open_request(books, "r", 400)
    assert account(books) == (1000, 400)
    settle(books, "r", 150)
    assert account(books) == (850, 0)
    assert books.execute("SELECT number, kind, amount_nano_usd FROM entries ORDER BY number").fetchall() == [
        (-1, "credit", 1000),
        (1, "charge", -150),
    ]


def test_release_charges_nothing(books: sqlite3.Connection) -> None:
    open_request(books, "r", 400)
    settle(books, "r", 0, state="released")
    assert account(books) == (1000, 0)
    assert books.execute("SELECT count(*) FROM entries").fetchone() == (1,)


def test_hold_beyond_what_is_free_is_refused_whole(books: sqlite3.Connection) -> None:
    open_request(books, "first", 600)
    with pytest.raises(sqlite3.IntegrityError, match=r"^insufficient_balance$"):
        open_request(books, "second", 401)
    assert account(books) == (1000, 600)
    assert books.execute("SELECT id FROM requests").fetchall() == [("first",)]
    open_request(books, "third", 400)
    assert account(books) == (1000, 1000)
    open_request(books, "for nothing", 0)


@pytest.mark.parametrize(
    ("charge", "state"),
    [(401, "settled"), (-1, "settled"), (1, "released"), (1, "open"), (0, "lost")],
)
def test_impossible_closing_is_refused(books: sqlite3.Connection, charge: int, state: str) -> None:
    open_request(books, "r", 400)
    with pytest.raises(sqlite3.IntegrityError):
        settle(books, "r", charge, state=state)
    assert account(books) == (1000, 400)


def test_charge_may_be_all_that_there_is(books: sqlite3.Connection) -> None:
    """The hold ends before the charge is entered: for a moment of both there is no money."""
    open_request(books, "r", 1000)
    settle(books, "r", 1000)
    assert account(books) == (0, 0)


def test_request_closes_once(books: sqlite3.Connection) -> None:
    open_request(books, "r", 400)
    settle(books, "r", 100)
    for sql in (
        "UPDATE requests SET state = 'open'",
        "UPDATE requests SET charge_nano_usd = 0",
        "UPDATE requests SET outcome = 'completed'",
    ):
        with pytest.raises(sqlite3.IntegrityError, match=r"requests_close_once|CHECK constraint failed: charge"):
            books.execute(sql)
    assert account(books) == (900, 0)
    open_request(books, "free", 400)
    settle(books, "free", 0)
    with pytest.raises(sqlite3.IntegrityError, match="requests_close_once"):
        books.execute("UPDATE requests SET state = 'open' WHERE id = 'free'")
    with pytest.raises(sqlite3.IntegrityError, match="requests_close_once"):
        settle(books, "free", 100)
    assert account(books) == (900, 0)


@pytest.mark.parametrize("column", ["hold_nano_usd", "account", "key", "live", "id", "number", "started_at_ms"])
def test_request_keeps_its_terms(books: sqlite3.Connection, column: str) -> None:
    open_request(books, "r", 400)
    with pytest.raises(sqlite3.IntegrityError, match="requests_keep_their_terms"):
        books.execute(f"UPDATE requests SET {column} = {column}")


def test_request_begins_open(books: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="requests_begin_open"):
        open_request(books, "r", 0, state="settled", basis="measured")


def test_request_and_charge_go_once_the_mark_has_passed_them_and_the_newest_never(books: sqlite3.Connection) -> None:
    for name in ("first", "open", "newest"):
        open_request(books, name, 100)
        if name != "open":
            settle(books, name, 100)
    books.execute("UPDATE summed_up SET last_request = 2")
    for sql, refusal in (
        ("DELETE FROM requests", "requests_are_summed_up_before_they_go"),
        ("DELETE FROM requests WHERE id = 'open'", "requests_are_summed_up_before_they_go"),
        ("DELETE FROM requests WHERE id = 'newest'", "requests_are_summed_up_before_they_go"),
        ("DELETE FROM entries", "entries_are_append_only"),
        ("DELETE FROM entries WHERE number = -1", "entries_are_append_only"),
        ("DELETE FROM entries WHERE number = 3", "entries_are_append_only"),
        ("UPDATE summed_up SET last_request = 3", "the_newest_request_stays"),
        ("UPDATE summed_up SET last_request = 1", "summed_up_moves_forward"),
        ("UPDATE summed_up SET last_started_at_ms = -1", "summed_up_moves_forward"),
        ("DELETE FROM summed_up", "summed_up_is_not_deleted"),
    ):
        with pytest.raises(sqlite3.IntegrityError, match=f"^{refusal}$"):
            books.execute(sql)
    books.execute("DELETE FROM entries WHERE number = 1")
    books.execute("DELETE FROM requests WHERE id = 'first'")
    assert account(books) == (800, 100)


def test_sums_of_charges_only_grow(books: sqlite3.Connection) -> None:
    books.execute("INSERT INTO charge_months VALUES ('2026-08', 1, 2, -50)")
    for sql in (
        "UPDATE charge_months SET charges = 3",
        "UPDATE charge_months SET amount_nano_usd = -51",
        "UPDATE charge_months SET charges = 3, amount_nano_usd = -49",
        "UPDATE charge_months SET charges = 3, amount_nano_usd = -51, account = 2",
    ):
        with pytest.raises(sqlite3.IntegrityError, match=r"^charge_months_only_grow$"):
            books.execute(sql)
    books.execute("UPDATE charge_months SET charges = 3, amount_nano_usd = -51")
    with pytest.raises(sqlite3.IntegrityError, match=r"^charge_months_are_not_deleted$"):
        books.execute("DELETE FROM charge_months")


def test_key_of_requests_that_were_summed_up_stays(books: sqlite3.Connection) -> None:
    books.execute("INSERT INTO request_months VALUES ('2026-08', 1, 2, 1, 0, 0, 1, '', 1, 0, 0, 0, 0, 0, 0, 0, 0)")
    with pytest.raises(sqlite3.IntegrityError, match=r"^keys_in_use_are_not_deleted$"):
        books.execute("DELETE FROM keys WHERE number = 1")
    with pytest.raises(sqlite3.IntegrityError, match=r"^request_months_are_not_deleted$"):
        books.execute("DELETE FROM request_months")


def test_test_call_holds_nothing(books: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        open_request(books, "r", 1, live=0)
    open_request(books, "r", 0, live=0)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        settle(books, "r", 1)


def test_entries_are_append_only(books: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append_only"):
        books.execute("UPDATE entries SET amount_nano_usd = 2000")
    with pytest.raises(sqlite3.IntegrityError, match="append_only"):
        books.execute("DELETE FROM entries")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        enter(books, number=-1, kind="credit", amount_nano_usd=1)
    assert account(books) == (1000, 0)


@pytest.mark.parametrize(
    "values",
    [
        {"number": -2, "kind": "credit", "amount_nano_usd": -1},
        {"number": -2, "kind": "credit", "amount_nano_usd": 0},
        {"number": -2, "kind": "correction", "amount_nano_usd": -1},  # without a note
        {"number": -2, "kind": "charge", "amount_nano_usd": -1},
        {"number": 1, "kind": "charge", "amount_nano_usd": 1},
        {"number": 1, "kind": "credit", "amount_nano_usd": 1},
        {"number": -2, "kind": "gift", "amount_nano_usd": 1},
        {"number": -2, "kind": "correction", "amount_nano_usd": -1001, "note": "more than there is"},
        {"number": -2, "kind": "credit", "amount_nano_usd": 1, "account": 2},
    ],
)
def test_impossible_entry_is_refused(books: sqlite3.Connection, values: dict[str, Any]) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        enter(books, **values)
    assert account(books) == (1000, 0)


def test_account_never_holds_more_than_it_has(books: sqlite3.Connection) -> None:
    open_request(books, "r", 900)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        enter(books, number=-2, kind="correction", amount_nano_usd=-101, note="wrong")
    for sql in ("UPDATE balances SET held_nano_usd = 1001", "UPDATE balances SET held_nano_usd = -1"):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            books.execute(sql)


def test_budget_holds_and_spends_by_day_and_month(books: sqlite3.Connection) -> None:
    open_request(books, "r1", 200, key=2)
    assert spend(books) == {"2026-08-20": (0, 200), "2026-08": (0, 200)}
    with pytest.raises(sqlite3.IntegrityError, match=r"^budget_day_exceeded$"):
        open_request(books, "r2", 101, key=2)
    assert (account(books), spend(books)["2026-08-20"]) == ((1000, 200), (0, 200))
    settle(books, "r1", 150)
    assert spend(books) == {"2026-08-20": (150, 0), "2026-08": (150, 0)}
    open_request(books, "r3", 150, key=2)
    tomorrow_ms = START_MS + 86_400_000
    open_request(books, "r4", 200, key=2, started_at_ms=tomorrow_ms)
    with pytest.raises(sqlite3.IntegrityError, match=r"^budget_month_exceeded$"):
        open_request(books, "r5", 1, key=2, started_at_ms=tomorrow_ms)
    next_month_ms = START_MS + 30 * 86_400_000
    open_request(books, "r6", 200, key=2, started_at_ms=next_month_ms)
    settle(books, "r4", 0, state="released")
    assert spend(books) == {
        "2026-08-20": (150, 150),
        "2026-08-21": (0, 0),
        "2026-08": (150, 150),
        "2026-09-19": (0, 200),
        "2026-09": (0, 200),
    }


def test_budget_that_comes_later_counts_what_was_before(books: sqlite3.Connection) -> None:
    open_request(books, "r1", 100)
    open_request(books, "r2", 60)
    settle(books, "r1", 70)
    assert spend(books) == {}
    books.execute("UPDATE keys SET budget_day_nano_usd = 140 WHERE number = 1")
    assert spend(books) == {"2026-08-20": (70, 60), "2026-08": (70, 60)}
    with pytest.raises(sqlite3.IntegrityError, match="budget_day_exceeded"):
        open_request(books, "r3", 11)
    settle(books, "r2", 60)
    assert spend(books)["2026-08-20"] == (130, 0)
    books.execute("UPDATE keys SET budget_day_nano_usd = NULL WHERE number = 1")
    assert spend(books) == {}
    open_request(books, "r4", 500)


def test_budget_that_comes_later_counts_what_is_in_runs(books: sqlite3.Connection) -> None:
    """From the beginning of the month before that of the newest request, which is earlier than this one."""
    day_ms, august_ms = 86_400_000, 1_597_924_800_000  # 2020-08-20 12:00 UTC: over on any clock
    for name, days in (("may", -81), ("june", -80), ("july 1", -50), ("july 2", -49), ("august", 0), ("other", 0)):
        open_request(books, name, 10, started_at_ms=august_ms + days * day_ms, key=2 if name == "other" else 1)
        if name != "july 2":
            settle(books, name, 7)
    counted = {"2020-07-01": (7, 0), "2020-07-02": (0, 10), "2020-07": (7, 10), "2020-08-20": (7, 0), "2020-08": (7, 0)}
    for rows in (None, 1, 2, 3):
        if rows is not None:
            assert extend_runs(books, run_rows=rows)
        books.execute("UPDATE keys SET budget_day_nano_usd = 140 WHERE number = 1")
        books.execute("DELETE FROM key_spend WHERE key = 2")
        assert spend(books) == counted, rows


@pytest.mark.parametrize("rows_in_runs", [0, 2, 4])
def test_budget_that_comes_later_counts_all_the_same_after_a_wrong_clock(
    rows_in_runs: int, books: sqlite3.Connection
) -> None:
    """A newest request of the future, and an open one of long ago, do not hide what was spent today."""
    (now_ms,) = books.execute("SELECT 1000 * strftime('%s', 'now')").fetchone()
    for name, began_ms in (("slow", 86_400_000), ("today", now_ms), ("fast", 2_124_144_000_000)):
        open_request(books, name, 10, started_at_ms=began_ms)
    for name in ("today", "fast"):
        settle(books, name, 7)
    open_request(books, "other", 10, key=2, started_at_ms=2_124_144_000_000)
    if rows_in_runs:
        assert extend_runs(books, run_rows=rows_in_runs)
    books.execute("UPDATE keys SET budget_day_nano_usd = 140 WHERE number = 1")
    (today,) = books.execute("SELECT strftime('%Y-%m-%d', ? / 1000, 'unixepoch')", (now_ms,)).fetchone()
    counted = {"1970-01-02": (0, 10), today: (7, 0), "2037-04-24": (7, 0)}
    of_key = books.execute("SELECT period, spent_nano_usd, held_nano_usd FROM key_spend WHERE key = 1")
    assert {period: tuple(sums) for period, *sums in of_key} == {
        **counted,
        **{day[:7]: sums for day, sums in counted.items()},
    }
    settle(books, "slow", 0, state="released")
    assert spend(books)["1970-01-02"] == (0, 0)


def test_request_belongs_to_what_is_there_and_stays(books: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=r"^requests_have_a_key$"):
        open_request(books, "r", 0, key=3)
    with pytest.raises(sqlite3.IntegrityError, match=r"^insufficient_balance$"):
        open_request(books, "r", 0, account=2)
    assert account(books) == (1000, 0)
    open_request(books, "r", 0)
    for sql, refusal in (
        ("DELETE FROM keys WHERE number = 1", "keys_in_use_are_not_deleted"),
        ("UPDATE keys SET number = 7 WHERE number = 1", "keys_keep_their_numbers"),
        ("DELETE FROM names", "names_are_not_deleted"),
        ("UPDATE names SET name = 'else'", "names_keep_their_numbers"),
        ("DELETE FROM accounts", "accounts_are_not_deleted"),
        ("UPDATE accounts SET number = 7", "accounts_keep_their_numbers"),
        ("DELETE FROM balances", "balances_are_not_deleted"),
        ("UPDATE balances SET account = 7", "balances_keep_their_accounts"),
    ):
        with pytest.raises(sqlite3.IntegrityError, match=refusal):
            books.execute(sql)
    books.execute("DELETE FROM keys WHERE number = 2")


def test_number_of_a_key_that_was_deleted_opens_nothing_until_it_is_given_again(books: sqlite3.Connection) -> None:
    def make(number: int, budget: int | None) -> None:
        books.execute(
            "INSERT INTO keys (number, id, account, name, consumer_key, budget_day_nano_usd, created_at_ms)"
            " VALUES (?, ?, 1, '', ?, ?, 0)",
            (number, f"k{number}", f"c{number}", budget),
        )

    make(3, None)
    make(4, None)
    books.execute("DELETE FROM keys WHERE number IN (2, 3)")
    for deleted in (2, 3):
        with pytest.raises(sqlite3.IntegrityError, match=r"^requests_have_a_key$"):
            open_request(books, "r", 0, key=deleted)
    make(2, None)
    make(3, 50)
    open_request(books, "r2", 400, key=2)
    open_request(books, "r3", 50, key=3)
    with pytest.raises(sqlite3.IntegrityError, match=r"^budget_day_exceeded$"):
        open_request(books, "r4", 1, key=3)
    assert spend(books) == {"2026-08-20": (0, 50), "2026-08": (0, 50)}
    assert account(books) == (1000, 450)


@pytest.mark.parametrize("column", ["budget_day_nano_usd", "budget_month_nano_usd"])
def test_budget_counts_from_its_first_moment_to_its_last(books: sqlite3.Connection, column: str) -> None:
    """Whichever of both a key gets, and even if that is nothing at all."""
    books.execute(f"UPDATE keys SET {column} = 0 WHERE number = 1")
    open_request(books, "free", 0)
    with pytest.raises(sqlite3.IntegrityError, match=r"^budget_(day|month)_exceeded$"):
        open_request(books, "r", 1)
    books.execute("UPDATE keys SET budget_day_nano_usd = NULL, budget_month_nano_usd = NULL WHERE number = 2")
    open_request(books, "much", 600, key=2)
    books.execute(f"UPDATE keys SET {column} = NULL WHERE number = 1")
    open_request(books, "r", 1)
    assert account(books) == (1000, 601)


def test_budget_is_looked_at_before_the_balance(books: sqlite3.Connection) -> None:
    """The caller hears of what is nearer to it."""
    open_request(books, "first", 900)
    with pytest.raises(sqlite3.IntegrityError, match=r"^budget_day_exceeded$"):
        open_request(books, "second", 301, key=2)
    with pytest.raises(sqlite3.IntegrityError, match=r"^insufficient_balance$"):
        open_request(books, "third", 101, key=2)
    assert (account(books), spend(books)) == ((1000, 900), {})


def test_long_tables_that_were_changed_in_place_kept_their_columns(path: Path) -> None:
    """0005 writes the text of requests and entries anew: were a column lost or moved, rows would be read wrong."""
    connection = sqlite3.connect(path, isolation_level=None)

    def columns(table: str) -> list[tuple[Any, ...]]:
        return connection.execute(f"PRAGMA table_xinfo({table})").fetchall()

    migrate(connection, path, load_migrations()[:4])
    requests, entries = columns("requests"), columns("entries")
    migrate(connection, path, load_migrations()[:5])
    assert columns("requests") == requests
    assert columns("entries") == [*entries, (6, "released_nano_usd", "INTEGER", 1, "0", 0, 0)]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_balances_move_with_all_that_belongs_to_their_accounts(path: Path) -> None:
    """0006 takes them out of ``accounts``, whose text it writes anew: the other columns keep what they had."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection, path, load_migrations()[:5])
    connection.executemany(
        "INSERT INTO accounts (number, id, name, created_at_ms, disabled_at_ms) VALUES (?, ?, ?, ?, ?)",
        [(3, "a", "Ada", 10, None), (5, "b", "Bob", 20, 30), (9, "c", "Cay", 40, None)],
    )
    for number, owner, amount in ((-1, 3, 1000), (-2, 5, 70)):
        enter(connection, number=number, account=owner, kind="credit", amount_nano_usd=amount)
    connection.execute("INSERT INTO names (name) VALUES ('chat'), ('model')")
    connection.execute("INSERT INTO keys (id, account, name, consumer_key, created_at_ms) VALUES ('k', 3, '', 'c', 0)")
    open_request(connection, "open", 400, account=3)
    migrate(connection, path)
    assert connection.execute("SELECT * FROM balances").fetchall() == [(3, 1000, 400), (5, 70, 0), (9, 0, 0)]
    assert connection.execute("SELECT number, id, name, created_at_ms, disabled_at_ms FROM accounts").fetchall() == [
        (3, "a", "Ada", 10, None),
        (5, "b", "Bob", 20, 30),
        (9, "c", "Cay", 40, None),
    ]
    assert [row[1] for row in connection.execute("PRAGMA table_info(accounts)")] == [
        "number", "id", "name", "created_at_ms", "disabled_at_ms",
    ]  # fmt: skip
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES ('d', 'Dot', 50)")
    with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE constraint failed: accounts\.id"):
        connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES ('a', 'Ada', 0)")
    assert connection.execute("SELECT * FROM balances WHERE account > 9").fetchall() == [(10, 0, 0)]
    connection.close()


def test_what_was_stored_before_is_in_the_totals(path: Path) -> None:
    """0013 and 0014 count it."""
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, path, load_migrations()[:12])
    connection.executemany(
        "INSERT INTO responses VALUES (?, ?, NULL, 'completed', 0, 1, NULL, 'r', x'', x'', x'', x'', ?, 0)",
        [("1", "a", 100), ("2", "a", 20), ("3", "b", 3)],
    )
    connection.executemany(
        "INSERT INTO idempotency VALUES (?, ?, zeroblob(32), 'r', 1, ?, 200, 'text/plain', '{}', ?, 0)",
        [("k", "1", "finished", b"abc"), ("k", "2", "finished", b"de"), ("k", "3", "stream", None)],
    )
    migrate(connection, path, load_migrations())
    connection.execute("DELETE FROM responses WHERE id = '1'")
    assert connection.execute("SELECT * FROM response_totals").fetchall() == [("a", 20), ("b", 3)]
    connection.execute("UPDATE idempotency SET state = 'stream', body = NULL WHERE idempotency_key = '1'")
    assert connection.execute("SELECT * FROM idempotency_totals").fetchall() == [("k", 2)]
    assert connection.execute("SELECT body FROM idempotency").fetchall() == [(None,), (b"de",), (None,)]
    connection.close()


def test_only_a_charge_ends_a_hold(books: sqlite3.Connection) -> None:
    open_request(books, "r", 400)
    for values in (
        {"number": -2, "kind": "credit", "amount_nano_usd": 1, "released_nano_usd": 400},
        {"number": 5, "kind": "charge", "amount_nano_usd": -1, "released_nano_usd": -1},
    ):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            enter(books, **values)
    assert account(books) == (1000, 400)


def test_key_has_a_way_in(books: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        books.execute("INSERT INTO keys (id, account, name, created_at_ms) VALUES ('k3', 1, '', 0)")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        books.execute(
            "INSERT INTO keys (id, account, name, token_digest, created_at_ms) VALUES ('k3', 1, '', x'00', 0)"
        )


def test_keys_version_moves_with_what_opens_doors_and_with_nothing_else(books: sqlite3.Connection) -> None:
    def version() -> int:
        return int(books.execute("SELECT keys_version FROM versions").fetchone()[0])

    at_first = version()
    enter(books, number=-2, kind="credit", amount_nano_usd=1)
    open_request(books, "r", 100)
    settle(books, "r", 50)
    assert version() == at_first
    for sql in (
        "UPDATE keys SET disabled_at_ms = 1 WHERE number = 1",
        "UPDATE accounts SET disabled_at_ms = 1",
        "INSERT INTO keys (id, account, name, consumer_key, created_at_ms) VALUES ('k3', 1, '', 'c3', 0)",
        "DELETE FROM keys WHERE id = 'k3'",
    ):
        before = version()
        books.execute(sql)
        assert version() == before + 1, sql


def test_hot_queries_use_their_indexes(books: sqlite3.Connection) -> None:
    """Nothing on the request's way reads a table from end to end, however long it is."""
    for sql in (
        "SELECT 1 FROM requests WHERE id = 'r'",
        "UPDATE requests SET outcome = column2 FROM (VALUES ('r', 'x'), ('s', 'y')) WHERE id = column1",
        "SELECT 1 FROM open_requests",
        "SELECT 1 FROM requests_by_run WHERE run = 1 AND key = 1",
        "UPDATE keys SET budget_day_nano_usd = 1 WHERE number = 1",
        "SELECT 1 FROM jobs WHERE next_poll_at_ms <= 1 ORDER BY next_poll_at_ms LIMIT 10",
        "SELECT 1 FROM jobs WHERE account = 1 AND provider_job_id = 'x'",
        "SELECT 1 FROM keys WHERE token_digest = x'00'",
        "SELECT 1 FROM keys WHERE consumer_key = 'c'",
        "DELETE FROM nonces WHERE timestamp_s < 1",
        "SELECT id, size_bytes FROM responses WHERE account_id = 'a' ORDER BY created_at_ms LIMIT 10",
        "SELECT idempotency_key, length(body) FROM idempotency WHERE key_id = 'k' AND body IS NOT NULL"
        " ORDER BY created_at_ms LIMIT 10",
    ):
        plan = [row[3] for row in books.execute(f"EXPLAIN QUERY PLAN {sql}")]
        tables = [
            step
            for step in plan
            if re.match(r"SCAN (requests|jobs|keys|accounts|nonces|responses|idempotency)\b", step)
        ]
        assert not [step for step in tables if "INDEX" not in step], (sql, plan)


@pytest.mark.parametrize("version", [4, 5, 6, 7, 8, 10])
def test_books_of_the_version_before_go_on(path: Path, version: int) -> None:
    """0004 to 0010 make the rules of requests anew: what was open before is found and closed by the new ones."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection, path, load_migrations()[: version - 1])
    connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES ('a', 'Ada', 0)")
    enter(connection, number=-1, kind="credit", amount_nano_usd=1000)
    connection.execute("INSERT INTO names (name) VALUES ('chat'), ('model')")
    connection.execute(
        "INSERT INTO keys (id, account, name, consumer_key, budget_day_nano_usd, created_at_ms)"
        " VALUES ('k', 1, '', 'c', 600, 0)"
    )
    for request_id in ("settled", "open", "also open"):
        open_request(connection, request_id, 200)
    settle(connection, "settled", 150)
    migrate(connection, path, load_migrations())
    assert account(connection) == (850, 400)
    assert connection.execute("SELECT number FROM open_requests").fetchall() == [(2,), (3,)]
    settle(connection, "open", 50)
    settle(connection, "also open", 0)
    open_request(connection, "new", 400)
    with pytest.raises(sqlite3.IntegrityError, match="budget_day_exceeded"):
        open_request(connection, "too much", 1)
    settle(connection, "new", 400)
    assert account(connection) == (400, 0)
    assert spend(connection) == {"2026-08-20": (600, 0), "2026-08": (600, 0)}
    charges = "SELECT id, amount_nano_usd FROM entries JOIN requests USING (number) WHERE kind = 'charge' ORDER BY 1"
    assert connection.execute(charges).fetchall() == [("new", -400), ("open", -50), ("settled", -150)]
    connection.close()
