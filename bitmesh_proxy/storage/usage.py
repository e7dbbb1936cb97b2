"""Reports over the ledger: what was used and what it cost, by key, model, day and the like. Off the request's way.

A report reads the runs of rows (``runs.py``) in which requests of its time began, and the rows that are newer than the
last run. Of an account or a key it reads that one's rows only, of the newer ones those whose key it is.

It reads them in parts, the lowest numbers first, each in a short snapshot of its own, and rests between them: as long
as a snapshot lasts, the write-ahead log cannot start over (``checkpoints.py``). What counts:

- Requests that are there when the report begins, each exactly once. Later ones do not, so that it comes to an end.
- Each as it is when its part is read. One that is open then counts as open, with neither cost nor charge, though it may
  be settled before the report ends; one that is settled never changes again.
- Sums of months as they are when the report begins, read in one snapshot. Requests that are summed up meanwhile have
  been read as rows before: both begin with the lowest numbers. Where summing up was faster, the report begins anew.

Requests that were summed up (``months.py``) count as the sums of their months. All that is known of their time is the
month: by day they stand under it (``2026-08``), and a report of a certain time takes a sum whole if its month begins
within. So reports of times that follow on each other add up to the report of the whole time, and none counts twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from operator import add
from typing import Final, Literal, TypeAlias

import msgspec

from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database, Parameters, Snapshot

Dimension = Literal["account", "key", "model", "provider", "endpoint", "day", "month", "outcome"]

#: Called with how many rows have been looked at, and of how many.
OnPart: TypeAlias = Callable[[int, int], object]

#: Rows of a part, which takes some tenths of a second. (A part may have as many groups.)
PART_ROWS: Final = 262_144
#: So many times as long where only rows of an account or a key are read, which are fewer.
PART_OF_KEYS: Final = 8
#: A report rests so long when it has read for so long: the end of the log is copied when nobody reads, and who copies
#: it looks twice a second. (With short rests behind every part, he seldom met one.)
READS_S: Final = 1.0
RESTS_S: Final = 0.75

#: What rows are grouped by. Names of columns cannot be bound, so they come from here and from nowhere else. (Numbers,
#: for each row is compared with others: what they stand for is looked up at the end, once for each.)
_GROUPS: dict[str, str] = {
    "account": "requests.account",
    "key": "requests.key",
    "model": "requests.model",
    "provider": "coalesce(requests.provider, 0)",
    "endpoint": "requests.endpoint",
    "day": "started_at_ms / 86400000",
    "month": "started_at_ms / 86400000",
    "outcome": "coalesce(outcome, 'open')",
}
#: What is made of it then, once for each group of a part.
_SHOWN: dict[str, str] = {
    "day": "strftime('%Y-%m-%d', 86400 * day, 'unixepoch')",
    "month": "strftime('%Y-%m', 86400 * month, 'unixepoch')",
}
#: What the numbers of a dimension stand for.
_NAMES: dict[str, str] = {
    "account": "SELECT number, id FROM accounts",
    "key": "SELECT number, id FROM keys",
    **dict.fromkeys(("model", "provider", "endpoint"), "SELECT number, name FROM names"),
}


class UsageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests count. Times are Unix seconds; ``is_live`` False asks for test calls only."""

    account_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    since_s: float | None = None
    until_s: float | None = None
    is_live: bool | None = None


class UsageLine(msgspec.Struct, frozen=True, kw_only=True):
    """One group of requests. ``group`` has a value for each dimension that was asked for."""

    group: tuple[str, ...]
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    images: int
    characters: int
    duration_ms: int
    cost_nano_usd: NanoUsd
    charge_nano_usd: NanoUsd


class UsageReports:
    """Sums the ledger."""

    def __init__(self, database: Database, *, part_rows: int = PART_ROWS) -> None:
        self._database = database
        self._part_rows = part_rows

    async def by(
        self, dimensions: Sequence[Dimension], which: UsageFilter | None = None, *, on_part: OnPart | None = None
    ) -> list[UsageLine]:
        """One line for each group, in the order of its values; without dimensions one line for all."""
        return list(await self.lines(dimensions, which, on_part=on_part))

    async def lines(
        self, dimensions: Sequence[Dimension], which: UsageFilter | None = None, *, on_part: OnPart | None = None
    ) -> Iterator[UsageLine]:
        """The same, each line made when it is asked for. The database is no longer needed then."""
        report = None
        while report is None:
            report = await self._read(dimensions, which or UsageFilter(), on_part)
        sums, names = report

        def shown(group: _Group) -> tuple[str, ...]:
            return tuple(
                value if isinstance(value, str) else of.get(value, "") for value, of in zip(group, names, strict=True)
            )

        return (_line(shown(group), sums.pop(group)) for group in sorted(sums, key=shown))

    async def _read(
        self, dimensions: Sequence[Dimension], which: UsageFilter, on_part: OnPart | None
    ) -> tuple[_Sums, list[dict[int, str]]] | None:
        """The sums of all groups, and for each dimension what its numbers stand for. None: rows went unread."""
        conditions, parameters = _conditions(which)
        sql = _query(_GROUPS, _SHOWN, dimensions, _SUMS + _from(which) + conditions)
        sums: _Sums = {}
        async with self._database.snapshot() as snapshot:
            done = first = await _summed_up(snapshot)
            newest = await snapshot.row("SELECT max(number) FROM requests")
            last = (newest and newest[0]) or 0
            await _add(
                sums, snapshot, _query(_MONTH_GROUPS, {}, dimensions, _MONTH_SUMS + _from_months(which)), parameters
            )
        loop, read_s = asyncio.get_running_loop(), 0.0
        while done < last:
            began_s = loop.time()
            until = min(last, done + self._part_rows * (PART_OF_KEYS if _is_of_keys(which) else 1))
            async with self._database.snapshot() as snapshot:
                if await _summed_up(snapshot) > done:
                    return None
                await _add(sums, snapshot, sql, {**parameters, "first": done + 1, "last": until})
            done = until
            if on_part is not None:
                on_part(done - first, last - first)
            read_s += loop.time() - began_s
            if done < last and read_s >= READS_S:
                await asyncio.sleep(RESTS_S)
                read_s = 0.0
        async with self._database.snapshot() as snapshot:
            return sums, [
                await _names_of(snapshot, dimension, {group[place] for group in sums})
                for place, dimension in enumerate(dimensions)
            ]


#: Numbers, and where there are none texts.
_Group: TypeAlias = tuple[int | str, ...]
_Sums: TypeAlias = dict[_Group, tuple[int, ...]]


async def _summed_up(snapshot: Snapshot) -> int:
    ((last_request,),) = await snapshot.rows("SELECT last_request FROM summed_up")
    return int(last_request)


async def _add(sums: _Sums, snapshot: Snapshot, sql: str, parameters: Parameters) -> None:
    """Add up what was found. (Here and not in SQL, which has no figures above 2^63.)"""
    for row in await snapshot.rows(sql, parameters):
        group, figures = row[:-_FIGURES], row[-_FIGURES:]
        known = sums.get(group)
        sums[group] = figures if known is None else tuple(map(add, known, figures))


async def _names_of(snapshot: Snapshot, dimension: Dimension, values: set[int | str]) -> dict[int, str]:
    if dimension not in _NAMES:
        return {}
    sql = f"{_NAMES[dimension]} WHERE number IN (SELECT value FROM json_each(?))"  # noqa: S608 - made of constants
    return dict(await snapshot.rows(sql, (json.dumps(list(values)),)))


def _query(groups: dict[str, str], shown: dict[str, str], dimensions: Sequence[Dimension], rest: str) -> str:
    """``rest``: the figures, and where from."""
    if not dimensions:
        return f"SELECT {rest}"
    columns = ", ".join(f"{groups[dimension]} AS {dimension}" for dimension in dimensions)
    places = ", ".join(str(place) for place, _ in enumerate(dimensions, start=1))
    grouped = f"SELECT {columns}, {rest} GROUP BY {places}"
    if shown.keys().isdisjoint(dimensions):
        return grouped
    names = ", ".join(f"{shown.get(dimension, dimension)} AS {dimension}" for dimension in dimensions)
    return f"SELECT {names}, {_FIGURE_NAMES} FROM ({grouped})"  # noqa: S608 - made of constants


def _line(group: tuple[str, ...], figures: tuple[int, ...]) -> UsageLine:
    requests, failed, input_tokens, output_tokens, images, characters, duration_ms, cost, charge = figures
    return UsageLine(
        group=group,
        requests=requests,
        failed=failed,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        images=images,
        characters=characters,
        duration_ms=duration_ms,
        cost_nano_usd=NanoUsd(cost),
        charge_nano_usd=NanoUsd(charge),
    )


_SUMS = (
    "count(*) AS f1, coalesce(sum(outcome <> 'completed'), 0) AS f2, coalesce(sum(input_tokens), 0) AS f3,"
    " coalesce(sum(output_tokens), 0) AS f4, coalesce(sum(images), 0) AS f5, coalesce(sum(characters), 0) AS f6,"
    " coalesce(sum(duration_ms), 0) AS f7, coalesce(sum(cost_nano_usd), 0) AS f8,"
    " coalesce(sum(charge_nano_usd), 0) AS f9"
)
_FIGURES: Final = 9
_FIGURE_NAMES = ", ".join(f"f{number}" for number in range(1, _FIGURES + 1))

#: A part is made of the rows from ``:first`` to ``:last``.
_BEHIND_RUNS = "coalesce((SELECT last_request FROM request_runs ORDER BY number DESC LIMIT 1), 0) + 1"
_RUNS = (
    "(SELECT * FROM request_runs WHERE last_request >= :first AND first_request <= :last"
    " AND last_started_at_ms >= coalesce(:since_ms, last_started_at_ms)"
    " AND first_started_at_ms < coalesce(:until_ms, first_started_at_ms + 1)) AS run"
)
_ALL = (
    "(SELECT max(first_request, :first) AS first_request, min(last_request, :last) AS last_request"  # noqa: S608
    f" FROM {_RUNS} UNION ALL SELECT max({_BEHIND_RUNS}, :first), :last) AS stretch"
    " CROSS JOIN requests ON requests.number BETWEEN stretch.first_request AND stretch.last_request"
)


def _is_of_keys(which: UsageFilter) -> bool:
    return which.account_id is not None or which.key_id is not None


def _from(which: UsageFilter) -> str:
    """The rows of a part that may count, before ``_conditions``. (CROSS JOIN keeps the order of the tables.)"""
    if not _is_of_keys(which):
        return f" FROM {_ALL}"
    wanted = [_KEY_CONDITIONS[name] for name in _KEY_CONDITIONS if getattr(which, name) is not None]
    return f" FROM {_of_keys(' AND '.join(wanted))}"


def _chosen(wanted: str) -> str:
    return f"(SELECT keys.number FROM accounts JOIN keys ON keys.account = accounts.number WHERE {wanted})"  # noqa: S608


def _of_keys(wanted: str) -> str:
    chosen = _chosen(wanted)
    return (
        f"(SELECT request FROM {_RUNS} CROSS JOIN {chosen} AS chosen"  # noqa: S608
        " CROSS JOIN requests_by_run ON requests_by_run.run = run.number AND requests_by_run.key = chosen.number"
        " AND requests_by_run.request BETWEEN :first AND :last UNION ALL SELECT requests.number FROM requests"
        f" WHERE requests.number BETWEEN max({_BEHIND_RUNS}, :first) AND :last AND requests.key IN {chosen}) AS found"
        " CROSS JOIN requests ON requests.number = found.request"
    )


def _conditions(which: UsageFilter) -> tuple[str, dict[str, str | int | None]]:
    values: dict[str, str | int | None] = {
        "account_id": which.account_id,
        "key_id": which.key_id,
        "model": which.model,
        "since_ms": None if which.since_s is None else int(which.since_s * 1000),
        "until_ms": None if which.until_s is None else int(which.until_s * 1000),
        "live": None if which.is_live is None else int(which.is_live),
    }
    said = [condition for name, condition in _CONDITIONS.items() if values[name] is not None]
    return (" WHERE " + " AND ".join(said) if said else ""), values


_KEY_CONDITIONS = {"account_id": "accounts.id = :account_id", "key_id": "keys.id = :key_id"}
_CONDITIONS = {
    "model": "model = (SELECT number FROM names WHERE name = :model)",
    "since_ms": "started_at_ms >= :since_ms",
    "until_ms": "started_at_ms < :until_ms",
    "live": "live = :live",
}

# ------------------------------------------------------------ what was summed up

_MONTH_GROUPS: dict[str, str] = {
    **{dimension: f"summed.{dimension}" for dimension in ("key", "model", "provider", "endpoint")},
    "account": "keys.account",
    "day": "summed.month",
    "month": "summed.month",
    "outcome": "CASE outcome WHEN '' THEN 'open' ELSE outcome END",
}

_MONTH_SUMS = (
    "coalesce(sum(requests), 0), coalesce(sum(requests * (outcome NOT IN ('completed', ''))), 0),"
    " coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(images), 0),"
    " coalesce(sum(characters), 0), coalesce(sum(duration_ms), 0), coalesce(sum(cost_nano_usd), 0),"
    " coalesce(sum(charge_nano_usd), 0)"
)

#: Each month that there are sums of, one seek for each.
_MONTHS = (
    "(WITH RECURSIVE months (month) AS (SELECT min(month) FROM request_months UNION ALL"
    " SELECT (SELECT min(month) FROM request_months WHERE month > months.month) FROM months WHERE month IS NOT NULL)"
    " SELECT month FROM months WHERE month IS NOT NULL"
    " AND 1000 * strftime('%s', month || '-01') >= coalesce(:since_ms, -9223372036854775808)"
    " AND 1000 * strftime('%s', month || '-01') < coalesce(:until_ms, 9223372036854775807)) AS counted"
)


def _from_months(which: UsageFilter) -> str:
    """The sums that count. Of an account or a key, those of each month are found by one seek for each of its keys."""
    wanted = [_KEY_CONDITIONS[name] for name in _KEY_CONDITIONS if getattr(which, name) is not None]
    said = [_CONDITIONS[name] for name, value in (("model", which.model), ("live", which.is_live)) if value is not None]
    keys = f" AND summed.key IN {_chosen(' AND '.join(wanted))}" if wanted else ""
    return (
        f" FROM {_MONTHS} CROSS JOIN request_months AS summed ON summed.month = counted.month{keys}"
        " CROSS JOIN keys ON keys.number = summed.key"
    ) + (" WHERE " + " AND ".join(said) if said else "")
