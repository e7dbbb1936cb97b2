"""A bucket for each API key, at the key's own rate or the default."""

from __future__ import annotations

from bitmesh_proxy.limits.base import Bucket, Limit, Snapshot, memory_buckets, per_minute
from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage, TokenBucketSupport


class KeyLimit:
    """``rate_per_minute`` requests with each key, ``burst`` at once (0: a minute's worth). A rate of 0 is no limit.

    A key with a rate of its own has the same burst, but never more than a minute's worth. A new rate starts with a full
    bucket. ``buckets`` in this process's memory are nobody else's.
    """

    def __init__(self, rate_per_minute: int, *, burst: int = 0, buckets: TokenBucketSupport | None = None) -> None:
        #: Of all its rates.
        self.buckets = buckets or memory_buckets()
        self._default_per_minute = rate_per_minute
        self._burst = burst
        #: As many as there are different rates in the books.
        self._limits: dict[int, Limit] = {}
        #: Of keys without a rate of their own; None if there is none.
        self.default = self._new_limit(rate_per_minute) if rate_per_minute else None

    def admit(self, key_id: str, *, rate_per_minute: int | None = None) -> Snapshot | None:
        """Enter at the key's own rate, or at the default (None). None if there is no limit. Raises RateLimited."""
        limit = self.limit_of(rate_per_minute)
        return limit.admit(key_id) if limit else None

    def bucket(self, key_id: str, *, rate_per_minute: int | None = None) -> Bucket | None:
        """The key's bucket at this rate, for whoever admits it often; None if there is no limit."""
        limit = self.limit_of(rate_per_minute)
        return limit.bucket(key_id) if limit else None

    def limit_of(self, rate_per_minute: int | None) -> Limit | None:
        """The limit of keys with this rate of their own (None: without one); None if there is none."""
        if rate_per_minute is None or rate_per_minute == self._default_per_minute:
            return self.default
        if not rate_per_minute:
            return None
        limit = self._limits.get(rate_per_minute)
        if limit is None:
            limit = self._limits[rate_per_minute] = self._new_limit(rate_per_minute)
        return limit

    def _new_limit(self, rate: int) -> Limit:
        burst = self._burst if rate == self._default_per_minute else min(self._burst, rate)
        return Limit(
            self.buckets,
            per_minute(rate),
            policy="key",
            who="with this API key",
            burst=burst,
            own=isinstance(self.buckets, BucketMemoryStorage),
        )
