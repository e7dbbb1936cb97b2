"""Token buckets: exact against a model, in the terms of the `limits` package, bounded in memory."""

from __future__ import annotations

import asyncio
import random
import threading
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute, RateLimitItemPerSecond, parse
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage, BucketState
from bitmesh_proxy.limits.token_bucket_strategy import TokenBucketRateLimiter
from tests.hand_clock import HandClock
from tests.limits.jostling import in_threads

SIXTY = RateLimitItemPerMinute(60)
#: 2106 as Unix time. Above 2³² seconds a float is too coarse to be rounded to the right microsecond.
LATEST_S = 2**32 - 100_000


def make(clock: HandClock | None = None, *, max_buckets: int = 100_000) -> tuple[TokenBucketRateLimiter, HandClock]:
    clock = clock or HandClock()
    return TokenBucketRateLimiter(BucketMemoryStorage(clock=clock, max_buckets=max_buckets)), clock


def storage_of(limiter: TokenBucketRateLimiter) -> BucketMemoryStorage:
    assert isinstance(limiter.storage, BucketMemoryStorage)
    return limiter.storage


class TestHits:
    def test_a_full_bucket_and_not_one_more(self) -> None:
        limiter, _ = make()
        assert [limiter.hit(SIXTY, "a") for _ in range(61)] == [True] * 60 + [False]

    def test_tokens_come_back_evenly(self) -> None:
        limiter, clock = make()
        assert limiter.hit(SIXTY, "a", cost=60)
        for _ in range(5):
            clock.now_s += 0.999999
            assert not limiter.hit(SIXTY, "a")
            clock.now_s += 0.000001
            assert limiter.hit(SIXTY, "a")

    def test_a_bucket_never_holds_more_than_its_burst(self) -> None:
        limiter, clock = make()
        assert limiter.hit(SIXTY, "a")
        clock.now_s += 3600
        assert [limiter.hit(SIXTY, "a", burst=5) for _ in range(6)] == [True] * 5 + [False]

    def test_a_burst_above_the_rate(self) -> None:
        limiter, clock = make()
        assert sum(limiter.hit(SIXTY, "a", burst=100) for _ in range(200)) == 100
        clock.now_s += 60
        assert sum(limiter.hit(SIXTY, "a", burst=100) for _ in range(200)) == 60

    def test_identifiers_and_rates_have_buckets_of_their_own(self) -> None:
        limiter, _ = make()
        assert limiter.hit(SIXTY, "a", cost=60)
        assert limiter.hit(SIXTY, "b")
        assert limiter.hit(SIXTY, "a", "x")
        assert limiter.hit(RateLimitItemPerMinute(61), "a")
        assert not limiter.hit(SIXTY, "a")

    def test_a_cost_above_the_burst_is_never_admitted_and_takes_nothing(self) -> None:
        limiter, _ = make()
        assert not limiter.hit(SIXTY, "a", cost=61)
        assert limiter.hit(SIXTY, "a", cost=60)

    def test_a_refused_hit_takes_nothing(self) -> None:
        limiter, clock = make()
        assert limiter.hit(SIXTY, "a", cost=59)
        assert not limiter.hit(SIXTY, "a", cost=2)
        assert limiter.hit(SIXTY, "a")
        clock.now_s += 1
        assert limiter.hit(SIXTY, "a")

    def test_a_rate_of_nothing_admits_nobody(self) -> None:
        limiter, clock = make()
        none = RateLimitItemPerMinute(0)
        assert not limiter.hit(none, "a")
        clock.now_s += 1e6
        assert not limiter.hit(none, "a", burst=5)
        assert limiter.peek(none, "a").retry_after_s == 60

    def test_negative_amounts_are_refused(self) -> None:
        limiter, _ = make()
        with pytest.raises(ValueError, match="cost"):
            limiter.hit(SIXTY, "a", cost=-1)
        with pytest.raises(ValueError, match="refund"):
            limiter.refund(SIXTY, "a", cost=-1)


class TestLooking:
    def test_test_takes_nothing(self) -> None:
        limiter, _ = make()
        for _ in range(100):
            assert limiter.test(SIXTY, "a", cost=60)
        assert not limiter.test(SIXTY, "a", cost=61)
        assert limiter.hit(SIXTY, "a", cost=60)
        assert not limiter.test(SIXTY, "a")
        assert storage_of(limiter).bucket_count() == 1

    def test_state(self) -> None:
        limiter, clock = make()
        state = limiter.acquire(SIXTY, "a", cost=10, burst=20)
        assert state == BucketState(True, 10, 10.0, 0.0)
        clock.now_s += 0.25
        assert limiter.peek(SIXTY, "a", burst=20) == BucketState(True, 10, 9.75, 0.0)
        assert limiter.acquire(SIXTY, "a", cost=15, burst=20) == BucketState(False, 10, 9.75, 4.75)

    def test_retry_after_is_rounded_up_to_what_is_enough(self) -> None:
        limiter, _ = make()
        seven = parse("7/minute")
        assert limiter.hit(seven, "a", cost=7)
        assert limiter.peek(seven, "a").retry_after_s == 8.571429  # 60/7 = 8.5714285…

    def test_a_hopeless_cost_waits_for_a_full_bucket(self) -> None:
        limiter, _ = make()
        assert limiter.hit(SIXTY, "a", cost=30)
        assert limiter.peek(SIXTY, "a", cost=61).retry_after_s == 30

    def test_a_smaller_burst_looks_at_the_same_bucket(self) -> None:
        limiter, _ = make()
        assert limiter.hit(SIXTY, "a", cost=30)
        assert limiter.peek(SIXTY, "a", burst=10, cost=0).remaining == 0
        assert limiter.peek(SIXTY, "a", burst=40, cost=0).remaining == 10


class TestRefunds:
    def test_what_was_taken_comes_back(self) -> None:
        limiter, _ = make()
        assert limiter.hit(SIXTY, "a", cost=60)
        limiter.refund(SIXTY, "a", cost=10)
        assert [limiter.hit(SIXTY, "a") for _ in range(11)] == [True] * 10 + [False]

    def test_a_bucket_is_never_more_than_full(self) -> None:
        limiter, _ = make()
        assert limiter.hit(SIXTY, "a", cost=5)
        limiter.refund(SIXTY, "a", cost=1000)
        limiter.refund(SIXTY, "unknown", cost=1000)
        assert sum(limiter.hit(SIXTY, "a") for _ in range(100)) == 60
        assert sum(limiter.hit(SIXTY, "unknown") for _ in range(100)) == 60

    def test_a_bucket_that_is_full_again_is_forgotten(self) -> None:
        limiter, _ = make()
        assert limiter.hit(SIXTY, "a", cost=5)
        limiter.refund(SIXTY, "a", cost=5)
        assert storage_of(limiter).bucket_count() == 0

    def test_clear_fills_the_bucket(self) -> None:
        limiter, _ = make()
        assert limiter.hit(SIXTY, "a", cost=60)
        limiter.clear(SIXTY, "a")
        assert limiter.hit(SIXTY, "a", cost=60)


_steps = st.lists(
    st.tuples(
        # Microseconds forward: often a token or two, sometimes next to nothing, sometimes a long rest.
        st.integers(0, 3) | st.integers(0, 20_000_000) | st.integers(0, 200_000_000),
        st.integers(0, 12),
    ),
    max_size=60,
)
_items = st.builds(
    lambda kind, amount, multiples: kind(amount, multiples),
    st.sampled_from([RateLimitItemPerSecond, RateLimitItemPerMinute, RateLimitItemPerDay]),
    st.integers(1, 100),
    st.integers(1, 3),
)


class TestAgainstAModel:
    @given(item=_items, burst=st.integers(1, 20), steps=_steps)
    def test_every_decision_is_the_models(
        self,
        item: RateLimitItemPerMinute,
        burst: int,
        steps: list[tuple[int, int]],
    ) -> None:
        """The model is the textbook's: a number of tokens, in fractions, refilled with the time."""
        limiter, clock = make()
        rate_per_us = Fraction(item.amount, item.get_expiry() * 1_000_000)
        tokens, admitted = Fraction(burst), list[tuple[int, int]]()
        for forward_us, cost in steps:
            clock.now_us += forward_us
            tokens = min(Fraction(burst), tokens + forward_us * rate_per_us)
            state = limiter.acquire(item, "a", cost=cost, burst=burst)
            assert state.admitted == (cost <= tokens)
            if state.admitted:
                tokens -= cost
                admitted.append((clock.now_us, cost))
            assert state.remaining == int(tokens)
            assert 0 <= Fraction(round(state.reset_after_s * 1_000_000)) - (burst - tokens) / rate_per_us < 1
        for first in range(len(admitted)):
            total = 0
            for at_us, cost in admitted[first:]:
                total += cost
                assert total <= burst + (at_us - admitted[first][0]) * rate_per_us

    @given(
        item=_items,
        burst=st.integers(1, 20),
        steps=_steps,
        cost=st.integers(1, 20),
        start_s=st.integers(0, LATEST_S),
    )
    def test_waiting_for_retry_after_is_enough_and_less_is_not(
        self, item: RateLimitItemPerMinute, burst: int, steps: list[tuple[int, int]], cost: int, start_s: int
    ) -> None:
        limiter, clock = make(HandClock(start_s))
        for forward_us, before in steps:
            clock.now_us += forward_us
            limiter.hit(item, "a", cost=before, burst=burst)
        state = limiter.peek(item, "a", cost=cost, burst=burst)
        if state.admitted or cost > burst:
            return
        clock.now_us += round(state.retry_after_s * 1_000_000) - 1
        assert not limiter.test(item, "a", cost=cost, burst=burst)
        clock.now_us += 1
        assert limiter.hit(item, "a", cost=cost, burst=burst)

    @given(waits=st.lists(st.integers(1, 10**9), min_size=1, max_size=20))
    def test_a_clock_of_floats_is_read_to_the_microsecond(self, waits: list[int]) -> None:
        """Sleeping exactly `retry_after_s` by a float clock admits, wherever that clock stands."""
        now_s = 0.0
        limiter = TokenBucketRateLimiter(BucketMemoryStorage(clock=lambda: now_s))
        seven = parse("7/minute")
        for wait_us in waits:
            now_s = round(now_s + wait_us / 1_000_000, 6)
            while limiter.hit(seven, "a"):
                pass
            now_s = now_s + limiter.peek(seven, "a").retry_after_s
            assert limiter.hit(seven, "a")

    @given(
        steps=st.lists(st.tuples(st.integers(0, 5_000_000), st.integers(0, 8), st.booleans()), max_size=40),
    )
    def test_refunds_against_the_model(self, steps: list[tuple[int, int, bool]]) -> None:
        limiter, clock = make()
        tokens = Fraction(60)
        for forward_us, amount, is_refund in steps:
            clock.now_us += forward_us
            tokens = min(Fraction(60), tokens + Fraction(forward_us, 1_000_000))
            if is_refund:
                limiter.refund(SIXTY, "a", cost=amount)
                tokens = min(Fraction(60), tokens + amount)
            elif limiter.hit(SIXTY, "a", cost=amount):
                tokens -= amount
            assert limiter.peek(SIXTY, "a").remaining == int(tokens)


class TestConcurrency:
    def test_threads_share_one_bucket_exactly(self) -> None:
        limiter, _ = make()
        item = RateLimitItemPerMinute(1000)
        admitted = in_threads(lambda: sum(limiter.hit(item, "a") for _ in range(500)))
        assert sum(admitted) == 1000

    async def test_tasks_share_one_bucket_exactly(self) -> None:
        limiter, _ = make()

        async def knock() -> bool:
            await asyncio.sleep(0)
            return limiter.hit(SIXTY, "a")

        assert sum(await asyncio.gather(*(knock() for _ in range(200)))) == 60


class TestMemory:
    def test_callers_that_went_away_are_forgotten(self) -> None:
        limiter, clock = make()
        for index in range(20_000):
            clock.now_s += 0.1
            assert limiter.hit(SIXTY, f"caller-{index}")  # full again after one second: ten are not full at a time
            assert storage_of(limiter).bucket_count() <= 25

    def test_one_that_is_not_full_is_kept_among_many_that_are(self) -> None:
        limiter, clock = make()
        slow = RateLimitItemPerDay(10)
        assert limiter.hit(slow, "a", cost=10)
        for index in range(1000):
            clock.now_s += 2
            assert limiter.hit(SIXTY, f"caller-{index}")
        assert not limiter.hit(slow, "a")

    @pytest.mark.parametrize("is_short", [True, False])
    def test_one_that_takes_long_outlasts_many_that_do_not(self, is_short: bool) -> None:
        limiter, clock = make()
        take = storage_of(limiter).taker(60, 60_000_000, 3600_000_000)
        for _ in range(50):
            assert take(SIXTY.key_for("a")) > 0 if is_short else limiter.hit(SIXTY, "a")
        for index in range(90):
            clock.now_s += 0.5
            assert take(SIXTY.key_for(f"{index}")) > 0 if is_short else limiter.hit(SIXTY, f"{index}")
        assert limiter.peek(SIXTY, "a").remaining == 10 + 45
        assert storage_of(limiter).bucket_count() < 15

    def test_many_that_are_not_full_do_not_keep_those_that_are(self) -> None:
        limiter, clock = make()
        for index in range(500):
            assert limiter.hit(RateLimitItemPerDay(10), f"slow-{index}")
        for index in range(500):
            assert limiter.hit(SIXTY, f"fast-{index}")
        clock.now_s += 10
        for index in range(3000):
            clock.now_s += 2
            assert limiter.hit(SIXTY, f"later-{index}")
        # The walk goes at twice the speed of the newcomers: what is full is at most as much again as what is not.
        assert storage_of(limiter).bucket_count() <= 2 * 500 + 2

    def test_there_are_never_more_than_the_bound(self) -> None:
        limiter, _ = make(max_buckets=100)
        for index in range(1000):
            assert limiter.hit(SIXTY, f"caller-{index}")
            assert storage_of(limiter).bucket_count() <= 100
        assert not limiter.test(SIXTY, "caller-999", cost=60), "the newest is still known"

    @pytest.mark.parametrize("seed", range(8))
    def test_none_that_is_not_full_is_ever_forgotten(self, seed: int) -> None:
        """Whatever comes between: many keys, few that come again and again, rates that take seconds or a day."""
        chance, (limiter, clock) = random.Random(seed), make()
        #: Tokens that are missing, and when they were: of all that ever came.
        known: dict[tuple[RateLimitItem, str], tuple[Fraction, int]] = {}
        items = [parse(text) for text in ("60/minute", "7/second", "100000/minute", "3/day")]
        for number in range(4_000):
            item = chance.choice(items)
            key = chance.choice([f"often-{chance.randrange(12)}", f"once-{number}", f"twice-{number // 90}"])
            before, at_us = known.get((item, key), (Fraction(0), 0))
            token_us = Fraction(item.get_expiry() * 1_000_000, item.amount)
            missing = max(Fraction(0), before - (clock.now_us - at_us) / token_us)
            cost = chance.choice([0, 1, 1, 2, 3])
            if chance.random() < 0.05:
                limiter.refund(item, key, cost=cost)
                missing = max(Fraction(0), missing - cost)
            elif chance.random() < seed % 4 / 4:
                state = limiter.acquire(item, key, burst=3, cost=cost)
                assert state.admitted == (missing + cost <= 3)
                missing += cost if state.admitted else 0
                assert state.remaining == int(3 - missing)
            else:
                token = item.get_expiry() * 1_000_000
                found = storage_of(limiter).taker(item.amount, token, 3 * token)(item.key_for(key))
                assert (found >= 0) == (missing + 1 <= 3)
                missing += found >= 0
                assert found in (-1, missing * token)
            known[item, key] = missing, clock.now_us
            clock.now_s += 40.0 if chance.random() < 0.005 else chance.choice([0.0, 0.0001, 0.01, 0.05])
        assert 0 < storage_of(limiter).bucket_count() < len(known) / 2

    def test_reset_says_how_many_there_were(self) -> None:
        limiter, _ = make()
        for name in "abc":
            assert limiter.hit(SIXTY, name)
        assert storage_of(limiter).reset() == 3
        assert storage_of(limiter).bucket_count() == 0

    def test_no_thread_stays(self) -> None:
        limiter, _ = make()
        storage_of(limiter).timer.join(5)
        before = threading.active_count()
        for index in range(100):
            limiter.hit(SIXTY, f"{index}")
        assert not storage_of(limiter).timer.is_alive()
        assert threading.active_count() == before


class TestThePackagesTerms:
    def test_the_storage_has_a_scheme(self) -> None:
        storage = storage_from_string("bucket+memory://")
        assert isinstance(storage, BucketMemoryStorage)
        assert storage.check()
        assert TokenBucketRateLimiter(storage).hit(parse("1/second"), "a")

    def test_the_packages_other_strategies_work_on_the_storage(self) -> None:
        storage = BucketMemoryStorage()
        try:
            assert [FixedWindowRateLimiter(storage).hit(parse("2/hour"), "f") for _ in range(3)] == [True, True, False]
            assert [MovingWindowRateLimiter(storage).hit(parse("2/hour"), "m") for _ in range(3)] == [True, True, False]
        finally:
            storage.timer.join(5)
