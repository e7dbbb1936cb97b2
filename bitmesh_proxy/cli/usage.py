"""``usage``: what was used, and what it cost."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click

from bitmesh_proxy.billing.pruning import show_day
from bitmesh_proxy.cli.account import find_account
from bitmesh_proxy.cli.books import with_database
from bitmesh_proxy.cli.moments import AGO
from bitmesh_proxy.cli.options import common_options, fail, settings_of
from bitmesh_proxy.cli.progress import ProgressLine
from bitmesh_proxy.cli.tables import print_json, print_table
from bitmesh_proxy.money import format_usd
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.storage.months import LedgerMonths
from bitmesh_proxy.storage.usage import Dimension, UsageFilter, UsageLine, UsageReports

DIMENSIONS = ("account", "key", "model", "provider", "endpoint", "day", "month", "outcome")
FIGURES = (
    "requests",
    "failed",
    "input_tokens",
    "output_tokens",
    "images",
    "characters",
    "seconds",
    "cost_usd",
    "charge_usd",
)


@click.command()
@click.option(
    "--by", "dimensions", multiple=True, type=click.Choice(DIMENSIONS), help="Group by this; may be repeated."
)
@click.option("--account", "account_id", help="This account (id or name) only.")
@click.option("--key", "key_id", help="This key (id) only.")
@click.option("--model", "model_id", help="This model (id) only.")
@click.option("--since", "since_s", type=AGO, help="From this moment on: 2026-12-01 (UTC), or 7d, 12h ago.")
@click.option("--until", "until_s", type=AGO, help="Up to this moment, in the same forms.")
@click.option("--live/--test", "is_live", default=None, help="Charged calls only, or test calls only.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values with a heading.")
@common_options
@click.pass_context
def usage(
    ctx: click.Context,
    /,
    dimensions: tuple[str, ...],
    account_id: str | None,
    as_json: bool,
    as_csv: bool,
    config: Path | None,
    data_dir: Path | None,
    **wanted: Any,
) -> None:
    """Requests, tokens and money, by model or as --by says.

    Calls older than ledger.keep_s are known by month only: by day, they are listed under their month (2026-08), and
    --since and --until take or leave a month as a whole, by when it begins.

    A call counts as it is when its part of the ledger is read: one that is open then is open here. Calls that begin
    later than this command do not count.
    """
    groups = cast(tuple[Dimension, ...], tuple(dict.fromkeys(dimensions)) or ("model",))
    if as_json and as_csv:
        raise click.UsageError("--json and --csv: one or the other")
    if None not in (wanted["since_s"], wanted["until_s"]) and wanted["since_s"] >= wanted["until_s"]:
        raise click.UsageError("--since is not before --until: no call lies between them")
    wanted["model"] = wanted.pop("model_id")

    async def work(database: Database) -> tuple[Iterator[UsageLine], float | None]:
        key_id: str | None = wanted["key_id"]
        if key_id is not None and await KeyStore(database).get(key_id) is None:
            fail(f"no key has the id {key_id!r}")
        paying = await find_account(AccountStore(database), account_id) if account_id else None
        which = UsageFilter(account_id=paying.id if paying else None, **wanted)
        with ProgressLine() as progress:
            lines = await UsageReports(database).lines(
                groups, which, on_part=lambda done, rows: progress.say(f"{done:,} of {rows:,} requests")
            )
        return lines, await LedgerMonths(database).last_summed_up_s()

    lines, last_summed_up_s = with_database(settings_of(ctx, config, data_dir), work)
    if as_json:
        print_json([{**dict(zip(groups, line.group, strict=True)), **_figures(line)} for line in lines])
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*groups, *FIGURES])
        writer.writerows([*line.group, *_figures(line).values()] for line in lines)
    else:
        print_table(
            [name.upper().replace("_", " ") for name in (*groups, *FIGURES)],
            [(*line.group, *_figures(line).values()) for line in lines],
            right=[name.upper().replace("_", " ") for name in FIGURES],
        )
    moments = [moment_s for moment_s in (wanted["since_s"], wanted["until_s"]) if moment_s is not None]
    if last_summed_up_s is None:
        return
    if "day" in groups or any(cuts_a_month(moment_s, last_summed_up_s) for moment_s in moments):
        day = show_day(last_summed_up_s)
        click.echo(f"Calls up to {day} are known by month only, and count where their month begins.", err=True)


def cuts_a_month(moment_s: float, last_summed_up_s: float) -> bool:
    """Is it within a month of which calls were summed up, and not where that begins? (Unix times.)"""
    moment, last = (datetime.fromtimestamp(each_s, UTC) for each_s in (moment_s, last_summed_up_s))
    month = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return month < moment and month <= last


def _figures(line: UsageLine) -> dict[str, int | float | str]:
    return {
        "requests": line.requests,
        "failed": line.failed,
        "input_tokens": line.input_tokens,
        "output_tokens": line.output_tokens,
        "images": line.images,
        "characters": line.characters,
        "seconds": line.duration_ms / 1000,
        "cost_usd": format_usd(line.cost_nano_usd),
        "charge_usd": format_usd(line.charge_nano_usd),
    }
