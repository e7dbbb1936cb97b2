from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from bitmesh_proxy.storage.accounts import Account
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.months import LedgerMonths
from bitmesh_proxy.storage.runs import extend_runs
from bitmesh_proxy.storage.verification import _CHECKS, examine_books, verify_books
from tests.storage.examples import NOON_S, closing, key_spec, opening, released, usd


@pytest.fixture
async def books(ledger: LedgerStore, account: Account, keys: KeyStore, database: Database) -> Database:
    """Books in which everything has happened once."""
    await keys.create(key_spec(account.id, budget_day_nano_usd=usd(5)))
    for name in ("settled", "released", "open"):
        await ledger.open_reservation(opening(name, account.id))
    await ledger.open_reservation(opening("earlier", account.id, started_at_s=NOON_S - 86_400))
    await ledger.close(closing("settled", 300))
    await ledger.close(closing("earlier", 200))
    await ledger.close(released("released"))
    return database


def tamper(path: Path, script: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()


async def test_a_whole_file_is_ok(database: Database) -> None:
    assert (await examine_books(database)).damage == ()


async def test_right_books_have_nothing_to_say(books: Database) -> None:
    assert await verify_books(books) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "UPDATE balances SET balance_nano_usd = balance_nano_usd + 1",
            "balance is 6.999999501 USD, but its entries add",
        ),
        (
            "UPDATE balances SET held_nano_usd = held_nano_usd + 1",
            "1.000000001 USD are held, but its open requests hold 1",
        ),
        (
            "DROP TRIGGER entries_are_not_changed; UPDATE entries SET amount_nano_usd = -301 WHERE number = 1",
            "request settled: it was charged 0.0000003 USD, but its entry says 0.000000301",
        ),
        (
            "DROP TRIGGER entries_are_summed_up_before_they_go; DELETE FROM entries WHERE number = 1",
            "its entry says 0",
        ),
        (
            "DROP TRIGGER entries_are_summed_up_before_they_go",
            "lacks the rule entries_are_summed_up_before_they_go",
        ),
        ("DROP TRIGGER requests_close; UPDATE requests SET charge_nano_usd = 299 WHERE id = 'settled'", "charged"),
        ("UPDATE key_spend SET spent_nano_usd = 0 WHERE period = '2026-08-19'", "key key_1 in 2026-08-19: its budget"),
        (
            "UPDATE key_spend SET held_nano_usd = 0 WHERE period = '2026-08'",
            "key key_1 in 2026-08: its budget counts 0 USD",
        ),
        (
            "INSERT INTO jobs (id, account, key, request_id, model, provider, offer, provider_job_id, status, facts,"
            " state, created_at_ms, next_poll_at_ms) VALUES ('job_1', 1, 1, 'settled', '', '', '', '', 'queued', '{}',"
            " '{}', 0, 0)",
            "job job_1: it is open, but its request is not",
        ),
        (
            "DROP TRIGGER names_are_not_deleted; DELETE FROM names WHERE name = 'chat'",
            "request settled: its account, key, endpoint, model or provider is not there",
        ),
        (
            "PRAGMA foreign_keys = OFF; DROP TRIGGER accounts_are_not_deleted; DELETE FROM accounts",
            "entry -1: its account is not there",
        ),
        (
            "PRAGMA foreign_keys = OFF; DROP TRIGGER accounts_are_not_deleted; DELETE FROM accounts",
            "keys: row 1 belongs to nothing in accounts",
        ),
        (
            "PRAGMA foreign_keys = OFF; DROP TRIGGER accounts_are_not_deleted; DELETE FROM accounts",
            "balances: row 1 belongs to nothing in accounts",
        ),
        (
            "DROP TRIGGER balances_are_not_deleted; DELETE FROM balances",
            "its balance is not there",
        ),
        (
            "UPDATE open_mark SET last_request = 100",
            "request open: it is open, but would not be found at a start",
        ),
        (
            "DELETE FROM watched_keys",
            "key key_1: it is watched without a budget, or has one and is not watched",
        ),
        (
            "DROP TRIGGER keys_changed_are_watched; UPDATE keys SET budget_day_nano_usd = NULL",
            "key key_1: it is watched without a budget, or has one and is not watched",
        ),
        (
            "INSERT INTO request_runs VALUES (1, 1, 2, 0, 1800000000000); INSERT INTO requests_by_run VALUES (1, 1, 1)",
            "request released: it is not among the requests of its key",
        ),
        (
            "INSERT INTO request_runs VALUES (1, 1, 1, 0, 1); INSERT INTO requests_by_run VALUES (1, 1, 1)",
            "request settled: it is not among the requests of its key",
        ),
        (
            "PRAGMA ignore_check_constraints = ON; DROP TRIGGER requests_close;"
            " DROP TRIGGER requests_keep_their_terms; UPDATE requests SET hold_nano_usd = 1 WHERE id = 'settled'",
            "request settled: it was charged 0.0000003 USD, more than its hold of 0.000000001",
        ),
    ],
)
async def test_tampering_is_found(books: Database, path: Path, script: str, said: str) -> None:
    tamper(path, script)
    problems = await verify_books(books)
    assert any(said in problem for problem in problems), problems


@pytest.fixture
async def old_books(ledger: LedgerStore, account: Account, keys: KeyStore, database: Database) -> Database:
    """Two calls that were summed up, and two that were not."""
    await keys.create(key_spec(account.id))
    for name in ("r1", "r2", "r3", "r4"):
        await ledger.open_reservation(opening(name, account.id))
        await ledger.close(closing(name, 100))
    for rows in (1, 1):
        assert await database.write(partial(extend_runs, run_rows=rows))
    await LedgerMonths(database, step_rows=2).step(NOON_S + 1)
    assert await verify_books(database) == []
    return database


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "UPDATE charge_months SET charges = 3, amount_nano_usd = -201",
            "its balance is 6.9999996 USD, but its entries add up to 6.999999599, those summed up included",
        ),
        (
            "UPDATE request_months SET charge_nano_usd = 199",
            "its requests that were summed up were charged 0.000000199 USD, but the charges summed up are 0.0000002",
        ),
        ("UPDATE summed_up SET last_request = 3", "request r3: it has been summed up, and is there still"),
        ("UPDATE summed_up SET last_request = 3", "entry 3: its request has been summed up, and it is there still"),
        (
            "DROP TRIGGER requests_are_summed_up_before_they_go; DELETE FROM requests",
            "requests up to 2 have been summed up, but those that are there do not go on behind it",
        ),
        ("UPDATE request_months SET provider = 77", "the sums of 2026-08: their key, endpoint, model or provider"),
        (
            "UPDATE request_months SET upstream_model = 77",
            "the sums of 2026-08: their key, endpoint, model or provider",
        ),
        ("DELETE FROM request_runs WHERE number = 1", "run 1: it has gone, and its entries are there still"),
        ("DROP TRIGGER summed_up_moves_forward", "lacks the rule summed_up_moves_forward"),
    ],
)
async def test_tampering_with_sums_is_found(old_books: Database, path: Path, script: str, said: str) -> None:
    tamper(path, script)
    problems = await verify_books(old_books)
    assert any(said in problem for problem in problems), problems


async def test_rows_that_cannot_be_looked_at_do_not_hide_why(books: Database, path: Path) -> None:
    tamper(path, "DROP TABLE request_runs")
    problems = await verify_books(books)
    assert problems[0] == "the database lacks the table request_runs"
    assert "the rest cannot be looked at: OperationalError: no such table: request_runs" in problems[-1]


async def test_each_step_is_told_and_has_a_snapshot_of_its_own(books: Database, path: Path) -> None:
    """What another process does meanwhile is seen by the steps behind it."""
    steps: list[tuple[int, int]] = []

    def on_step(step: int, of: int) -> None:
        steps.append((step, of))
        if step == 3:
            with ThreadPoolExecutor() as thread:
                thread.submit(tamper, path, "UPDATE balances SET balance_nano_usd = balance_nano_usd + 1").result()

    verdict = await examine_books(books, on_step=on_step)
    assert steps == [(step, 2 + len(_CHECKS)) for step in range(1, 3 + len(_CHECKS))]
    assert [problem for problem in verdict.problems if "but its entries add" in problem]
