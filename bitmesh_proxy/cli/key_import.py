"""``key import``: keys of another installation, whose callers go on signing with the secrets that they have."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from bitmesh_proxy.auth.consumer_secrets import ConsumerSecrets
from bitmesh_proxy.cli.account import find_account
from bitmesh_proxy.cli.books import with_database
from bitmesh_proxy.cli.key_file import Faults, ForeignKey, fault_at, foreign_key, read_keys
from bitmesh_proxy.cli.key_limits import check_expiry, known_models, limit_options, names_in
from bitmesh_proxy.cli.new_key import master_secret_for
from bitmesh_proxy.cli.options import NAME, common_options, fail, settings_of
from bitmesh_proxy.cli.progress import ProgressLine
from bitmesh_proxy.cli.tables import print_json
from bitmesh_proxy.errors import Conflict
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.ids import make_id
from bitmesh_proxy.storage.keys import KeySpec, KeyStore, NamesOf, check_binding

MAX_FILE_BYTES = 64 * 1024 * 1024
#: Faults that are listed.
MOST_LISTED = 20


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was taken over. ``is_new``: it was not there before, and else has only got another secret."""

    id: str
    consumer_key: str
    is_new: bool


@click.command(name="import")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--consumer-key", help="Import this one. Its secret is asked for, or read from standard input.")
@click.option("--account", "account_id", help="Account that pays (id or name). Default: the only one.")
@click.option("--name", type=NAME, default="", help="What you call the key.")
@limit_options
@click.option(
    "--replace",
    is_flag=True,
    help="Give consumer keys that are here already the secrets of the file, and leave all else of them as it is.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON list: id, consumer_key, is_new.")
@common_options
@click.pass_context
def import_keys(
    ctx: click.Context,
    /,
    file: Path | None,
    consumer_key: str | None,
    account_id: str | None,
    name: str,
    replace: bool,
    as_json: bool,
    config: Path | None,
    data_dir: Path | None,
    **limits: Any,
) -> None:
    """Take over OAuth consumer keys from elsewhere, with their secrets.

    Callers that sign with keys of another installation go on as they are.

    FILE (- for standard input) is CSV with a line of names, or has one JSON object a line: consumer_key,
    consumer_secret and, where wanted, account, name, bound_model, allowed_models, rate_per_minute, max_concurrent,
    budget_day, budget_month, expires. What a line does not say, the options say for it. All are imported, or none.

    The secrets are kept sealed with the master secret, and are not shown again.
    """
    if (file is None) == (consumer_key is None):
        raise click.UsageError("Say what to import: a FILE, or one key with --consumer-key.")
    check_expiry(limits["expires_at_s"])
    settings = settings_of(ctx, config, data_dir)
    try:
        keys = read_keys(_content_of(file)) if file is not None else [_read_one(consumer_key)]
    except Faults as exc:
        _end(exc.sentences)
    # What a line says comes before what the options say; what nobody says is left to KeySpec.
    common = {"name": name, **{each: value for each, value in limits.items() if value not in (None, ())}}
    said = {key.consumer_key: {**common, **key.limits} for key in keys}
    models = known_models(settings, _models_in(said.values()))

    async def work(database: Database) -> list[Imported]:
        store, accounts = KeyStore(database), AccountStore(database)
        known = await store.ids_by_consumer_key()
        new = [key for key in keys if key.consumer_key not in known]
        default = (await find_account(accounts, account_id)).id if any(key.account is None for key in new) else None
        paying = _Paying(await accounts.list(), default=default)
        faults = [
            *([] if replace else [_on_known(key) for key in keys if key.consumer_key in known]),
            *[fault for key in new if (fault := paying.fault_of(key)) is not None],
            *_misbound(new, said, (lambda model: (model,)) if models is None else models.names_of),
        ]
        if faults:
            _end(faults)
        secrets = ConsumerSecrets(await master_secret_for(database, settings))
        specs: list[KeySpec] = []
        replaced: dict[str, bytes] = {}
        imported: list[Imported] = []
        with ProgressLine() as progress:
            for key in keys:
                known_id = known.get(key.consumer_key)
                key_id = known_id or make_id("key_")
                sealed = secrets.seal(key.consumer_secret, key_id)
                if known_id is None:
                    spec = KeySpec(
                        id=key_id,
                        account_id=paying.id_for(key),
                        consumer_key=key.consumer_key,
                        sealed_secret=sealed,
                        **said[key.consumer_key],
                    )
                    specs.append(spec)
                else:
                    replaced[key_id] = sealed
                imported.append(Imported(id=key_id, consumer_key=key.consumer_key, is_new=known_id is None))
                progress.say(f"{len(imported):,} of {len(keys):,} secrets are sealed")
        await store.take_over(specs, replaced)
        return imported

    imported = with_database(settings, work)
    if models is not None:
        models.warn_of_unknown()
    _show(imported, as_json=as_json)
    if file is not None and str(file) != "-":
        click.echo(f"bitmesh-proxy: {file} still holds the secrets: keep it safe, or remove it", err=True)


def _content_of(file: Path) -> bytes:
    if str(file) == "-":
        content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    else:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        fail(f"{file} has more than {MAX_FILE_BYTES // 2**20} MiB: divide it")
    return content


def _read_one(consumer_key: str | None) -> ForeignKey:
    """The one key, with the secret that stands on standard input's first line. Raises Faults."""
    if sys.stdin.isatty():
        secret = click.prompt("Consumer secret", hide_input=True)
    else:
        line = sys.stdin.buffer.readline(MAX_FILE_BYTES)
        try:
            secret = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise Faults(["consumer_secret: not UTF-8"]) from None
    return foreign_key({"consumer_key": consumer_key, "consumer_secret": secret})


class _Paying:
    """Accounts by what keys call them."""

    def __init__(self, accounts: Sequence[Account], *, default: str | None) -> None:
        self._default = default
        self._ids = {each.id for each in accounts}
        self._by_name: dict[str, list[str]] = {}
        for each in accounts:
            self._by_name.setdefault(each.name, []).append(each.id)

    def fault_of(self, key: ForeignKey) -> str | None:
        named = self._named(key)
        if len(named) == 1:
            return None
        how_many = "several accounts have" if named else "no account has"
        return fault_at(key.place, f"{how_many} this id or name")

    def id_for(self, key: ForeignKey) -> str:
        (only,) = self._named(key)
        return only

    def _named(self, key: ForeignKey) -> Sequence[str]:
        wanted = self._default if key.account is None else key.account
        if wanted is None:
            return ()
        return [wanted] if wanted in self._ids else self._by_name.get(wanted, ())


def _models_in(said: Iterable[Mapping[str, Any]]) -> list[str]:
    named: dict[str, None] = {}
    for fields in said:
        named.update(dict.fromkeys(names_in(fields.get("bound_model"), fields.get("allowed_models"))))
    return list(named)


def _misbound(keys: Sequence[ForeignKey], said: Mapping[str, Mapping[str, Any]], names_of: NamesOf) -> Iterator[str]:
    for key in keys:
        fields = said[key.consumer_key]
        try:
            check_binding(fields.get("bound_model"), fields.get("allowed_models"), names_of)
        except Conflict as exc:
            yield fault_at(key.place, exc.message)


def _on_known(key: ForeignKey) -> str:
    return fault_at(key.place, f"the consumer key {key.consumer_key} is here already (--replace gives it this secret)")


def _end(faults: Sequence[str]) -> NoReturn:
    more = len(faults) - MOST_LISTED
    rest = [f"and {more:,} more"] if more > 0 else []
    fail("\n".join(["nothing was imported:", *faults[:MOST_LISTED], *rest]))


def _show(imported: Sequence[Imported], *, as_json: bool) -> None:
    if as_json:
        print_json([{"id": each.id, "consumer_key": each.consumer_key, "is_new": each.is_new} for each in imported])
    elif len(imported) == 1:
        (only,) = imported
        what = "Imported" if only.is_new else "Replaced the secret of"
        click.echo(f"{what} {only.consumer_key}: key {only.id}.")
    else:
        new = sum(each.is_new for each in imported)
        replaced = len(imported) - new
        click.echo(f"Imported {new:,} keys." + (f" Replaced the secrets of {replaced:,}." if replaced else ""))
