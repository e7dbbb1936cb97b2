"""Buckets in shared memory: the same decisions as in one process, exact between processes, bounded, and kill-proof."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerDay, RateLimitItemPerMinute
from limits.strategies import FixedWindowRateLimiter

from bitmesh_proxy.limits.shared_buckets import MAX_REMEMBERED, WAYS, BucketSharedStorage
from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage, BucketState
from bitmesh_proxy.limits.token_bucket_strategy import TokenBucketRateLimiter
from bitmesh_proxy.shared_memory import SharedMemory
from tests.hand_clock import HandClock
from tests.limits.dying import Killed, dying
from tests.limits.hammering import let_go, start

SIXTY = RateLimitItemPerMinute(60)
#: A clock that stands: whatever is admitted, no token comes back.
STILL_S = 1000.0

HAMMER = """
import sys
from bitmesh_proxy.limits.shared_buckets import BucketSharedStorage
from bitmesh_proxy.shared_memory import SharedMemory
storage = BucketSharedStorage(SharedMemory(int(sys.argv[1])), clock=lambda: 1000.0, rows=64)
print("ready", flush=True)
sys.stdin.readline()
take = storage.taker(60, 60_000_000, 5000 * 60_000_000)

def hit():
    return take("a") >= 0 or storage.acquire_tokens("a", 60, 60, burst=5000).admitted

print(sum(hit() for _ in range(int(sys.argv[2]))), flush=True)
"""


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create(BucketSharedStorage.words_for(64), name="test")
    yield made
    made.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def storage(memory: SharedMemory, clock: HandClock) -> BucketSharedStorage:
    return BucketSharedStorage(memory, clock=clock, rows=64)


class TestProcesses:
    def test_they_share_one_bucket_exactly(self, memory: SharedMemory) -> None:
        processes = [start(HAMMER, memory, 4000) for _ in range(3)]
        let_go(processes)
        admitted = [int(process.communicate()[0]) for process in processes]
        assert sum(admitted) == 5000
        assert all(count < 5000 for count in admitted), "or they did not run at the same time"

    def test_one_that_is_killed_at_any_moment_costs_nobody_anything(self, memory: SharedMemory) -> None:
        process = start(HAMMER, memory, 10**9)
        storage = BucketSharedStorage(memory, clock=lambda: STILL_S, rows=64)
        let_go([process])
        while storage.get_bucket("a", 60, 60, burst=5000).remaining > 2500:
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = storage.get_bucket("a", 60, 60, burst=5000).remaining
        assert [storage.acquire_tokens("a", 60, 60, burst=5000).admitted for _ in range(before + 1)] == [
            True
        ] * before + [False]


_hits = st.lists(
    st.tuples(
        st.integers(0, 3) | st.integers(0, 20_000_000),  # microseconds forward
        st.sampled_from("abc"),
        st.integers(0, 12),
        st.sampled_from(["take", "look", "return", "clear"]),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(
    steps=_hits,
    limit=st.integers(1, 100) | st.sampled_from([65_537, 99_991, 10**8]),
    burst=st.integers(1, 20),
    window_s=st.sampled_from([1, 60, 86_400]),
)
def test_every_decision_is_that_of_one_process(
    steps: list[tuple[int, str, int, str]], limit: int, burst: int, window_s: int
) -> None:
    clock = HandClock()
    memory = SharedMemory.create(BucketSharedStorage.words_for(1), name="test")
    # Two objects on one memory, as in two processes.
    shared = [BucketSharedStorage(memory, clock=clock, rows=1) for _ in range(2)]
    alone = BucketMemoryStorage(clock=clock)
    try:
        for number, (forward_us, key, amount, what) in enumerate(steps):
            clock.now_us += forward_us
            one = shared[number % 2]
            match what:
                case "take":
                    assert one.acquire_tokens(key, limit, window_s, burst=burst, amount=amount) == alone.acquire_tokens(
                        key, limit, window_s, burst=burst, amount=amount
                    )
                case "look":
                    assert one.get_bucket(key, limit, window_s, burst=burst, amount=amount) == alone.get_bucket(
                        key, limit, window_s, burst=burst, amount=amount
                    )
                case "return":
                    one.return_tokens(key, limit, window_s, amount=amount)
                    alone.return_tokens(key, limit, window_s, amount=amount)
                case "clear":
                    one.clear(key)
                    alone.clear(key)
    finally:
        memory.close()


class TestRoom:
    def test_one_that_restrains_is_never_forgotten(self, clock: HandClock) -> None:
        """A hundred times as many callers as there are places come by; the one who used all up stays refused."""
        memory = SharedMemory.create(BucketSharedStorage.words_for(1), name="test")
        storage = BucketSharedStorage(memory, clock=clock, rows=1)
        limiter = TokenBucketRateLimiter(storage)
        slow = RateLimitItemPerDay(10)
        assert limiter.hit(slow, "a", cost=10)
        for number in range(100 * WAYS):
            clock.now_s += 1
            assert limiter.hit(SIXTY, f"caller-{number}")  # full again after a second
        assert not limiter.hit(slow, "a")
        assert storage.bucket_count() == 2
        memory.close()

    def test_who_finds_no_place_is_refused_until_one_is_full(self, clock: HandClock) -> None:
        memory = SharedMemory.create(BucketSharedStorage.words_for(1), name="test")
        storage = BucketSharedStorage(memory, clock=clock, rows=1)
        limiter = TokenBucketRateLimiter(storage)
        for number in range(WAYS):
            assert limiter.hit(SIXTY, f"caller-{number}", cost=number + 2)
        state = limiter.acquire(SIXTY, "late")
        assert state == BucketState(False, 0, 2.0, 2.0)
        clock.now_s += 1.999999
        assert not limiter.hit(SIXTY, "late")
        clock.now_s += 0.000001
        assert limiter.hit(SIXTY, "late")
        assert not limiter.hit(SIXTY, "later")
        assert limiter.hit(SIXTY, "caller-5"), "who has a place keeps it"
        memory.close()

    def test_what_is_remembered_of_places_is_bounded_and_may_be_wrong(
        self, storage: BucketSharedStorage, clock: HandClock
    ) -> None:
        limiter = TokenBucketRateLimiter(storage)
        slow = RateLimitItemPerDay(10)
        assert limiter.hit(slow, "a", cost=9)
        for number in range(MAX_REMEMBERED + 10):
            clock.now_s += 0.002
            assert limiter.hit(SIXTY, f"caller-{number}")
        assert [limiter.hit(slow, "a") for _ in range(2)] == [True, False]

    def test_many_at_once_each_have_their_own(self, storage: BucketSharedStorage) -> None:
        limiter = TokenBucketRateLimiter(storage)
        taken = {f"caller-{number}": random.Random(number).randint(1, 59) for number in range(500)}
        for name, cost in taken.items():
            assert limiter.hit(SIXTY, name, cost=cost)
        for name, cost in taken.items():
            assert limiter.peek(SIXTY, name).remaining == 60 - cost
        assert storage.bucket_count() == 500

    def test_moments_of_different_rates_are_compared_as_times(self, clock: HandClock) -> None:
        """Of a row of restraining buckets, counted in different units, the first to be full gives its place away."""
        memory = SharedMemory.create(BucketSharedStorage.words_for(1), name="test")
        storage = BucketSharedStorage(memory, clock=clock, rows=1)
        limiter = TokenBucketRateLimiter(storage)
        rates = [RateLimitItemPerMinute(rate) for rate in (7, 60, 65_537, 99_991, 100_000_000)]
        for number in range(WAYS - 1):
            rate = rates[number % len(rates)]
            assert limiter.hit(rate, f"caller-{number}", cost=rate.amount)  # full after a minute
        assert limiter.hit(SIXTY, "soon", cost=3)
        state = limiter.acquire(rates[0], "late")
        assert state == BucketState(False, 0, 3.0, 3.0)
        clock.now_s += 3
        assert limiter.hit(rates[0], "late", cost=7)
        assert not limiter.hit(rates[0], "late")
        for number in range(WAYS - 1):
            rate = rates[number % len(rates)]
            assert limiter.peek(rate, f"caller-{number}", cost=0).reset_after_s == 57.0
        assert storage.bucket_count() == WAYS
        memory.close()

    @pytest.mark.parametrize("stores", range(9))
    def test_who_is_killed_while_it_takes_a_place_leaves_everybody_what_they_have(
        self, clock: HandClock, stores: int
    ) -> None:
        memory = SharedMemory.create(BucketSharedStorage.words_for(1), name="test")
        limiter = TokenBucketRateLimiter(BucketSharedStorage(memory, clock=clock, rows=1))
        odd, slow = RateLimitItemPerMinute(7), RateLimitItemPerDay(10)
        for number in range(WAYS - 1):
            assert limiter.hit(slow, f"caller-{number}", cost=5)
        assert limiter.hit(odd, "was-here")
        clock.now_s += 10  # full again, and so the only one whose place may be given away
        victim = TokenBucketRateLimiter(BucketSharedStorage(dying(memory, stores=stores), clock=clock, rows=1))
        if stores < 7:
            with pytest.raises(Killed):
                victim.hit(SIXTY, "newcomer")
        else:
            assert victim.hit(SIXTY, "newcomer")
        for number in range(WAYS - 1):
            assert limiter.peek(slow, f"caller-{number}").remaining == 5
        clock.now_s += 1  # what the newcomer may have taken has come back
        # Each in its unit, whoever had the place before: as full as a bucket is, for exactly as long as it takes.
        for rate, name in ((odd, "was-here"), (SIXTY, "newcomer"), (odd, "was-here")):
            assert limiter.hit(rate, name, cost=rate.amount)
            assert not limiter.hit(rate, name)
            assert limiter.peek(rate, name, cost=0).reset_after_s == 60.0
            clock.now_s += 60
        memory.close()


class TestThePackagesTerms:
    def test_it_has_buckets_and_no_windows(self, storage: BucketSharedStorage) -> None:
        assert storage.check()
        windows = FixedWindowRateLimiter(storage)
        with pytest.raises(NotImplementedError, match="only token buckets"):
            windows.hit(SIXTY, "a")
        with pytest.raises(NotImplementedError, match="only token buckets"):
            windows.test(SIXTY, "a")
        with pytest.raises(NotImplementedError, match="only token buckets"):
            storage.get_expiry("a")
        assert issubclass(OSError, storage.base_exceptions)

    def test_reset_says_how_many_there_were(self, storage: BucketSharedStorage) -> None:
        limiter = TokenBucketRateLimiter(storage)
        for name in "abc":
            assert limiter.hit(SIXTY, name, cost=60)
        assert storage.reset() == 3
        assert limiter.hit(SIXTY, "a", cost=60)

    def test_a_rate_of_nothing_admits_nobody(self, storage: BucketSharedStorage) -> None:
        assert not TokenBucketRateLimiter(storage).hit(RateLimitItemPerMinute(0), "a")
        assert storage.bucket_count() == 0


def test_the_short_way_admits_as_in_the_memory_of_one_process(storage: BucketSharedStorage, clock: HandClock) -> None:
    chance, short, full = random.Random(1), 0, BucketMemoryStorage(clock=clock)
    take = storage.taker(60, 60_000_000, 180_000_000)
    for _ in range(2_000):
        key, amount = chance.choice("ab"), chance.choice([1, 1, 2])
        told = full.acquire_tokens(key, 60, 60, burst=3, amount=amount)
        missing = take(key) if amount == 1 else -1
        if missing < 0:
            assert storage.acquire_tokens(key, 60, 60, burst=3, amount=amount) == told
        else:
            short += 1
            assert told == BucketState(True, (180_000_000 - missing) // 60_000_000, -(-missing // 60) / 1_000_000, 0.0)
        clock.now_s += chance.choice([0.0, 0.001, 0.3, 1.0, 7.0])
    assert short > 500
