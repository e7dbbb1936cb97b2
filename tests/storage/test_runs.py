"""Runs are made of rows in their order, none is left out, and openings have them made."""

from __future__ import annotations

from functools import partial

from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import Account
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.runs import RUN_ROWS, SLICE_ROWS, Runs, extend_runs
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
    assert [await database.write(extend) for _ in range(3)] == [True, True, False]
    noon_ms = int(NOON_S * 1000)
    assert await runs_of(database) == [
        (1, 1, 2, noon_ms - 2000, noon_ms - 1000),
        (2, 3, 4, noon_ms - 4000, noon_ms - 3000),
    ]
    found = await database.read("SELECT run, keys.id, request FROM requests_by_run JOIN keys ON keys.number = key")
    assert sorted(found) == [(1, "key_1", 2), (1, "key_2", 1), (2, "key_1", 4), (2, "key_2", 3)]
    assert await verify_books(database) == []


async def test_run_is_there_once_its_last_slice_is(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    extend = partial(extend_runs, run_rows=5, slice_rows=2)
    for number in range(1, 7):
        await ledger.open_reservation(opening(f"r{number}", account.id, hold_nano_usd=NanoUsd(0)))
        assert await database.write(extend) == (number in {2, 4, 5})
        assert len(await runs_of(database)) == (number >= 5)
        assert await verify_books(database) == []
    assert (await runs_of(database))[0][:3] == (1, 1, 5)
    assert await database.read("SELECT run, request FROM requests_by_run ORDER BY 2") == [(1, n) for n in range(1, 6)]


async def test_slices_of_another_size_go_on_with_a_run(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    for number in range(1, 9):
        await ledger.open_reservation(opening(f"r{number}", account.id, hold_nano_usd=NanoUsd(0)))
    sizes = (2, 3, 3, 8)
    assert all([await database.write(partial(extend_runs, run_rows=8, slice_rows=rows)) for rows in sizes])
    assert not await database.write(partial(extend_runs, run_rows=8, slice_rows=2))
    assert await database.read("SELECT run, request FROM requests_by_run ORDER BY 2") == [(1, n) for n in range(1, 9)]
    assert [run[:3] for run in await runs_of(database)] == [(1, 1, 8)]


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
    for _ in range(2 * RUN_ROWS // SLICE_ROWS + 1):  # each slice is asked for when the one before is there
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
