"""Calls under way in several workers: exact together, and given back when a worker dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bitmesh_proxy.errors import TooManyConcurrent
from bitmesh_proxy.limits.shared_buckets import WAYS
from bitmesh_proxy.limits.shared_concurrency import SharedConcurrencyLimit
from bitmesh_proxy.shared_memory import SharedMemory
from tests.limits.hammering import let_go, start

HAMMER = """
import sys
from bitmesh_proxy.errors import TooManyConcurrent
from bitmesh_proxy.limits.shared_concurrency import SharedConcurrencyLimit
from bitmesh_proxy.shared_memory import SharedMemory
seat = int(sys.argv[2])
limit = SharedConcurrencyLimit(SharedMemory(int(sys.argv[1])), seat=seat, seats=3, rows=4)
print("ready", flush=True)
sys.stdin.readline()
most = taken = 0
while taken < 2000:
    try:
        limit.take("key", 2)
    except TooManyConcurrent:
        continue
    taken += 1
    most = max(most, limit.running("key"))
    limit.give_back("key")
print(most, flush=True)
"""


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create(SharedConcurrencyLimit.words_for(3, rows=4), name="test")
    yield made
    made.close()


@pytest.fixture
def workers(memory: SharedMemory) -> list[SharedConcurrencyLimit]:
    return [SharedConcurrencyLimit(memory, seat=seat, seats=3, default=3, rows=4) for seat in range(3)]


def test_so_many_in_all_and_not_one_more(workers: list[SharedConcurrencyLimit]) -> None:
    first, second, third = workers
    with first.enter("key"), second.enter("key"), third.enter("key"):
        assert [worker.running("key") for worker in workers] == [3, 3, 3]
        for worker in workers:
            with pytest.raises(TooManyConcurrent, match="3 at once"):
                worker.take("key", 3)
        with first.enter("other"), second.enter("key", 0):
            assert third.running("key") == 4
    assert [worker.running("key") for worker in workers] == [0, 0, 0]
    assert first.running("nobody") == 0


def test_a_dead_workers_slots_are_given_back_and_nobody_elses(workers: list[SharedConcurrencyLimit]) -> None:
    first, second, third = workers
    first.take("key", 3)
    second.take("key", 3)
    second.take("key", 3)
    with pytest.raises(TooManyConcurrent):
        third.take("key", 3)
    third.forget_seat(1)
    assert third.running("key") == 1
    third.take("key", 3)
    third.take("key", 3)
    with pytest.raises(TooManyConcurrent):
        first.take("key", 3)


def test_a_slot_that_was_not_taken_cannot_be_given_back(workers: list[SharedConcurrencyLimit]) -> None:
    with pytest.raises(KeyError):
        workers[0].give_back("key")


def test_places_of_keys_without_calls_are_used_again(memory: SharedMemory) -> None:
    worker, other = (SharedConcurrencyLimit(memory, seat=seat, seats=3, rows=1) for seat in range(2))
    for number in range(10 * WAYS):
        with worker.enter(f"key-{number}", 1), other.enter("steady", 1):
            assert worker.running("steady") == 1
    with ExitStack() as stack:
        for number in range(WAYS):
            stack.enter_context(worker.enter(f"key-{number}", 1))
        with pytest.raises(TooManyConcurrent):
            other.take("one more", 1)
    other.take("one more", 1)


def test_processes_never_have_more_than_that_under_way(memory: SharedMemory) -> None:
    processes = [start(HAMMER, memory, seat) for seat in range(3)]
    let_go(processes)
    assert max(int(process.communicate()[0]) for process in processes) == 2
    assert SharedConcurrencyLimit(memory, seat=0, seats=3, rows=4).running("key") == 0


def test_a_slot_that_was_handed_over_is_forgotten_with_its_seat(workers: list[SharedConcurrencyLimit]) -> None:
    first, second, _ = workers
    with first.enter("key", 2) as one, second.enter("key", 2) as other:
        one.hand_over()
        give_back = other.hand_over()
    assert first.running("key") == 2
    first.forget_seat(0)
    assert first.running("key") == 1
    give_back()
    assert first.running("key") == 0
