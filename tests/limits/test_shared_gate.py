"""All limits of a request in one step: as exact as one after the other, and nobody can tell the difference."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from bitmesh_proxy.errors import RateLimited, TooManyConcurrent, Unavailable
from bitmesh_proxy.limits.base import Bucket, Limit, Passed, memory_buckets, per_minute
from bitmesh_proxy.limits.concurrency import ConcurrencyLimit
from bitmesh_proxy.limits.shared_buckets import WAYS, BucketSharedStorage
from bitmesh_proxy.limits.shared_concurrency import SharedConcurrencyLimit
from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage, TokenBucketSupport
from bitmesh_proxy.shared_memory import SharedMemory
from tests.hand_clock import HandClock
from tests.limits.dying import Killed, dying
from tests.limits.hammering import let_go, start

ROWS = 2
TABLE_WORDS = BucketSharedStorage.words_for(ROWS)
SEATS = 3
MOST = 4

#: One of several processes on one memory: it goes in and out as often as it is let in.
HAMMER = f"""
import sys
from bitmesh_proxy.limits.base import Limit, per_minute
from bitmesh_proxy.limits.shared_buckets import BucketSharedStorage
from bitmesh_proxy.limits.shared_concurrency import SharedConcurrencyLimit
from bitmesh_proxy.shared_memory import SharedMemory
memory, clock = SharedMemory(int(sys.argv[1])), lambda: 1000.0
tables = [BucketSharedStorage(memory, clock=clock, rows={ROWS}, at=number * {TABLE_WORDS}) for number in range(2)]
limits = [
    Limit(table, per_minute(7), policy="key", who="here", burst=burst) for table, burst in zip(tables, (6000, 5000))
]
slots = SharedConcurrencyLimit(memory, seat=int(sys.argv[2]), seats={SEATS}, rows={ROWS}, at=2 * {TABLE_WORDS})
gate = slots.gate("key", 2, [limit.bucket("key") for limit in limits], untold=0)
print("ready", flush=True)
sys.stdin.readline()
entered, most, misses = 0, 0, 0
while misses < 200:
    if gate.enter() is None:
        misses += slots.running("key") < 2
        continue
    entered += 1
    most = max(most, slots.running("key"))
    slots.give_back("key")
print(entered, most, flush=True)
"""


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    slots_words = SharedConcurrencyLimit.words_for(SEATS, rows=ROWS)
    made = SharedMemory.create(2 * TABLE_WORDS + slots_words, name="test")
    yield made
    made.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


class Turnstile:
    """An address's, and a key's limit of odd rates, and slots: what a request passes."""

    def __init__(self, storages: list[TokenBucketSupport], slots: ConcurrencyLimit) -> None:
        self.slots = slots
        rates = ((7, 5), (11, 4))
        self.limits = [
            Limit(storage, per_minute(amount), policy="key", who="here", burst=burst)
            for storage, (amount, burst) in zip(storages, rates, strict=True)
        ]
        self.buckets = [limit.bucket("a") for limit in self.limits]

    def one_by_one(self) -> list[Passed]:
        """As without a gate."""
        passed: list[Passed] = []
        for bucket in self.buckets:
            missing = bucket.limit.take(bucket.key)
            passed.append((bucket.limit, missing) if missing >= 0 else bucket.limit.admit(bucket.identifier))
        self.slots.take("key", MOST)
        return passed

    def how_they_stand(self) -> list[tuple[int, float]]:
        """Of each bucket, nothing taken."""
        states = [
            limit.buckets.get_bucket(bucket.key, limit.amount, 60, burst=limit.capacity // limit.token)
            for limit, bucket in zip(self.limits, self.buckets, strict=True)
        ]
        return [(state.remaining, state.reset_after_s) for state in states]


def shared(memory: SharedMemory, clock: HandClock, seat: int) -> Turnstile:
    tables = [BucketSharedStorage(memory, clock=clock, rows=ROWS, at=number * TABLE_WORDS) for number in range(2)]
    slots = SharedConcurrencyLimit(memory, seat=seat, seats=SEATS, rows=ROWS, at=2 * TABLE_WORDS)
    return Turnstile([*tables], slots)


def figures(passed: list[Passed]) -> list[tuple[int, float]]:
    """How the buckets stood."""
    snapshots = [each[0].snapshot(each[1]) if isinstance(each, tuple) else each for each in passed]
    return [(snapshot.remaining, snapshot.reset_s) for snapshot in snapshots]


def test_every_decision_is_that_of_limits_asked_one_by_one(memory: SharedMemory, clock: HandClock) -> None:
    chance, through = random.Random(1), 0
    workers = [shared(memory, clock, seat) for seat in range(2)]
    alone = Turnstile([BucketMemoryStorage(clock=clock) for _ in range(2)], ConcurrencyLimit())
    gates = [worker.slots.gate("key", MOST, worker.buckets, untold=0) for worker in workers]
    under_way: list[Turnstile] = []
    for _ in range(3_000):
        clock.now_us += chance.choice([0, 1, 3, 100_000, 4_000_000, 20_000_000])
        seat = chance.randrange(2)
        gate, worker = gates[seat], workers[seat]
        assert gate is not None
        try:
            told = figures(alone.one_by_one())
        except (RateLimited, TooManyConcurrent) as refusal:
            assert gate.enter() is None
            with pytest.raises(type(refusal), match=re.escape(str(refusal))):
                worker.one_by_one()
        else:
            passed = gate.enter()
            through += passed is not None
            assert figures(worker.one_by_one() if passed is None else passed) == told
            under_way.append(worker)
        assert worker.how_they_stand() == alone.how_they_stand()
        assert worker.slots.running("key") == alone.slots.running("key") == len(under_way)
        if under_way and chance.random() < 0.6:
            under_way.pop(chance.randrange(len(under_way))).slots.give_back("key")
            alone.slots.give_back("key")
    assert through > 500


def test_it_tells_of_the_last_buckets_only(memory: SharedMemory, clock: HandClock) -> None:
    worker = shared(memory, clock, 0)
    worker.one_by_one()
    gate = worker.slots.gate("key", 0, worker.buckets, untold=1)
    assert gate is not None
    passed = gate.enter()
    assert passed is not None
    assert [each[0] for each in passed if isinstance(each, tuple)] == worker.limits[1:]
    assert [remaining for remaining, _ in worker.how_they_stand()] == [3, 2]


def test_one_who_is_not_there_yet_is_let_in_by_the_limits_themselves(memory: SharedMemory, clock: HandClock) -> None:
    worker = shared(memory, clock, 0)
    gate = worker.slots.gate("key", MOST, worker.buckets, untold=0)
    assert gate is not None
    assert gate.enter() is None
    worker.slots.take("key", MOST)
    assert gate.enter() is None
    assert worker.slots.running("key") == 1
    assert worker.how_they_stand() == [(5, 0.0), (4, 0.0)]


def test_what_was_taken_before_an_empty_bucket_is_put_back(memory: SharedMemory, clock: HandClock) -> None:
    worker = shared(memory, clock, 0)
    gate = worker.slots.gate("key", 0, worker.buckets, untold=0)
    assert gate is not None
    worker.one_by_one()
    while worker.limits[1].take(worker.buckets[1].key) >= 0:
        pass
    before = worker.how_they_stand()
    assert before[0][0] > 0
    assert before[1][0] == 0
    assert gate.enter() is None
    assert worker.how_they_stand() == before
    assert worker.slots.running("key") == 1


def test_who_is_killed_between_any_two_stores_has_taken_no_more_than_it_was_about_to(clock: HandClock) -> None:
    slots_words = SharedConcurrencyLimit.words_for(SEATS, rows=ROWS)
    stood: list[list[int]] = []
    for stores in range(5):
        memory = SharedMemory.create(2 * TABLE_WORDS + slots_words, name="test")
        worker = shared(memory, clock, 0)
        worker.one_by_one()
        victim = shared(dying(memory, stores=stores), clock, 1)
        gate = victim.slots.gate("key", MOST, victim.buckets, untold=0)
        assert gate is not None
        if stores < 3:
            with pytest.raises(Killed):
                gate.enter()
        else:
            assert gate.enter() is not None
        SharedConcurrencyLimit(memory, seat=0, seats=SEATS, rows=ROWS, at=2 * TABLE_WORDS).forget_seat(1)
        assert worker.slots.running("key") == 1
        stood.append([remaining for remaining, _ in worker.how_they_stand()])
        assert figures(worker.one_by_one()), "nobody is locked out"
        memory.close()
    assert stood == [[4, 3], [3, 3], [3, 2], [3, 2], [3, 2]]


def test_a_place_that_was_given_away_is_found_again(memory: SharedMemory, clock: HandClock) -> None:
    worker = shared(memory, clock, 0)
    gate = worker.slots.gate("key", 0, worker.buckets, untold=0)
    assert gate is not None
    worker.one_by_one()
    worker.slots.give_back("key")
    for number in range(40 * WAYS):
        clock.now_us += 20_000_000
        for limit in worker.limits:
            limit.admit(f"caller-{number}")
        with worker.slots.enter(f"caller-{number}", 1):
            pass
    clock.now_us += 60_000_000
    assert gate.enter() is None
    worker.one_by_one()
    assert gate.enter() is not None
    assert worker.slots.running("key") == 2


class Narrow:
    """Tables of one row each, and a gate through them that has been used."""

    def __init__(self, clock: HandClock) -> None:
        slots_at = BucketSharedStorage.words_for(1)
        self._clock = clock
        self.memory = SharedMemory.create(slots_at + SharedConcurrencyLimit.words_for(SEATS, rows=1), name="test")
        self.slots = SharedConcurrencyLimit(self.memory, seat=0, seats=SEATS, rows=1, at=slots_at)
        self.limit = self.limit_on(self.memory)
        self.limit.admit("was-here")
        with self.slots.enter("key", MOST):
            pass
        gate = self.slots.gate("key", MOST, [self.limit.bucket("was-here")], untold=0)
        assert gate is not None
        assert gate.enter() is not None
        self.gate = gate

    def limit_on(self, memory: SharedMemory) -> Limit:
        """The limit, for somebody who has that memory."""
        buckets = BucketSharedStorage(memory, clock=self._clock, rows=1)
        return Limit(buckets, per_minute(6), policy="key", who="here", burst=4)


@pytest.fixture
def narrow(clock: HandClock) -> Iterator[Narrow]:
    made = Narrow(clock)
    yield made
    made.memory.close()


@pytest.mark.parametrize("stores", range(9))
def test_whose_place_somebody_took_who_was_killed_does_not_use_it(
    stores: int, narrow: Narrow, clock: HandClock
) -> None:
    gate, limit = narrow.gate, narrow.limit
    clock.now_us += 40_000_000  # full again, and so the only one whose place may be given away
    for number in range(WAYS - 1):
        for _ in range(4):
            limit.admit(f"other-{number}")
    with pytest.raises(Killed) if stores < 7 else nullcontext():
        narrow.limit_on(dying(narrow.memory, stores=stores)).admit("newcomer")
    # What is asked for now is taken by "was-here" itself, wherever its place is, or by nobody.
    taken = gate.enter() is not None
    how_it_stands = limit.buckets.get_bucket(limit.key_of("was-here"), 6, 60, burst=4).remaining
    assert how_it_stands == (3 if taken else 4)
    assert taken == (stores <= 2), "a place that has no name any more is nobody's"
    # Of the newcomer's four tokens one is gone at most, which it took itself.
    newcomer = limit.buckets.get_bucket(limit.key_of("newcomer"), 6, 60, burst=4)
    assert newcomer.remaining >= 3


def test_a_slot_that_was_given_away_is_not_used(narrow: Narrow) -> None:
    slots = narrow.slots
    slots.give_back("key")
    others = [f"other-{number}" for number in range(WAYS)]
    for name in others:
        slots.take(name, MOST)
    assert narrow.gate.enter() is None, "there is no place for it any more"
    assert [slots.running(name) for name in ("key", *others)] == [0] + [1] * WAYS


def test_there_is_none_where_buckets_are_elsewhere_or_too_odd(memory: SharedMemory, clock: HandClock) -> None:
    worker = shared(memory, clock, 0)
    elsewhere = Limit(memory_buckets(), per_minute(60), policy="key", who="here").bucket("a")
    other_clock = shared(memory, HandClock(), 0).buckets[0]
    other_memory = SharedMemory.create(TABLE_WORDS, name="other")
    storage = BucketSharedStorage(other_memory, clock=clock, rows=ROWS)
    other = Limit(storage, per_minute(60), policy="key", who="here").bucket("a")

    def has_gate(*buckets: Bucket) -> bool:
        return worker.slots.gate("key", 0, buckets, untold=0) is not None

    table = worker.buckets[0].limit.buckets
    odd = [Limit(table, per_minute(amount), policy="key", who="here").bucket("a") for amount in (65_537, 100_000_000)]
    assert has_gate(*worker.buckets)
    assert has_gate(odd[1])
    assert not has_gate(odd[0]), "its moments have parts of a unit"
    assert not has_gate(*worker.buckets, elsewhere)
    assert not has_gate(*worker.buckets, other)
    assert not has_gate(*worker.buckets, other_clock)
    assert not has_gate()
    assert ConcurrencyLimit().gate("key", 0, [elsewhere], untold=0) is None
    other_memory.close()


def still() -> float:
    """A clock that stands: no token comes back."""
    return 1000.0


def here(memory: SharedMemory) -> tuple[SharedConcurrencyLimit, list[Limit]]:
    """The same as in the processes; everyone has a place."""
    tables = [BucketSharedStorage(memory, clock=still, rows=ROWS, at=at * TABLE_WORDS) for at in range(2)]
    limits = [
        Limit(table, per_minute(7), policy="key", who="here", burst=burst)
        for table, burst in zip(tables, (6000, 5000), strict=True)
    ]
    slots = SharedConcurrencyLimit(memory, seat=2, seats=SEATS, rows=ROWS, at=2 * TABLE_WORDS)
    for limit in limits:
        limit.admit("key")
    with slots.enter("key", 0):
        pass
    return slots, limits


def left_of(limits: list[Limit]) -> list[int]:
    """Whole tokens of ``key``."""
    return [
        limit.buckets.get_bucket(limit.bucket("key").key, 7, 60, burst=burst).remaining
        for limit, burst in zip(limits, (6000, 5000), strict=True)
    ]


def test_processes_share_buckets_and_slots_exactly(memory: SharedMemory) -> None:
    slots, limits = here(memory)
    processes = [start(HAMMER, memory, seat) for seat in range(SEATS)]
    let_go(processes)
    said = [tuple(map(int, process.communicate()[0].split())) for process in processes]
    assert sum(entered for entered, _ in said) == 4999
    assert max(most for _, most in said) == 2
    assert slots.running("key") == 0
    assert left_of(limits) == [1000, 0], "of the first no more was taken than of the second"


def test_one_that_is_stopped_in_the_middle_keeps_nobody_waiting_for_ever(memory: SharedMemory) -> None:
    slots, limits = here(memory)
    gate = slots.gate("key", 2, [limit.bucket("key") for limit in limits], untold=0)
    assert gate is not None
    assert gate.enter() is not None
    standing_still = SharedMemory(os.dup(memory.descriptor))
    with standing_still.locked():
        for _ in range(2):
            with pytest.raises(Unavailable):
                gate.enter()
            with pytest.raises(Unavailable):
                limits[0].admit("key")
            with pytest.raises(Unavailable):
                slots.take("key", 2)
        slots.give_back("key")  # what has been begun can be ended
    standing_still.close()
    assert gate.enter() is not None
    assert slots.running("key") == 1


def test_a_lock_that_the_kernel_refuses_is_refused_and_no_more(memory: SharedMemory) -> None:
    slots, limits = here(memory)
    gate = slots.gate("key", 2, [limit.bucket("key") for limit in limits], untold=0)
    assert gate is not None
    works = memory.lock_descriptor
    memory.lock_descriptor = os.open("/", os.O_PATH)  # flock(2) takes none of these
    for _ in range(2):
        with pytest.raises(Unavailable):
            gate.enter()
    os.close(memory.lock_descriptor)
    memory.lock_descriptor = works
    assert gate.enter() is not None


def test_one_that_is_killed_at_any_moment_costs_nobody_anything(memory: SharedMemory) -> None:
    slots, limits = here(memory)
    process = start(HAMMER, memory, 0)
    let_go([process])
    while left_of(limits)[1] > 2500:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    slots.forget_seat(0)
    assert slots.running("key") == 0
    gate = slots.gate("key", 2, [limit.bucket("key") for limit in limits], untold=0)
    assert gate is not None
    left = left_of(limits)
    # It was about to take from both, and may have taken from the first only.
    assert left[0] - left[1] in (999, 1000)
    entered = 0
    while gate.enter() is not None:
        entered += 1
        slots.give_back("key")
    assert entered == left[1]
    assert left_of(limits)[1] == 0
