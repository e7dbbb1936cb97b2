"""Every open request is found, and nothing else, wherever the mark is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest

from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import Account
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyRecord
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.migrations import migrate
from bitmesh_proxy.storage.months import sum_up
from bitmesh_proxy.storage.open_rows import LAG_ROWS, move_mark
from bitmesh_proxy.storage.runs import SLICE_ROWS
from bitmesh_proxy.storage.verification import verify_books
from tests.storage.examples import closing, opening


@pytest.fixture
def books(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    migrate(connection, path)
    connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES ('a', 'Ada', 0)")
    connection.execute("INSERT INTO keys (id, account, name, consumer_key, created_at_ms) VALUES ('k', 1, '', 'c', 0)")
    yield connection
    connection.close()


def open_row(connection: sqlite3.Connection, request_id: str) -> None:
    connection.execute(
        "INSERT INTO requests"
        " (id, account, key, instance, endpoint, model, hold_nano_usd, live, address, started_at_ms)"
        " VALUES (?, 1, 1, 1, 1, 1, 0, 1, '', 0)",
        (request_id,),
    )


def numbers(connection: sqlite3.Connection, sql: str) -> list[int]:
    return [number for (number,) in connection.execute(sql)]


def mark(connection: sqlite3.Connection) -> int:
    return numbers(connection, "SELECT last_request FROM open_mark")[0]


@pytest.mark.parametrize("seed", range(4))
def test_all_open_rows_are_found_and_no_others(books: sqlite3.Connection, seed: int) -> None:
    """While rows come, are closed out of order, go, and the mark moves by this much or that."""
    random = Random(seed)
    moves = 0
    for step in range(250):
        match random.choice("oooocccsmm"):
            case "o":
                open_row(books, f"r{step}")
            case "c":
                books.execute(
                    "UPDATE requests SET state = 'released' WHERE number ="
                    " (SELECT number FROM requests WHERE state = 'open' ORDER BY number * ? % 31 LIMIT 1)",
                    (random.randrange(1, 31),),
                )
            case "s":  # the oldest go, noted or not, behind the mark or before it
                sum_up(books, before_ms=1, rows=random.randint(1, 9))
            case _:
                moves += move_mark(books, random.randint(1, 3), random.randint(0, 5))
        wanted = numbers(books, "SELECT number FROM requests WHERE state = 'open' ORDER BY 1")
        assert numbers(books, "SELECT number FROM open_requests ORDER BY 1") == wanted
    assert moves > 5
    assert numbers(books, "SELECT last_request FROM summed_up")[0] > 0


def test_mark_follows_at_a_distance_and_in_steps(books: sqlite3.Connection) -> None:
    moved = []
    for number in range(1, 13):
        open_row(books, f"r{number}")
        moved.append((move_mark(books, 3, lag_rows=4), mark(books)))
    assert [place for did, place in moved if did] == [3, 6]
    assert moved[-1] == (False, 6)
    assert numbers(books, "SELECT number FROM late_requests") == [1, 2, 3, 4, 5, 6]


def test_what_was_noted_is_forgotten_once_it_is_closed(books: sqlite3.Connection) -> None:
    for number in range(1, 5):
        open_row(books, f"r{number}")
    assert move_mark(books, 4, lag_rows=0)
    books.execute("UPDATE requests SET state = 'released' WHERE number <> 2")
    open_row(books, "new")
    assert move_mark(books, 1, lag_rows=0)
    assert numbers(books, "SELECT number FROM late_requests") == [2, 5]


def test_open_rows_are_found_without_reading_the_ledger(books: sqlite3.Connection) -> None:
    for sql in (
        "SELECT number FROM open_requests",
        "UPDATE requests SET outcome = 'x' WHERE number IN (SELECT number FROM open_requests)",
    ):
        plan = [row[3] for row in books.execute(f"EXPLAIN QUERY PLAN {sql}")]
        reads = [step for step in plan if " requests " in f"{step} "]
        assert reads, plan
        assert [step for step in reads if not step.startswith("SEARCH requests USING INTEGER PRIMARY KEY")] == []


async def test_interrupted_requests_on_both_sides_of_the_mark_are_resolved(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    for request_id in ("old", "closed", "ours", "new"):
        instance = 2 if request_id == "ours" else 1
        await ledger.open_reservation(opening(request_id, account.id, instance=instance, hold_nano_usd=NanoUsd(0)))
    await ledger.close(closing("closed"))
    assert await database.write(partial(move_mark, step_rows=1, lag_rows=1))
    assert [row.request_id for row in await ledger.find_open()] == ["old", "ours", "new"]
    assert await ledger.resolve_interrupted(alive=[2]) == 2
    assert [row.request_id for row in await ledger.find_open()] == ["ours"]
    assert await verify_books(database) == []


async def test_openings_move_the_mark(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await database.write(
        lambda connection: connection.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)"
            " INSERT INTO requests (id, account, key, instance, endpoint, model, hold_nano_usd, live, address,"
            " started_at_ms) SELECT n, 1, 1, 1, 1, 1, 0, 1, '', 0 FROM n",
            (LAG_ROWS + SLICE_ROWS,),
        )
    )
    await ledger.open_reservation(opening("one more", account.id))
    await database.write(lambda connection: None)
    assert await database.read("SELECT last_request FROM open_mark") == [(SLICE_ROWS + 1,)]
    assert await database.read("SELECT count(*) FROM open_requests") == [(LAG_ROWS + SLICE_ROWS + 1,)]
