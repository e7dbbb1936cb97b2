"""All limits of one request in one step, where one process has them in its own memory.

Each limit by itself takes the lock and looks at the clock, and a request meets four. So whoever has nothing to do in
between enters through a ``Passage``, which does both once, and takes from all buckets and a slot, or from none: then
the limits have to be asked one by one, in their order, which says what is the matter. Nobody can tell the difference.
It is of a route, not of a key: nothing has to be made or found for a key that calls for the first time.

Where several processes share limits, whoever comes again has a way of its own (``shared_gate.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor
from typing import TypeAlias

from bitmesh_proxy.context import Caller
from bitmesh_proxy.limits.base import Limit, Passed
from bitmesh_proxy.limits.per_key import KeyLimit
from bitmesh_proxy.limits.token_bucket import LOCK, BucketMemoryStorage, Rate

#: By the address's group, which is not looked at where addresses have no limit, and the caller: takes a token of each
#: bucket, and a slot, which is to be given back once; says of the caller's buckets how they stand. None: nothing was
#: taken.
Passage: TypeAlias = Callable[[str, Caller], list[Passed] | None]

#: Of a limit: its buckets, token and capacity, what is said of a bucket that was full, whether its buckets are those of
#: keys, and whether amount and token are those of the one before. Tuples, because they are taken apart with every
#: request.
_Way: TypeAlias = tuple[Limit, Rate, int, int, tuple[Limit, int], bool, bool]


def passage_of(
    address_limit: Limit | None,
    key_limit: KeyLimit,
    endpoint_limit: Limit | None,
    *,
    under_way: dict[str, int],
    default_max_concurrent: int,
) -> Passage | None:
    """The way through these limits, in this order. None where they are not this process's own, or do not share a clock.

    ``under_way``: the slots that keys have taken, under ``LOCK`` too; for keys without a limit of their own there are
    ``default_max_concurrent``, 0 being no limit.
    """
    limits = [each for each in (address_limit, key_limit.default, endpoint_limit) if each is not None]
    storages = [key_limit.buckets, *(each.buckets for each in limits)]
    clocks = {each.clock for each in storages if isinstance(each, BucketMemoryStorage)}
    if len(clocks) != 1 or not all(isinstance(each, BucketMemoryStorage) for each in storages):
        return None
    if not all(each.own for each in limits):
        return None
    clock, acquire, release = clocks.pop(), LOCK.acquire, LOCK.release
    #: By the key's own rate; as many as there are different ones in the books.
    ways_of: dict[int | None, list[_Way]] = {}

    # One function for all, as nearly every request comes this way; ``BucketMemoryStorage.taker`` is in it.
    def enter(address: str, caller: Caller) -> list[Passed] | None:
        key_id, most = caller.key_id, caller.max_concurrent
        if most is None:
            most = default_max_concurrent
        ways = ways_of.get(caller.rate_per_minute)
        if ways is None:
            of_key = key_limit.limit_of(caller.rate_per_minute)
            ways_of[caller.rate_per_minute] = ways = _ways((address_limit, of_key, endpoint_limit))
        passed: list[Passed] = []
        now = next_full_at = 0
        acquire()  # without `with`, which takes twice as long
        try:
            count = under_way.get(key_id, 0)
            if count >= most and most:
                return None
            now_us = floor(clock() * 1e6 + 0.5) if ways else 0
            for limit, rate, token, capacity, fresh, is_of_key, is_as_before in ways:
                if not is_as_before:
                    now = now_us * limit.amount
                    next_full_at = now + token
                name, young = key_id if is_of_key else address, rate.young
                found = young.get(name)
                was_full_at = rate.old.get(name, 0) if found is None else found
                if was_full_at <= now:
                    stand, full_at = fresh, next_full_at
                else:
                    missing = was_full_at - now + token
                    if missing > capacity:
                        break
                    stand, full_at = (limit, missing), was_full_at + token
                young[name] = full_at
                if full_at > rate.young_full_at:
                    rate.young_full_at = full_at
                if found is None:
                    if was_full_at:
                        del rate.old[name]
                    if len(young) >= rate.turn_size:
                        rate.turn(now)
                if is_of_key:
                    passed.append(stand)
            else:
                under_way[key_id] = count + 1
                return passed
            _put_back(ways, limit, address, key_id)
            return None
        finally:
            release()

    return enter


def _ways(limits: Sequence[Limit | None]) -> list[_Way]:
    """Those of them that there are. The first is that of addresses."""
    ways: list[_Way] = []
    before: tuple[int, int] | None = None
    for number, limit in enumerate(limits):
        if limit is not None:
            assert isinstance(limit.buckets, BucketMemoryStorage), "all are"
            token, of_amount = limit.token, (limit.amount, limit.token)
            rate = limit.buckets.rate_of(limit.amount)
            ways.append((limit, rate, token, limit.capacity, (limit, token), number > 0, of_amount == before))
            before = of_amount
    return ways


def _put_back(ways: list[_Way], refusing: Limit, address: str, key_id: str) -> None:
    """Undo what was taken of the buckets before that one, under the same lock: nobody has seen it."""
    for limit, rate, token, _, _, is_of_key, _ in ways:
        if limit is refusing:
            return
        name = key_id if is_of_key else address
        generation = rate.young if name in rate.young else rate.old
        generation[name] -= token
