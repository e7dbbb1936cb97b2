"""Reports over the ledger: what was used and what it cost, by key, model, day and the like. Off the request's way.

A report reads the runs of rows (``runs.py``) in which requests of its time began, and the rows that are newer than the
last run. Of an account or a key it reads that one's rows only, of the newer ones those whose key it is.

Requests that were summed up (``months.py``) count as the sums of their months. All that is known of their time is the
month: by day they stand under it (``2026-08``), and a report of a certain time takes a sum whole if its month begins
within. So reports of times that follow on each other add up to the report of the whole time, and none counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Literal

import msgspec

from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database

Dimension = Literal["account", "key", "model", "provider", "endpoint", "day", "month", "outcome"]

#: What a dimension is in SQL. Names of columns cannot be bound, so they come from here and from nowhere else.
_DIMENSIONS: dict[str, str] = {
    "account": "accounts.id",
    "key": "keys.id",
    "model": "models.name",
    "provider": "coalesce(providers.name, '')",
    "endpoint": "endpoints.name",
    "day": "strftime('%Y-%m-%d', started_at_ms / 1000, 'unixepoch')",
    "month": "strftime('%Y-%m', started_at_ms / 1000, 'unixepoch')",
    "outcome": "coalesce(outcome, 'open')",
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

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by(self, dimensions: Sequence[Dimension], which: UsageFilter | None = None) -> list[UsageLine]:
        """One line for each group, in the order of its values; without dimensions one line for all."""
        which = which or UsageFilter()
        conditions, parameters = _conditions(which)
        sums: dict[tuple[str, ...], tuple[int, ...]] = {}
        async with self._database.snapshot() as snapshot:
            for sql in (
                _query(_DIMENSIONS, dimensions, _SUMS + _from(which) + conditions),
                _query(_MONTH_DIMENSIONS, dimensions, _MONTH_SUMS + _from_months(which)),
            ):
                for row in await snapshot.rows(sql, parameters):
                    group, figures = tuple(str(value) for value in row[: len(dimensions)]), row[len(dimensions) :]
                    sums[group] = tuple(map(add, sums[group], figures)) if group in sums else figures
        return [_line(group, figures) for group, figures in sorted(sums.items())]


def _query(names: dict[str, str], dimensions: Sequence[Dimension], rest: str) -> str:
    columns = [names[dimension] for dimension in dimensions]
    grouping = f" GROUP BY {', '.join(columns)}" if columns else ""
    return f"SELECT {''.join(column + ', ' for column in columns)}{rest}{grouping}"


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
    "count(*), coalesce(sum(outcome <> 'completed'), 0), coalesce(sum(input_tokens), 0),"
    " coalesce(sum(output_tokens), 0), coalesce(sum(images), 0), coalesce(sum(characters), 0),"
    " coalesce(sum(duration_ms), 0), coalesce(sum(cost_nano_usd), 0), coalesce(sum(charge_nano_usd), 0)"
)
_NEWER = "requests.number > coalesce((SELECT last_request FROM request_runs ORDER BY number DESC LIMIT 1), 0)"
_RUNS = (
    "(SELECT * FROM request_runs WHERE last_started_at_ms >= coalesce(:since_ms, last_started_at_ms)"
    " AND first_started_at_ms < coalesce(:until_ms, first_started_at_ms + 1)) AS run"
)
_ALL = (
    f"(SELECT first_request, last_request FROM {_RUNS} UNION ALL"  # noqa: S608
    " SELECT coalesce(max(last_request), 0) + 1, 9223372036854775807 FROM request_runs) AS stretch"
    " CROSS JOIN requests ON requests.number BETWEEN stretch.first_request AND stretch.last_request"
)


def _from(which: UsageFilter) -> str:
    """The rows that may count, before ``_conditions``. (CROSS JOIN keeps the order of the tables.)"""
    wanted = [_CONDITIONS[name] for name in ("account_id", "key_id") if getattr(which, name) is not None]
    return (
        f" FROM {_of_keys(' AND '.join(wanted)) if wanted else _ALL}"
        " CROSS JOIN keys ON keys.number = requests.key CROSS JOIN accounts ON accounts.number = keys.account"
        " CROSS JOIN names AS endpoints ON endpoints.number = requests.endpoint"
        " CROSS JOIN names AS models ON models.number = requests.model"
        " LEFT JOIN names AS providers ON providers.number = requests.provider"
    )


def _chosen(wanted: str) -> str:
    return f"(SELECT keys.number FROM accounts JOIN keys ON keys.account = accounts.number WHERE {wanted})"  # noqa: S608


def _of_keys(wanted: str) -> str:
    chosen = _chosen(wanted)
    return (
        f"(SELECT request FROM {_RUNS} CROSS JOIN {chosen} AS chosen"  # noqa: S608
        " CROSS JOIN requests_by_run ON requests_by_run.run = run.number AND requests_by_run.key = chosen.number"
        f" UNION ALL SELECT requests.number FROM requests WHERE {_NEWER} AND requests.key IN {chosen}) AS found"
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


_CONDITIONS = {
    "account_id": "accounts.id = :account_id",
    "key_id": "keys.id = :key_id",
    "model": "models.name = :model",
    "since_ms": "started_at_ms >= :since_ms",
    "until_ms": "started_at_ms < :until_ms",
    "live": "live = :live",
}

# ------------------------------------------------------------ what was summed up

_MONTH_DIMENSIONS: dict[str, str] = {
    **_DIMENSIONS,
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
    wanted = [_CONDITIONS[name] for name in ("account_id", "key_id") if getattr(which, name) is not None]
    said = [_CONDITIONS[name] for name, value in (("model", which.model), ("live", which.is_live)) if value is not None]
    keys = f" AND summed.key IN {_chosen(' AND '.join(wanted))}" if wanted else ""
    return (
        f" FROM {_MONTHS} CROSS JOIN request_months AS summed ON summed.month = counted.month{keys}"
        " CROSS JOIN keys ON keys.number = summed.key CROSS JOIN accounts ON accounts.number = keys.account"
        " CROSS JOIN names AS endpoints ON endpoints.number = summed.endpoint"
        " CROSS JOIN names AS models ON models.number = summed.model"
        " LEFT JOIN names AS providers ON providers.number = summed.provider"
    ) + (" WHERE " + " AND ".join(said) if said else "")
