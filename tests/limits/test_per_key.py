"""The limit of a key: its own rate or the default."""

from __future__ import annotations

import pytest

from bitmesh_proxy.errors import RateLimited
from bitmesh_proxy.limits.per_key import KeyLimit
from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage
from tests.hand_clock import HandClock


def make(rate: int, *, burst: int = 0) -> KeyLimit:
    return KeyLimit(rate, burst=burst, buckets=BucketMemoryStorage(clock=HandClock()))


def admitted(limit: KeyLimit, key_id: str, *, rate_per_minute: int | None = None, tries: int = 50) -> int:
    count = 0
    for _ in range(tries):
        try:
            limit.admit(key_id, rate_per_minute=rate_per_minute)
        except RateLimited:
            return count
        count += 1
    return count


def test_the_default_and_each_key_for_itself() -> None:
    limit = make(600, burst=4)
    assert admitted(limit, "key_a") == 4
    assert admitted(limit, "key_b") == 4


@pytest.mark.parametrize(("own", "at_once"), [(3, 3), (20, 4), (6000, 4)])
def test_a_rate_of_its_own(own: int, at_once: int) -> None:
    assert admitted(make(600, burst=4), "key_a", rate_per_minute=own) == at_once


@pytest.mark.parametrize("own", [3, 20])
def test_without_a_burst_a_minutes_worth(own: int) -> None:
    assert admitted(make(600), "key_a", rate_per_minute=own) == own


def test_a_new_rate_counts_at_once() -> None:
    limit = make(600, burst=4)
    assert admitted(limit, "key_a") == 4
    assert admitted(limit, "key_a", rate_per_minute=2) == 2


def test_off() -> None:
    assert make(0).admit("key_a") is None
    assert make(600).admit("key_a", rate_per_minute=0) is None
    assert admitted(make(0), "key_a", rate_per_minute=2) == 2


def test_the_refusal_names_the_keys_own_rate() -> None:
    limit = make(600)
    limit.admit("key_a", rate_per_minute=1)
    with pytest.raises(RateLimited, match="with this API key: 1 per minute") as refusal:
        limit.admit("key_a", rate_per_minute=1)
    assert refusal.value.retry_after_s == 60
    assert refusal.value.code == "rate_limit_exceeded"


def test_a_bucket_that_is_kept_is_the_keys_at_this_rate() -> None:
    limit = make(2)
    bucket = limit.bucket("key_a")
    assert bucket is not None
    assert bucket.limit.take(bucket.key) >= 0
    assert admitted(limit, "key_a") == 1
    assert bucket.limit.take(bucket.key) == -1
    own = limit.bucket("key_a", rate_per_minute=7)
    assert own is not None
    assert own.limit.take(own.key) >= 0
    with pytest.raises(RateLimited, match="with this API key: 2 per minute"):
        bucket.limit.admit(bucket.identifier)
    assert limit.bucket("key_a", rate_per_minute=0) is None
    assert make(0).bucket("key_a") is None
