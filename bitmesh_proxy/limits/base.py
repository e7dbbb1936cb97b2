"""What the limits have in common: they admit with a snapshot, or refuse with the time to come back.

A limit takes plain names (an address, a key's id) and knows neither requests nor keys. It admits in one synchronous
step, so no two callers are let in on one token. A refused request takes no token from the limit that refused it, and
keeps those that limits before it have taken: knocking is not free.

Whoever admits the same name often keeps its ``Bucket``, so that its key need not be put together again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from limits.limits import RateLimitItem, RateLimitItemPerMinute
from msgspec import Struct

from bitmesh_proxy.errors import RateLimited
from bitmesh_proxy.limits.headers import (
    Snapshot,
    go_duration,
    lines,
    policy_of,
    rate_limit_headers,
    rate_limit_lines,
    retry_after,
)
from bitmesh_proxy.limits.token_bucket import MICROSECONDS, BucketMemoryStorage, TokenBucketSupport

__all__ = ["Bucket", "Limit", "Passed", "Snapshot", "lines_of", "memory_buckets", "per_minute", "snapshots_of"]


class Limit:
    """One rate, with a bucket for each identifier.

    ``who`` completes the refusal: "Too many requests *from this address*". ``burst`` is the size of the buckets; 0
    stands for one window's worth. ``part`` tells limits of one policy apart that share ``buckets``; where no other
    limit of the same rate uses these, they are its ``own``, and an identifier is its bucket's key.
    Raises ValueError for a rate below 1: a limit that is switched off is not made.
    """

    def __init__(
        self,
        buckets: TokenBucketSupport,
        item: RateLimitItem,
        *,
        policy: str,
        who: str,
        burst: int = 0,
        part: str = "",
        own: bool = False,
    ) -> None:
        if item.amount < 1 or burst < 0:
            raise ValueError(f"a limit of {item.amount} requests with a burst of {burst} admits nobody")
        self.buckets = buckets
        self._acquire = buckets.acquire_tokens
        self._policy = policy
        self.policy_text = policy_of(item.amount, item.get_expiry(), burst or item.amount, policy)
        self.amount = item.amount
        self._burst = burst or item.amount
        self._window_s = item.get_expiry()
        self.token = self._window_s * MICROSECONDS
        self.capacity = self._burst * self.token
        self._refusal = f"Too many requests {who}: {item.amount} per {_name_of(self._window_s)} are allowed."
        self.own = own
        #: The package's key for (policy, part, identifier) has these around it: put together in place, because building
        #: it is half the price of a hit.
        names = (policy, part, "\0") if part else (policy, "\0")
        self.before, self.after = ("", "") if own else item.key_for(*names).split("\0")
        #: Admits one request under such a key, as ``TokenBucketSupport.taker`` says; -1: ``admit`` has to say more.
        self.take = buckets.taker(item.amount, self.token, self.capacity)

    def admit(self, identifier: str) -> Snapshot:
        """Enter, or raise RateLimited, whose ``headers`` say how the bucket stands and when to come back."""
        amount, key = self.amount, self.key_of(identifier)
        if (missing := self.take(key)) >= 0:
            return self.snapshot(missing)
        state = self._acquire(key, amount, self._window_s, burst=self._burst)
        remaining = state.remaining
        if remaining > amount:
            remaining = amount
        snapshot = Snapshot(amount, remaining, state.reset_after_s, self._window_s, self._burst, self._policy)
        if state.admitted:
            return snapshot
        wait = retry_after(state.retry_after_s)
        raise RateLimited(
            f"{self._refusal} Try again in {wait} s.",
            retry_after_s=state.retry_after_s,
            headers={"Retry-After": wait, **rate_limit_headers([snapshot])},
        )

    def bucket(self, identifier: str) -> Bucket:
        """The identifier's bucket, for whoever admits it often."""
        return Bucket(self, identifier, self.key_of(identifier))

    def key_of(self, identifier: str) -> str:
        """What ``take`` knows the identifier's bucket by."""
        return identifier if self.own else f"{self.before}{identifier}{self.after}"

    def snapshot(self, missing: int) -> Snapshot:
        """How a bucket stands of which ``take`` has said that so much is missing."""
        amount = self.amount
        remaining, reset_s = (self.capacity - missing) // self.token, -(-missing // amount) / MICROSECONDS
        if remaining > amount:
            remaining = amount
        return Snapshot(amount, remaining, reset_s, self._window_s, self._burst, self._policy)


class Bucket(Struct, frozen=True, eq=False, gc=False):
    """One identifier's bucket: ``limit.take(key)``, and where that says -1, ``limit.admit(identifier)``."""

    limit: Limit
    identifier: str
    key: str


#: A limit that a request has passed, and how its bucket stood: what ``Limit.take`` or ``Limit.admit`` has said.
Passed: TypeAlias = tuple[Limit, int] | Snapshot


def snapshots_of(passed: Sequence[Passed]) -> list[Snapshot]:
    """The same in one kind."""
    return [each if isinstance(each, Snapshot) else each[0].snapshot(each[1]) for each in passed]


def lines_of(passed: Sequence[Passed]) -> str:
    """``rate_limit_lines``, computed for the tightest limit only: each answer has them."""
    policies, tight, tight_share, tight_remaining, tight_us = "", None, 2.0, 0, 0
    for each in passed:
        if isinstance(each, Snapshot):
            return rate_limit_lines(snapshots_of(passed))
        limit, missing = each
        amount = limit.amount
        remaining, reset_us = (limit.capacity - missing) // limit.token, -(-missing // amount)
        if remaining > amount:
            remaining = amount
        share = remaining / amount
        if share < tight_share or (share == tight_share and reset_us > tight_us):
            tight, tight_share, tight_remaining, tight_us = limit, share, remaining, reset_us
        policies = f"{policies}, {limit.policy_text}" if policies else limit.policy_text
    if tight is None:
        return ""
    reset_s, reset_ms = -(-tight_us // MICROSECONDS), -(-tight_us // 1000)
    duration = f"{reset_ms}ms" if 0 < reset_ms < 1000 else go_duration(tight_us / MICROSECONDS)
    return lines(tight.amount, tight_remaining, reset_s, policies, duration)


def memory_buckets() -> TokenBucketSupport:
    """Buckets in this process. Each limit has its own, so that a flood of addresses cannot push out keys."""
    return BucketMemoryStorage()


def per_minute(amount: int) -> RateLimitItem:
    """The unit of the settings: so many a minute."""
    return RateLimitItemPerMinute(amount)


def _name_of(window_s: int) -> str:
    return {1: "second", 60: "minute", 3600: "hour", 86400: "day"}.get(window_s, f"{window_s} seconds")
