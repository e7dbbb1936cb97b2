"""How many calls a key may have under way at once, in all worker processes together.

A table in shared memory: for each key that has calls under way, one count for each *seat* (a worker's number, which its
replacement takes over). What is under way is the sum of them. A slot is taken in one step under the table's lock, so
that no two workers give away the last one; it is given back by one store into the worker's own count, which needs none.
When a worker dies its counts are set to 0 (``forget_seat``): what it had under way has ended with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitmesh_proxy.errors import TooManyConcurrent
from bitmesh_proxy.limits.base import Bucket, Limit
from bitmesh_proxy.limits.concurrency import ConcurrencyLimit
from bitmesh_proxy.limits.passage import Passage
from bitmesh_proxy.limits.per_key import KeyLimit
from bitmesh_proxy.limits.shared_buckets import MOVES_AT, BucketSharedStorage, Place, Places, unit_of
from bitmesh_proxy.limits.shared_gate import Gate, Slot
from bitmesh_proxy.shared_memory import SharedMemory

DEFAULT_ROWS = 1024


class SharedConcurrencyLimit(ConcurrencyLimit):
    """``ConcurrencyLimit`` over ``seats`` workers, for the one in ``seat``.

    32,768 keys may have calls under way at once. One that finds no place any more is refused.
    """

    def __init__(
        self,
        memory: SharedMemory,
        *,
        seat: int,
        seats: int,
        default: int = 0,
        retry_after_s: float = 1.0,
        rows: int = DEFAULT_ROWS,
        at: int = 0,
    ) -> None:
        """A table from word ``at`` on; other tables may stand beside it, under the same lock."""
        super().__init__(default, retry_after_s=retry_after_s)
        self._memory = memory
        #: Where this worker's count stands behind a key's name, and where all counts end.
        self._own = 1 + seat
        self._end = 1 + seats
        self._places = Places(memory, rows=rows, words=_words_of_key(seats), at=at)

    @staticmethod
    def words_for(seats: int, *, rows: int = DEFAULT_ROWS) -> int:
        """How much memory a table takes."""
        return Places.words_for(rows=rows, words=_words_of_key(seats))

    def running(self, key_id: str) -> int:
        """How many calls the key has under way, in all workers."""
        place = self._places.of(key_id)
        with self._memory.locked():
            return self._sum_at(place.at) if self._places.is_found(place) else 0

    def take(self, key_id: str, limit: int) -> None:
        """See ConcurrencyLimit."""
        place = self._places.of(key_id)
        memory = self._memory
        memory.lock()
        try:
            running = self._sum_at(place.at) if self._places.is_found(place) else 0
            if (running < limit or not limit) and (running or self._take_place(place)):
                memory.words[place.at + self._own] += 1
                return
        finally:
            memory.unlock()
        raise TooManyConcurrent(
            f"Too many calls under way with this API key: {limit} at once are allowed.",
            retry_after_s=self._retry_after_s,
        )

    def give_back(self, key_id: str) -> None:
        """See ConcurrencyLimit."""
        # Without the shared lock: nobody else stores into this seat's count, and where it is not 0 the key keeps its
        # place. Whoever adds up meanwhile sees the slot as taken or as free, and both are true.
        place = self._places.remembered.get(key_id) or self._places.of(key_id)
        memory = self._memory
        words, lock = memory.words, memory.threads
        lock.acquire()  # without `with`, which takes twice as long
        try:
            if words[place.at] != place.name and not self._places.is_found(place):
                raise KeyError(key_id)
            words[place.at + self._own] -= 1
        finally:
            lock.release()

    def gate(self, key_id: str, limit: int, buckets: Sequence[Bucket], *, untold: int) -> Gate | None:
        """The key's way through buckets and slot in one step; None where the buckets are not in the same memory, or a
        rate is odd and above ``MAX_UNIT``. Of the first ``untold`` buckets it does not tell."""
        shared, clocks = [], set()
        for bucket in buckets:
            storage, amount, token = bucket.limit.buckets, bucket.limit.amount, bucket.limit.token
            if not isinstance(storage, BucketSharedStorage) or storage.memory is not self._memory:
                return None
            if token % (amount // unit_of(amount, token)):  # its moments have parts of a unit
                return None
            shared.append((storage, bucket))
            clocks.add(storage.clock)
        if len(clocks) != 1:
            return None
        slot = Slot(self._places, self._places.of(key_id), self._own, self._end, limit)
        return Gate(self._memory, shared, slot, clock=clocks.pop(), untold=untold)

    def passage(self, address_limit: Limit | None, key_limit: KeyLimit, endpoint_limit: Limit | None) -> Passage | None:
        """See ConcurrencyLimit."""
        return None

    def forget_seat(self, seat: int) -> None:
        """A worker has died: nothing is under way there any more.

        Without the lock, as in ``give_back``: the supervisor must not wait for a worker that it may have to kill.
        """
        words = self._memory.words
        for at in self._places.all():
            if words[at + 1 + seat]:
                words[at + 1 + seat] = 0

    def _sum_at(self, at: int) -> int:
        return sum(self._memory.words[at + 1 : at + self._end])

    def _take_place(self, place: Place) -> bool:
        """Give the key its old place, or that of a key that has nothing under way. False: there is none."""
        if self._places.is_found(place):
            return True
        for at in self._places.of_row(place):
            if not self._sum_at(at):
                place.at = at
                self._memory.words[MOVES_AT] += 1  # first, as somebody may be killed between the two
                self._memory.words[at] = place.name
                return True
        return False


def _words_of_key(seats: int) -> int:
    """A name and the counts, to a multiple of four, so that few places lie across two lines of the caches."""
    return -(-(1 + seats) // 4) * 4
