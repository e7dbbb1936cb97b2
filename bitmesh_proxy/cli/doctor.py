"""``doctor``: is everything as it should be? Each check says what it looked at; any fault makes the exit status 1."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import aiohttp
import click
import msgspec

from bitmesh_proxy.auth.consumer_secrets import ConsumerSecrets
from bitmesh_proxy.auth.master import load_master_secret, missing_master_secret, on_foreign_secret, on_lost_secret
from bitmesh_proxy.auth.secrets import MasterSecretError, fingerprint_of
from bitmesh_proxy.billing.pruning import show_day
from bitmesh_proxy.catalogue.row_files import CatalogueError
from bitmesh_proxy.cli.books import open_database
from bitmesh_proxy.cli.catalogue import read_catalogue
from bitmesh_proxy.cli.options import common_options, on_ignored_variables, settings_of
from bitmesh_proxy.cli.progress import ProgressLine
from bitmesh_proxy.cli.tables import print_json, print_table
from bitmesh_proxy.errors import GatewayError
from bitmesh_proxy.settings import Settings, SettingsError, resolve_data_dir
from bitmesh_proxy.storage.database import DATABASE_NAME, Database
from bitmesh_proxy.storage.failures import StorageError, said_to_operators
from bitmesh_proxy.storage.instances import census
from bitmesh_proxy.storage.jobs import JobStore
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.months import Due, Hindrance, LedgerMonths
from bitmesh_proxy.storage.verification import Verdict, examine_books
from bitmesh_proxy.upstream.access import ProviderAccess, configured_access, missing_credentials

PROBE_TIMEOUT_S = 10.0
#: A clock that is further off refuses signed requests sooner than their senders expect.
MAX_CLOCK_ERROR_S = 30.0
#: After an update, or a long pause, a running service has much to sum up.
PRUNING_MAY_TAKE_S = 86400.0
MIN_FREE_BYTES = 256 * 1024 * 1024


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check's result."""

    check: str
    verdict: Literal["ok", "warning", "fault"]
    detail: str


@click.command()
@click.option("--offline", is_flag=True, help="Do not call the providers.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
@common_options
@click.pass_context
def doctor(ctx: click.Context, /, offline: bool, as_json: bool, config: Path | None, data_dir: Path | None) -> None:
    """Check database, books, catalogue, providers and clock. A running server is not disturbed."""
    findings = asyncio.run(_examine(settings_of(ctx, config, data_dir, warns=False), offline=offline))
    if as_json:
        print_json([{"check": each.check, "verdict": each.verdict, "detail": each.detail} for each in findings])
    else:
        print_table(
            ["CHECK", "VERDICT", "WHAT WAS SEEN"], [(each.check, each.verdict, each.detail) for each in findings]
        )
    ctx.exit(1 if any(each.verdict == "fault" for each in findings) else 0)


async def _examine(settings: Settings, *, offline: bool) -> list[Finding]:
    findings = [
        *_check_environment(settings),
        await asyncio.to_thread(_check_disk, settings),
        await asyncio.to_thread(_check_master_secret, settings),
        *[each async for each in _check_database(settings)],
        *await asyncio.to_thread(_check_catalogue, settings),
    ]
    findings += await _check_providers(settings, offline=offline)
    return findings


def _check_environment(settings: Settings) -> list[Finding]:
    sentences = on_ignored_variables(settings)
    return [Finding(check="environment", verdict="warning", detail="; ".join(sentences))] if sentences else []


def _check_disk(settings: Settings) -> Finding:
    directory = resolve_data_dir(settings)
    try:
        if not directory.is_dir():
            return Finding(check="data directory", verdict="warning", detail=f"{directory} is not there yet")
    except OSError as exc:  # whoever asks may not look there
        return Finding(check="data directory", verdict="fault", detail=str(exc))
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        detail = f"{directory}: the file system is mounted read-only"
        return Finding(check="data directory", verdict="fault", detail=detail)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        detail = f"{directory}: this user may not read and write there (give commands as the service's user)"
        return Finding(check="data directory", verdict="fault", detail=detail)
    free = shutil.disk_usage(directory).free
    detail = f"{directory}, {free // 2**20} MiB free"
    if free < (least := settings.data.min_free_bytes):
        detail += f", less than data.min_free_bytes ({least // 2**20} MiB): the service takes no new work"
        return Finding(check="data directory", verdict="fault", detail=detail)
    verdict: Literal["ok", "warning"] = "ok" if free > MIN_FREE_BYTES else "warning"
    return Finding(check="data directory", verdict=verdict, detail=detail)


def _check_master_secret(settings: Settings) -> Finding:
    try:
        if (missing := missing_master_secret(settings)) is not None:
            return Finding(check="master secret", verdict="warning", detail=f"{missing} is not there yet")
        load_master_secret(settings)
    except (MasterSecretError, OSError) as exc:
        return Finding(check="master secret", verdict="fault", detail=str(exc))
    return Finding(check="master secret", verdict="ok", detail="there, and readable by its owner only")


async def _check_database(settings: Settings) -> AsyncIterator[Finding]:
    path = resolve_data_dir(settings) / DATABASE_NAME
    try:
        if not await asyncio.to_thread(path.exists):
            yield Finding(check="database", verdict="warning", detail=f"{path} is not there yet")
            return
        async with open_database(settings) as database:
            verdict = await _examine_books(database)
            yield Finding(
                check="database",
                verdict="fault" if verdict.damage else "ok",
                detail=f"{database.path.name}: {verdict.damage[0] if verdict.damage else 'ok'}",
            )
            if verdict.foreign:
                foreign = ", ".join(verdict.foreign)
                yield Finding(check="schema", verdict="warning", detail=f"not made by this program: {foreign}")
            yield Finding(
                check="books",
                verdict="fault" if verdict.problems else "ok",
                detail="; ".join(verdict.problems)
                or "balances are the sum of their entries, holds those of open requests",
            )
            yield await _explain_open_holds(database)
            yield await _look_back(settings, database)
            if (detail := await _on_consumer_secrets(settings, KeyStore(database))) is not None:
                yield Finding(check="consumer secrets", verdict="warning", detail=detail)
    except (StorageError, GatewayError, OSError) as exc:
        yield Finding(check="database", verdict="fault", detail=said_to_operators(exc))


async def _on_consumer_secrets(settings: Settings, store: KeyStore) -> str | None:
    """Is the master secret that is found here the one that they are derived from, or sealed with?"""
    consumers, known = await store.count_consumers(), store.secret_fingerprint()
    if await asyncio.to_thread(missing_master_secret, settings) is not None:
        return on_lost_secret(consumers) if consumers else None
    try:
        master_secret = await asyncio.to_thread(load_master_secret, settings)
    except MasterSecretError:  # said of the master secret
        return None
    if known not in (None, fingerprint_of(master_secret)):
        return on_foreign_secret(settings)
    sealed = await store.sealed_secrets()
    lost = await asyncio.to_thread(_not_to_open, ConsumerSecrets(master_secret), sealed)
    if not lost:
        return None
    return (
        f"of {len(sealed)} imported secrets {len(lost)} cannot be opened with this master secret, that of {lost[0]} for"
        " example: import them again (key import --replace)"
    )


def _not_to_open(secrets: ConsumerSecrets, sealed: Mapping[str, bytes]) -> list[str]:
    return [key_id for key_id, each in sealed.items() if not secrets.can_open(each, key_id)]


async def _examine_books(database: Database) -> Verdict:
    with ProgressLine() as progress:
        return await examine_books(database, on_step=lambda step, steps: progress.say(f"books: step {step} of {steps}"))


async def _explain_open_holds(database: Database) -> Finding:
    """Every open hold belongs to a job, or to a running process; else it waits for the next start."""
    rows = await LedgerStore(database).find_open()
    jobs = await JobStore(database).open_requests()
    alive = await _alive(database)
    by_job = [row for row in rows if row.request_id in jobs]
    running = [row for row in rows if row.request_id not in jobs and row.instance in alive]
    left = [row for row in rows if row.request_id not in jobs and row.instance not in alive]
    detail = f"{len(rows)}: {len(by_job)} of jobs, {len(running)} of running calls"
    if left:
        detail += f", {len(left)} of a process that died (the next start closes them): {left[0].request_id} …"
    return Finding(check="open holds", verdict="warning" if left else "ok", detail=detail)


async def _look_back(settings: Settings, database: Database) -> Finding:
    """Rows that are older than they should be: the service does not run, or a request keeps them. And rows that a wrong
    clock has left."""
    months, keep_s, now_s = LedgerMonths(database), settings.ledger.keep_s, time.time()
    right_s = now_s + MAX_CLOCK_ERROR_S
    oldest_s, summed_up_s = await months.oldest_s(right_s), await months.last_summed_up_s()
    ahead = await months.of_future(right_s)
    if oldest_s is not None:
        detail = f"rows since {show_day(oldest_s)}"
    else:
        detail = "no rows yet" if ahead is None else "no row that says it began before now"
    if summed_up_s is not None:
        detail += f", calls up to {show_day(summed_up_s)} are summed up by month"
    due = await months.due(now_s - keep_s - PRUNING_MAY_TAKE_S, now_s=now_s) if keep_s else Due()
    if due.requests:
        detail += f"; {due.requests:,} rows are older than ledger.keep_s (a running service sums them up)"
    if due.held_up_by is not None:
        detail += f"; {_explain(due.held_up_by, due.before_s, keep_s)}"
    if ahead is not None:
        detail += (
            f"; rows that say they began later than now: {ahead.requests:,}, the first is {ahead.request_id} on"
            f" {show_day(ahead.began_s)} (see that the clock is right; they are summed up with what came after them)"
        )
    is_late = due.requests or due.held_up_by or ahead
    return Finding(check="ledger", verdict="warning" if is_late else "ok", detail=detail)


def _explain(hindrance: Hindrance, before_s: float, keep_s: float) -> str:
    name, began = hindrance.request_id, show_day(hindrance.began_s)
    if hindrance.is_open and hindrance.began_s < before_s:
        return f"{name} is open for longer than ledger.keep_s and keeps all rows behind it"
    if hindrance.is_open:
        return f"{name} is open, says that it began on {began}, and keeps older rows behind it"
    return (
        f"{name} began on {began}, later than rows behind it that are older than ledger.keep_s, and keeps them until"
        f" {show_day(hindrance.began_s + keep_s)} (was the clock wrong? see that it is right; no more needs to be done)"
    )


async def _alive(database: Database) -> set[int]:
    async with census(database, forget=False) as found:
        return set(found.alive)


def _check_catalogue(settings: Settings) -> list[Finding]:
    try:
        catalogue = read_catalogue(settings)
    except CatalogueError as exc:
        return [Finding(check="catalogue", verdict="fault", detail=str(exc))]
    offers = sum(len(model.offers) for model in catalogue.models)
    over = [m for m in catalogue.models if m.retires_on and m.retires_on < time.strftime("%Y-%m-%d", time.gmtime())]
    try:
        usable = frozenset(configured_access(settings))
    except SettingsError:  # said of the providers
        usable = frozenset()
    retired = [m.id for m in over if any(offer.provider in usable for offer in m.offers)]
    detail = f"{len(catalogue.models)} models, {offers} offers"
    if retired:
        detail += f"; past their provider's end: {', '.join(retired)}"
    return [Finding(check="catalogue", verdict="warning" if retired else "ok", detail=detail)]


async def _check_providers(settings: Settings, *, offline: bool) -> list[Finding]:
    try:
        access = configured_access(settings)
        empty = [
            Finding(check=f"provider {name}", verdict="warning", detail=detail)
            for name, detail in missing_credentials(settings).items()
        ]
    except SettingsError as exc:
        return [Finding(check="providers", verdict="fault", detail=str(exc))]
    if not access:
        detail = "no credential is there: none can be called" if empty else "no credential is configured: sandbox only"
        return [*empty, Finding(check="providers", verdict="warning", detail=detail)]
    if offline:
        titles = [each.provider.title for each in access.values()]
        return [*empty, Finding(check="providers", verdict="ok", detail=f"not called: {', '.join(titles)}")]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as session:
        found = await asyncio.gather(*(_probe(session, each) for each in access.values()))
    return [*empty, *(finding for pair in found for finding in pair)]


async def _probe(session: aiohttp.ClientSession, access: ProviderAccess) -> list[Finding]:
    check, title = f"provider {access.name}", access.provider.title
    try:
        url = access.roots["default"] + access.provider.probe_path
        async with session.get(url, headers=access.auth_headers, allow_redirects=False) as answer:
            status, date = answer.status, answer.headers.get("Date")
    except (aiohttp.ClientError, TimeoutError) as exc:
        return [Finding(check=check, verdict="fault", detail=f"{title} cannot be reached: {type(exc).__name__}")]
    if status in (401, 403):
        return [Finding(check=check, verdict="fault", detail=f"{title} refuses the credential ({status})")]
    findings = [Finding(check=check, verdict="ok" if status < 500 else "warning", detail=f"{title} answers {status}")]
    if date is not None:
        findings.append(_check_clock(access.name, date))
    return findings


def _check_clock(name: str, date: str) -> Finding:
    try:
        error_s = time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return Finding(check="clock", verdict="warning", detail=f"{name} sends no readable date")
    verdict: Literal["ok", "warning"] = "ok" if abs(error_s) <= MAX_CLOCK_ERROR_S else "warning"
    return Finding(check="clock", verdict=verdict, detail=f"{error_s:+.0f} s against {name}")
