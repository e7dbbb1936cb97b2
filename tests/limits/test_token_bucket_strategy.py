"""The strategy in the terms of the `limits` package. How buckets fill and empty is tested with their storages."""

from __future__ import annotations

import time

import pytest
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import RateLimiter

from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage
from bitmesh_proxy.limits.token_bucket_strategy import TokenBucketRateLimiter
from tests.hand_clock import HandClock

SIXTY = RateLimitItemPerMinute(60)


def test_it_is_a_strategy_of_the_package() -> None:
    limiter = TokenBucketRateLimiter(BucketMemoryStorage(clock=HandClock()))
    assert isinstance(limiter, RateLimiter)
    assert limiter.hit(SIXTY, "a", cost=60)
    assert not limiter.test(SIXTY, "a")
    limiter.refund(SIXTY, "a")
    assert limiter.test(SIXTY, "a")


def test_window_stats_are_in_unix_time() -> None:
    limiter = TokenBucketRateLimiter(BucketMemoryStorage(clock=HandClock()))
    assert limiter.hit(SIXTY, "a", cost=20)
    before_s = time.time()
    stats = limiter.get_window_stats(SIXTY, "a")
    assert stats.remaining == 40
    assert before_s + 20 <= stats.reset_time <= time.time() + 20


def test_a_storage_without_buckets_is_refused() -> None:
    storage = MemoryStorage()
    storage.timer.join(5)
    with pytest.raises(NotImplementedError, match="MemoryStorage"):
        TokenBucketRateLimiter(storage)
