"""What the limits have in common: they admit with a snapshot, or refuse with the time to come back.

A limit takes plain names (an address, a key's id) and knows neither requests nor keys. It admits in one synchronous
step, so no two callers are let in on one token. A refused request takes no token from the limit that refused it, and
keeps those that limits before it have taken: knocking is not free.
"""

from __future__ import annotations

from limits.limits import RateLimitItem, RateLimitItemPerMinute

from bitmesh_proxy.errors import RateLimited
from bitmesh_proxy.limits.headers import Snapshot, rate_limit_headers, retry_after
from bitmesh_proxy.limits.token_bucket import MICROSECONDS, BucketMemoryStorage, TokenBucketSupport

__all__ = ["Limit", "Snapshot", "memory_buckets", "per_minute"]


class Limit:
    """One rate, with a bucket for each identifier.

    ``who`` completes the refusal: "Too many requests *from this address*". ``burst`` is the size of the buckets; 0
    stands for one window's worth. Raises ValueError for a rate below 1: a limit that is switched off is not made.
    """

    def __init__(
        self, buckets: TokenBucketSupport, item: RateLimitItem, *, policy: str, who: str, burst: int = 0
    ) -> None:
        if item.amount < 1 or burst < 0:
            raise ValueError(f"a limit of {item.amount} requests with a burst of {burst} admits nobody")
        self._acquire = buckets.acquire_tokens
        self._take = buckets.take_token
        self._return = buckets.return_tokens
        self._policy = policy
        self._amount = item.amount
        self._burst = burst or item.amount
        self._window_s = item.get_expiry()
        self._token = self._window_s * MICROSECONDS
        self._capacity = self._burst * self._token
        self._refusal = f"Too many requests {who}: {item.amount} per {_name_of(self._window_s)} are allowed."
        # The package's key for (policy, identifier), taken apart once: building it is half the price of a hit.
        self._before, self._after = item.key_for(policy, "\0").split("\0")

    def admit(self, identifier: str, *, cost: int = 1) -> Snapshot:
        """Enter, or raise RateLimited, whose ``headers`` say how the bucket stands and when to come back."""
        amount, token, key = self._amount, self._token, f"{self._before}{identifier}{self._after}"
        if cost == 1 and (missing := self._take(key, amount, token, self._capacity)) >= 0:
            remaining, reset_s = (self._capacity - missing) // token, -(-missing // amount) / MICROSECONDS
            if remaining > amount:
                remaining = amount
            return Snapshot(amount, remaining, reset_s, self._window_s, self._burst, self._policy)
        state = self._acquire(key, amount, self._window_s, burst=self._burst, amount=cost)
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

    def refund(self, identifier: str, *, cost: int = 1) -> None:
        """Put back what ``admit`` took for nothing. Raises ValueError for a negative cost."""
        if cost < 0:
            raise ValueError("a refund must not be negative")
        self._return(f"{self._before}{identifier}{self._after}", self._amount, self._window_s, amount=cost)


def memory_buckets() -> TokenBucketSupport:
    """Buckets in this process. Each limit has its own, so that a flood of addresses cannot push out keys."""
    return BucketMemoryStorage()


def per_minute(amount: int) -> RateLimitItem:
    """The unit of the settings: so many a minute."""
    return RateLimitItemPerMinute(amount)


def _name_of(window_s: int) -> str:
    return {1: "second", 60: "minute", 3600: "hour", 86400: "day"}.get(window_s, f"{window_s} seconds")
