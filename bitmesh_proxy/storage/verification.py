"""The proof of the books: everything that is kept twice must agree, and every hold must have a reason."""

from __future__ import annotations

from bitmesh_proxy.storage.database import Database

#: Each query gives the rows that should not be there, and how to name them.
_CHECKS = (
    (
        "account {0}: balance {1} is not the sum of its entries {2}",
        "SELECT id, balance_nano_usd, coalesce((SELECT sum(amount_nano_usd) FROM entries"
        " WHERE account = accounts.number), 0) AS s FROM accounts WHERE balance_nano_usd <> s",
    ),
    (
        "account {0}: held {1} is not what its open requests hold {2}",
        "SELECT id, held_nano_usd, coalesce((SELECT sum(hold_nano_usd) FROM requests"
        " WHERE account = accounts.number AND state = 'open'), 0) AS s FROM accounts WHERE held_nano_usd <> s",
    ),
    (
        "request {0}: charged {1}, but its entry says {2}",
        "SELECT requests.id, charge_nano_usd, -coalesce(entries.amount_nano_usd, 0) FROM requests"
        " LEFT JOIN entries ON entries.number = requests.number"
        " WHERE state <> 'open' AND charge_nano_usd <> -coalesce(entries.amount_nano_usd, 0)",
    ),
    (
        "request {0}: charged {1} above its hold {2}",
        "SELECT id, charge_nano_usd, hold_nano_usd FROM requests WHERE charge_nano_usd > hold_nano_usd",
    ),
    (
        "job {0}: open, but its request {1} is {2}",
        "SELECT jobs.id, request_id, coalesce(requests.state, 'gone') FROM jobs"
        " LEFT JOIN requests ON requests.id = jobs.request_id"
        " WHERE next_poll_at_ms IS NOT NULL AND coalesce(requests.state, 'gone') <> 'open'",
    ),
    (
        "key {0}: its count of {1} spent ({2}) is not what its requests were charged ({3})",
        "SELECT keys.id, period, spent_nano_usd, coalesce((SELECT sum(charge_nano_usd) FROM requests"
        " WHERE key = key_spend.key AND strftime(CASE length(period) WHEN 7 THEN '%Y-%m' ELSE '%Y-%m-%d' END,"
        " started_at_ms / 1000, 'unixepoch') = period), 0) AS s"
        " FROM key_spend JOIN keys ON keys.number = key_spend.key WHERE spent_nano_usd <> s",
    ),
)


async def verify_books(database: Database) -> list[str]:
    """What does not agree, in words; empty when the books are right. All checks see the same moment."""
    problems: list[str] = []
    async with database.snapshot() as snapshot:
        for text, sql in _CHECKS:
            problems += [text.format(*row) for row in await snapshot.rows(sql)]
    return problems
