"""What is counted before a budget changes, and what the books add to it, are what they would have counted alone."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import Account
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyChange, KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.runs import extend_runs
from bitmesh_proxy.storage.spending import CountedSpending, count_spending, laid_before
from bitmesh_proxy.storage.verification import verify_books
from tests.storage.examples import DAY_S, NOON_S, closing, key_spec, opening, usd

NOW_MS = int(NOON_S * 1000)
SPENT = "SELECT period, spent_nano_usd, held_nano_usd FROM key_spend WHERE key = 1 ORDER BY period"
RUN_ROWS = 3


@pytest.fixture
async def ledgered(ledger: LedgerStore, account: Account, key: KeyRecord, keys: KeyStore) -> LedgerStore:
    """40 requests of two keys and 70 days, half of them closed."""
    await keys.create(key_spec(account.id, id="key_2", token_digest=None, consumer_key="ck_2"))
    chance = random.Random(20)
    for number in range(40):
        began_s = NOON_S - chance.randrange(70) * DAY_S
        key_id = f"key_{chance.choice((1, 1, 2))}"
        await ledger.open_reservation(
            opening(f"r{number}", account.id, key_id=key_id, hold_nano_usd=NanoUsd(1000 + number), started_at_s=began_s)
        )
        if chance.random() < 0.5:
            await ledger.close_after_all(closing(f"r{number}", charge_nano_usd=100 + number))
    return ledger


def change_budget(connection: sqlite3.Connection, counted: CountedSpending | None, now_ms: int = NOW_MS) -> None:
    """As ``KeyStore.change`` has it done."""
    with laid_before(connection, counted, now_ms):
        connection.execute("UPDATE keys SET budget_day_nano_usd = ? WHERE number = 1", (usd(5),))
    assert connection.execute("SELECT * FROM counted_spending").fetchall() == []


async def spent_by(database: Database, counted: CountedSpending | None) -> list[tuple[Any, ...]]:
    await database.write(partial(change_budget, counted=counted))
    return await database.read(SPENT)


@pytest.fixture
def other(database: Database, path: Path) -> Iterator[sqlite3.Connection]:
    """Of another process, as it were."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def settle_some(other: sqlite3.Connection, charge_nano_usd: int) -> None:
    """Close the key's oldest and its newest open request."""
    for which in ("min", "max"):
        changed = other.execute(
            "UPDATE requests SET state = 'settled', charge_nano_usd = ?, cost_nano_usd = 1, basis = 'measured'"
            f" WHERE number = (SELECT {which}(number) FROM requests WHERE state = 'open' AND key = 1)",
            (charge_nano_usd,),
        )
        assert changed.rowcount == 1


def drop_triggers(connection: sqlite3.Connection) -> None:
    """They forbid what a test does to the rows."""
    triggers = "SELECT name FROM sqlite_schema WHERE tbl_name = 'requests' AND type = 'trigger'"
    for (name,) in connection.execute(triggers).fetchall():
        connection.execute(f"DROP TRIGGER {name}")


@pytest.mark.parametrize("runs", [0, 5, 13])
async def test_parts_and_the_rest_come_to_the_whole(
    database: Database, other: sqlite3.Connection, ledgered: LedgerStore, account: Account, runs: int
) -> None:
    """However much is in runs, and whatever is closed, opened and put into runs while they are counted."""
    extend = partial(extend_runs, run_rows=RUN_ROWS)
    for _ in range(runs):
        assert await database.write(extend)
    heard = []

    def go_on(done: int, parts: int) -> None:
        heard.append((done, parts))
        if done in (1, 3):
            settle_some(other, 7 + done)

    counted = await count_spending(database, 1, on_part=go_on, part_runs=2, part_rows=5)
    assert len(heard) > 4
    assert heard == [(done, len(heard)) for done in range(len(heard))]
    assert counted.open_requests
    assert sum(counted.spent_nano_usd.values()) > 0
    settle_some(other, 50)
    for number in (40, 41, 42, 43):
        await ledgered.open_reservation(opening(f"r{number}", account.id, hold_nano_usd=NanoUsd(5)))
    await ledgered.close_after_all(closing("r42", charge_nano_usd=4))
    await database.write(extend)
    with_counted = await spent_by(database, counted)
    alone = await spent_by(database, None)  # which may go less far back: what was the oldest open request is closed
    assert with_counted[-len(alone) :] == alone
    assert sum(spent for _, spent, _ in with_counted) > 0 < sum(held for *_, held in with_counted)
    assert await verify_books(database) == []


async def test_what_was_counted_is_not_counted_again(database: Database, ledgered: LedgerStore) -> None:
    """The books take it as it is: else the seconds that it took would be taken once more."""
    counted = await count_spending(database, 1)
    assert set(await spent_by(database, None)) - set(
        await spent_by(database, replace(counted, spent_nano_usd={**counted.spent_nano_usd, "2026-08-19": 17}))
    )
    assert ("2026-08-19", 17) in [(period, spent) for period, spent, _ in await database.read(SPENT)]


@pytest.mark.parametrize(
    ("later", "now_ms", "is_taken"),
    [
        ("UPDATE summed_up SET last_request = 1", NOW_MS, True),
        # Rows of the future may be among those that have gone.
        ("UPDATE summed_up SET last_request = 1", NOW_MS - 80 * 86_400_000, False),
        ("UPDATE summed_up SET last_request = 0", NOW_MS - 80 * 86_400_000, True),
        # A clock that was set back: spending counts from earlier on than was counted.
        ("UPDATE requests SET started_at_ms = 0 WHERE number = (SELECT max(number) FROM requests)", NOW_MS, False),
        ("DELETE FROM requests WHERE number = (SELECT max(number) FROM requests)", NOW_MS, False),
    ],
)
async def test_what_may_not_be_the_whole_is_counted_by_the_books(
    database: Database, ledgered: LedgerStore, later: str, now_ms: int, is_taken: bool
) -> None:
    counted = replace(await count_spending(database, 1), spent_nano_usd={"2026-08-19": 17})

    def change(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
        drop_triggers(connection)
        connection.execute(later)
        change_budget(connection, counted, now_ms)
        return connection.execute(SPENT).fetchall()

    assert (("2026-08-19", 17) in [(day, spent) for day, spent, _ in await database.write(change)]) == is_taken


async def test_a_key_gets_its_budget_with_what_it_spent_meanwhile(
    database: Database, other: sqlite3.Connection, ledgered: LedgerStore, keys: KeyStore
) -> None:
    heard = []

    def settle_one(done: int, parts: int) -> None:
        heard.append((done, parts))
        settle_some(other, 9)

    changed = await keys.change("key_1", KeyChange(budget_month_nano_usd=usd(8)), on_part=settle_one)
    assert changed.caller.budget_month_nano_usd == usd(8)
    assert heard == [(0, 1)]
    assert await verify_books(database) == []
    found, alone = await database.read(SPENT), await spent_by(database, None)
    assert found[-len(alone) :] == alone


async def test_it_is_counted_too_when_one_of_two_budgets_goes(ledgered: LedgerStore, keys: KeyStore) -> None:
    """The books count for the other one anew."""
    await keys.change("key_1", KeyChange(budget_day_nano_usd=usd(5), budget_month_nano_usd=usd(8)))
    heard: list[int] = []
    listen: Callable[[int, int], object] = lambda done, parts: heard.append(done)  # noqa: E731
    await keys.change("key_1", KeyChange(budget_day_nano_usd=None), on_part=listen)
    assert heard == [0]
    await keys.change("key_1", KeyChange(budget_month_nano_usd=None), on_part=listen)
    assert heard == [0]


@pytest.mark.parametrize("change", [KeyChange(name="x"), KeyChange(budget_day_nano_usd=None)])
async def test_nothing_is_counted_where_no_budget_is_given(
    ledgered: LedgerStore, keys: KeyStore, change: KeyChange
) -> None:
    heard: list[object] = []
    listen: Callable[[int, int], object] = lambda done, parts: heard.append(done)  # noqa: E731
    await keys.change("key_1", change, on_part=listen)
    assert heard == []


async def test_a_request_of_no_known_day_hinders_no_budget(
    database: Database, other: sqlite3.Connection, ledgered: LedgerStore, keys: KeyStore
) -> None:
    """SQLite knows no days behind the year 9999 (https://sqlite.org/lang_datefunc.html)."""
    drop_triggers(other)
    never_ms = 300_000_000_000_000
    assert other.execute("UPDATE requests SET started_at_ms = ? WHERE key = 1 AND number < 5", (never_ms,)).rowcount
    changed = await keys.change("key_1", KeyChange(budget_day_nano_usd=usd(1)))
    assert changed.caller.budget_day_nano_usd == usd(1)
    found = await database.read(SPENT)
    assert found
    assert found == await spent_by(database, None)
