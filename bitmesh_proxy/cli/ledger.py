"""``ledger``: what is kept of calls that ended long ago."""

from __future__ import annotations

import time
from pathlib import Path

import click

from bitmesh_proxy.billing.pruning import REST, prune, show_day
from bitmesh_proxy.cli.books import with_database
from bitmesh_proxy.cli.moments import AGO
from bitmesh_proxy.cli.options import common_options, fail, settings_of
from bitmesh_proxy.cli.progress import ProgressLine
from bitmesh_proxy.settings import LEAST_LEDGER_KEEP_S, Settings, resolve_data_dir
from bitmesh_proxy.storage.database import DATABASE_NAME, Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.months import Due, Hindrance, LedgerMonths
from bitmesh_proxy.storage.vacuum import is_served, vacuum

#: For when no service runs, whose callers a step would hold up.
STEP_ROWS_ALONE = 512


@click.group()
def ledger() -> None:
    """The rows of the ledger."""


@ledger.command(name="prune")
@click.option(
    "--before", "before_s", type=AGO, help="Calls that began before: 2026-01-01, 400d (default: ledger.keep_s)."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("--vacuum", "with_vacuum", is_flag=True, help="Then make the file smaller; the service must be stopped.")
@common_options
@click.pass_context
def prune_command(
    ctx: click.Context,
    before_s: float | None,
    dry_run: bool,
    with_vacuum: bool,
    config: Path | None,
    data_dir: Path | None,
) -> None:
    """Sum old calls up by month, now, and let their rows go. Balances and all totals stay what they are.

    A running service does this by itself, and is not disturbed. It may be interrupted, and continued at any time.
    """
    settings = settings_of(ctx, config, data_dir)
    now_s = time.time()
    limit_s = _limit(settings, before_s, now_s)

    async def work(database: Database) -> tuple[Due, int]:
        due = await LedgerMonths(database).due(limit_s, now_s=now_s)
        if dry_run:
            return due, 0
        served = await is_served(database)
        if served and with_vacuum:
            fail("the service is running: stop it before its file is made smaller")
        return due, await _sum_up(database, due, beside_service=served)

    due, done = with_database(settings, work)
    upto = "" if due.started_at_s is None else f" up to {show_day(due.started_at_s)}"
    if dry_run:
        click.echo(f"{due.requests:,} requests{upto} would be summed up by month.")
    else:
        click.echo(f"{done:,} requests{upto} have been summed up by month.")
    if due.held_up_by is not None:
        click.echo(_explain(due.held_up_by))
    if with_vacuum and not dry_run:
        _make_smaller(settings)


def _explain(hindrance: Hindrance) -> str:
    name, began = f"Request {hindrance.request_id}", show_day(hindrance.began_s)
    if hindrance.is_open:
        return f"{name} is open since {began}: what came after it stays."
    return f"{name} began on {began}, later than what came after it (was the clock wrong?): that stays with it."


async def _sum_up(database: Database, due: Due, *, beside_service: bool) -> int:
    months = LedgerMonths(database) if beside_service else LedgerMonths(database, step_rows=STEP_ROWS_ALONE)
    done = 0
    with ProgressLine() as progress:
        async for step in prune(months, due, rest=REST if beside_service else 0):
            done += step.requests
            what = f"up to {show_day(step.started_at_s)}" if step.requests else "now their index"
            progress.say(f"{done:,} of {due.requests:,} requests, {what}")
    return done


def _limit(settings: Settings, before_s: float | None, now_s: float) -> float:
    if before_s is None:
        if not settings.ledger.keep_s:
            fail(
                "ledger.keep_s is 0, which keeps all rows; to sum them up all the same, say until when (--before 400d)"
            )
        return now_s - settings.ledger.keep_s
    if before_s > now_s - LEAST_LEDGER_KEEP_S:
        fail(f"--before: rows of the last {LEAST_LEDGER_KEEP_S / 86400:.0f} days stay, for budgets count them")
    return before_s


def _make_smaller(settings: Settings) -> None:
    try:
        before, after = vacuum(resolve_data_dir(settings) / DATABASE_NAME)
    except StorageError as exc:
        fail(str(exc))
    click.echo(f"The file took {before / 2**20:,.1f} MiB and takes {after / 2**20:,.1f} MiB.")
