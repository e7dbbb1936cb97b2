"""``key``: what callers call with. Secrets are shown when they are made, and never again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from bitmesh_proxy.auth.secrets import derive_consumer_secret, new_token, token_digest
from bitmesh_proxy.cli.account import find_account
from bitmesh_proxy.cli.books import with_database
from bitmesh_proxy.cli.key_import import import_keys
from bitmesh_proxy.cli.key_limits import COUNT, MODEL, check_expiry, known_models, limit_options, names_in
from bitmesh_proxy.cli.moments import AHEAD, BUDGET, show_moment
from bitmesh_proxy.cli.new_key import TOKEN_HINT_CHARACTERS, NewKey, create_key, master_secret_for
from bitmesh_proxy.cli.options import NAME, OrWord, common_options, fail, given, settings_of
from bitmesh_proxy.cli.progress import ProgressLine
from bitmesh_proxy.cli.tables import print_json, print_table
from bitmesh_proxy.money import NanoUsd, format_usd
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyChange, KeyRecord, KeyStore, check_binding


@click.group()
def key() -> None:
    """API keys."""


key.add_command(import_keys)


@key.command()
@click.option("--account", "account_id", help="Account that pays (id or name). Default: the only one.")
@click.option("--name", type=NAME, default="", help="What you call the key.")
@limit_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object: id, token, consumer_key, consumer_secret.")
@common_options
@click.pass_context
def create(
    ctx: click.Context,
    /,
    account_id: str | None,
    name: str,
    allowed_models: tuple[str, ...],
    as_json: bool,
    config: Path | None,
    data_dir: Path | None,
    **limits: Any,
) -> None:
    """Make a key: a bearer token and an OAuth consumer key. Their secrets are shown this once."""
    expires_at_s: float | None = limits["expires_at_s"]
    check_expiry(expires_at_s)
    settings = settings_of(ctx, config, data_dir)
    bound_model: str | None = limits["bound_model"]
    models = known_models(settings, names_in(bound_model, allowed_models))

    async def work(database: Database) -> NewKey:
        if models is not None:
            check_binding(bound_model, allowed_models or None, models.names_of)
        paying = await find_account(AccountStore(database), account_id)
        return await create_key(
            database, settings, account_id=paying.id, name=name, allowed_models=allowed_models or None, **limits
        )

    made = with_database(settings, work)
    if models is not None:
        models.warn_of_unknown()
    _show_secrets(made, as_json=as_json)


@key.command(name="list")
@click.option("--account", "account_id", help="Keys of this account (id or name) only.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
@common_options
@click.pass_context
def list_keys(
    ctx: click.Context, account_id: str | None, as_json: bool, config: Path | None, data_dir: Path | None
) -> None:
    """All keys, without their secrets."""

    async def work(database: Database) -> tuple[KeyRecord, ...]:
        found = await find_account(AccountStore(database), account_id) if account_id else None
        return await KeyStore(database).list(found.id if found else None)

    records = with_database(settings_of(ctx, config, data_dir), work)
    if as_json:
        print_json([_as_json(record) for record in records])
        return
    print_table(
        ["ID", "NAME", "ACCOUNT", "TOKEN", "CONSUMER KEY", "MODEL", "STATE", "MADE"],
        [
            (
                record.caller.key_id,
                record.caller.key_name,
                record.caller.account_id,
                f"bm_…{record.token_hint}" if record.has_token else "",
                record.consumer_key,
                record.caller.bound_model or "any",
                _state_of(record),
                show_moment(record.created_at_s),
            )
            for record in records
        ],
    )


@key.command()
@click.argument("key_id")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@common_options
@click.pass_context
def show(ctx: click.Context, key_id: str, as_json: bool, config: Path | None, data_dir: Path | None) -> None:
    """One key with its limits."""

    async def work(database: Database) -> KeyRecord | None:
        return await KeyStore(database).get(key_id)

    record = with_database(settings_of(ctx, config, data_dir), work)
    if record is None:
        fail(f"no key has the id {key_id!r}")
    _show(record, as_json=as_json)


@key.command()
@click.argument("key_id")
@common_options
@click.pass_context
def disable(ctx: click.Context, key_id: str, config: Path | None, data_dir: Path | None) -> None:
    """Switch a key off. It fails with its next request."""

    async def work(database: Database) -> KeyRecord:
        return await KeyStore(database).disable(key_id)

    with_database(settings_of(ctx, config, data_dir), work)
    click.echo(f"Key {key_id} is off.")


@key.command()
@click.argument("key_id")
@common_options
@click.pass_context
def enable(ctx: click.Context, key_id: str, config: Path | None, data_dir: Path | None) -> None:
    """Switch a key on again."""

    async def work(database: Database) -> KeyRecord:
        return await KeyStore(database).enable(key_id)

    record = with_database(settings_of(ctx, config, data_dir), work)
    click.echo(f"Key {key_id} is on" + (", but its account is off." if record.is_disabled else "."))


@key.command()
@click.argument("key_id")
@click.option("--name", type=NAME, help="What you call the key.")
@click.option("--bound-model", type=OrWord(MODEL), help="The only model that it may call; none: any.")
@click.option(
    "--allow-model",
    "allowed_models",
    type=MODEL,
    multiple=True,
    help="A model that it may call; may be repeated; none: any.",
)
@click.option(
    "--rate-per-minute",
    type=OrWord(COUNT, "default"),
    help="Requests per minute; 0: no limit; default: limits.key_per_minute.",
)
@click.option(
    "--max-concurrent",
    type=OrWord(COUNT, "default"),
    help="Calls under way at once; 0: no limit; default: limits.key_max_concurrent.",
)
@click.option(
    "--budget-day",
    "budget_day_nano_usd",
    type=OrWord(BUDGET),
    help="US dollars that it may spend per UTC day; none: no limit.",
)
@click.option(
    "--budget-month",
    "budget_month_nano_usd",
    type=OrWord(BUDGET),
    help="US dollars that it may spend per UTC month; none: no limit.",
)
@click.option(
    "--expires",
    "expires_at_s",
    type=OrWord(AHEAD),
    help="When it expires: 2026-12-31 (UTC), or 30d, 12h from now; none: never.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@common_options
@click.pass_context
def change(
    ctx: click.Context, /, key_id: str, as_json: bool, config: Path | None, data_dir: Path | None, **options: Any
) -> None:
    """Change what a key may do, from its next request on. What is not given stays; what it has spent still counts."""
    said = given(ctx, options)
    if "none" in said.get("allowed_models", ()):
        if len(said["allowed_models"]) > 1:
            raise click.BadParameter("none stands for any model, and alone", param_hint="--allow-model")
        said["allowed_models"] = None

    settings = settings_of(ctx, config, data_dir)
    models = known_models(settings, names_in(said.get("bound_model"), said.get("allowed_models")))

    async def work(database: Database) -> KeyRecord:
        keys, changes = KeyStore(database), KeyChange(**said)
        with ProgressLine() as progress:

            def show(done: int, parts: int) -> None:
                progress.say(f"counting what it has spent: {100 * done // parts} %")

            if models is None:
                return await keys.change(key_id, changes, on_part=show)
            return await keys.change(key_id, changes, models.names_of, on_part=show)

    changed = with_database(settings, work)
    if models is not None:
        models.warn_of_unknown()
    _show(changed, as_json=as_json)


@key.command()
@click.argument("key_id")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: id, token, consumer_key, consumer_secret.")
@common_options
@click.pass_context
def rotate(ctx: click.Context, key_id: str, as_json: bool, config: Path | None, data_dir: Path | None) -> None:
    """Give a key a new token and consumer secret. The old ones end at once."""
    settings = settings_of(ctx, config, data_dir)

    async def work(database: Database) -> NewKey:
        master_secret = await master_secret_for(database, settings)
        token = new_token()
        record = await KeyStore(database).rotate(
            key_id, token_digest=token_digest(token), token_hint=token[-TOKEN_HINT_CHARACTERS:]
        )
        return NewKey(
            id=key_id,
            token=token,
            consumer_key=record.consumer_key or "",
            consumer_secret=derive_consumer_secret(master_secret, key_id, record.generation),
        )

    _show_secrets(with_database(settings, work), as_json=as_json)


def _state_of(record: KeyRecord) -> str:
    if record.is_disabled:
        return "off"
    return "expired" if record.is_expired(time.time()) else "on"


def _show(record: KeyRecord, *, as_json: bool) -> None:
    fields = _as_json(record)
    if as_json:
        print_json(fields)
    else:
        print_table(
            ["FIELD", "VALUE"], [_for_people(name, value) for name, value in fields.items() if value is not None]
        )


def _for_people(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_at_s"):
        return name.removesuffix("_s"), show_moment(value)
    if isinstance(value, bool):
        return name, "yes" if value else "no"
    return name, ", ".join(value) or "none" if isinstance(value, list) else value


def _show_secrets(made: NewKey, *, as_json: bool) -> None:
    if as_json:
        print_json(made.as_json())
        return
    click.echo("The secrets are shown this once:")
    print_table(["FIELD", "VALUE"], [(name.replace("_", " "), value) for name, value in made.as_json().items()])


def _as_json(record: KeyRecord) -> dict[str, Any]:
    caller = record.caller

    def usd(amount: NanoUsd | None) -> str | None:
        return None if amount is None else format_usd(amount)

    return {
        "id": caller.key_id,
        "name": caller.key_name,
        "account_id": caller.account_id,
        "token_hint": record.token_hint if record.has_token else None,
        "consumer_key": record.consumer_key,
        "generation": record.generation,
        "has_imported_secret": record.sealed_secret is not None,
        "bound_model": caller.bound_model,
        "allowed_models": sorted(caller.allowed_models) if caller.allowed_models is not None else None,
        "rate_per_minute": caller.rate_per_minute,
        "max_concurrent": caller.max_concurrent,
        "budget_day_usd": usd(caller.budget_day_nano_usd),
        "budget_month_usd": usd(caller.budget_month_nano_usd),
        "expires_at_s": caller.expires_at_s,
        "is_disabled": record.is_disabled,
        "created_at_s": record.created_at_s,
    }
