from __future__ import annotations

import pytest

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.usage import UsageFilter, UsageReports
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


async def test_a_stretch_of_time_is_sought_in_the_index(reports: UsageReports, database: Database) -> None:
    from bitmesh_proxy.storage.usage import _FROM, _conditions

    conditions, parameters = _conditions(UsageFilter(since_s=NOON_S))
    plan = [row[3] for row in await database.read(f"EXPLAIN QUERY PLAN SELECT 1 {_FROM} {conditions}", parameters)]
    assert "SEARCH requests USING INDEX requests_by_key (key=? AND started_at_ms>?)" in plan
