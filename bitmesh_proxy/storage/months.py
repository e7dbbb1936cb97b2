"""The ledger's past: requests that ended long ago are summed up by month and go; else the ledger would grow for ever.

Rows go in steps of ``STEP_ROWS``, each one operation of the writer's: their figures are added to ``request_months``,
their charges to ``charge_months``, the mark in ``summed_up`` moves behind them, and they are deleted; all of it or
nothing. The oldest numbers go first, so that the mark says all, and it stops

- before a request that is still open, however old it is;
- before a request that began at or after the given time;
- before the newest one, whose number would come again.

What budgets count of a day or month goes with the first rows of it. Entries of a run's index (``runs.py``) go when all
its rows have, in its own order: row by row they lie anywhere.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Final

import msgspec

from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.runs import shrink_runs

#: A step holds up who writes meanwhile, half a millisecond to one. (A row takes 10 to 30 us: the sums of each key are
#: somewhere else.)
STEP_ROWS: Final = 32
#: Of an index, whose entries lie together.
STEP_ENTRIES: Final = 512


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a step did. ``is_last``: there was nothing to do. ``started_at_s``: when the latest that went had begun."""

    requests: int = 0
    started_at_s: float = 0.0
    is_last: bool = False


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What would go. ``held_up_by`` is the id of an open request that keeps those behind it, which began at
    ``held_up_since_s``."""

    requests: int = 0
    started_at_s: float | None = None
    held_up_by: str | None = None
    held_up_since_s: float | None = None


class LedgerMonths:
    """Sums up. Times are Unix seconds."""

    def __init__(self, database: Database, *, step_rows: int = STEP_ROWS) -> None:
        self._database = database
        self._step_rows = step_rows

    async def step(self, before_s: float) -> Step:
        """Sum up the next requests that began before then; if there are none, shrink the index. Raises Unavailable."""
        return await self._database.write(partial(sum_up, before_ms=int(before_s * 1000), rows=self._step_rows))

    async def due(self, before_s: float) -> Due:
        """What steps would do. Reads all rows that would go."""
        async with self._database.snapshot() as snapshot:
            stays = await snapshot.row(_STAYS, {"before_ms": int(before_s * 1000)})
            if stays is None:
                return Due()
            number, request_id, is_open, began_ms = stays
            ((requests, started_at_ms),) = await snapshot.rows(_BEFORE, (number,))
        is_held_up = bool(is_open) and began_ms < before_s * 1000
        return Due(
            requests=requests,
            started_at_s=None if started_at_ms is None else started_at_ms / 1000,
            held_up_by=request_id if is_held_up else None,
            held_up_since_s=began_ms / 1000 if is_held_up else None,
        )

    async def oldest_s(self) -> float | None:
        """When the first request began that has a row."""
        row = self._database.lookup("SELECT started_at_ms FROM requests ORDER BY number LIMIT 1")
        return None if row is None else row[0] / 1000

    async def last_summed_up_s(self) -> float | None:
        """The latest beginning of a request that was summed up; None if none was."""
        row = self._database.lookup("SELECT last_started_at_ms FROM summed_up WHERE last_request > 0")
        return None if row is None else row[0] / 1000


def sum_up(connection: sqlite3.Connection, *, before_ms: int, rows: int = STEP_ROWS) -> Step:
    """See ``LedgerMonths.step``. An operation of the writer's."""
    ((mark,),) = connection.execute("SELECT last_request FROM summed_up").fetchall()
    bounds = {"mark": mark, "before_ms": before_ms, "rows": rows}
    ((until, count, started_at_ms, day),) = connection.execute(_NEXT, bounds).fetchall()
    if not count:
        return Step(is_last=not shrink_runs(connection, STEP_ENTRIES))
    passed = {"mark": mark, "until": until}
    connection.execute(_ADD_REQUESTS, passed)
    connection.execute(_ADD_CHARGES, passed)
    connection.execute(_FORGET_SPENT, {**passed, "day": day})
    connection.execute(_MOVE, {"until": until, "started_at_ms": started_at_ms})
    connection.execute("DELETE FROM entries WHERE number > :mark AND number <= :until", passed)
    connection.execute("DELETE FROM requests WHERE number > :mark AND number <= :until", passed)
    return Step(requests=count, started_at_s=started_at_ms / 1000)


#: The last number that may go, how many rows that is, and the latest beginning of one, also as a day.
_NEXT = """
WITH next AS MATERIALIZED (
    SELECT number, started_at_ms,
           state = 'open' OR started_at_ms >= :before_ms OR number = (SELECT max(number) FROM requests) AS stays
    FROM requests WHERE number > :mark ORDER BY number LIMIT :rows
),
gone AS (
    SELECT number, started_at_ms FROM next
    WHERE number < coalesce((SELECT min(number) FROM next WHERE stays), 9223372036854775807)
)
SELECT max(number), count(*), max(started_at_ms), strftime('%Y-%m-%d', max(started_at_ms) / 1000, 'unixepoch') FROM gone
"""

_ADD_REQUESTS = """
INSERT INTO request_months (month, key, model, endpoint, provider, upstream_model, live, outcome, requests,
    input_tokens, cached_input_tokens, output_tokens, images, characters, duration_ms, cost_nano_usd, charge_nano_usd)
SELECT strftime('%Y-%m', started_at_ms / 1000, 'unixepoch'), key, model, endpoint, coalesce(provider, 0),
    coalesce(upstream_model, 0), live, coalesce(outcome, ''), count(*), sum(input_tokens), sum(cached_input_tokens),
    sum(output_tokens), sum(images), sum(characters), sum(duration_ms), sum(cost_nano_usd), sum(charge_nano_usd)
FROM requests WHERE number > :mark AND number <= :until
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
    input_tokens = input_tokens + excluded.input_tokens,
    cached_input_tokens = cached_input_tokens + excluded.cached_input_tokens,
    output_tokens = output_tokens + excluded.output_tokens, images = images + excluded.images,
    characters = characters + excluded.characters, duration_ms = duration_ms + excluded.duration_ms,
    cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd, charge_nano_usd = charge_nano_usd + excluded.charge_nano_usd
"""

_ADD_CHARGES = """
INSERT INTO charge_months (month, account, charges, amount_nano_usd)
SELECT strftime('%Y-%m', created_at_ms / 1000, 'unixepoch'), account, count(*), sum(amount_nano_usd)
FROM entries WHERE number > :mark AND number <= :until
GROUP BY 1, 2
ON CONFLICT DO UPDATE
SET charges = charges + excluded.charges, amount_nano_usd = amount_nano_usd + excluded.amount_nano_usd
"""

#: What a call holds is counted until it ends. (A month's name, '2026-08', is less than those of its days.)
_FORGET_SPENT = """
DELETE FROM key_spend
WHERE key IN (SELECT key FROM requests WHERE number > :mark AND number <= :until)
  AND period <= :day AND held_nano_usd = 0
"""

_MOVE = """
UPDATE summed_up SET last_request = :until, last_started_at_ms = max(last_started_at_ms, :started_at_ms)
"""

#: The first that stays. (Unless there are no requests at all, there is one: the newest.)
_STAYS = """
SELECT number, id, state = 'open', started_at_ms FROM requests
WHERE state = 'open' OR started_at_ms >= :before_ms OR number = (SELECT max(number) FROM requests)
ORDER BY number LIMIT 1
"""

_BEFORE = "SELECT count(*), max(started_at_ms) FROM requests WHERE number < ?"
