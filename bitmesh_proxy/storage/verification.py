"""The proof of the books: everything that is kept twice must agree, and every hold must have a reason. And the rules
that keep it so must be there.

It reads every row of the ledger, beside a running server without stopping it. Each check is one statement, which sees
one moment by itself, and so each has a snapshot of its own and a rest behind it: as long as one lasts, the write-ahead
log cannot start over (``checkpoints.py``). What a check compares must stay in one statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from bitmesh_proxy.money import format_usd
from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.structure import compare_structure

#: Called before each step with its number, from 1, and how many there are.
OnStep: TypeAlias = Callable[[int, int], object]

#: How long is rested behind a check, measured by the time that it took, and at most: the log is looked at twice then.
REST: Final = 0.1
MAX_REST_S: Final = 1.0


class _Check(msgspec.Struct, frozen=True, kw_only=True):
    """``sql`` gives what should not be there: a name, and the two figures that should be the same."""

    text: str
    sql: str


_CHECKS = (
    _Check(
        text="account {0}: its balance is {1} USD, but its entries add up to {2}, those summed up included",
        sql="""
        SELECT id, balance_nano_usd, coalesce(total, 0) + coalesce(summed, 0)
        FROM balances JOIN accounts ON accounts.number = balances.account
        LEFT JOIN (
            SELECT account, sum(amount_nano_usd) AS total FROM entries GROUP BY account
        ) AS entered ON entered.account = balances.account
        LEFT JOIN (
            SELECT account, sum(amount_nano_usd) AS summed FROM charge_months GROUP BY account
        ) AS months ON months.account = balances.account
        WHERE balance_nano_usd <> coalesce(total, 0) + coalesce(summed, 0)
        """,
    ),
    _Check(
        text="account {0}: its requests that were summed up were charged {1} USD, but the charges summed up are {2}",
        sql="""
        SELECT id, coalesce(charged, 0), coalesce(entered, 0)
        FROM accounts
        LEFT JOIN (
            SELECT account, sum(charge_nano_usd) AS charged
            FROM request_months JOIN keys ON keys.number = request_months.key GROUP BY account
        ) AS requests ON requests.account = accounts.number
        LEFT JOIN (
            SELECT account, -sum(amount_nano_usd) AS entered FROM charge_months GROUP BY account
        ) AS charges ON charges.account = accounts.number
        WHERE coalesce(charged, 0) <> coalesce(entered, 0)
        """,
    ),
    _Check(
        text="request {0}: it has been summed up, and is there still",
        sql="SELECT id, 0, 0 FROM requests WHERE number <= (SELECT last_request FROM summed_up)",
    ),
    _Check(
        text="entry {0}: its request has been summed up, and it is there still",
        sql="""
        SELECT number, 0, 0 FROM entries WHERE number > 0 AND number <= (SELECT last_request FROM summed_up)
        """,
    ),
    _Check(
        text="requests up to {0} have been summed up, but those that are there do not go on behind it",
        sql="""
        SELECT last_request, 0, 0 FROM summed_up
        WHERE last_request > 0 AND last_request >= coalesce((SELECT max(number) FROM requests), 0)
        """,
    ),
    _Check(
        text="the sums of {0}: their key, endpoint, model or provider is not there",
        sql="""
        SELECT DISTINCT month, 0, 0 FROM request_months
        WHERE key NOT IN (SELECT number FROM keys) OR endpoint NOT IN (SELECT number FROM names)
           OR model NOT IN (SELECT number FROM names) OR provider NOT IN (SELECT number FROM names UNION SELECT 0)
           OR upstream_model NOT IN (SELECT number FROM names UNION SELECT 0)
        """,
    ),
    _Check(
        text="run {0}: it has gone, and its entries are there still",
        sql="""
        SELECT min(run), 0, 0 FROM requests_by_run HAVING min(run) < (SELECT min(number) FROM request_runs)
        """,
    ),
    _Check(
        text="account {0}: {1} USD are held, but its open requests hold {2}",
        sql="""
        SELECT id, held_nano_usd, coalesce(total, 0)
        FROM balances JOIN accounts ON accounts.number = balances.account
        LEFT JOIN (
            SELECT account, sum(hold_nano_usd) AS total FROM requests
            WHERE number IN (SELECT number FROM open_requests) GROUP BY account
        ) AS held ON held.account = balances.account
        WHERE held_nano_usd <> coalesce(total, 0)
        """,
    ),
    _Check(
        text="request {0}: it is open, but would not be found at a start",
        sql="SELECT id, 0, 0 FROM requests WHERE state = 'open' AND number NOT IN (SELECT number FROM open_requests)",
    ),
    _Check(
        text="account {0}: its balance is not there",
        sql="SELECT id, 0, 0 FROM accounts WHERE number NOT IN (SELECT account FROM balances)",
    ),
    _Check(
        text="request {0}: it was charged {1} USD, but its entry says {2}",
        sql="""
        SELECT requests.id, charge_nano_usd, -coalesce(amount_nano_usd, 0)
        FROM requests LEFT JOIN entries ON entries.number = requests.number
        WHERE charge_nano_usd <> -coalesce(amount_nano_usd, 0)
           OR requests.account <> coalesce(entries.account, requests.account)
        """,
    ),
    _Check(
        text="request {0}: it was charged {1} USD, more than its hold of {2}",
        sql="SELECT id, charge_nano_usd, hold_nano_usd FROM requests WHERE charge_nano_usd > hold_nano_usd",
    ),
    _Check(
        text="key {0}: its budget counts {1} USD spent, but its requests were charged {2}",
        sql="""
        SELECT keys.id || ' in ' || key_spend.period, spent_nano_usd, coalesce(total, 0)
        FROM key_spend JOIN keys ON keys.number = key_spend.key
        LEFT JOIN (
            SELECT key, strftime('%Y-%m', started_at_ms / 1000, 'unixepoch') AS period, sum(charge_nano_usd) AS total
            FROM requests WHERE key IN (SELECT key FROM key_spend) GROUP BY 1, 2
            UNION ALL
            SELECT key, strftime('%Y-%m-%d', started_at_ms / 1000, 'unixepoch'), sum(charge_nano_usd)
            FROM requests WHERE key IN (SELECT key FROM key_spend) GROUP BY 1, 2
        ) AS charged ON charged.key = key_spend.key AND charged.period = key_spend.period
        WHERE spent_nano_usd <> coalesce(total, 0)
          -- What was counted of older times has gone with the first requests of them.
          AND key_spend.period
              > (SELECT strftime('%Y-%m-%d', last_started_at_ms / 1000, 'unixepoch') FROM summed_up)
        """,
    ),
    _Check(
        text="key {0}: its budget counts {1} USD held, but its open requests hold {2}",
        sql="""
        SELECT keys.id || ' in ' || key_spend.period, held_nano_usd, coalesce(total, 0)
        FROM key_spend JOIN keys ON keys.number = key_spend.key
        LEFT JOIN (
            SELECT key, strftime('%Y-%m', started_at_ms / 1000, 'unixepoch') AS period, sum(hold_nano_usd) AS total
            FROM requests WHERE number IN (SELECT number FROM open_requests) GROUP BY 1, 2
            UNION ALL
            SELECT key, strftime('%Y-%m-%d', started_at_ms / 1000, 'unixepoch'), sum(hold_nano_usd)
            FROM requests WHERE number IN (SELECT number FROM open_requests) GROUP BY 1, 2
        ) AS held ON held.key = key_spend.key AND held.period = key_spend.period
        WHERE held_nano_usd <> coalesce(total, 0)
        """,
    ),
    _Check(
        text="key {0}: it is watched without a budget, or has one and is not watched",
        sql="""
        SELECT id, 0, 0 FROM keys
        WHERE (budget_day_nano_usd IS NULL AND budget_month_nano_usd IS NULL)
            = (number IN (SELECT key FROM watched_keys))
        """,
    ),
    _Check(
        text="entry {0}: its account is not there",
        sql="SELECT number, 0, 0 FROM entries WHERE account NOT IN (SELECT number FROM accounts)",
    ),
    _Check(
        text="request {0}: its account, key, endpoint, model or provider is not there",
        sql="""
        SELECT id, 0, 0 FROM requests
        WHERE account NOT IN (SELECT number FROM accounts) OR key NOT IN (SELECT number FROM keys)
           OR endpoint NOT IN (SELECT number FROM names) OR model NOT IN (SELECT number FROM names)
           OR provider NOT IN (SELECT number FROM names) OR upstream_model NOT IN (SELECT number FROM names)
        """,
    ),
    _Check(
        text="request {0}: it is not among the requests of its key",
        sql="""
        SELECT id, 0, 0 FROM request_runs JOIN requests ON requests.number BETWEEN first_request AND last_request
        LEFT JOIN requests_by_run
        ON run = request_runs.number AND requests_by_run.key = requests.key AND request = requests.number
        WHERE request IS NULL OR started_at_ms NOT BETWEEN first_started_at_ms AND last_started_at_ms
        """,
    ),
    _Check(
        text="job {0}: it is open, but its request is not",
        sql="""
        SELECT jobs.id, 0, 0 FROM jobs LEFT JOIN requests ON requests.id = jobs.request_id
        WHERE next_poll_at_ms IS NOT NULL AND coalesce(requests.state, 'gone') <> 'open'
        """,
    ),
)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """In words. ``damage``: what SQLite finds wrong with the file; ``problems``: what does not agree, damage included;
    ``foreign``: what else is in the database, and does no harm. Empty where nothing is."""

    damage: tuple[str, ...]
    problems: tuple[str, ...]
    foreign: tuple[str, ...]


async def verify_books(database: Database) -> list[str]:
    """What does not agree, in words; empty when the books are right."""
    return list((await examine_books(database)).problems)


async def examine_books(database: Database, *, on_step: OnStep | None = None) -> Verdict:
    """All there is to say. Raises StorageError where the rows cannot be read and nothing says why."""
    async with database.snapshot() as snapshot:
        deviations = await compare_structure(snapshot)
    damage: list[str] = []
    problems = list(deviations.faults)
    try:
        await _look_at_rows(database, damage, problems, on_step)
    except StorageError as exc:
        if not problems:
            raise
        problems.append(f"the rest cannot be looked at: {exc}")
    return Verdict(damage=tuple(damage), problems=tuple(problems), foreign=deviations.foreign)


async def _look_at_rows(database: Database, damage: list[str], problems: list[str], on_step: OnStep | None) -> None:
    steps = 2 + len(_CHECKS)
    loop = asyncio.get_running_loop()

    async def rows(step: int, sql: str) -> list[Row]:
        if on_step is not None:
            on_step(step, steps)
        began_s = loop.time()
        found = await database.read(sql)
        await asyncio.sleep(min(MAX_REST_S, REST * (loop.time() - began_s)))
        return found

    damage += [word for (word,) in await rows(1, "PRAGMA quick_check(20)") if word != "ok"]
    problems += [f"the database file is damaged: {word}" for word in damage]
    for table, row, parent, _ in await rows(2, "PRAGMA foreign_key_check"):
        problems.append(f"{table}: row {row} belongs to nothing in {parent}")
    for step, check in enumerate(_CHECKS, start=3):
        for name, one, other in await rows(step, check.sql):
            problems.append(check.text.format(name, format_usd(one), format_usd(other)))
