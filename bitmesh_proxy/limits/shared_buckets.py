"""Token buckets that several processes share: ``TokenBucketSupport`` in shared memory.

A table of fixed size. An identifier's keyed hash (BLAKE2, with a secret of the table's own, so that nobody can choose
whom to share a bucket with) says in which row of ``WAYS`` places its bucket may stand, and is its name there. A place
is three words: the name's hash, and the moment at which the bucket is full, in whole microseconds and in parts of one
(``limit`` parts each), so that the arithmetic is as exact as in one process.

- Exact: a decision is one step under the table's lock, with the clock read inside it.
- Bounded: the place of a full bucket is as good as free, and only such a place is given to another identifier. When all
  of a row still restrain, a newcomer is refused until the first of them is full. (With 131,072 places that takes more
  than 40,000 identifiers that have all just been here.)
- Robust: the lock dies with its holder. A process that is killed between two stores leaves a bucket that is emptier by
  the request it was about to admit, or one whose place is unused until it is full.
- Fast: 2 us a hit. Where an identifier's bucket stood last is remembered, hash included, so that it is looked for once.

``CLOCK_MONOTONIC`` is one clock for all processes of a machine (Linux), so they agree on the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from hashlib import blake2b

from limits.storage.base import Storage

from bitmesh_proxy.limits.token_bucket import MICROSECONDS, BucketState, TokenBucketSupport
from bitmesh_proxy.shared_memory import SharedMemory

#: Places that an identifier may have. With a table half full of restraining buckets one row in 10⁷ is full.
WAYS = 32
DEFAULT_ROWS = 4096
#: Identifiers whose place is remembered.
MAX_REMEMBERED = 16_384

#: The first words hold the secret.
SECRET_WORDS = 2


class Place:
    """Where an identifier's entry may stand: the first place of its row, and where it stood last."""

    __slots__ = ("at", "first", "name")

    def __init__(self, name: int, first: int) -> None:
        self.name = name
        self.first = first
        self.at = first


class Places:
    """Finds identifiers' places in a table with ``rows`` rows of ``WAYS`` names from word ``names_at`` on."""

    def __init__(self, memory: SharedMemory, *, rows: int, names_at: int) -> None:
        self._memory = memory
        self._rows = rows
        self._names_at = names_at
        self.remembered: dict[str, Place] = {}
        with memory.locked():
            if not memory.words[0]:  # a new table
                for word in range(SECRET_WORDS):
                    memory.words[word] = int.from_bytes(os.urandom(8), "little") | 1
            self._secret = bytes(memory.words[:SECRET_WORDS])

    def of(self, identifier: str) -> Place:
        """The identifier's row; ``at`` is where it stood last, if it was here lately."""
        place = self.remembered.get(identifier)
        if place is None:
            digest = blake2b(identifier.encode(), digest_size=16, key=self._secret).digest()
            name = int.from_bytes(digest[:8], "little") or 1  # 0 stands for nobody
            row = int.from_bytes(digest[8:], "little") % self._rows
            place = Place(name, row * WAYS)
            if len(self.remembered) >= MAX_REMEMBERED:
                self.remembered.clear()
            self.remembered[identifier] = place
        return place

    def is_found(self, place: Place) -> bool:
        """Is the identifier in the table? Then ``place.at`` says where. Under the lock."""
        words, names_at = self._memory.words, self._names_at
        if words[names_at + place.at] == place.name:
            return True
        first = names_at + place.first
        try:
            place.at = place.first + words[first : first + WAYS].tolist().index(place.name)
        except ValueError:
            return False
        return True


class BucketSharedStorage(Storage, TokenBucketSupport):
    """See the module's docstring. ``clock`` is in seconds, never goes back, and is the same in all processes.

    Of the package's storages it has no windows, only buckets: ``incr`` and its like raise NotImplementedError.
    """

    STORAGE_SCHEME = ["bucket+shared"]  # noqa: RUF012 - as the base class declares it

    def __init__(
        self, memory: SharedMemory, *, clock: Callable[[], float] = time.monotonic, rows: int = DEFAULT_ROWS
    ) -> None:
        super().__init__()
        self._memory = memory
        self._words = memory.words
        self._clock = clock
        places = rows * WAYS
        self._names_at = SECRET_WORDS
        self._full_at = self._names_at + places
        self._parts_at = self._full_at + places
        self._end = self._parts_at + places
        self._places = Places(memory, rows=rows, names_at=self._names_at)

    @staticmethod
    def words_for(rows: int = DEFAULT_ROWS) -> int:
        """How much memory a table takes."""
        return SECRET_WORDS + 3 * WAYS * rows

    def acquire_tokens(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """See TokenBucketSupport."""
        return self._look(key, limit, expiry, burst, amount, True)

    def take_token(self, key: str, limit: int, token: int, capacity: int) -> int:
        """See TokenBucketSupport. A bucket that is where it was and holds enough: nine of ten."""
        place = self._places.remembered.get(key)
        if place is None:
            return -1
        memory, words = self._memory, self._words
        memory.lock()
        try:
            if words[self._names_at + place.at] != place.name:
                return -1
            full_word, parts_word = self._full_at + place.at, self._parts_at + place.at
            now = int(self._clock() * MICROSECONDS + 0.5) * limit
            missing = words[full_word] * limit + words[parts_word] - now
            missing = token if missing < 0 else missing + token
            if missing > capacity:
                return -1
            words[full_word], words[parts_word] = divmod(now + missing, limit)
            return missing
        finally:
            memory.unlock()

    def get_bucket(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """See TokenBucketSupport."""
        return self._look(key, limit, expiry, burst, amount, False)

    def return_tokens(self, key: str, limit: int, expiry: int, *, amount: int = 1) -> None:
        """See TokenBucketSupport."""
        place = self._places.of(key)
        words = self._memory.words
        with self._memory.locked():
            if self._places.is_found(place):
                at = place.at
                full_at = words[self._full_at + at] * limit + words[self._parts_at + at]
                full_at -= amount * expiry * MICROSECONDS
                words[self._full_at + at], words[self._parts_at + at] = divmod(max(full_at, 0), limit)

    def clear(self, key: str) -> None:
        """Fill the key's bucket."""
        place = self._places.of(key)
        with self._memory.locked():
            if self._places.is_found(place):
                self._memory.words[self._full_at + place.at] = 0

    def reset(self) -> int | None:
        """Fill all buckets; says how many were not full."""
        with self._memory.locked():
            count = self._count_restraining()
            for at in range(self._full_at, self._parts_at):
                self._memory.words[at] = 0
        return count

    def check(self) -> bool:
        """Memory is always there."""
        return True

    def bucket_count(self) -> int:
        """How many buckets are not full."""
        with self._memory.locked():
            return self._count_restraining()

    def _count_restraining(self) -> int:
        now_us = self._now_us()
        return sum(full_us > now_us for full_us in self._memory.words[self._full_at : self._parts_at])

    def _now_us(self) -> int:
        # Rounded to the nearest, as in BucketMemoryStorage.
        return int(self._clock() * MICROSECONDS + 0.5)

    def _look(self, key: str, limit: int, expiry: int, burst: int, amount: int, is_taking: bool) -> BucketState:
        """As ``BucketMemoryStorage``; what differs is where the number stands."""
        if limit <= 0:
            return BucketState(amount <= 0, 0, float(expiry), 0.0 if amount <= 0 else float(expiry))
        place = self._places.of(key)
        token = expiry * MICROSECONDS
        memory = self._memory
        words = memory.words
        memory.lock()
        try:
            now_us = self._now_us()
            now = now_us * limit
            is_known = self._places.is_found(place)
            full_at = words[self._full_at + place.at] * limit + words[self._parts_at + place.at] if is_known else 0
            missing = full_at - now if full_at > now else 0
            after = missing + amount * token
            capacity = burst * token
            if after > capacity:
                wait = after - capacity if amount <= burst else missing
                remaining = max(0, (capacity - missing) // token)
                return BucketState(
                    False, remaining, -(-missing // limit) / MICROSECONDS, -(-wait // limit) / MICROSECONDS
                )
            if is_taking and amount:
                if not is_known and (wait_us := self._take_place(place, now_us)):
                    return BucketState(False, 0, wait_us / MICROSECONDS, wait_us / MICROSECONDS)
                # Whoever is killed between the two stores is less than a microsecond off.
                words[self._full_at + place.at], words[self._parts_at + place.at] = divmod(now + after, limit)
                missing = after
        finally:
            memory.unlock()
        return BucketState(True, (capacity - missing) // token, -(-missing // limit) / MICROSECONDS, 0.0)

    def _take_place(self, place: Place, now_us: int) -> int:
        """Give the identifier the place of a full bucket. Without one, the microseconds until there will be one."""
        words = self._memory.words
        first = self._full_at + place.first
        moments = words[first : first + WAYS].tolist()
        soonest = min(moments)
        if soonest > now_us:
            return int(soonest - now_us)
        place.at = place.first + moments.index(soonest)
        words[self._full_at + place.at] = 0  # or a kill at this point would leave the newcomer somebody's emptiness
        words[self._names_at + place.at] = place.name
        return 0

    # ------------------------------------------------------------ what the base class asks for

    @property
    def base_exceptions(self) -> type[Exception]:
        """What may go wrong here."""
        return OSError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not here."""
        raise NotImplementedError("only token buckets are shared between processes")

    def get(self, key: str) -> int:
        """Not here."""
        raise NotImplementedError("only token buckets are shared between processes")

    def get_expiry(self, key: str) -> float:
        """Not here."""
        raise NotImplementedError("only token buckets are shared between processes")
