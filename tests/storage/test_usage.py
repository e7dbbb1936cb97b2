from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing as closing_file
from functools import partial
from pathlib import Path

import pytest

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.months import LedgerMonths, sum_up
from bitmesh_proxy.storage.runs import extend_runs
from bitmesh_proxy.storage.usage import UsageFilter, UsageReports, _conditions, _from, _from_months
from tests.storage.examples import DAY_S, NOON_S, closing, key_spec, opening, released, usd


@pytest.fixture
async def reports(
    ledger: LedgerStore, account: Account, key: KeyRecord, keys: KeyStore, accounts: AccountStore, database: Database
) -> UsageReports:
    """Ada: two calls today with key 1, one failed tomorrow with key 2, one test, one open. Bob: one call today."""
    bob = await accounts.create("Bob")
    await accounts.credit(bob.id, usd(1))
    await keys.create(key_spec(account.id, id="key_2", token_digest=None, consumer_key="ck_2"))
    await keys.create(key_spec(bob.id, id="key_b", token_digest=None, consumer_key="ck_b"))
    hold = NanoUsd(1000)
    for request in (
        opening("r1", account.id, hold_nano_usd=hold),
        opening("r2", account.id, hold_nano_usd=hold, model="other"),
        opening("r3", account.id, hold_nano_usd=hold, key_id="key_2", started_at_s=NOON_S + DAY_S),
        opening("r4", account.id, hold_nano_usd=NanoUsd(0), is_live=False),
        opening("r5", account.id, hold_nano_usd=hold),
        opening("r6", bob.id, hold_nano_usd=hold, key_id="key_b"),
    ):
        await ledger.open_reservation(request)
    await ledger.close(closing("r1", 100, usage=Usage(input_tokens=10, output_tokens=1)))
    await ledger.close(closing("r2", 200, usage=Usage(input_tokens=20, output_tokens=2, images=1)))
    await ledger.close(released("r3"))
    await ledger.close(closing("r4", 0, cost_nano_usd=NanoUsd(50)))
    await ledger.close(closing("r6", 400, provider="openai"))
    return UsageReports(database)


async def test_everything_is_one_line(reports: UsageReports) -> None:
    (line,) = await reports.by([])
    assert (line.group, line.requests, line.failed) == ((), 6, 1)
    assert (line.cost_nano_usd, line.charge_nano_usd) == (750, 700)
    assert (line.input_tokens, line.output_tokens, line.images) == (50, 43, 1)


@pytest.mark.parametrize(
    ("dimension", "charges"),
    [
        ("key", {"key_1": 300, "key_2": 0, "key_b": 400}),
        ("model", {"openai/gpt-oss-20b": 500, "other": 200}),
        ("provider", {"": 0, "openai": 400, "together": 300}),
        ("endpoint", {"chat": 700}),
        ("day", {"2026-08-20": 700, "2026-08-21": 0}),
        ("month", {"2026-08": 700}),
        ("outcome", {"completed": 700, "open": 0, "provider_error": 0}),
    ],
)
async def test_groups_are_sorted_sums(reports: UsageReports, dimension: str, charges: dict[str, int]) -> None:
    lines = await reports.by([dimension])  # type: ignore[list-item]
    assert [(line.group[0], line.charge_nano_usd) for line in lines] == list(charges.items())


async def test_dimensions_combine(reports: UsageReports) -> None:
    lines = await reports.by(["day", "key"])
    assert [line.group for line in lines] == [
        ("2026-08-20", "key_1"),
        ("2026-08-20", "key_b"),
        ("2026-08-21", "key_2"),
    ]


async def test_filters_choose(reports: UsageReports, account: Account) -> None:
    for which, requests in (
        (UsageFilter(account_id=account.id), 5),
        (UsageFilter(key_id="key_2"), 1),
        (UsageFilter(model="other"), 1),
        (UsageFilter(since_s=NOON_S + DAY_S), 1),
        (UsageFilter(until_s=NOON_S + DAY_S), 5),
        (UsageFilter(since_s=NOON_S, until_s=NOON_S), 0),
        (UsageFilter(is_live=False), 1),
        (UsageFilter(account_id=account.id, is_live=True), 4),
    ):
        (line,) = await reports.by([], which)
        assert line.requests == requests, which


async def make_runs(database: Database, *run_rows: int) -> None:
    for rows in run_rows:
        assert await database.write(partial(extend_runs, run_rows=rows))


@pytest.mark.parametrize("run_rows", [(), (1,), (6,), (1, 2), (2, 3, 1)])
async def test_reports_are_the_same_however_much_is_in_runs(
    reports: UsageReports, account: Account, database: Database, run_rows: tuple[int, ...]
) -> None:
    filters = [
        UsageFilter(),
        UsageFilter(account_id=account.id),
        UsageFilter(key_id="key_2"),
        UsageFilter(key_id="key_b", account_id=account.id),
        UsageFilter(key_id="key_1", model="other"),
        UsageFilter(since_s=NOON_S + DAY_S),
        UsageFilter(account_id=account.id, until_s=NOON_S + DAY_S, is_live=True),
        UsageFilter(since_s=NOON_S - DAY_S, until_s=NOON_S),
    ]
    before = [await reports.by(["key", "model", "outcome"], which) for which in filters]
    assert [sum(line.requests for line in lines) for lines in before] == [6, 5, 1, 0, 1, 1, 3, 0]
    await make_runs(database, *run_rows)
    assert [await reports.by(["key", "model", "outcome"], which) for which in filters] == before


@pytest.fixture
async def half_gone(ledger: LedgerStore, account: Account, key: KeyRecord, database: Database) -> UsageReports:
    """A call each on 30 June, 1 July, and 10 and 20 August; all but the last are summed up."""
    for days in (51, 50, 10, 0):
        name = f"{days} days ago"
        await ledger.open_reservation(opening(name, account.id, started_at_s=NOON_S - days * DAY_S))
        await ledger.close(closing(name, 100 + days))
    await LedgerMonths(database).step(NOON_S)
    return UsageReports(database)


async def test_what_was_summed_up_stands_under_its_month(half_gone: UsageReports) -> None:
    lines = [(line.group[0], line.charge_nano_usd) for line in await half_gone.by(["day"])]
    assert lines == [("2026-06", 151), ("2026-07", 150), ("2026-08", 110), ("2026-08-20", 100)]


@pytest.mark.parametrize(
    ("since_days", "until_days", "charges"),
    [
        (None, None, [151, 150, 110, 100]),
        (51, None, [150, 110, 100]),  # June began before
        (81, None, [151, 150, 110, 100]),
        (50, None, [110, 100]),  # noon of 1 July is within its month
        (50.5, None, [150, 110, 100]),  # midnight is where it begins
        (50.5, 10, [150, 110]),
        (15, 0, []),
        (19.5, 0, [110]),
        (None, 50.5, [151]),
        (None, 19.4, [151, 150, 110]),  # just behind the beginning of August
        (19.4, None, [100]),
    ],
)
async def test_sums_count_whole_where_their_month_begins(
    half_gone: UsageReports, since_days: float | None, until_days: float | None, charges: list[int]
) -> None:
    which = UsageFilter(
        since_s=None if since_days is None else NOON_S - since_days * DAY_S,
        until_s=None if until_days is None else NOON_S - until_days * DAY_S,
    )
    assert [line.charge_nano_usd for line in await half_gone.by(["day"], which)] == charges


async def test_sums_are_found_by_their_months_and_keys(half_gone: UsageReports, database: Database) -> None:
    for which, wanted in (
        (UsageFilter(), "(month=?)"),
        (UsageFilter(key_id="key_1"), "(month=? AND key=?)"),
        (UsageFilter(account_id="a", model="m"), "(month=? AND key=? AND model=?)"),
    ):
        _, parameters = _conditions(which)
        plan = [row[3] for row in await database.read(f"EXPLAIN QUERY PLAN SELECT 1 {_from_months(which)}", parameters)]
        assert f"SEARCH summed USING PRIMARY KEY {wanted}" in plan, plan
        assert not [step for step in plan if "SCAN request_months" in step or "SCAN keys" in step], plan


async def test_reports_do_not_read_the_ledger_from_end_to_end(reports: UsageReports, database: Database) -> None:
    for which in (UsageFilter(since_s=NOON_S), UsageFilter(key_id="key_1"), UsageFilter(account_id="a", until_s=1)):
        conditions, parameters = _conditions(which)
        sql = f"EXPLAIN QUERY PLAN SELECT 1 {_from(which)} {conditions}"
        plan = [row[3] for row in await database.read(sql, {**parameters, "first": 1, "last": 9})]
        assert not [step for step in plan if "SCAN requests" in step or "SCAN keys" in step], plan


FILTERS = [UsageFilter(), UsageFilter(key_id="key_1"), UsageFilter(since_s=NOON_S)]


@pytest.mark.parametrize("part_rows", [1, 2, 5])
@pytest.mark.parametrize("run_rows", [(), (2, 3)])
async def test_reports_in_parts_are_the_same(
    reports: UsageReports, database: Database, part_rows: int, run_rows: tuple[int, ...]
) -> None:
    await make_runs(database, *run_rows)
    for which in FILTERS:
        whole = await reports.by(["month", "key", "outcome"], which)
        assert await UsageReports(database, part_rows=part_rows).by(["month", "key", "outcome"], which) == whole


def write(path: Path, operation: Callable[[sqlite3.Connection], object]) -> None:
    """As another process would, and before this one goes on."""

    def run() -> None:
        with closing_file(sqlite3.connect(path, isolation_level=None)) as connection:
            operation(connection)

    with ThreadPoolExecutor() as thread:
        thread.submit(run).result()


async def test_each_part_sees_what_is_there_then_and_newer_requests_do_not_count(
    reports: UsageReports, database: Database, path: Path
) -> None:
    parts: list[tuple[int, int]] = []

    def settle_and_open(connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE requests SET state = 'settled', basis = 'measured', outcome = 'completed', charge_nano_usd = 7"
            " WHERE id = 'r5'"
        )
        connection.execute(
            "INSERT INTO requests (id, account, key, instance, endpoint, model, hold_nano_usd, live, address,"
            " started_at_ms) SELECT 'r7', account, key, instance, endpoint, model, 0, live, address, started_at_ms"
            " FROM requests WHERE id = 'r1'"
        )

    def on_part(done: int, rows: int) -> None:
        parts.append((done, rows))
        if done == 2:  # were they of one snapshot, nothing would be seen of it
            write(path, settle_and_open)

    (line,) = await UsageReports(database, part_rows=2).by([], on_part=on_part)
    assert parts == [(2, 6), (4, 6), (6, 6)]
    assert (line.requests, line.charge_nano_usd) == (6, 707)
    (line,) = await reports.by([])
    assert line.requests == 7


@pytest.mark.parametrize("behind", [2, 0])
async def test_what_is_summed_up_meanwhile_counts_once(
    ledger: LedgerStore, account: Account, key: KeyRecord, database: Database, path: Path, behind: int
) -> None:
    """Whether it has been read before or not."""
    for number in range(8):
        await ledger.open_reservation(opening(f"r{number}", account.id))
        await ledger.close(closing(f"r{number}", 100))
    parts: list[tuple[int, int]] = []
    rows_at_once = 2 if behind else 5

    def on_part(done: int, rows: int) -> None:
        parts.append((done, rows))
        if parts == [(2, 8)]:
            write(path, partial(sum_up, before_ms=int((NOON_S + 1) * 1000), rows=rows_at_once))

    (line,) = await UsageReports(database, part_rows=2).by(["month"], on_part=on_part)
    assert (line.requests, line.charge_nano_usd) == (8, 800)
    begun_anew = [(2, 3), (3, 3)]
    assert parts == ([(2, 8), (4, 8), (6, 8), (8, 8)] if behind else [(2, 8), *begun_anew])


async def test_sums_are_exact_beyond_what_sqlite_can_add(
    ledger: LedgerStore, account: Account, key: KeyRecord, database: Database, path: Path
) -> None:
    for name in ("r1", "r2"):
        await ledger.open_reservation(opening(name, account.id))
        await ledger.close(closing(name, 100))
    write(
        path,
        lambda connection: connection.executescript(
            "DROP TRIGGER requests_close; UPDATE requests SET cost_nano_usd = 9223372036854775807"
        ),
    )
    (line,) = await UsageReports(database, part_rows=1).by([])
    assert line.cost_nano_usd == 2 * 9223372036854775807
    with pytest.raises(StorageError, match="integer overflow"):
        await UsageReports(database).by([])
