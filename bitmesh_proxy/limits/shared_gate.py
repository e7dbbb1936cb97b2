"""All limits of one caller's request in one step, where several processes share them.

Each limit by itself takes the memory's lock, which is two system calls, and the four of a request do so one after the
other. Their tables lie in one memory under one lock; so whoever comes again enters through a ``Gate``, which knows its
places, takes from all of them under the lock, and gives up at the first that needs more than a glance. Then it has
taken nothing, and the limits are asked one by one, which says what is the matter.

Nobody can tell the difference. Of a request that goes in all limits have taken, only at one moment; one that is refused
is refused by the limits themselves, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fcntl import LOCK_EX, LOCK_UN, flock

from msgspec import Struct

from bitmesh_proxy.limits.base import Bucket, Limit, Passed
from bitmesh_proxy.limits.shared_buckets import FULL, BucketSharedStorage, Place, Places, unit_of
from bitmesh_proxy.limits.token_bucket import MICROSECONDS
from bitmesh_proxy.shared_memory import SharedMemory


class Slot(Struct, frozen=True, gc=False):
    """Where a key's calls under way are counted: this worker's own count ``own`` words behind the key's name, and all
    counts before ``end``. ``limit`` is for their sum; 0 is none."""

    places: Places
    place: Place
    own: int
    end: int
    limit: int


class Gate:
    """A caller's buckets, all in ``memory``, and the slot for a call under way. ``clock`` is that of the buckets."""

    __slots__ = ("_clock", "_memory", "_slot", "_untold", "_ways")

    def __init__(
        self,
        memory: SharedMemory,
        buckets: Sequence[tuple[BucketSharedStorage, Bucket]],
        slot: Slot,
        *,
        clock: Callable[[], float],
        untold: int,
    ) -> None:
        """``enter`` tells of all buckets but the first ``untold``. All must have moments in whole units."""
        self._memory = memory
        self._clock = clock
        self._slot = slot
        self._untold = untold
        #: Tuples, because they are taken apart with every request: limit, table, place, units of a microsecond, the
        #: limit's parts of a unit, and token and capacity in units.
        self._ways: list[tuple[Limit, Places, Place, int, int, int, int]] = []
        for storage, bucket in buckets:
            limit, places = bucket.limit, storage.places
            unit = unit_of(limit.amount, limit.token)
            parts = limit.amount // unit
            way = limit, places, places.of(bucket.key), unit, parts, limit.token // parts, limit.capacity // parts
            self._ways.append(way)

    def enter(self) -> list[Passed] | None:
        """Take a token of each bucket, and a slot, which is to be given back once; says of each bucket how it stands.
        None: nothing was taken, and the limits have to be asked one by one.

        In one piece, as every call comes this way.
        """
        memory, slot = self._memory, self._slot
        words, slot_place = memory.words, slot.place
        passed: list[Passed] = []
        memory.threads.acquire()
        flock(memory.lock_descriptor, LOCK_EX)
        try:
            if words[slot_place.at] != slot_place.name and not slot.places.is_found(slot_place):
                return None
            slot_at = slot_place.at
            if slot.limit and sum(words[slot_at + 1 : slot_at + slot.end]) >= slot.limit:
                return None
            now_us = int(self._clock() * MICROSECONDS + 0.5)
            for limit, places, place, unit, parts, token, capacity in self._ways:
                if words[place.at] != place.name and not places.is_found(place):
                    break
                full = place.at + FULL
                now = now_us * unit
                missing = words[full] - now
                missing = token if missing < 0 else missing + token
                if missing > capacity:
                    break
                words[full] = now + missing
                passed.append((limit, missing * parts))
            else:
                words[slot_at + slot.own] += 1
                return passed[self._untold :]
            self._put_back(len(passed))
            return None
        finally:
            flock(memory.lock_descriptor, LOCK_UN)
            memory.threads.release()

    def _put_back(self, count: int) -> None:
        """Undo what was taken of the first so many buckets, under the same lock: nobody has seen it."""
        words = self._memory.words
        for _, _, place, _, _, token, _ in self._ways[:count]:
            words[place.at + FULL] -= token
