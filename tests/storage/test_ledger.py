from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.errors import AuthenticationFailed, BudgetExceeded, Conflict, InsufficientBalance
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import MOST_ENTERED, Accrued, LedgerRow, LedgerStore
from bitmesh_proxy.storage.verification import verify_books
from tests.storage.examples import NOON_S, USD, closing, key_spec, opening, released, usd


async def balance_of(accounts: AccountStore, account: Account) -> tuple[int, int]:
    found = await accounts.get(account.id)
    assert found is not None
    return found.balance_nano_usd, found.held_nano_usd


async def test_row_tells_the_whole_story(ledger: LedgerStore, account: Account, key: KeyRecord) -> None:
    await ledger.open_reservation(opening("req_1", account.id, hold_nano_usd=USD))
    row = await ledger.request("req_1")
    assert row is not None
    assert (row.state, row.hold_nano_usd, row.provider, row.basis, row.http_status) == ("open", USD, None, None, None)
    usage = Usage(input_tokens=1, cached_input_tokens=2, output_tokens=3, images=4, characters=5, duration_ms=6)
    assert await ledger.close(closing("req_1", 1234, usage=usage, basis=Basis.REPORTED))
    assert await ledger.request("req_1") == LedgerRow(
        request_id="req_1",
        account_id=account.id,
        key_id="key_1",
        key_name="first",
        instance=1,
        endpoint="chat",
        model="openai/gpt-oss-20b",
        provider="together",
        upstream_model="openai/gpt-oss-20b",
        provider_request_id="chatcmpl-1",
        input_tokens=1,
        cached_input_tokens=2,
        output_tokens=3,
        images=4,
        characters=5,
        duration_ms=6,
        hold_nano_usd=USD,
        accrued_cost_nano_usd=NanoUsd(0),
        accrued_charge_nano_usd=NanoUsd(0),
        cost_nano_usd=NanoUsd(1234),
        charge_nano_usd=NanoUsd(1234),
        basis=Basis.REPORTED,
        is_live=True,
        state="settled",
        http_status=200,
        outcome="completed",
        first_byte_ms=50,
        total_ms=100,
        address="192.0.2.1",
        started_at_s=NOON_S,
    )
    assert await ledger.request("req_2") is None


async def test_settling_pays_and_frees(
    ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore
) -> None:
    await ledger.open_reservation(opening("req_1", account.id, hold_nano_usd=usd(3)))
    assert await balance_of(accounts, account) == (usd(7), usd(3))
    assert await ledger.close(closing("req_1", usd(2)))
    assert await balance_of(accounts, account) == (usd(5), 0)


async def test_releasing_costs_nothing(
    ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore
) -> None:
    await ledger.open_reservation(opening("req_1", account.id))
    assert await ledger.close(released("req_1"))
    row = await ledger.request("req_1")
    assert row is not None
    assert (row.state, row.outcome, row.http_status, row.basis) == ("released", "provider_error", 503, None)
    assert await balance_of(accounts, account) == (usd(7), 0)


async def test_closing_counts_once(
    ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore
) -> None:
    await ledger.open_reservation(opening("req_1", account.id))
    await ledger.open_reservation(opening("req_2", account.id))
    closings = [*(closing("req_1", amount) for amount in (100, 200, 300)), closing("req_2", 0)]
    *results, other = await asyncio.gather(*map(ledger.close, closings))  # in one batch
    assert sorted(results) == [False, False, True]
    assert other
    assert not await ledger.close(released("req_1"))
    assert not await ledger.close(closing("req_unknown", 5))
    row = await ledger.request("req_1")
    assert row is not None
    assert await balance_of(accounts, account) == (usd(7) - row.charge_nano_usd, 0)


async def test_500_at_once_against_a_balance_for_7(
    ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore, database: Database
) -> None:
    attempts = [ledger.open_reservation(opening(f"req_{number}", account.id)) for number in range(500)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert results.count(None) == 7
    assert sum(isinstance(result, InsufficientBalance) for result in results) == 493
    assert await balance_of(accounts, account) == (usd(7), usd(7))
    assert len(await ledger.find_open()) == 7
    assert await verify_books(database) == []


async def test_unknown_names_get_numbers_on_the_way(ledger: LedgerStore, account: Account, key: KeyRecord) -> None:
    # The first requests of a new model come at the same moment, before it has a number.
    await asyncio.gather(*(ledger.open_reservation(opening(f"req_{n}", account.id, model="new")) for n in range(3)))
    await asyncio.gather(*(ledger.close(closing(f"req_{n}", provider="p", upstream_model="u")) for n in range(3)))
    rows = [await ledger.request(f"req_{n}") for n in range(3)]
    assert {(row.model, row.provider, row.upstream_model) for row in rows if row} == {("new", "p", "u")}


async def test_numbers_stand_for_names(ledger: LedgerStore, account: Account, key: KeyRecord) -> None:
    await ledger.open_reservation(opening("req_1", account.id, model="m"))
    await ledger.close(closing("req_1", provider="p", upstream_model="u"))
    model, upstream_model = ledger.number_of("m"), ledger.number_of("u")
    assert model is not None
    assert upstream_model is not None
    assert ledger.number_of("new") is None
    for number, new in enumerate(("", "new "), start=2):  # beside names that have none yet, too
        request_id = f"req_{number}"
        await ledger.open_reservation(opening(request_id, account.id, endpoint=f"{new}e", model=model))
        assert await ledger.close(closing(request_id, provider=f"{new}p", upstream_model=upstream_model))
        row = await ledger.request(request_id)
        assert row is not None
        assert (row.endpoint, row.model, row.provider, row.upstream_model) == (f"{new}e", "m", f"{new}p", "u")


async def test_request_id_is_good_once(
    ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore
) -> None:
    await ledger.open_reservation(opening("req_1", account.id))
    with pytest.raises(Conflict):
        await ledger.open_reservation(opening("req_1", account.id))
    assert await balance_of(accounts, account) == (usd(7), USD)


async def test_key_of_another_account_is_refused(
    ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore
) -> None:
    other = await accounts.create("Bob")
    for request in (opening("req_1", other.id), opening("req_1", account.id, key_id="key_2")):
        with pytest.raises(AuthenticationFailed):
            await ledger.open_reservation(request)


async def test_budget_is_refused_as_such(ledger: LedgerStore, account: Account, keys: KeyStore) -> None:
    await keys.create(key_spec(account.id, budget_day_nano_usd=usd(2), budget_month_nano_usd=usd(3)))
    await ledger.open_reservation(opening("req_1", account.id, hold_nano_usd=usd(2)))
    with pytest.raises(BudgetExceeded, match="day"):
        await ledger.open_reservation(opening("req_2", account.id))
    tomorrow_s = NOON_S + 86_400
    await ledger.open_reservation(opening("req_3", account.id, started_at_s=tomorrow_s))
    with pytest.raises(BudgetExceeded, match="month"):
        await ledger.open_reservation(opening("req_4", account.id, started_at_s=tomorrow_s))


async def test_concurrent_calls_cannot_exceed_a_budget(
    ledger: LedgerStore, account: Account, keys: KeyStore, database: Database
) -> None:
    await keys.create(key_spec(account.id, budget_day_nano_usd=usd(3)))
    attempts = [ledger.open_reservation(opening(f"req_{number}", account.id)) for number in range(50)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert results.count(None) == 3
    assert await verify_books(database) == []


async def test_test_calls_are_recorded_and_cost_nothing(
    ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore
) -> None:
    await ledger.open_reservation(opening("req_1", account.id, hold_nano_usd=NanoUsd(0), is_live=False))
    await ledger.close(closing("req_1", cost_nano_usd=NanoUsd(500)))
    row = await ledger.request("req_1")
    assert row is not None
    assert (row.is_live, row.cost_nano_usd, row.charge_nano_usd, row.state) == (False, 500, 0, "settled")
    assert await balance_of(accounts, account) == (usd(7), 0)


async def test_closing_is_written_though_nobody_waits(
    ledger: LedgerStore, account: Account, key: KeyRecord, database: Database
) -> None:
    await ledger.open_reservation(opening("req_1", account.id))
    ledger.close(closing("req_1", 100))
    await database.write(lambda connection: None)
    row = await ledger.request("req_1")
    assert row is not None
    assert row.state == "settled"


async def test_checkpoint_notes_open_requests_only(ledger: LedgerStore, account: Account, key: KeyRecord) -> None:
    for name in ("req_1", "req_2"):
        await ledger.open_reservation(opening(name, account.id))
    await ledger.close(closing("req_2", 5))
    noted = Accrued(cost_nano_usd=NanoUsd(70), charge_nano_usd=NanoUsd(84))
    await ledger.checkpoint({"req_1": noted, "req_2": noted, "req_3": noted})
    first, second = await ledger.request("req_1"), await ledger.request("req_2")
    assert first is not None
    assert second is not None
    assert (first.accrued_cost_nano_usd, first.accrued_charge_nano_usd) == (70, 84)
    assert (second.accrued_cost_nano_usd, second.charge_nano_usd) == (0, 5)


async def test_interrupted_requests_are_charged_what_was_noted(
    ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore
) -> None:
    for name, instance in (("dead", 1), ("unheard", 1), ("alive", 2), ("beyond", 3)):
        await ledger.open_reservation(opening(name, account.id, instance=instance, hold_nano_usd=NanoUsd(100)))
    await ledger.checkpoint(
        {
            "dead": Accrued(cost_nano_usd=NanoUsd(50), charge_nano_usd=NanoUsd(60)),
            "alive": Accrued(cost_nano_usd=NanoUsd(50), charge_nano_usd=NanoUsd(60)),
            "beyond": Accrued(cost_nano_usd=NanoUsd(200), charge_nano_usd=NanoUsd(240)),
        }
    )
    assert await ledger.resolve_interrupted(alive=[2]) == 3
    rows = {name: await ledger.request(name) for name in ("dead", "unheard", "alive", "beyond")}
    figures = {
        name: (row.state, row.outcome, row.cost_nano_usd, row.charge_nano_usd, row.basis)
        for name, row in rows.items()
        if row
    }
    assert figures == {
        "dead": ("settled", "interrupted", 50, 60, Basis.ESTIMATED),
        "unheard": ("released", "interrupted", 0, 0, Basis.ESTIMATED),
        "alive": ("open", None, 0, 0, None),
        "beyond": ("settled", "interrupted", 200, 100, Basis.ESTIMATED),
    }
    assert await balance_of(accounts, account) == (usd(7) - 160, 100)
    assert await ledger.resolve_interrupted(alive=[2]) == 0


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    calls=st.lists(
        st.tuples(st.integers(0, 3_000_000_000), st.integers(0, 100), st.sampled_from(["settle", "release", "leave"])),
        min_size=1,
        max_size=30,
    )
)
async def test_books_balance_whatever_happens(
    calls: list[tuple[int, int, str]], database: Database, accounts: AccountStore, keys: KeyStore
) -> None:
    account = await accounts.create("someone")
    await accounts.credit(account.id, usd(7))
    key_id = f"key_{account.id}"
    await keys.create(
        key_spec(account.id, id=key_id, token_digest=None, consumer_key=key_id, budget_day_nano_usd=usd(5))
    )
    ledger = LedgerStore(database)

    async def call(number: int, hold: int, percent: int, end: str) -> int:
        request_id = f"{account.id}-{number}"
        try:
            await ledger.open_reservation(opening(request_id, account.id, key_id=key_id, hold_nano_usd=NanoUsd(hold)))
        except InsufficientBalance:
            return 0
        if end == "leave":
            return 0
        if end == "release":
            await ledger.close(released(request_id))
            return 0
        charge = hold * percent // 100
        await ledger.close(closing(request_id, charge))
        return charge

    charged = sum(await asyncio.gather(*(call(number, *each) for number, each in enumerate(calls))))
    found = await accounts.get(account.id)
    assert found is not None
    assert found.balance_nano_usd == usd(7) - charged
    assert charged + found.held_nano_usd <= usd(5)
    assert await verify_books(database) == []


@pytest.mark.parametrize("hold", [2**62, 2**63 - 1, 2**63, 2**200])
@pytest.mark.parametrize("budget", [None, usd(100)])
async def test_a_hold_beyond_all_money_is_refused_and_harms_nobody_else(
    ledger: LedgerStore,
    account: Account,
    keys: KeyStore,
    accounts: AccountStore,
    database: Database,
    hold: int,
    budget: NanoUsd | None,
) -> None:
    await keys.create(key_spec(account.id, budget_day_nano_usd=budget, budget_month_nano_usd=budget))
    for turn in range(2):  # the first time the model's name is new, and is written beside
        openings = [
            opening(f"req_{turn}_{number}", account.id, hold_nano_usd=NanoUsd(hold if number == 3 else 100))
            for number in range(6)
        ]
        results = await asyncio.gather(*map(ledger.open_reservation, openings), return_exceptions=True)
        refused = results.pop(3)
        assert isinstance(refused, InsufficientBalance if budget is None else BudgetExceeded)
        assert results == [None] * 5
        assert await balance_of(accounts, account) == (usd(7), 500 * (turn + 1))
    assert await verify_books(database) == []


async def test_figures_beyond_all_sense_are_entered_as_far_as_they_go(
    ledger: LedgerStore, account: Account, key: KeyRecord, database: Database
) -> None:
    names = [f"req_{number}" for number in range(6)]
    await asyncio.gather(*(ledger.open_reservation(opening(name, account.id, hold_nano_usd=USD)) for name in names))
    absurd = {"cost_nano_usd": NanoUsd(2**70), "usage": Usage(input_tokens=2**53, duration_ms=10**40)}
    await ledger.checkpoint(
        {name: Accrued(cost_nano_usd=NanoUsd(2**70 if name == "req_2" else 7), charge_nano_usd=USD) for name in names}
    )
    assert [row.accrued_cost_nano_usd for row in await ledger.find_open()] == [7, 7, MOST_ENTERED, 7, 7, 7]
    closings = [closing(name, 100, **(absurd if name in names[2:4] else {})) for name in names]
    assert await asyncio.gather(*map(ledger.close, closings)) == [True] * 6
    rows = [await ledger.request(name) for name in names]
    assert [(row.cost_nano_usd, row.duration_ms, row.charge_nano_usd) for row in rows if row][2:5] == [
        (MOST_ENTERED, MOST_ENTERED, 100),
        (MOST_ENTERED, MOST_ENTERED, 100),
        (100, 0, 100),
    ]
    assert MOST_ENTERED * 10**6 < 2**63, "sums of a million are numbers"
    assert await verify_books(database) == []
