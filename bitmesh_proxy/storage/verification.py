"""The proof of the books: everything that is kept twice must agree, and every hold must have a reason. And the rules
that keep it so must be there.

It reads every row of the ledger, in one snapshot, beside a running server without stopping it.
"""

from __future__ import annotations

import msgspec

from bitmesh_proxy.money import format_usd
from bitmesh_proxy.storage.database import Database, Snapshot
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.structure import compare_structure


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


async def check_file(database: Database) -> str:
    """What SQLite finds wrong with the file first; ``ok`` where nothing is."""
    rows = await database.read("PRAGMA quick_check(1)")
    return str(rows[0][0])


async def verify_books(database: Database) -> list[str]:
    """What does not agree, in words; empty when the books are right."""
    async with database.snapshot() as snapshot:
        problems = list((await compare_structure(snapshot)).faults)
        try:
            problems += await _look_at_rows(snapshot)
        except StorageError as exc:
            if not problems:
                raise
            problems.append(f"the rest cannot be looked at: {exc}")
    return problems


async def _look_at_rows(snapshot: Snapshot) -> list[str]:
    problems: list[str] = []
    for (word,) in await snapshot.rows("PRAGMA quick_check(20)"):
        if word != "ok":
            problems.append(f"the database file is damaged: {word}")
    for table, row, parent, _ in await snapshot.rows("PRAGMA foreign_key_check"):
        problems.append(f"{table}: row {row} belongs to nothing in {parent}")
    for check in _CHECKS:
        for name, one, other in await snapshot.rows(check.sql):
            problems.append(check.text.format(name, format_usd(one), format_usd(other)))
    return problems
