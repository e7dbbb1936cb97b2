from __future__ import annotations

import asyncio

import pytest

from bitmesh_proxy.errors import Conflict, NotFound
from bitmesh_proxy.money import ZERO, NanoUsd
from bitmesh_proxy.storage.accounts import Account, AccountStore, Payment
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from tests.storage.examples import NOON_S, closing, opening, usd


async def test_new_account_has_nothing(accounts: AccountStore) -> None:
    account = await accounts.create("Ada")
    assert account.id.startswith("acct_")
    assert (account.name, account.balance_nano_usd, account.held_nano_usd) == ("Ada", 0, 0)
    assert (account.created_at_s, account.disabled_at_s) == (NOON_S, None)
    assert await accounts.get(account.id) == account
    assert await accounts.get("acct_unknown") is None


async def test_an_account_begins_with_its_first_payment_or_not_at_all(accounts: AccountStore) -> None:
    account = await accounts.create("Ada", credit_nano_usd=usd(5), note="opening credit")
    assert account.balance_nano_usd == usd(5)
    assert await accounts.statement(account.id) == (
        account,
        (Payment(kind="credit", amount_nano_usd=usd(5), note="opening credit", created_at_s=NOON_S),),
    )
    for amount in (-usd(5), usd(9_000_000_000)):
        with pytest.raises(ValueError, match="a credit must be more than nothing"):
            await accounts.create("Bob", credit_nano_usd=NanoUsd(amount))
    assert await accounts.list() == (account,)


async def test_list_is_oldest_first(accounts: AccountStore) -> None:
    made = [await accounts.create(name) for name in ("c", "a", "b")]
    assert await accounts.list() == tuple(made)


async def test_balance_is_the_sum_of_the_entries(accounts: AccountStore, database: Database) -> None:
    account = await accounts.create("Ada")
    other = await accounts.create("Bob")
    assert await accounts.credit(account.id, usd(5), "one") == usd(5)
    assert await accounts.credit(account.id, NanoUsd(1), "two") == usd(5) + 1
    assert await accounts.correct(account.id, NanoUsd(-usd(2)), "typed twice") == usd(3) + 1
    assert await accounts.credit(other.id, usd(9)) == usd(9)
    assert await database.read("SELECT kind, amount_nano_usd, note FROM entries ORDER BY number DESC") == [
        ("credit", usd(5), "one"),
        ("credit", 1, "two"),
        ("correction", -usd(2), "typed twice"),
        ("credit", usd(9), ""),
    ]


async def test_a_statement_is_of_one_account_and_of_payments_alone(
    accounts: AccountStore, account: Account, key: KeyRecord, ledger: LedgerStore
) -> None:
    other = await accounts.create("Bob")
    await accounts.credit(other.id, usd(9))
    await accounts.correct(account.id, NanoUsd(-usd(2)), "typed twice")
    await ledger.open_reservation(opening("req_1", account.id, hold_nano_usd=usd(1)))
    await ledger.close(closing("req_1", usd(1)))
    found, payments = await accounts.statement(account.id)
    assert found == await accounts.get(account.id)
    assert found.balance_nano_usd == usd(4)
    assert payments == (
        Payment(kind="credit", amount_nano_usd=usd(7), note="first payment", created_at_s=NOON_S),
        Payment(kind="correction", amount_nano_usd=NanoUsd(-usd(2)), note="typed twice", created_at_s=NOON_S),
    )
    assert sum(each.amount_nano_usd for each in payments) == await accounts.paid_in(account.id)
    with pytest.raises(NotFound):
        await accounts.statement("acct_unknown")


async def test_concurrent_credits_all_count(accounts: AccountStore) -> None:
    account = await accounts.create("Ada")
    balances = await asyncio.gather(*(accounts.credit(account.id, NanoUsd(1)) for _ in range(200)))
    assert sorted(balances) == list(range(1, 201))


@pytest.mark.parametrize("amount", [0, -1, 2**63])
async def test_impossible_credit_is_refused(accounts: AccountStore, amount: int) -> None:
    account = await accounts.create("Ada")
    with pytest.raises(ValueError, match="credit"):
        await accounts.credit(account.id, NanoUsd(amount))


async def test_correction_says_why(accounts: AccountStore, account: Account) -> None:
    with pytest.raises(ValueError, match="note"):
        await accounts.correct(account.id, usd(1), "  ")
    with pytest.raises(ValueError, match="amount"):
        await accounts.correct(account.id, ZERO, "nothing")


async def test_unknown_account_is_said(accounts: AccountStore) -> None:
    with pytest.raises(NotFound):
        await accounts.credit("acct_unknown", usd(1))
    with pytest.raises(NotFound):
        await accounts.set_disabled("acct_unknown", True)


async def test_correction_cannot_take_what_is_held(
    accounts: AccountStore, account: Account, key: KeyRecord, ledger: LedgerStore
) -> None:
    await ledger.open_reservation(opening("req_1", account.id, hold_nano_usd=usd(6)))
    with pytest.raises(Conflict):
        await accounts.correct(account.id, NanoUsd(-usd(2)), "too much")
    assert await accounts.correct(account.id, NanoUsd(-usd(1)), "just what is free") == usd(6)
    found = await accounts.get(account.id)
    assert found is not None
    assert (found.balance_nano_usd, found.held_nano_usd, found.available_nano_usd) == (usd(6), usd(6), 0)


async def test_sums_that_do_not_fit_are_refused(accounts: AccountStore, account: Account) -> None:
    most = NanoUsd((2**63 - 1) // 1000)
    for _ in range(999):
        await accounts.credit(account.id, most)
    with pytest.raises(StorageError):
        await accounts.credit(account.id, most)
    found = await accounts.get(account.id)
    assert found is not None
    assert found.balance_nano_usd == usd(7) + 999 * most


async def test_switching_an_account_switches_its_keys(
    accounts: AccountStore, account: Account, key: KeyRecord, keys: KeyStore
) -> None:
    await accounts.set_disabled(account.id, True)
    found = await accounts.get(account.id)
    assert found is not None
    assert found.disabled_at_s == NOON_S
    switched = await keys.get(key.caller.key_id)
    assert switched is not None
    assert switched.is_disabled
    await accounts.set_disabled(account.id, False)
    switched = await keys.get(key.caller.key_id)
    assert switched is not None
    assert not switched.is_disabled


async def test_what_was_paid_in_counts_corrections_and_no_charges(
    accounts: AccountStore, account: Account, ledger: LedgerStore, key: KeyRecord
) -> None:
    before = await accounts.paid_in(account.id)
    await accounts.credit(account.id, usd(3))
    await accounts.correct(account.id, NanoUsd(-usd(1)), "too much")
    await ledger.open_reservation(opening("req_1", account.id, hold_nano_usd=usd(1)))
    await ledger.close(closing("req_1", usd(1)))
    assert await accounts.paid_in(account.id) == before + usd(2)
    assert await accounts.paid_in("acct_unknown") == 0
