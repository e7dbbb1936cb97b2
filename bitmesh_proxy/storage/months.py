"""The ledger's past: requests that ended long ago are summed up by month and go; else the ledger would grow for ever.

Rows go in steps of ``STEP_ROWS``, each one operation of the writer's: their figures are added to ``request_months``,
their charges to ``charge_months``, the mark in ``summed_up`` moves behind them, and they are deleted; all of it or
nothing. The oldest numbers go first, so that the mark says all, and it stops

- before a request that is still open, however old it is;
- before a request that began at or after the given time;
- before the newest one, whose number would come again.

A clock that was wrong once leaves requests that say they began later than now. They say nothing of their age, but what
came after them does: they are at least as old as the next request that is not of the future, and go when that may go
(``LedgerMonths.due`` looks for it). Their sums stand under the month that they name.

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
#: Requests are numbered when they are there whole, and one may have begun somewhat later than the next. Whom that
#: holds up for a while need not be told.
MAY_BE_LATER_S: Final = 86400.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a step did. ``is_last``: there was nothing to do. ``started_at_s``: when the latest that went had begun, of
    those that are not of the future."""

    requests: int = 0
    started_at_s: float = 0.0
    is_last: bool = False


class Hindrance(msgspec.Struct, frozen=True, kw_only=True):
    """A request that holds up those behind it, which are old enough: it is open, or says it began later than they."""

    request_id: str
    began_s: float
    is_open: bool


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What would go: requests that began before ``before_s``, and those of the future among them, up to the number
    ``last_request``. ``started_at_s``: as in a step."""

    before_s: float = 0.0
    last_request: int = 0
    requests: int = 0
    started_at_s: float | None = None
    held_up_by: Hindrance | None = None


class OfFuture(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that say they began in the future, and the first of them."""

    requests: int
    request_id: str
    began_s: float


class LedgerMonths:
    """Sums up. Times are Unix seconds."""

    def __init__(self, database: Database, *, step_rows: int = STEP_ROWS) -> None:
        self._database = database
        self._step_rows = step_rows

    async def step(self, before_s: float, *, through: int = 0) -> Step:
        """Sum up the next requests that began before then; if there are none, shrink the index. Raises Unavailable.

        Those with numbers up to ``through`` go whenever they began: ``due`` has looked at them.
        """
        operation = partial(sum_up, before_ms=int(before_s * 1000), through=through, rows=self._step_rows)
        return await self._database.write(operation)

    async def due(self, before_s: float, *, now_s: float) -> Due:
        """What steps would do, and what is in their way. Reads all rows that would go."""
        times = {"before_ms": int(before_s * 1000), "now_ms": int(max(before_s, now_s) * 1000)}
        async with self._database.snapshot() as snapshot:
            stays = await snapshot.row(_STAYS, times)
            if stays is None:
                return Due(before_s=before_s)
            number, request_id, is_open, is_newest, began_ms = stays
            ((last,),) = await snapshot.rows(_LAST, {**times, "number": number})
            ((requests, started_at_ms),) = await snapshot.rows(_UP_TO, {**times, "last": last})
            is_in_the_way = bool(is_open) and began_ms < times["before_ms"]
            if not is_in_the_way and began_ms >= times["before_ms"] + MAY_BE_LATER_S * 1000 and not is_newest:
                ((is_in_the_way,),) = await snapshot.rows(_IS_BEFORE_OLDER, {**times, "number": number})
        found = Hindrance(request_id=request_id, began_s=began_ms / 1000, is_open=bool(is_open))
        return Due(
            before_s=before_s,
            last_request=last,
            requests=requests,
            started_at_s=None if started_at_ms is None else started_at_ms / 1000,
            held_up_by=found if is_in_the_way else None,
        )

    async def of_future(self, now_s: float) -> OfFuture | None:
        """Requests that say they began later than now. Reads all rows."""
        async with self._database.snapshot() as snapshot:
            ((requests, number),) = await snapshot.rows(_OF_FUTURE, (int(now_s * 1000),))
            if number is None:
                return None
            ((request_id, began_ms),) = await snapshot.rows(
                "SELECT id, started_at_ms FROM requests WHERE number = ?", (number,)
            )
        return OfFuture(requests=requests, request_id=request_id, began_s=began_ms / 1000)

    async def oldest_s(self, now_s: float) -> float | None:
        """When the first request began that has a row and does not say that it began later than now.

        Reads the rows that say so before it, and no others.
        """
        async with self._database.snapshot() as snapshot:
            row = await snapshot.row(_OLDEST, (int(now_s * 1000),))
        return None if row is None else row[0] / 1000

    async def last_summed_up_s(self) -> float | None:
        """The latest beginning of a request that was summed up; None if none was."""
        row = self._database.lookup("SELECT last_started_at_ms FROM summed_up WHERE last_started_at_ms > 0")
        return None if row is None else row[0] / 1000


def sum_up(connection: sqlite3.Connection, *, before_ms: int, through: int = 0, rows: int = STEP_ROWS) -> Step:
    """See ``LedgerMonths.step``. An operation of the writer's."""
    ((mark,),) = connection.execute("SELECT last_request FROM summed_up").fetchall()
    bounds = {"mark": mark, "before_ms": before_ms, "through": through, "rows": rows}
    ((until, count, started_at_ms, day, is_future_among_them),) = connection.execute(_NEXT, bounds).fetchall()
    if not count:
        return Step(is_last=not shrink_runs(connection, STEP_ENTRIES))
    passed = {"mark": mark, "until": until}
    connection.execute(_ADD_REQUESTS, passed)
    connection.execute(_ADD_CHARGES, passed)
    connection.execute(_FORGET_SPENT, {**passed, "day": day})
    if is_future_among_them:
        connection.execute(_COUNT_NO_MORE, {**passed, "before_ms": before_ms})
    connection.execute(_MOVE, {"until": until, "started_at_ms": started_at_ms})
    connection.execute("DELETE FROM entries WHERE number > :mark AND number <= :until", passed)
    connection.execute("DELETE FROM requests WHERE number > :mark AND number <= :until", passed)
    return Step(requests=count, started_at_s=started_at_ms / 1000)


#: The last number that may go, how many rows that is, the latest beginning of one, also as a day (of those that are not
#: of the future; else 0), and whether some are of the future.
_NEXT = """
WITH next AS MATERIALIZED (
    SELECT number, started_at_ms, started_at_ms < :before_ms AS is_old,
           state = 'open' OR started_at_ms >= :before_ms AND number > :through
           OR number = (SELECT max(number) FROM requests) AS stays
    FROM requests WHERE number > :mark ORDER BY number LIMIT :rows
),
gone AS (
    SELECT number, started_at_ms * is_old AS began_ms, is_old FROM next
    WHERE number < coalesce((SELECT min(number) FROM next WHERE stays), 9223372036854775807)
)
SELECT max(number), count(*), max(began_ms), strftime('%Y-%m-%d', max(began_ms) / 1000, 'unixepoch'), NOT min(is_old)
FROM gone
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

#: What budgets count of days and months of the future is what is there, as when they are counted anew. (It may be less
#: than that if rows have gone while the clock was ahead.)
_COUNT_NO_MORE = """
UPDATE key_spend SET spent_nano_usd = max(0, spent_nano_usd - gone.charge_nano_usd)
FROM (
    SELECT key, strftime(format, started_at_ms / 1000, 'unixepoch') AS period, sum(charge_nano_usd) AS charge_nano_usd
    FROM requests CROSS JOIN (SELECT '%Y-%m' AS format UNION ALL SELECT '%Y-%m-%d')
    WHERE number > :mark AND number <= :until AND started_at_ms >= :before_ms
    GROUP BY 1, 2
) AS gone
WHERE key_spend.key = gone.key AND key_spend.period = gone.period
"""

_MOVE = """
UPDATE summed_up SET last_request = :until, last_started_at_ms = max(last_started_at_ms, :started_at_ms)
"""

#: The first that stays, but for closed ones of the future. (There is one, the newest, unless there are none at all.)
_STAYS = """
SELECT number, id, state = 'open', number = (SELECT max(number) FROM requests), started_at_ms FROM requests
WHERE state = 'open' OR started_at_ms BETWEEN :before_ms AND :now_ms OR number = (SELECT max(number) FROM requests)
ORDER BY number LIMIT 1
"""

#: The last before that one which goes: those of the future go if the next which is not of the future is old enough.
_LAST = """
SELECT CASE
    WHEN (
        SELECT started_at_ms FROM requests WHERE number >= :number AND started_at_ms <= :now_ms ORDER BY number LIMIT 1
    ) < :before_ms THEN :number - 1
    ELSE coalesce((SELECT max(number) FROM requests WHERE number < :number AND started_at_ms < :before_ms), 0)
END
"""

_UP_TO = """
SELECT count(*), max(iif(started_at_ms < :before_ms, started_at_ms, NULL)) FROM requests WHERE number <= :last
"""

#: Is there an older one behind it? Whole runs say it for their rows; of its own run some rows may have gone.
_IS_BEFORE_OLDER = """
SELECT EXISTS (
    SELECT 1 FROM request_runs CROSS JOIN requests ON requests.number BETWEEN :number AND last_request
    WHERE :number BETWEEN first_request AND last_request AND started_at_ms < :before_ms
) OR EXISTS (
    SELECT 1 FROM request_runs WHERE first_request > :number AND first_started_at_ms < :before_ms
) OR EXISTS (
    SELECT 1 FROM requests
    WHERE number > max(:number, coalesce((SELECT max(last_request) FROM request_runs), 0))
      AND started_at_ms < :before_ms
)
"""

_OLDEST = "SELECT started_at_ms FROM requests WHERE started_at_ms <= ? ORDER BY number LIMIT 1"

_OF_FUTURE = "SELECT count(*), min(number) FROM requests WHERE started_at_ms > ?"
