"""Old requests are summed up and go: nothing of what they add up to is lost, and nothing goes that must stay."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

import pytest
from msgspec import structs

from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyChange, KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.months import Hindrance, LedgerMonths, OfFuture, Step, sum_up
from bitmesh_proxy.storage.runs import extend_runs, shrink_runs
from bitmesh_proxy.storage.usage import Dimension, UsageFilter, UsageLine, UsageReports
from bitmesh_proxy.storage.verification import verify_books
from tests.storage.examples import DAY_S, NOON_S, closing, key_spec, opening, released, usd

LATER_S = NOON_S + 365 * DAY_S


async def enter(ledger: LedgerStore, account: Account, *names: str, **changes: object) -> None:
    """Settled calls, each for 100."""
    for name in names:
        await ledger.open_reservation(opening(name, account.id, **{"hold_nano_usd": NanoUsd(100), **changes}))
        await ledger.close(closing(name, 100))


async def ids(database: Database) -> list[str]:
    return [row[0] for row in await database.read("SELECT id FROM requests ORDER BY number")]


async def finish(months: LedgerMonths, before_s: float) -> list[int]:
    """Steps until there is nothing more to do; how many requests each summed up."""
    steps: list[int] = []
    while not (step := await months.step(before_s)).is_last:
        steps.append(step.requests)
    return steps


async def test_old_requests_become_sums_and_their_charges_too(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await enter(ledger, account, "r1", "r2", started_at_s=NOON_S - 40 * DAY_S)
    await enter(ledger, account, "r3", started_at_s=NOON_S - DAY_S)
    await enter(ledger, account, "r4", "r5")
    months = LedgerMonths(database, step_rows=2)
    assert await months.last_summed_up_s() is None
    assert await months.step(NOON_S) == Step(requests=2, started_at_s=NOON_S - 40 * DAY_S)
    assert await months.last_summed_up_s() == NOON_S - 40 * DAY_S
    assert await months.step(NOON_S) == Step(requests=1, started_at_s=NOON_S - DAY_S)
    assert await months.step(NOON_S) == Step(is_last=True)
    assert await months.last_summed_up_s() == NOON_S - DAY_S
    assert await ids(database) == ["r4", "r5"]
    assert await database.read("SELECT number FROM entries ORDER BY 1") == [(-1,), (4,), (5,)]
    assert await database.read("SELECT month, requests, input_tokens, charge_nano_usd FROM request_months") == [
        ("2026-07", 2, 20, 200),
        ("2026-08", 1, 10, 100),
    ]
    assert await database.read("SELECT month, charges, amount_nano_usd FROM charge_months") == [
        ("2026-07", 2, -200),
        ("2026-08", 1, -100),
    ]
    assert await verify_books(database) == []


async def test_the_newest_request_stays_however_old_it_is(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    months = LedgerMonths(database)
    assert await finish(months, LATER_S) == []
    await enter(ledger, account, "r1", "r2")
    assert await finish(months, LATER_S) == [1]
    assert await ids(database) == ["r2"]
    await enter(ledger, account, "r3")
    assert await database.read("SELECT number FROM requests ORDER BY 1") == [(2,), (3,)]


async def test_what_is_open_stays_and_all_behind_it(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    months = LedgerMonths(database)
    await enter(ledger, account, "r1")
    await ledger.open_reservation(opening("open", account.id))
    await enter(ledger, account, "r3", "r4")
    due = await months.due(LATER_S, now_s=LATER_S)
    assert (due.requests, due.started_at_s) == (1, NOON_S)
    assert due.held_up_by == Hindrance(request_id="open", began_s=NOON_S, is_open=True)
    assert await finish(months, LATER_S) == [1]
    assert await ids(database) == ["open", "r3", "r4"]
    await ledger.close(released("open"))
    assert await finish(months, LATER_S) == [2]
    assert await ids(database) == ["r4"]
    assert await verify_books(database) == []


async def test_what_is_due_is_counted_and_left(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    months = LedgerMonths(database)
    due = await months.due(NOON_S, now_s=NOON_S)
    assert (due.requests, due.started_at_s, due.held_up_by) == (0, None, None)
    await enter(ledger, account, "r1", "r2", started_at_s=NOON_S - DAY_S)
    await ledger.open_reservation(opening("young", account.id))
    due = await months.due(NOON_S, now_s=NOON_S)
    assert (due.requests, due.started_at_s, due.held_up_by) == (2, NOON_S - DAY_S, None)
    assert await ids(database) == ["r1", "r2", "young"]


async def test_a_request_that_began_later_keeps_older_ones_behind_it(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    """Rows go in the order of their numbers, or one mark could not say which have gone."""
    await enter(ledger, account, "old", started_at_s=NOON_S - DAY_S)
    await enter(ledger, account, "young")
    await enter(ledger, account, "late", "newest", started_at_s=NOON_S - DAY_S)
    assert await finish(LedgerMonths(database), NOON_S) == [1]
    assert await ids(database) == ["young", "late", "newest"]


async def test_budgets_count_as_before_and_forget_what_has_gone(
    database: Database, ledger: LedgerStore, account: Account, keys: KeyStore
) -> None:
    await keys.create(key_spec(account.id, budget_day_nano_usd=usd(5), budget_month_nano_usd=usd(5)))
    for days in (90, 70, 30, 0):
        await enter(ledger, account, f"r{days}a", f"r{days}b", started_at_s=NOON_S - days * DAY_S)
    spent = "SELECT period, spent_nano_usd FROM key_spend ORDER BY 1"
    assert len(await database.read(spent)) == 8
    kept = [("2026-07", 200), ("2026-07-21", 200), ("2026-08", 200), ("2026-08-20", 200)]
    assert await finish(LedgerMonths(database), NOON_S - 63 * DAY_S) == [4]
    assert await database.read(spent) == kept
    await keys.change("key_1", KeyChange(budget_day_nano_usd=usd(6)))  # counted anew, from what is there
    assert await database.read(spent) == kept
    assert await verify_books(database) == []


async def test_budget_of_an_open_call_counts_its_hold_to_the_end(
    database: Database, ledger: LedgerStore, account: Account, keys: KeyStore
) -> None:
    """Whatever the clock said, what is held in a day or month is not forgotten before it is given back."""
    await keys.create(key_spec(account.id, budget_day_nano_usd=usd(5)))
    await enter(ledger, account, "r1", "r2")
    await ledger.open_reservation(opening("open", account.id))
    assert await finish(LedgerMonths(database), LATER_S) == [2]
    await enter(ledger, account, "r3", "r4")
    await ledger.close(closing("open", 50))
    assert {held for (held,) in await database.read("SELECT held_nano_usd FROM key_spend")} == {0}
    assert await finish(LedgerMonths(database), LATER_S) == [2]
    assert await database.read("SELECT * FROM key_spend") == []
    assert await verify_books(database) == []


async def test_entries_of_a_run_go_when_its_rows_have_and_the_last_run_stays(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await enter(ledger, account, *(f"r{number}" for number in range(1, 9)))
    while await database.write(partial(extend_runs, run_rows=3)):
        pass
    runs = "SELECT number, first_request, last_request FROM request_runs"
    entries = "SELECT run, count(*) FROM requests_by_run GROUP BY 1"
    months = LedgerMonths(database, step_rows=4)
    assert (await months.step(LATER_S)).requests == 4
    assert not (await database.write(partial(sum_up, before_ms=0))).is_last
    assert await database.write(partial(sum_up, before_ms=0)) == Step(is_last=True)
    assert await database.read(runs) == [(2, 4, 6)]
    assert await database.read(entries) == [(2, 3)]
    assert await finish(months, LATER_S) == [3]
    assert await database.read(runs) == [(2, 4, 6)]
    assert await verify_books(database) == []
    await enter(ledger, account, *(f"r{number}" for number in range(9, 13)))
    while await database.write(partial(extend_runs, run_rows=3)):
        pass
    assert await finish(months, LATER_S) == [4, 0, 0]
    assert await database.read(runs) == [(4, 10, 12)]
    assert await verify_books(database) == []


async def test_a_long_run_is_taken_out_in_steps(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await enter(ledger, account, *(f"r{number}" for number in range(1, 8)))
    for rows in (5, 1):
        assert await database.write(partial(extend_runs, run_rows=rows))
    await finish(LedgerMonths(database), LATER_S - 2 * 365 * DAY_S)
    await database.write(partial(sum_up, before_ms=int(LATER_S * 1000), rows=5))
    left = []
    while await database.write(partial(shrink_runs, entries=2)):
        left.append(await database.read("SELECT count(*) FROM requests_by_run WHERE run = 1"))
        assert await verify_books(database) == []
    assert left == [[(3,)], [(1,)], [(0,)]]
    assert await database.read("SELECT number FROM request_runs") == [(2,)]


@pytest.mark.parametrize("gone", range(8))
async def test_the_index_goes_on_wherever_the_mark_is(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord, gone: int
) -> None:
    """Also within the rows of the next run, and of one that is there."""
    extend = partial(extend_runs, run_rows=4)
    await enter(ledger, account, *(f"r{number}" for number in range(1, 9)))
    if gone % 2:
        while await database.write(extend):
            pass
    if gone:
        await database.write(partial(sum_up, before_ms=int(LATER_S * 1000), rows=gone))
    await enter(ledger, account, *(f"r{number}" for number in range(9, 15)))
    while await database.write(extend):
        pass
    runs = await database.read("SELECT last_request FROM request_runs")
    assert [last for (last,) in runs] == [4, 8, 12]
    entered = {number for (number,) in await database.read("SELECT request FROM requests_by_run")}
    assert entered >= set(range(gone + 1, 13))
    lines = await UsageReports(database).by([], UsageFilter(key_id="key_1"))
    assert lines[0].requests == 14
    assert await verify_books(database) == []


# ---------------------------------------------------------------- when the clock was wrong

BEFORE_S = NOON_S - 100 * DAY_S


async def enter_days(ledger: LedgerStore, account: Account, **days: float) -> None:
    """Calls of so many days ago; less than 0: of the future."""
    for name, ago in days.items():
        await enter(ledger, account, name, started_at_s=NOON_S - ago * DAY_S)


async def sum_up_all(months: LedgerMonths, before_s: float, now_s: float = NOON_S) -> int:
    """All that is due; how many that was, which is what was announced."""
    due = await months.due(before_s, now_s=now_s)
    requests = 0
    while not (step := await months.step(before_s, through=due.last_request)).is_last:
        requests += step.requests
    assert requests == due.requests
    return requests


async def test_a_request_of_the_future_goes_with_the_next_that_is_not(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await enter_days(ledger, account, old=120, f1=-3653, f2=-1, older=130, f3=-400, young=50, late=140, newest=0)
    months = LedgerMonths(database, step_rows=2)
    due = await months.due(BEFORE_S, now_s=NOON_S)
    assert (due.last_request, due.requests, due.started_at_s) == (4, 4, NOON_S - 120 * DAY_S)
    assert await sum_up_all(months, BEFORE_S) == 4
    assert await ids(database) == ["f3", "young", "late", "newest"]
    assert await months.last_summed_up_s() == NOON_S - 120 * DAY_S
    summed = await database.read("SELECT month, requests, charge_nano_usd FROM request_months ORDER BY 1")
    assert summed == [("2026-04", 2, 200), ("2026-08", 1, 100), ("2036-08", 1, 100)]
    assert await verify_books(database) == []


async def test_what_is_all_of_the_future_stays_until_something_came_after_it(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    months = LedgerMonths(database, step_rows=2)
    await enter_days(ledger, account, f1=-500, f2=-500, f3=-500)
    assert await sum_up_all(months, BEFORE_S) == 0
    await enter_days(ledger, account, young=1)
    assert await sum_up_all(months, BEFORE_S) == 0
    later_s = NOON_S + 101 * DAY_S
    await enter_days(ledger, account, newest=0)
    assert await months.last_summed_up_s() is None
    first = await months.due(NOON_S, now_s=later_s)
    assert await months.step(NOON_S, through=first.last_request) == Step(requests=2)
    assert await months.last_summed_up_s() is None
    assert await sum_up_all(months, NOON_S, later_s) == 2
    assert await ids(database) == ["newest"]
    assert await verify_books(database) == []


async def test_an_open_request_of_the_future_holds_up_others_as_any(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    months = LedgerMonths(database)
    await enter_days(ledger, account, f1=-500)
    await ledger.open_reservation(opening("open", account.id, started_at_s=NOON_S + 500 * DAY_S))
    await enter_days(ledger, account, f2=-500, old=120, newest=0)
    due = await months.due(BEFORE_S, now_s=NOON_S)
    assert due.held_up_by == Hindrance(request_id="open", began_s=NOON_S + 500 * DAY_S, is_open=True)
    assert await sum_up_all(months, BEFORE_S) == 1
    await ledger.close(released("open"))
    assert await sum_up_all(months, BEFORE_S) == 3
    assert await verify_books(database) == []


async def test_budgets_of_the_future_count_the_rows_that_are_there(
    database: Database, ledger: LedgerStore, account: Account, keys: KeyStore
) -> None:
    await keys.create(key_spec(account.id, budget_day_nano_usd=usd(5), budget_month_nano_usd=usd(5)))
    await enter_days(ledger, account, old=120, f1=-500, older=130, young=50, f2=-500, newest=0)
    spent = "SELECT period, spent_nano_usd FROM key_spend ORDER BY 1"
    days = [("2026-07", 100), ("2026-07-01", 100), ("2026-08", 100), ("2026-08-20", 100)]
    assert (await database.read(spent))[-2:] == [("2028-01", 200), ("2028-01-02", 200)]
    assert await sum_up_all(LedgerMonths(database), BEFORE_S) == 3
    left = [*days, ("2028-01", 100), ("2028-01-02", 100)]
    assert await database.read(spent) == left
    await keys.change("key_1", KeyChange(budget_day_nano_usd=usd(6)))  # counted anew, from what is there
    assert await database.read(spent) == left
    assert await verify_books(database) == []


async def test_budgets_forgotten_while_the_clock_was_ahead_are_not_in_the_way(
    database: Database, ledger: LedgerStore, account: Account, keys: KeyStore
) -> None:
    await keys.create(key_spec(account.id, budget_day_nano_usd=usd(5)))
    await enter_days(ledger, account, f1=-500, f2=-500, f3=-500)
    assert await finish(LedgerMonths(database), NOON_S + 600 * DAY_S) == [2]
    assert await database.read("SELECT * FROM key_spend") == []
    await enter_days(ledger, account, f4=-500, old=120, newest=0)
    assert await sum_up_all(LedgerMonths(database), BEFORE_S) == 3
    assert await ids(database) == ["newest"]
    assert await verify_books(database) == []


@pytest.mark.parametrize("run_rows", [(), (1,), (2,), (3,), (4,), (2, 2), (3, 1, 1)])
async def test_a_request_that_began_later_than_those_behind_it_is_named(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord, run_rows: tuple[int, ...]
) -> None:
    """Wherever they are in the index, and whatever of it has gone."""
    months = LedgerMonths(database)
    await enter_days(ledger, account, old=120, late=50, future=-9, older=110, newest=0)
    for rows in run_rows:
        while await database.write(partial(extend_runs, run_rows=rows)):
            pass
    late = Hindrance(request_id="late", began_s=NOON_S - 50 * DAY_S, is_open=False)
    for requests in (1, 0):
        assert (await months.due(BEFORE_S, now_s=NOON_S)).held_up_by == late
        assert await sum_up_all(months, BEFORE_S) == requests
    assert (await months.due(NOON_S - 111 * DAY_S, now_s=NOON_S)).held_up_by is None, "nothing behind it is older"
    assert await sum_up_all(months, NOON_S - 49 * DAY_S) == 3
    assert await verify_books(database) == []


async def test_a_request_that_is_a_little_late_is_not_worth_a_word(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await enter_days(ledger, account, old=120, late=99.5, older=110, newest=0)
    due = await LedgerMonths(database).due(BEFORE_S, now_s=NOON_S)
    assert (due.requests, due.held_up_by) == (1, None)


async def test_requests_of_the_future_are_found(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    months = LedgerMonths(database)
    await enter_days(ledger, account, old=120, now=0)
    assert await months.of_future(NOON_S) is None
    await enter_days(ledger, account, f1=-500, young=1, f2=-400)
    assert await months.of_future(NOON_S) == OfFuture(requests=2, request_id="f1", began_s=NOON_S + 500 * DAY_S)


async def test_the_oldest_request_is_not_one_of_the_future(
    database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    months = LedgerMonths(database)
    assert await months.oldest_s(NOON_S) is None
    await enter_days(ledger, account, f1=-4000, f2=-500)
    assert await months.oldest_s(NOON_S) is None
    await enter_days(ledger, account, old=120, f3=-1, young=1)
    assert await months.oldest_s(NOON_S) == NOON_S - 120 * DAY_S
    assert await sum_up_all(months, BEFORE_S) == 3
    assert await months.oldest_s(NOON_S) == NOON_S - DAY_S


# ---------------------------------------------------------------- whatever happened

DIMENSIONS: tuple[Dimension, ...] = ("account", "key", "model", "provider", "endpoint", "month", "outcome")
MONTHS_S = [datetime(2026, month, 1, tzinfo=UTC).timestamp() for month in range(3, 9)]


@pytest.fixture
def random(request: pytest.FixtureRequest) -> Random:
    return Random(request.param)


async def all_reports(reports: UsageReports, account_id: str) -> list[list[UsageLine]]:
    """What must be the same before and after: all but days, over all time or whole months."""
    filters = [
        UsageFilter(),
        UsageFilter(account_id=account_id),
        UsageFilter(key_id="key_2"),
        UsageFilter(account_id=account_id, key_id="key_3"),
        UsageFilter(model="m/1", is_live=True),
        UsageFilter(key_id="key_1", is_live=False),
        *(UsageFilter(since_s=since_s) for since_s in MONTHS_S),
        *(UsageFilter(until_s=until_s, key_id="key_1") for until_s in MONTHS_S),
        UsageFilter(since_s=MONTHS_S[1], until_s=MONTHS_S[3], account_id=account_id),
    ]
    groupings: list[tuple[Dimension, ...]] = [(), ("key", "month"), DIMENSIONS]
    return [await reports.by(by, which) for which, by in product(filters, groupings)]


async def months_of_days(reports: UsageReports) -> dict[str, tuple[int, int]]:
    sums: dict[str, tuple[int, int]] = {}
    for line in await reports.by(["day"]):
        requests, charge = sums.get(line.group[0][:7], (0, 0))
        sums[line.group[0][:7]] = requests + line.requests, charge + line.charge_nano_usd
    return sums


class History:
    """Calls at random, in time."""

    def __init__(self, ledger: LedgerStore, accounts: dict[str, str], random: Random) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._random = random
        self._open: list[str] = []
        self.now_s = MONTHS_S[0]

    async def add(self, count: int, *, clock_is_off_s: Sequence[float] = (0,)) -> None:
        """Some are closed at once, some later, some never."""
        random = self._random
        for _ in range(count):
            self.now_s += random.choice((0, 1, DAY_S / 2, 2 * DAY_S))
            name, is_live = f"r{self.now_s}-{random.random()}", random.random() < 0.8
            key_id = random.choice(list(self._accounts))
            await self._ledger.open_reservation(
                opening(
                    name,
                    self._accounts[key_id],
                    key_id=key_id,
                    model=f"m/{random.randrange(3)}",
                    endpoint=random.choice(("chat", "image")),
                    hold_nano_usd=NanoUsd(random.randrange(1000) if is_live else 0),
                    is_live=is_live,
                    started_at_s=self.now_s - random.choice((0, 0, 3)) + random.choice(clock_is_off_s),
                )
            )
            self._open.append(name)
            while self._open and random.random() < 0.6:
                await self._close(self._open.pop(random.randrange(len(self._open))))

    async def close_all(self) -> None:
        while self._open:
            await self._close(self._open.pop())

    async def _close(self, name: str) -> None:
        random = self._random
        row = await self._ledger.request(name)
        assert row is not None
        if random.random() < 0.2:
            await self._ledger.close(released(name))
            return
        outcome = random.choice(("completed", "completed", "caller_left"))
        charge = min(row.hold_nano_usd, random.randrange(900))
        usage = Usage(
            input_tokens=random.randrange(99),
            cached_input_tokens=random.randrange(9),
            output_tokens=random.randrange(99),
            images=random.randrange(3),
            characters=random.randrange(99),
            duration_ms=random.randrange(9999),
        )
        cost = NanoUsd(random.randrange(900))
        provider = random.choice(("together", "openai"))
        total_ms = random.choice((100, 2 * 86_400_000))
        await self._ledger.close(
            closing(
                name, charge, outcome=outcome, usage=usage, cost_nano_usd=cost, provider=provider, total_ms=total_ms,
                basis=random.choice(list(Basis)),
            )
        )  # fmt: skip


@pytest.mark.parametrize("random", range(4), indirect=True)
async def test_no_report_and_no_balance_shrinks(
    database: Database, ledger: LedgerStore, accounts: AccountStore, account: Account, keys: KeyStore, random: Random
) -> None:
    bob = await accounts.create("Bob")
    await accounts.credit(bob.id, usd(1))
    owners = {"key_1": account.id, "key_2": account.id, "key_3": bob.id}
    for number, (key_id, owner) in enumerate(owners.items()):
        budget = usd(4) if number else None
        spec = key_spec(owner, id=key_id, token_digest=None, consumer_key=f"ck_{number}", budget_month_nano_usd=budget)
        await keys.create(spec)
    history = History(ledger, owners, random)
    reports = UsageReports(database)
    months = LedgerMonths(database, step_rows=random.choice((1, 3, 8)))
    for turn in range(6):
        await history.add(random.randrange(30))
        await database.write(partial(extend_runs, run_rows=random.choice((1, 2, 7))))
        if turn == 4:
            await history.close_all()
        before = await all_reports(reports, account.id), await months_of_days(reports), await accounts.list()
        before_s = history.now_s - random.choice((63, 80, 0)) * DAY_S
        for _ in range(random.randrange(20)):
            await months.step(before_s)
        if turn == 5:
            await history.close_all()
            before = await all_reports(reports, account.id), await months_of_days(reports), await accounts.list()
            await finish(months, history.now_s)
        assert (await all_reports(reports, account.id), await months_of_days(reports), await accounts.list()) == before
        assert await verify_books(database) == []
    ((summed_up, left),) = await database.read(
        "SELECT sum(requests), (SELECT count(*) FROM requests) FROM request_months"
    )
    assert summed_up > left > 0


async def those_that_stay(database: Database, before_s: float, now_s: float) -> list[str]:
    """The rule, row by row."""
    rows = await database.read("SELECT id, state = 'open', started_at_ms / 1000.0 FROM requests ORDER BY number")
    for place, (_, is_open, began_s) in enumerate(rows):
        known_s = [each_s for _, _, each_s in rows[place:] if each_s <= now_s]
        is_old = began_s < before_s if began_s <= now_s else bool(known_s) and known_s[0] < before_s
        if is_open or not is_old or place == len(rows) - 1:
            return [name for name, _, _ in rows[place:]]
    return []


@pytest.mark.parametrize("random", range(6), indirect=True)
async def test_no_sum_is_wrong_however_wrong_the_clock_was(
    database: Database, ledger: LedgerStore, account: Account, keys: KeyStore, random: Random
) -> None:
    for number, budget in enumerate((None, usd(4))):
        spec = key_spec(account.id, id=f"key_{number + 1}", token_digest=None, consumer_key=f"ck_{number}")
        await keys.create(structs.replace(spec, budget_day_nano_usd=budget, budget_month_nano_usd=budget))
    history, reports = History(ledger, dict.fromkeys(("key_1", "key_2"), account.id), random), UsageReports(database)
    clock_is_off_s, is_slow_too = [0, 0, 0, 0, 3000 * DAY_S, 30 * DAY_S, 200 * DAY_S], random.random() < 0.5
    if is_slow_too:
        clock_is_off_s.append(-500 * DAY_S)
    months = LedgerMonths(database, step_rows=random.choice((1, 3, 8)))
    for turn in range(8):
        await history.add(random.randrange(30), clock_is_off_s=clock_is_off_s)
        await database.write(partial(extend_runs, run_rows=random.choice((1, 2, 7))))
        if random.random() < 0.7:
            await history.close_all()
        before = await all_reports(reports, account.id), await months_of_days(reports)
        now_s = history.now_s
        before_s = now_s - random.choice((63, 80, 10)) * DAY_S
        if turn % 2:  # broken off somewhere
            due = await months.due(before_s, now_s=now_s)
            for _ in range(random.randrange(5)):
                await months.step(before_s, through=due.last_request)
                assert await verify_books(database) == []
        stay = await those_that_stay(database, before_s, now_s)
        await sum_up_all(months, before_s, now_s)
        assert await ids(database) == stay
        assert (await all_reports(reports, account.id), await months_of_days(reports)) == before
        assert await verify_books(database) == []
        # Budgets are counted anew: from the month before this one or before the newest row's on, or from that of the
        # key's oldest open row, whichever is earliest.
        if turn % 3 == 2 and not is_slow_too:
            await history.add(1)
            await history.close_all()
            await keys.change("key_2", KeyChange(budget_day_nano_usd=usd(3 + turn)))
            assert await verify_books(database) == []


# ---------------------------------------------------------------- while others write, and when it ends in the middle


async def test_two_may_sum_up_at_once_while_calls_come(
    path: Path, database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await enter(ledger, account, *(f"old {number}" for number in range(60)), started_at_s=NOON_S - DAY_S)
    await enter(ledger, account, "new")  # or the newest of the old ones might stay
    other = await Database.open(path, busy_timeout_s=5.0, max_pending_writes=10)
    try:
        one, two, _ = await asyncio.gather(
            finish(LedgerMonths(database, step_rows=3), NOON_S),
            finish(LedgerMonths(other, step_rows=4), NOON_S),
            enter(ledger, account, *(f"new {number}" for number in range(20))),
        )
    finally:
        await other.close()
    assert sum(one) + sum(two) == 60
    assert await ids(database) == ["new", *(f"new {number}" for number in range(20))]
    assert await verify_books(database) == []


async def test_a_step_that_fails_leaves_everything_as_it_was(
    path: Path, database: Database, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await enter(ledger, account, "r1", "r2", "r3")
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TRIGGER no AFTER DELETE ON requests WHEN OLD.id = 'r2' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    connection.close()
    with pytest.raises(Exception, match="no"):
        await LedgerMonths(database).step(LATER_S)
    assert await ids(database) == ["r1", "r2", "r3"]
    assert await database.read("SELECT count(*) FROM request_months") == [(0,)]
    assert await database.read("SELECT last_request FROM summed_up") == [(0,)]
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER no")
    connection.close()
    assert await verify_books(database) == []
