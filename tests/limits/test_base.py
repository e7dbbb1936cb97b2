"""A limit admits with a snapshot or refuses with the time to come back."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from limits import parse

from bitmesh_proxy.errors import RateLimited
from bitmesh_proxy.limits.base import Limit, Passed, Snapshot, lines_of, per_minute, snapshots_of
from bitmesh_proxy.limits.headers import rate_limit_lines
from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage
from bitmesh_proxy.limits.token_bucket_strategy import TokenBucketRateLimiter
from tests.hand_clock import HandClock


def make(rate: str = "60/minute", *, burst: int = 0) -> tuple[Limit, BucketMemoryStorage, HandClock]:
    clock = HandClock()
    buckets = BucketMemoryStorage(clock=clock)
    return Limit(buckets, parse(rate), policy="key", who="with this API key", burst=burst), buckets, clock


def test_snapshot() -> None:
    limit, _, clock = make(burst=10)
    assert limit.admit("a") == Snapshot(60, 9, 1.0, 60, 10, "key")
    clock.now_s += 0.5
    assert limit.admit("a") == Snapshot(60, 8, 1.5, 60, 10, "key")


class WithoutShortcut(BucketMemoryStorage):
    """Asks for every token in full."""

    def taker(self, limit: int, token: int, capacity: int) -> Callable[[str], int]:
        return lambda key: -1


def said(limit: Limit, identifier: str) -> object:
    try:
        return limit.admit(identifier)
    except RateLimited as refusal:
        return refusal.message, refusal.retry_after_s, dict(refusal.headers)


@pytest.mark.parametrize(("rate", "burst"), [("60/minute", 3), ("7/second", 0), ("1000/hour", 2), ("1/minute", 5)])
def test_the_short_way_admits_and_says_the_same(rate: str, burst: int) -> None:
    """Also where others take tokens of the same buckets, or put some back."""
    chance, clock, item = random.Random(rate), HandClock(), parse(rate)
    storages = [kind(clock=clock) for kind in (BucketMemoryStorage, WithoutShortcut)]
    short, full = (Limit(storage, item, policy="key", who="with this API key", burst=burst) for storage in storages)
    others = [TokenBucketRateLimiter(storage) for storage in storages]
    seen = set()
    for _ in range(1_000):
        identifier = chance.choice("ab")
        admitted = said(short, identifier)
        assert admitted == said(full, identifier)
        seen.add(type(admitted))
        clock.now_s += chance.choice([0.0, 0.0, 0.001, 0.3, 1.0, 7.0])
        if chance.random() < 0.2:
            one, other = (limiter.acquire(item, "key", identifier, cost=2, burst=burst or None) for limiter in others)
            assert one == other
        if chance.random() < 0.02:
            for limiter in others:
                limiter.refund(item, "key", identifier)
    assert len(seen) == 2


def test_remaining_is_never_above_the_limit() -> None:
    limit, _, _ = make(burst=100)
    assert limit.admit("a").remaining == 60


def test_refusal() -> None:
    limit, _, clock = make("2/minute")
    limit.admit("a")
    limit.admit("a")
    clock.now_s += 7.5
    with pytest.raises(RateLimited) as refusal:
        limit.admit("a")
    error = refusal.value
    assert error.retry_after_s == 22.5
    assert error.message == "Too many requests with this API key: 2 per minute are allowed. Try again in 23 s."
    assert error.headers["Retry-After"] == "23"
    assert error.headers["RateLimit-Remaining"] == "0"
    assert error.headers["RateLimit-Reset"] == "53"
    clock.now_s += error.retry_after_s
    limit.admit("a")


@pytest.mark.parametrize(
    ("rate", "words"), [("1/second", "second"), ("1/day", "day"), ("1 per 5 minute", "300 seconds")]
)
def test_the_window_in_words(rate: str, words: str) -> None:
    limit, _, _ = make(rate)
    limit.admit("a")
    with pytest.raises(RateLimited, match=f"1 per {words} are"):
        limit.admit("a")


def test_it_hits_the_bucket_that_the_strategy_sees() -> None:
    """The key is put together by hand for speed; it must be the package's."""
    limit, buckets, _ = make()
    limiter = TokenBucketRateLimiter(buckets)
    limit.admit("a/b")
    assert limiter.get_window_stats(parse("60/minute"), "key", "a/b").remaining == 59
    limiter.hit(parse("60/minute"), "key", "a/b", cost=20)
    assert limit.admit("a/b").remaining == 38


@pytest.mark.parametrize(("rate", "burst"), [(0, 0), (0, 5), (-1, 0), (5, -1)])
def test_a_limit_that_admits_nobody_is_not_made(rate: int, burst: int) -> None:
    with pytest.raises(ValueError, match="admits nobody"):
        Limit(BucketMemoryStorage(clock=HandClock()), per_minute(rate), policy="key", who="", burst=burst)


def test_the_short_way_keeps_and_forgets_the_same_buckets() -> None:
    chance, clock = random.Random(5), HandClock()
    storages = [kind(clock=clock, max_buckets=20) for kind in (BucketMemoryStorage, WithoutShortcut)]
    short, full = (
        Limit(storage, parse("60/minute"), policy="key", who="with this API key", burst=2) for storage in storages
    )
    counts = set()
    for _ in range(3_000):
        identifier = f"key{chance.randrange(60)}"
        assert said(short, identifier) == said(full, identifier)
        count, same = (storage.bucket_count() for storage in storages)
        assert count == same <= 20
        counts.add(count)
        clock.now_s += chance.choice([0.0, 0.01, 0.05, 0.3, 3.0])
    assert len(counts) > 5


def test_the_short_way_admits_nobody_at_no_rate() -> None:
    assert BucketMemoryStorage().taker(0, 60_000_000, 60_000_000)("a") == -1


def test_lines_of_what_was_passed_are_those_of_its_snapshots() -> None:
    chance, clock = random.Random(6), HandClock()
    limits = [
        Limit(BucketMemoryStorage(clock=clock), parse(rate), policy=rate, who="", burst=burst)
        for rate, burst in (("60/minute", 3), ("7/second", 0), ("3/minute", 3), ("1000/hour", 2))
    ]
    seen = set()
    for _ in range(1_000):
        clock.now_s += chance.choice([0.0, 0.0003, 0.3, 7.0, 30.0])
        hits = [(limit, limit.take(f"{limit.before}a{limit.after}")) for limit in chance.choices(limits, k=3)]
        passed: list[Passed] = [hit for hit in hits if hit[1] >= 0]
        if passed and chance.random() < 0.2:
            passed[0] = snapshots_of(passed)[0]
        lines = lines_of(passed)
        assert lines == rate_limit_lines(snapshots_of(passed))
        seen.add(lines.partition("\r\n")[0])
    assert len(seen) == 5, "each of the limits speaks at times, and none at times"
