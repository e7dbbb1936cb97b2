"""Runs are made of rows in their order, none is left out, and openings have them made."""

from __future__ import annotations

import sqlite3
from functools import partial

import pytest

from bitmesh_proxy.errors import Conflict
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import Account
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.runs import RUN_ROWS, SLICE_ROWS, Run, Runs, extend_runs
from bitmesh_proxy.storage.verification import verify_books
from tests.storage.examples import NOON_S, key_spec, opening, usd


async def runs_of(database: Database) -> list[tuple[int, ...]]:
    return await database.read("SELECT * FROM request_runs ORDER BY number")


async def test_run_takes_the_next_rows_whatever_their_state(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord, keys: KeyStore
) -> None:
    await keys.create(key_spec(account.id, id="key_2", token_digest=None, consumer_key="ck_2"))
    for number, key_id in enumerate(("key_2", "key_1", "key_2", "key_1", "key_1"), start=1):
        await ledger.open_reservation(
            opening(f"r{number}", account.id, key_id=key_id, hold_nano_usd=NanoUsd(0), started_at_s=NOON_S - number)
        )
    extend = partial(extend_runs, run_rows=2)
    assert [run and run.number for run in [await database.write(extend) for _ in range(3)]] == [1, 2, None]
    noon_ms = int(NOON_S * 1000)
    assert await runs_of(database) == [
        (1, 1, 2, noon_ms - 2000, noon_ms - 1000),
        (2, 3, 4, noon_ms - 4000, noon_ms - 3000),
    ]
    found = await database.read("SELECT run, keys.id, request FROM requests_by_run JOIN keys ON keys.number = key")
    assert sorted(found) == [(1, "key_1", 2), (1, "key_2", 1), (2, "key_1", 4), (2, "key_2", 3)]
    assert await verify_books(database) == []


async def step(database: Database, run: Run | None) -> Run | None:
    return await database.write(partial(extend_runs, run=run, run_rows=5, slice_rows=2))


async def open_some(ledger: LedgerStore, account: Account, *names: str) -> None:
    for at, name in enumerate(names):
        await ledger.open_reservation(
            opening(name, account.id, key_id=f"key_{1 + at % 2}", hold_nano_usd=NanoUsd(0), started_at_s=NOON_S - at)
        )


ENTRIES = "SELECT keys.id, request FROM requests_by_run JOIN keys ON keys.number = key WHERE run = 1 ORDER BY 1, 2"


async def test_rows_are_read_in_slices_and_entered_in_slices_by_key(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord, keys: KeyStore
) -> None:
    await keys.create(key_spec(account.id, id="key_2", token_digest=None, consumer_key="ck_2"))
    await open_some(ledger, account, "r1", "r2", "r3", "r4")
    assert await step(database, None) is None  # a row is missing
    await open_some(ledger, account, "r5", "r6")
    in_order = [("key_1", 1), ("key_1", 3), ("key_1", 5), ("key_2", 2), ("key_2", 4)]
    run = None
    for read, entered in ((2, 0), (4, 0), (5, 0), (5, 2), (5, 4), (5, 5)):
        run = await step(database, run)
        assert run is not None
        assert (run.number, run.read, run.entered) == (1, read, entered)
        assert await database.read(ENTRIES) == in_order[:entered]
        assert len(await runs_of(database)) == (entered == 5)
        assert await verify_books(database) == []
    noon_ms = int(NOON_S * 1000)
    assert await runs_of(database) == [(1, 1, 5, noon_ms - 3000, noon_ms)]
    assert await step(database, run) is None


async def test_two_that_make_a_run_make_it_once(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord, keys: KeyStore
) -> None:
    """Two processes, or one that was ended in the middle and its successor."""
    await keys.create(key_spec(account.id, id="key_2", token_digest=None, consumer_key="ck_2"))
    await open_some(ledger, account, *(f"r{number}" for number in range(1, 12)))
    ours = theirs = None
    for _ in range(5):
        ours = await step(database, ours)
    for _ in range(6):
        theirs = await step(database, theirs)
    assert len(await runs_of(database)) == 1
    for _ in range(6):  # ours has been made meanwhile, and the next one is begun
        ours = await step(database, ours)
    assert [run[:3] for run in await runs_of(database)] == [(1, 1, 5), (2, 6, 10)]
    assert await database.read("SELECT run, request FROM requests_by_run ORDER BY 2") == [
        (1 + (number > 5), number) for number in range(1, 11)
    ]
    assert await verify_books(database) == []


async def test_a_step_that_failed_is_taken_again(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord, keys: KeyStore
) -> None:
    """What a step knows is in what it gives, so that undoing its transaction undoes all of it."""
    await keys.create(key_spec(account.id, id="key_2", token_digest=None, consumer_key="ck_2"))
    await open_some(ledger, account, "r1", "r2", "r3", "r4", "r5")
    run = None

    def failing(connection: sqlite3.Connection) -> None:
        extend_runs(connection, run, run_rows=5, slice_rows=2)
        raise Conflict("afterwards")

    for _ in range(6):
        with pytest.raises(Conflict):
            await database.write(failing)
        run = await step(database, run)
    assert len(await database.read(ENTRIES)) == 5
    assert len(await runs_of(database)) == 1
    assert await verify_books(database) == []


async def test_openings_have_runs_made(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    """The rows of those before us at the first opening, all that is there; later ones when there are enough."""
    await ledger.open_reservation(opening("first", account.id))
    await database.write(
        lambda connection: connection.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)"
            " INSERT INTO requests (id, account, key, instance, endpoint, model, hold_nano_usd, live, address,"
            " started_at_ms) SELECT n, account, key, instance, endpoint, model, 0, live, address, started_at_ms"
            " FROM n CROSS JOIN requests WHERE id = 'first'",
            (2 * RUN_ROWS,),
        )
    )
    assert await runs_of(database) == []
    await LedgerStore(database).open_reservation(opening("second", account.id, hold_nano_usd=usd(1)))
    for _ in range(2 * 2 * RUN_ROWS // SLICE_ROWS + 1):  # each step is asked for when the one before is done
        await database.write(lambda connection: None)
    assert [run[1:3] for run in await runs_of(database)] == [(1, RUN_ROWS), (RUN_ROWS + 1, 2 * RUN_ROWS)]
    assert await verify_books(database) == []


async def test_a_look_comes_after_so_many_openings(database: Database) -> None:
    runs = Runs(database)
    assert runs.openings_left == 0
    runs.look()
    assert runs.openings_left == SLICE_ROWS
    await database.close()
    runs.look()  # says so in the log, and no call fails of it
