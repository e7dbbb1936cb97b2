"""What a key has spent of late is counted from the ledger when it gets a budget, or another one.

The rule and the sum are the books' own (the trigger ``keys_budget_counts_anew``), in the transaction that changes the
key: so they are exact, whoever changes it. But a key with millions of requests takes seconds to count, in which no call
could be written. So most of it is counted beforehand, a few runs of the ledger at a time (``runs.py``), each in a
snapshot of its own, and laid before the trigger, which counts what came later. A request that was closed when it was
read never changes again; one that was open is noted by its number and looked at anew.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from bitmesh_proxy.storage.database import Database

#: So many runs are read under one snapshot, some 131,000 rows at most: a tenth of a second.
PART_RUNS: Final = 16
#: The same for rows that are in no run yet.
PART_ROWS: Final = 131_072

#: Hears how many of how many parts have been counted.
OnPart = Callable[[int, int], object]


class CountedSpending(msgspec.Struct, frozen=True, kw_only=True):
    """What was charged for a key's requests up to number ``last_request`` that began at ``since_s`` (Unix time) or
    later and were closed, by UTC day ("2026-08-20"), and the numbers of those that were open.

    ``latest_ms``: when the last of the closed ones began, in Unix milliseconds. ``summed_up``: the number up to which
    rows had been summed up and taken away (``months.py``) before the first was read.
    """

    key: int
    since_s: int
    last_request: int
    summed_up: int
    latest_ms: int
    spent_nano_usd: dict[str, int]
    open_requests: list[int]


async def count_spending(
    database: Database,
    key: int,
    *,
    on_part: OnPart = lambda done, parts: None,
    part_runs: int = PART_RUNS,
    part_rows: int = PART_ROWS,
) -> CountedSpending:
    """Count what counts for the budget of the key with this row number. Raises Unavailable."""
    async with database.snapshot() as snapshot:
        ((since_s, last_request, summed_up, indexed),) = await snapshot.rows(_BOUNDS, {"key": key})
        runs = [run for (run,) in await snapshot.rows(_RUNS, {"since_ms": 1000 * since_s})]
    in_runs = [(_IN_RUNS, runs[at : at + part_runs]) for at in range(0, len(runs), part_runs)]
    behind = [(_BEHIND, [first, first + part_rows]) for first in range(indexed, last_request, part_rows)]
    parts = in_runs + behind

    spent, still_open, latest_ms = Counter[str](), list[int](), 0
    for done, (sql, range_) in enumerate(parts):
        on_part(done, len(parts))
        of_part = {"key": key, "since_ms": 1000 * since_s, "last": last_request, "from": range_[0], "to": range_[-1]}
        async with database.snapshot() as snapshot:
            days = await snapshot.rows(sql, of_part)
        for day, charged_nano_usd, began_ms, opened in days:
            if day is not None:  # of years behind 9999
                spent[day] += charged_nano_usd
            latest_ms = max(latest_ms, began_ms)
            still_open += json.loads(opened)
    return CountedSpending(
        key=key,
        since_s=since_s,
        last_request=last_request,
        summed_up=summed_up,
        latest_ms=latest_ms,
        spent_nano_usd=dict(spent),
        open_requests=still_open,
    )


@contextmanager
def laid_before(connection: sqlite3.Connection, counted: CountedSpending | None, now_ms: int) -> Iterator[None]:
    """While the key's budget is changed in here, the books add to what was counted what is not in it. Part of an
    operation of the writer's, which undoes all of it where something raises.

    Nothing is laid before them if it would not be the whole: where spending counts from an earlier time on by now, as
    by a clock that was set back; or where it may tell of rows of the future that have been summed up meanwhile, which
    budgets count no more. ``now_ms``: Unix milliseconds.
    """
    if counted is None or not _holds(connection, counted, now_ms):
        yield
        return
    values: tuple[Any, ...] = (counted.key, counted.since_s, counted.last_request)
    as_json = json.dumps(counted.spent_nano_usd), json.dumps(counted.open_requests)
    connection.execute("INSERT INTO counted_spending VALUES (?, ?, ?, ?, ?)", (*values, *as_json))
    yield
    connection.execute("DELETE FROM counted_spending")


def _holds(connection: sqlite3.Connection, counted: CountedSpending, now_ms: int) -> bool:
    found = connection.execute(_BOUNDS, {"key": counted.key}).fetchall()
    if not found:  # the key has gone
        return False
    ((since_s, last_request, summed_up, _),) = found
    if since_s < counted.since_s or last_request < counted.last_request:
        return False
    return summed_up == counted.summed_up or counted.latest_ms <= now_ms


_BOUNDS = """
SELECT since_s, coalesce((SELECT number FROM requests ORDER BY number DESC LIMIT 1), 0),
       (SELECT last_request FROM summed_up),
       coalesce((SELECT last_request FROM request_runs ORDER BY number DESC LIMIT 1), 0)
FROM spending_counts_since WHERE key = :key
"""

_RUNS = "SELECT number FROM request_runs WHERE last_started_at_ms >= :since_ms ORDER BY number"

_SUMS = """
SELECT strftime('%Y-%m-%d', started_at_ms / 1000, 'unixepoch'),
       coalesce(sum(charge_nano_usd) FILTER (WHERE state <> 'open'), 0),
       coalesce(max(started_at_ms) FILTER (WHERE state <> 'open'), 0),
       json_group_array(requests.number) FILTER (WHERE state = 'open')
"""

_IN_RUNS = f"""
{_SUMS}
FROM request_runs CROSS JOIN requests_by_run ON run = request_runs.number AND requests_by_run.key = :key
CROSS JOIN requests ON requests.number = request
WHERE request_runs.number BETWEEN :from AND :to AND last_started_at_ms >= :since_ms AND requests.number <= :last
  AND started_at_ms >= :since_ms
GROUP BY 1
"""

_BEHIND = f"""
{_SUMS}
FROM requests
WHERE number > :from AND number <= min(:to, :last) AND requests.key = :key AND started_at_ms >= :since_ms
GROUP BY 1
"""
