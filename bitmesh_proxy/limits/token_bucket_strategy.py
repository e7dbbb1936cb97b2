"""Token buckets as a strategy of the `limits` package: rate items, keys, ``hit``, ``test``, ``get_window_stats``.

For whoever thinks in the package's terms. Our own limits ask the storage itself (``base.py``) and load none of this:
with the package's strategies come libraries that take a twentieth of the start.
"""

from __future__ import annotations

import time

from limits.limits import RateLimitItem
from limits.storage.base import Storage
from limits.strategies import RateLimiter
from limits.util import WindowStats

from bitmesh_proxy.limits.token_bucket import BucketState, TokenBucketSupport


class TokenBucketRateLimiter(RateLimiter):
    """The strategy. ``burst`` is the bucket's size; left out, it is ``item.amount``. Synchronous, never blocks."""

    def __init__(self, storage: Storage) -> None:
        if not isinstance(storage, TokenBucketSupport):
            raise NotImplementedError(f"token buckets are not implemented for storage of type {type(storage)}")
        self.buckets: TokenBucketSupport = storage
        super().__init__(storage)

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1, burst: int | None = None) -> bool:
        """Take ``cost`` tokens if they are there."""
        return self.acquire(item, *identifiers, cost=cost, burst=burst).admitted

    def acquire(self, item: RateLimitItem, *identifiers: str, cost: int = 1, burst: int | None = None) -> BucketState:
        """``hit`` that also says how the bucket stands. Raises ValueError for a negative cost; that is ``refund``."""
        if cost < 0:
            raise ValueError("a cost must not be negative")
        return self.buckets.acquire_tokens(
            item.key_for(*identifiers),
            item.amount,
            item.get_expiry(),
            burst=item.amount if burst is None else burst,
            amount=cost,
        )

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1, burst: int | None = None) -> bool:
        """Would ``hit`` be admitted now?"""
        return self.peek(item, *identifiers, cost=cost, burst=burst).admitted

    def peek(self, item: RateLimitItem, *identifiers: str, cost: int = 1, burst: int | None = None) -> BucketState:
        """How the bucket stands, nothing taken."""
        return self.buckets.get_bucket(
            item.key_for(*identifiers),
            item.amount,
            item.get_expiry(),
            burst=item.amount if burst is None else burst,
            amount=cost,
        )

    def refund(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> None:
        """Put back tokens that were taken for nothing."""
        if cost < 0:
            raise ValueError("a refund must not be negative")
        self.buckets.return_tokens(item.key_for(*identifiers), item.amount, item.get_expiry(), amount=cost)

    def get_window_stats(self, item: RateLimitItem, *identifiers: str, burst: int | None = None) -> WindowStats:
        """When the bucket will be full (Unix time, as the package's other strategies say it), and what is in it now."""
        state = self.peek(item, *identifiers, cost=0, burst=burst)
        return WindowStats(time.time() + state.reset_after_s, state.remaining)
