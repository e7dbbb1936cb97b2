"""Snapshots as headers: the `RateLimit` fields, and those that OpenAI's clients read.

Of several limits the tightest speaks, the one of which the smallest share is left; ``RateLimit-Policy`` lists them all.
Sources: draft-ietf-httpapi-ratelimit-headers-07 (the last with one field for each number, which is what clients read);
OpenAI, "Rate limits", on the ``x-ratelimit-*`` fields, whose durations are written as Go does (``6m0s``, ``12ms``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct


class Snapshot(Struct, frozen=True, gc=False):
    """How a bucket stands after a request came. A struct, because each request makes up to three.

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
    values = _values(snapshots)
    if values is None:
        return {}
    limit, remaining, reset_s, policies, duration = values
    return {
        "RateLimit-Limit": str(limit),
        "RateLimit-Remaining": str(remaining),
        "RateLimit-Reset": str(reset_s),
        "RateLimit-Policy": policies,
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": duration,
    }


def rate_limit_lines(snapshots: Iterable[Snapshot | None]) -> str:
    """The same headers as lines of an answer's head, each with its line end; empty where no limit was met."""
    values = _values(snapshots)
    return "" if values is None else lines(*values)


def lines(limit: int, remaining: int, reset_s: int, policies: str, duration: str) -> str:
    """The lines of the tightest limit (``_values``)."""
    return (
        f"RateLimit-Limit: {limit}\r\nRateLimit-Remaining: {remaining}\r\nRateLimit-Reset: {reset_s}\r\n"
        f"RateLimit-Policy: {policies}\r\nx-ratelimit-limit-requests: {limit}\r\n"
        f"x-ratelimit-remaining-requests: {remaining}\r\nx-ratelimit-reset-requests: {duration}\r\n"
    )


def _values(snapshots: Iterable[Snapshot | None]) -> tuple[int, int, int, str, str] | None:
    """Limit, remaining, reset in seconds, policies, and reset as a duration; None where no limit was met."""
    tight: Snapshot | None = None
    policies = ""
    for snapshot in snapshots:
        if snapshot is None:
            continue
        policy = policy_of(snapshot.limit, snapshot.window_s, snapshot.burst, snapshot.policy)
        if tight is None:
            tight, policies = snapshot, policy
        else:
            tight, policies = _tighter(tight, snapshot), f"{policies}, {policy}"
    if tight is None:
        return None
    reset_s = tight.reset_s
    return tight.limit, tight.remaining, math.ceil(reset_s), policies, go_duration(reset_s)


def _tighter(one: Snapshot, other: Snapshot) -> Snapshot:
    """The one with the smaller share left; of equals, the one that takes longer to fill, or the first."""
    share, other_share = one.remaining / one.limit, other.remaining / other.limit
    if other_share == share:
        return other if other.reset_s > one.reset_s else one
    return other if other_share < share else one


def retry_after(seconds: float) -> str:
    """The value of ``Retry-After``: whole seconds, rounded up so that the wait is enough, at least 1."""
    return str(max(1, math.ceil(seconds)))


def go_duration(seconds: float) -> str:
    """Seconds as Go prints a ``time.Duration``, rounded up to milliseconds: ``0s``, ``12ms``, ``1.5s``, ``6m0s``."""
    # Via microseconds, so that 0.012 does not become 13 ms by its last binary digit.
    milliseconds = -(-round(seconds * 1_000_000) // 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds > 0 else "0s"
    whole, rest = divmod(milliseconds, 1000)
    fraction = f".{rest:03}".rstrip("0") if rest else ""
    if whole < 60:
        return f"{whole}{fraction}s"
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes}m{whole}{fraction}s"
    return f"{hours}h{text}" if hours else text


@lru_cache(maxsize=1024)  # there are as many as limits, and rates of keys
def policy_of(limit: int, window_s: int, burst: int, policy: str) -> str:
    """A limit, as ``RateLimit-Policy`` lists it."""
    return f'{limit};w={window_s};burst={burst};comment="{policy}"'
