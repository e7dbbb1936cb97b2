"""How many calls a key may have under way at once, in all worker processes together.

A table in shared memory: for each key that has calls under way, one count for each *seat* (a worker's number, which its
replacement takes over). What is under way is the sum of them. A slot is taken in one step under the table's lock, so
that no two workers give away the last one; it is given back by one store into the worker's own count, which needs none.
When a worker dies its counts are set to 0 (``forget_seat``): what it had under way has ended with it.
"""

from __future__ import annotations

from bitmesh_proxy.errors import TooManyConcurrent
from bitmesh_proxy.limits.concurrency import ConcurrencyLimit
from bitmesh_proxy.limits.shared_buckets import SECRET_WORDS, WAYS, Place, Places
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
    ) -> None:
        super().__init__(default, retry_after_s=retry_after_s)
        self._memory = memory
        self._seat = seat
        self._seats = seats
        self._names_at = SECRET_WORDS
        self._counts_at = self._names_at + rows * WAYS
        self._end = self._counts_at + rows * WAYS * seats
        self._places = Places(memory, rows=rows, names_at=self._names_at)

    @staticmethod
    def words_for(seats: int, *, rows: int = DEFAULT_ROWS) -> int:
        """How much memory a table takes."""
        return SECRET_WORDS + rows * WAYS * (1 + seats)

    def running(self, key_id: str) -> int:
        """How many calls the key has under way, in all workers."""
        place = self._places.of(key_id)
        with self._memory.locked():
            return self._sum_at(place) if self._places.is_found(place) else 0

    def take(self, key_id: str, limit: int) -> None:
        """See ConcurrencyLimit."""
        place = self._places.of(key_id)
        memory = self._memory
        memory.lock()
        try:
            running = self._sum_at(place) if self._places.is_found(place) else 0
            if (running < limit or not limit) and (running or self._take_place(place)):
                memory.words[self._counts_at + place.at * self._seats + self._seat] += 1
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
        place = self._places.of(key_id)
        memory = self._memory
        with memory.threads:
            if not self._places.is_found(place):
                raise KeyError(key_id)
            memory.words[self._counts_at + place.at * self._seats + self._seat] -= 1

    def forget_seat(self, seat: int) -> None:
        """A worker has died: nothing is under way there any more."""
        words = self._memory.words
        with self._memory.locked():
            for at in range(self._counts_at + seat, self._end, self._seats):
                if words[at]:
                    words[at] = 0

    def _sum_at(self, place: Place) -> int:
        at = self._counts_at + place.at * self._seats
        return sum(self._memory.words[at : at + self._seats])

    def _take_place(self, place: Place) -> bool:
        """Give the key its old place, or that of a key that has nothing under way. False: there is none."""
        words = self._memory.words
        if self._places.is_found(place):
            return True
        for at in range(place.first, place.first + WAYS):
            first = self._counts_at + at * self._seats
            if not any(words[first : first + self._seats]):
                place.at = at
                words[self._names_at + at] = place.name
                return True
        return False
