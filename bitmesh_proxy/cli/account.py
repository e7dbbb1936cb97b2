"""``account``: who pays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from bitmesh_proxy.cli.books import with_database
from bitmesh_proxy.cli.moments import USD, show_moment
from bitmesh_proxy.cli.options import NAME, common_options, fail, settings_of
from bitmesh_proxy.cli.tables import print_json, print_table, shown
from bitmesh_proxy.money import ZERO, NanoUsd, format_usd
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.storage.accounts import Account, AccountStore, Payment
from bitmesh_proxy.storage.database import Database

#: Accounts that an error names.
MOST_LISTED = 20


@click.group()
def account() -> None:
    """Accounts and their balances.

    ACCOUNT is an id, or a name that only one account has.
    """


@account.command()
@click.argument("name", type=NAME)
@click.option("--credit", type=USD, help="Opening credit in US dollars.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@common_options
@click.pass_context
def create(
    ctx: click.Context, name: str, credit: NanoUsd | None, as_json: bool, config: Path | None, data_dir: Path | None
) -> None:
    """Make an account."""
    if not name.strip():
        fail("an account needs a name")

    async def work(database: Database) -> Account:
        return await AccountStore(database).create(name, credit_nano_usd=credit or ZERO, note="opening credit")

    made = with_database(settings_of(ctx, config, data_dir), work)
    if as_json:
        print_json(_as_json(made))
    else:
        click.echo(f"Made account {made.id} ({shown(made.name)}), balance {format_usd(made.balance_nano_usd)} USD.")


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.argument("amount", type=USD)
@click.option("--note", default="", help="What the payment was for.")
@common_options
@click.pass_context
def credit(
    ctx: click.Context, account_id: str, amount: NanoUsd, note: str, config: Path | None, data_dir: Path | None
) -> None:
    """Enter a payment of AMOUNT US dollars."""
    settings = settings_of(ctx, config, data_dir)
    found_id, balance = _entered(settings, account_id, lambda store, found_id: store.credit(found_id, amount, note))
    click.echo(f"Credited {format_usd(amount)} USD to {found_id}; balance {format_usd(balance)} USD.")


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.option("--by", "amount", type=USD, required=True, help="US dollars to add; a negative amount is taken away.")
@click.option("--note", required=True, help="Which mistake this corrects.")
@common_options
@click.pass_context
def correct(
    ctx: click.Context, account_id: str, amount: NanoUsd, note: str, config: Path | None, data_dir: Path | None
) -> None:
    """Enter a counter-entry for a mistake. What was entered stays; what open requests hold cannot be taken away."""
    settings = settings_of(ctx, config, data_dir)
    found_id, balance = _entered(settings, account_id, lambda store, found_id: store.correct(found_id, amount, note))
    click.echo(f"Corrected {found_id} by {format_usd(amount)} USD; balance {format_usd(balance)} USD.")


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@common_options
@click.pass_context
def disable(ctx: click.Context, account_id: str, config: Path | None, data_dir: Path | None) -> None:
    """Switch all keys of an account off. They fail with their next requests."""
    found = _switched(settings_of(ctx, config, data_dir), account_id, is_disabled=True)
    click.echo(f"Account {found.id} ({shown(found.name)}) is off.")


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@common_options
@click.pass_context
def enable(ctx: click.Context, account_id: str, config: Path | None, data_dir: Path | None) -> None:
    """Switch an account on again. Keys that were switched off themselves stay off."""
    found = _switched(settings_of(ctx, config, data_dir), account_id, is_disabled=False)
    click.echo(f"Account {found.id} ({shown(found.name)}) is on.")


@account.command()
@click.argument("account_id", metavar="ACCOUNT")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the account with its payments.")
@common_options
@click.pass_context
def statement(ctx: click.Context, account_id: str, as_json: bool, config: Path | None, data_dir: Path | None) -> None:
    """Payments, corrections, what has been used, and what is left.

    `bitmesh-proxy usage --account` says what it was used for.
    """

    async def work(database: Database) -> tuple[Account, tuple[Payment, ...]]:
        store = AccountStore(database)
        return await store.statement((await find_account(store, account_id)).id)

    found, payments = with_database(settings_of(ctx, config, data_dir), work)
    used = NanoUsd(found.balance_nano_usd - sum(each.amount_nano_usd for each in payments))
    if as_json:
        shown = [
            {
                "kind": each.kind,
                "amount_usd": format_usd(each.amount_nano_usd),
                "note": each.note,
                "created_at_s": each.created_at_s,
            }
            for each in payments
        ]
        print_json({**_as_json(found), "used_usd": format_usd(NanoUsd(-used)), "payments": shown})
        return
    lines: list[tuple[str, ...]] = [
        (show_moment(each.created_at_s), each.kind, format_usd(each.amount_nano_usd), each.note) for each in payments
    ]
    lines += [("", "used", format_usd(used), ""), ("", "balance", format_usd(found.balance_nano_usd), "")]
    print_table(["WHEN", "WHAT", "USD", "NOTE"], lines, right=("USD",))


@account.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
@common_options
@click.pass_context
def list_accounts(ctx: click.Context, as_json: bool, config: Path | None, data_dir: Path | None) -> None:
    """All accounts with their balances."""

    async def work(database: Database) -> tuple[Account, ...]:
        return await AccountStore(database).list()

    found = with_database(settings_of(ctx, config, data_dir), work)
    if as_json:
        print_json([_as_json(each) for each in found])
        return
    print_table(
        ["ID", "NAME", "BALANCE USD", "HELD USD", "FREE USD", "STATE", "MADE"],
        [
            (
                each.id,
                each.name,
                format_usd(each.balance_nano_usd),
                format_usd(each.held_nano_usd),
                format_usd(each.available_nano_usd),
                "on" if each.disabled_at_s is None else "off",
                show_moment(each.created_at_s),
            )
            for each in found
        ],
        right=("BALANCE USD", "HELD USD", "FREE USD"),
    )


async def find_account(store: AccountStore, wanted: str | None) -> Account:
    """The account of that id or name; without either, the only one there is. Ends the program otherwise."""
    found = await store.list()
    if wanted is None:
        matching = list(found)
        question = "say which account (--account)"
    else:
        matching = [each for each in found if each.id == wanted] or [each for each in found if each.name == wanted]
        question = f"no account has the id or name {wanted!r}" if not matching else f"{wanted!r} names several accounts"
    if len(matching) == 1:
        return matching[0]
    if not found:
        fail("there is no account yet: bitmesh-proxy account create NAME --credit 10")
    listed = ", ".join(f"{each.id} ({shown(each.name)})" for each in (matching or found)[:MOST_LISTED])
    more = len(matching or found) - MOST_LISTED
    fail(f"{question}; there are: {listed}" + (f", and {more} more: bitmesh-proxy account list" if more > 0 else ""))


def _entered(
    settings: Settings, wanted: str, enter: Callable[[AccountStore, str], Awaitable[NanoUsd]]
) -> tuple[str, NanoUsd]:
    """The account's id and new balance."""

    async def work(database: Database) -> tuple[str, NanoUsd]:
        store = AccountStore(database)
        found = await find_account(store, wanted)
        return found.id, await enter(store, found.id)

    return with_database(settings, work)


def _switched(settings: Settings, wanted: str, *, is_disabled: bool) -> Account:
    async def work(database: Database) -> Account:
        store = AccountStore(database)
        found = await find_account(store, wanted)
        await store.set_disabled(found.id, is_disabled)
        return found

    return with_database(settings, work)


def _as_json(each: Account) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "balance_usd": format_usd(each.balance_nano_usd),
        "held_usd": format_usd(each.held_nano_usd),
        "available_usd": format_usd(each.available_nano_usd),
        "balance_nano_usd": each.balance_nano_usd,
        "held_nano_usd": each.held_nano_usd,
        "created_at_s": each.created_at_s,
        "disabled_at_s": each.disabled_at_s,
    }
