"""Snapshots as headers: the `RateLimit` fields, and those that OpenAI's clients read.

Of several limits the tightest speaks, the one of which the smallest share is left; ``RateLimit-Policy`` lists them all.
Sources: draft-ietf-httpapi-ratelimit-headers-07 (the last with one field for each number, which is what clients read);
OpenAI, "Rate limits", on the ``x-ratelimit-*`` fields, whose durations are written as Go does (``6m0s``, ``12ms``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Snapshot(NamedTuple):
    """How a bucket stands after a request came. A named tuple, because each request makes up to three.

    ``limit`` requests come back in each ``window_s``, until the bucket holds ``burst``; it takes ``reset_s`` from now.
    ``remaining`` is never above ``limit``, also where the burst is, so that readers may divide one by the other.
    ``policy`` names the limit: ``address``, ``key``, ``endpoint``.
    """

    limit: int
    remaining: int
    reset_s: float
    window_s: int
    burst: int
    policy: str


def rate_limit_headers(snapshots: Iterable[Snapshot | None]) -> dict[str, str]:
    """The headers of an answer that passed these limits, or was stopped by one. None stands for a limit that is off."""
    met = [snapshot for snapshot in snapshots if snapshot is not None]
    if not met:
        return {}
    tight = tightest(met) if len(met) > 1 else met[0]
    limit, remaining = str(tight.limit), str(tight.remaining)
    return {
        "RateLimit-Limit": limit,
        "RateLimit-Remaining": remaining,
        "RateLimit-Reset": str(math.ceil(tight.reset_s)),
        "RateLimit-Policy": ", ".join(_policy(snapshot) for snapshot in met),
        "x-ratelimit-limit-requests": limit,
        "x-ratelimit-remaining-requests": remaining,
        "x-ratelimit-reset-requests": go_duration(tight.reset_s),
    }


def tightest(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The one with the smallest share left; of equals, the one that takes longest to fill."""
    return min(snapshots, key=lambda snapshot: (snapshot.remaining / snapshot.limit, -snapshot.reset_s))


def retry_after(seconds: float) -> str:
    """The value of ``Retry-After``: whole seconds, rounded up so that the wait is enough, at least 1."""
    return str(max(1, math.ceil(seconds)))


def go_duration(seconds: float) -> str:
    """Seconds as Go prints a ``time.Duration``, rounded up to milliseconds: ``0s``, ``12ms``, ``1.5s``, ``6m0s``."""
    # Via microseconds, so that 0.012 does not become 13 ms by its last binary digit.
    milliseconds = -(-round(seconds * 1_000_000) // 1000)
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole, rest = divmod(milliseconds, 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{rest:03}".rstrip("0") if rest else ""
    text = f"{whole}{fraction}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _policy(snapshot: Snapshot) -> str:
    return f'{snapshot.limit};w={snapshot.window_s};burst={snapshot.burst};comment="{snapshot.policy}"'
