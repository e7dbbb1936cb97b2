"""A passage admits and refuses as the limits do one by one."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from bitmesh_proxy.context import Caller
from bitmesh_proxy.errors import RateLimited, TooManyConcurrent
from bitmesh_proxy.limits.base import Limit, Passed, Snapshot, per_minute, snapshots_of
from bitmesh_proxy.limits.concurrency import ConcurrencyLimit
from bitmesh_proxy.limits.passage import Passage
from bitmesh_proxy.limits.per_address import AddressLimit
from bitmesh_proxy.limits.per_endpoint import EndpointLimit
from bitmesh_proxy.limits.per_key import KeyLimit
from bitmesh_proxy.limits.shared_concurrency import SharedConcurrencyLimit
from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage
from bitmesh_proxy.shared_memory import SharedMemory
from tests.hand_clock import HandClock
from tests.limits.jostling import in_threads

ADDRESSES = ("192.0.2.1", "192.0.2.2", "192.0.2.3")


class Turnstile:
    """What a request passes: the limits of an address, of a key, and of a key at an endpoint, and a slot. 0: none."""

    def __init__(self, clock: HandClock, *, address: int, key: int, endpoint: int, most: int) -> None:
        self.address = limit(clock, address, "address")
        self.key = KeyLimit(key, burst=4, buckets=BucketMemoryStorage(clock=clock))
        self.endpoint = limit(clock, endpoint, "endpoint")
        self.slots = ConcurrencyLimit(most)

    def passage(self) -> Passage:
        passage = self.slots.passage(self.address, self.key, self.endpoint)
        assert passage is not None
        return passage

    def one_by_one(self, address: str, caller: Caller) -> list[Snapshot]:
        """As without a passage."""
        if self.address is not None:
            self.address.admit(address)
        limits = (self.key.limit_of(caller.rate_per_minute), self.endpoint)
        passed = [each.admit(caller.key_id) for each in limits if each is not None]
        self.slots.take(caller.key_id, self.slots.limit_of(caller.max_concurrent))
        return passed

    def how_they_stand(self, address: str, caller: Caller) -> list[tuple[int, float]]:
        """Of each bucket, nothing taken."""
        limits = {self.address: address, self.key.limit_of(caller.rate_per_minute): caller.key_id}
        limits[self.endpoint] = caller.key_id
        states = [
            each.buckets.get_bucket(each.key_of(name), each.amount, 60, burst=each.capacity // each.token)
            for each, name in limits.items()
            if each is not None
        ]
        return [(state.remaining, state.reset_after_s) for state in states]


def limit(clock: HandClock, rate: int, policy: str) -> Limit | None:
    buckets = BucketMemoryStorage(clock=clock)
    return Limit(buckets, per_minute(rate), policy=policy, who="here", burst=5, own=True) if rate else None


def told(passed: list[Passed] | None) -> list[Snapshot] | None:
    return None if passed is None else snapshots_of(passed)


def callers() -> list[Caller]:
    """Many that come once, and a few that come again, one without a limit and two with limits of their own."""
    often = [Caller(account_id="a", key_id=f"often_{number}") for number in range(4)]
    special = [
        Caller(account_id="a", key_id="free", rate_per_minute=0, max_concurrent=0),
        Caller(account_id="a", key_id="slow", rate_per_minute=2),
        Caller(account_id="a", key_id="fast", rate_per_minute=90, max_concurrent=1),
    ]
    return 20 * (often + special) + [Caller(account_id="a", key_id=f"once_{number}") for number in range(300)]


@pytest.mark.parametrize(
    "rates",
    [
        {"address": 70, "key": 11, "endpoint": 13, "most": 2},
        {"address": 60, "key": 60, "endpoint": 60, "most": 3},
        {"address": 7, "key": 1000, "endpoint": 1000, "most": 0},
        {"address": 0, "key": 0, "endpoint": 9, "most": 0},
        {"address": 0, "key": 5, "endpoint": 0, "most": 1},
        {"address": 0, "key": 0, "endpoint": 0, "most": 2},
    ],
    ids=str,
)
def test_every_decision_is_that_of_limits_asked_one_by_one(rates: dict[str, int]) -> None:
    """Those that refuse, too, once the passage has said no; and also where some ask them without it."""
    chance, clock, seen = random.Random(str(rates)), HandClock(), Counter[bool]()
    together, alone = Turnstile(clock, **rates), Turnstile(clock, **rates)
    passage, everybody, under_way = together.passage(), callers(), list[str]()
    for _ in range(1_000):
        address, caller = chance.choice(ADDRESSES), chance.choice(everybody)
        before = together.how_they_stand(address, caller)
        try:
            expected = alone.one_by_one(address, caller)
        except (RateLimited, TooManyConcurrent) as refusal:
            assert passage(address, caller) is None
            assert together.how_they_stand(address, caller) == before
            with pytest.raises(type(refusal), match=re.escape(str(refusal))):
                together.one_by_one(address, caller)
            seen[False] += 1
        else:
            if chance.random() < 0.2:
                assert together.one_by_one(address, caller) == expected
            else:
                assert told(passage(address, caller)) == expected
            under_way.append(caller.key_id)
            seen[True] += 1
        assert together.how_they_stand(address, caller) == alone.how_they_stand(address, caller)
        assert together.slots.running(caller.key_id) == alone.slots.running(caller.key_id)
        for key_id in chance.sample(under_way, min(len(under_way), chance.choice([0, 1, 2]))):
            under_way.remove(key_id)
            together.slots.give_back(key_id)
            alone.slots.give_back(key_id)
        clock.now_us += chance.choice([0, 0, 1, 3, 100_000, 900_000, 4_000_000])
    assert seen[True] > 200
    assert seen[False] > 20


def test_a_slot_is_taken_until_it_is_given_back() -> None:
    turnstile, caller = Turnstile(HandClock(), address=0, key=0, endpoint=0, most=1), Caller(account_id="a", key_id="k")
    passage = turnstile.passage()
    assert passage("", caller) == []
    assert passage("", caller) is None
    with pytest.raises(TooManyConcurrent):
        turnstile.slots.take("k", 1)
    turnstile.slots.give_back("k")
    assert passage("", caller) == []


def test_threads_share_buckets_and_slots_exactly() -> None:
    turnstile, caller = (
        Turnstile(HandClock(), address=0, key=600, endpoint=0, most=0),
        Caller(account_id="a", key_id="k"),
    )
    turnstile.key = KeyLimit(600, buckets=turnstile.key.buckets)
    passage = turnstile.passage()
    admitted = in_threads(lambda: sum(passage("", caller) is not None for _ in range(200)))
    assert sum(admitted) == turnstile.slots.running("k") == 600


def test_there_is_none_through_limits_that_others_share() -> None:
    clock, slots = HandClock(), ConcurrencyLimit()
    own, of_keys = limit(clock, 60, "endpoint"), KeyLimit(60, buckets=BucketMemoryStorage(clock=clock))
    assert slots.passage(own, of_keys, own) is not None
    assert slots.passage(AddressLimit(60).limit, KeyLimit(60), EndpointLimit({"chat": 60}).limits["chat"]) is not None
    assert slots.passage(limit(HandClock(), 60, "address"), of_keys, own) is None
    one_of_two = EndpointLimit({"chat": 60, "image": 60}, buckets=BucketMemoryStorage(clock=clock)).limits["chat"]
    assert slots.passage(None, of_keys, one_of_two) is None
    memory = SharedMemory.create(SharedConcurrencyLimit.words_for(1, rows=2), name="limits")
    try:
        assert SharedConcurrencyLimit(memory, seat=0, seats=1, rows=2).passage(own, of_keys, own) is None
    finally:
        memory.close()
