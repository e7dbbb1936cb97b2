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
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from math import floor
from typing import TypeAlias

from msgspec import Struct

from bitmesh_proxy.limits.base import Bucket, Limit, Passed
from bitmesh_proxy.limits.shared_buckets import FULL, MOVES_AT, BucketSharedStorage, Place, Places, unit_of
from bitmesh_proxy.shared_memory import SharedMemory


class Slot(Struct, frozen=True, gc=False):
    """Where a key's calls under way are counted: this worker's own count ``own`` words behind the key's name, and all
    counts before ``end``. ``limit`` is for their sum; 0 is none."""

    places: Places
    place: Place
    own: int
    end: int
    limit: int


#: Of a limit: units of a microsecond, its parts of a unit, token and capacity in units, and what is said of a bucket
#: that was full. Tuples, as they are taken apart with every request.
_Terms: TypeAlias = tuple[Limit, int, int, int, int, tuple[Limit, int]]


class Gate:
    """A caller's buckets, all in ``memory``, and the slot for a call under way. ``clock`` is that of the buckets."""

    __slots__ = ("_buckets", "_clock", "_counts_at", "_memory", "_moves", "_own_at", "_slot", "_untold", "_ways")

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
        self._buckets = [(each.places, each.places.of(bucket.key), _terms_of(bucket.limit)) for each, bucket in buckets]
        #: What ``MOVES_AT`` said when the places were looked for; they are where they were as long as it says that.
        self._moves = -1
        #: Where each bucket says when it is full, with the terms.
        self._ways: list[tuple[int, _Terms]] = []
        self._own_at = 0
        self._counts_at: Sequence[int] = ()

    def enter(self) -> list[Passed] | None:
        """Take a token of each bucket, and a slot, which is to be given back once; says of each bucket how it stands.
        None: nothing was taken, and the limits have to be asked one by one. Raises Unavailable as
        ``SharedMemory.lock`` does.

        In one piece, as every call comes this way.
        """
        memory = self._memory
        words = memory.words
        passed: list[Passed] = []
        memory.threads.acquire()
        try:
            flock(memory.lock_descriptor, LOCK_EX | LOCK_NB)
        except OSError:
            memory.wait()
        try:
            if words[MOVES_AT] != self._moves and not self._has_found_all():
                return None
            most = self._slot.limit
            if most:
                under_way = 0
                for at in self._counts_at:  # a slice of the memory would cost more than two of them
                    under_way += words[at]
                if under_way >= most:
                    return None
            now_us = floor(self._clock() * 1e6 + 0.5)
            for full, (limit, unit, parts, token, capacity, fresh) in self._ways:
                now = now_us * unit
                was_full_at = words[full]
                if was_full_at <= now:
                    words[full] = now + token
                    passed.append(fresh)
                else:
                    missing = was_full_at - now + token
                    if missing > capacity:
                        break
                    words[full] = was_full_at + token
                    passed.append((limit, missing * parts))
            else:
                words[self._own_at] += 1
                return passed[self._untold :]
            self._put_back(len(passed))
            return None
        finally:
            try:
                flock(memory.lock_descriptor, LOCK_UN)
            finally:
                memory.threads.release()

    def _has_found_all(self) -> bool:
        """Look where all is. Under the lock."""
        slot, moves = self._slot, self._memory.words[MOVES_AT]
        if not slot.places.is_found(slot.place):
            return False
        if not all(places.is_found(place) for places, place, _ in self._buckets):
            return False
        self._ways = [(place.at + FULL, terms) for _, place, terms in self._buckets]
        self._own_at = slot.place.at + slot.own
        self._counts_at = range(slot.place.at + 1, slot.place.at + slot.end)
        self._moves = moves
        return True

    def _put_back(self, count: int) -> None:
        """Undo what was taken of the first so many buckets, under the same lock: nobody has seen it."""
        words = self._memory.words
        for full, (_, _, _, token, _, _) in self._ways[:count]:
            words[full] -= token


def _terms_of(limit: Limit) -> _Terms:
    unit = unit_of(limit.amount, limit.token)
    parts = limit.amount // unit
    token = limit.token // parts
    return limit, unit, parts, token, limit.capacity // parts, (limit, limit.token)
