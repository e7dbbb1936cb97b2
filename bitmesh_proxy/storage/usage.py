"""Reports over the ledger: what was used and what it cost, by key, model, day and the like. Off the request's way.

Every query goes from keys to their requests through the index by key and time, so that a report over a day does not
read the years before it.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        columns = [_DIMENSIONS[dimension] for dimension in dimensions]
        conditions, parameters = _conditions(which)
        grouping = f" GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else ""
        rows = await self._database.read(
            f"SELECT {''.join(column + ', ' for column in columns)}{_SUMS}{_FROM}{conditions}{grouping}",
            parameters,
        )
        lines = []
        for row in rows:
            group, sums = row[: len(columns)], row[len(columns) :]
            requests, failed, tokens_in, tokens_out, images, characters, duration_ms, cost, charge = sums
            lines.append(
                UsageLine(
                    group=tuple(str(value) for value in group),
                    requests=requests,
                    failed=failed,
                    input_tokens=tokens_in,
                    output_tokens=tokens_out,
                    images=images,
                    characters=characters,
                    duration_ms=duration_ms,
                    cost_nano_usd=NanoUsd(cost),
                    charge_nano_usd=NanoUsd(charge),
                )
            )
        return lines


_SUMS = (
    "count(*), coalesce(sum(outcome <> 'completed'), 0), coalesce(sum(input_tokens), 0),"
    " coalesce(sum(output_tokens), 0), coalesce(sum(images), 0), coalesce(sum(characters), 0),"
    " coalesce(sum(duration_ms), 0), coalesce(sum(cost_nano_usd), 0), coalesce(sum(charge_nano_usd), 0)"
)
# CROSS JOIN keeps the order of the tables, so that SQLite seeks each key's stretch of time in the index.
_FROM = (
    " FROM accounts CROSS JOIN keys ON keys.account = accounts.number CROSS JOIN requests ON requests.key = keys.number"
    " JOIN names AS endpoints ON endpoints.number = requests.endpoint"
    " JOIN names AS models ON models.number = requests.model"
    " LEFT JOIN names AS providers ON providers.number = requests.provider"
)


def _conditions(which: UsageFilter) -> tuple[str, list[str | int]]:
    pairs: list[tuple[str, str | int | None]] = [
        ("accounts.id = ?", which.account_id),
        ("keys.id = ?", which.key_id),
        ("models.name = ?", which.model),
        ("started_at_ms >= ?", None if which.since_s is None else int(which.since_s * 1000)),
        ("started_at_ms < ?", None if which.until_s is None else int(which.until_s * 1000)),
        ("live = ?", None if which.is_live is None else int(which.is_live)),
    ]
    said = [(condition, value) for condition, value in pairs if value is not None]
    text = " WHERE " + " AND ".join(condition for condition, _ in said) if said else ""
    return text, [value for _, value in said]
