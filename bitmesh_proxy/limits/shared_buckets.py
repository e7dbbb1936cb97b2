"""Token buckets that several processes share: ``TokenBucketSupport`` in shared memory.

A table of fixed size. An identifier's keyed hash (BLAKE2, with a secret of the table's own, so that nobody can choose
whom to share a bucket with) says in which row of ``WAYS`` places its bucket may stand, and is its name there. A place
is four words in one line of the processor's caches: the name's hash; the moment at which the bucket is full, in the
rate's *unit* (``unit_of``: such a part of a microsecond that every token takes a whole number of them) and in parts of
one, so that the arithmetic is as exact as in one process; and how many units are in a microsecond.

- Exact: a decision is one step under the memory's lock, with the clock read inside it.
- Bounded: the place of a full bucket is as good as free, and only such a place is given to another identifier. When all
  of a row still restrain, a newcomer is refused until the first of them is full. (With 131,072 places that takes more
  than 40,000 identifiers that have all just been here.)
- Robust: the lock dies with its holder. A process that is killed between two stores leaves a bucket that is emptier by
  the request it was about to admit, or one whose place is unused until it is full.
- Fast: where an identifier's bucket stood last is remembered, hash included, so that it is looked for once. Whoever
  comes again takes from all of its buckets at once (``shared_gate.py``).

``CLOCK_MONOTONIC`` is one clock for all processes of a machine (Linux), so they agree on the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from hashlib import blake2b
from math import gcd

from limits.storage.base import Storage

from bitmesh_proxy.limits.token_bucket import MICROSECONDS, BucketState, TokenBucketSupport
from bitmesh_proxy.shared_memory import SharedMemory

#: Places that an identifier may have. With a table half full of restraining buckets one row in 10⁷ is full.
WAYS = 32
DEFAULT_ROWS = 4096
#: Identifiers whose place is remembered.
MAX_REMEMBERED = 16_384

#: The first words of a table hold the secret.
SECRET_WORDS = 2
#: A word of the whole memory, in the first table's head: how often a place has got another name. As long as it says the
#: same, all is where it was.
MOVES_AT = SECRET_WORDS
#: Places begin behind so many, with a line of the processor's caches.
FIRST_WORDS = 8
#: Of a bucket's place: its name, when it is full in units and parts of one, and the unit.
BUCKET_WORDS = 4
FULL, PARTS, UNIT = 1, 2, 3
#: In so many parts of a microsecond a word can say a moment of the next nine years.
MAX_UNIT = 2**16


def unit_of(limit: int, token: int) -> int:
    """How many parts of a microsecond moments are counted in where ``limit`` tokens come back in ``token``: as many as
    make each token a whole number of them, so that no parts of a part are left. 1 where that is too many."""
    unit = limit // gcd(limit, token)
    return unit if unit <= MAX_UNIT else 1


class Place:
    """Where an identifier's entry may stand: the first word of its row, and of the place where it stood last."""

    __slots__ = ("at", "first", "name")

    def __init__(self, name: int, first: int) -> None:
        self.name = name
        self.first = first
        self.at = first


class Places:
    """Finds identifiers' places in a table that begins at word ``at``: ``rows`` rows of ``WAYS`` places, each of which
    takes ``words`` words and begins with a name."""

    def __init__(self, memory: SharedMemory, *, rows: int, words: int, at: int) -> None:
        self._words = memory.words
        self._rows = rows
        self._stride = words
        self._row_words = WAYS * words
        self._first = at + FIRST_WORDS
        self.remembered: dict[str, Place] = {}
        if not memory.words[at + SECRET_WORDS - 1]:  # a new table, or somebody is just making it
            with memory.locked():
                if not memory.words[at + SECRET_WORDS - 1]:
                    for word in range(SECRET_WORDS):
                        memory.words[at + word] = int.from_bytes(os.urandom(8), "little") | 1
        self._secret = bytes(memory.words[at : at + SECRET_WORDS])

    @staticmethod
    def words_for(*, rows: int, words: int) -> int:
        """How much memory a table takes: whole lines of the processor's caches."""
        return -(-(FIRST_WORDS + rows * WAYS * words) // FIRST_WORDS) * FIRST_WORDS

    def all(self) -> range:
        """The first words of all places."""
        return range(self._first, self._first + self._rows * self._row_words, self._stride)

    def of_row(self, place: Place) -> range:
        """The first words of the places where the identifier may stand."""
        return range(place.first, place.first + self._row_words, self._stride)

    def of(self, identifier: str) -> Place:
        """The identifier's row; ``at`` is where it stood last, if it was here lately."""
        place = self.remembered.get(identifier)
        if place is None:
            digest = blake2b(identifier.encode(), digest_size=16, key=self._secret).digest()
            name = int.from_bytes(digest[:8], "little") or 1  # 0 stands for nobody
            row = int.from_bytes(digest[8:], "little") % self._rows
            place = Place(name, self._first + row * self._row_words)
            if len(self.remembered) >= MAX_REMEMBERED:
                self.remembered.clear()
            self.remembered[identifier] = place
        return place

    def is_found(self, place: Place) -> bool:
        """Is the identifier in the table? Then ``place.at`` says where. Under the lock."""
        words, first, stride = self._words, place.first, self._stride
        if words[place.at] == place.name:
            return True
        try:
            place.at = first + words[first : first + self._row_words : stride].tolist().index(place.name) * stride
        except ValueError:
            return False
        return True


class BucketSharedStorage(Storage, TokenBucketSupport):
    """See the module's docstring. ``clock`` is in seconds, never goes back, and is the same in all processes.

    Of the package's storages it has no windows, only buckets: ``incr`` and its like raise NotImplementedError.
    """

    STORAGE_SCHEME = ["bucket+shared"]  # noqa: RUF012 - as the base class declares it

    def __init__(
        self,
        memory: SharedMemory,
        *,
        clock: Callable[[], float] = time.monotonic,
        rows: int = DEFAULT_ROWS,
        at: int = 0,
    ) -> None:
        """A table from word ``at`` on; other tables may stand beside it, under the same lock."""
        super().__init__()
        self.memory = memory
        self.clock = clock
        self.places = Places(memory, rows=rows, words=BUCKET_WORDS, at=at)

    @staticmethod
    def words_for(rows: int = DEFAULT_ROWS) -> int:
        """How much memory a table takes."""
        return Places.words_for(rows=rows, words=BUCKET_WORDS)

    def acquire_tokens(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """See TokenBucketSupport."""
        return self._look(key, limit, expiry, burst, amount, True)

    def taker(self, limit: int, token: int, capacity: int) -> Callable[[str], int]:
        """See TokenBucketSupport. A bucket that is where it was and holds enough: nine of ten."""
        if limit <= 0:
            return lambda key: -1
        memory, remembered, clock = self.memory, self.places.remembered, self.clock
        words, parts = memory.words, limit // unit_of(limit, token)

        def take(key: str) -> int:
            place = remembered.get(key)
            if place is None:
                return -1
            memory.lock()
            try:
                at = place.at
                if words[at] != place.name:
                    return -1
                now = int(clock() * MICROSECONDS + 0.5) * limit
                missing = words[at + FULL] * parts + words[at + PARTS] - now
                missing = token if missing < 0 else missing + token
                if missing > capacity:
                    return -1
                words[at + FULL], words[at + PARTS] = divmod(now + missing, parts)
                return missing
            finally:
                memory.unlock()

        return take

    def get_bucket(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """See TokenBucketSupport."""
        return self._look(key, limit, expiry, burst, amount, False)

    def return_tokens(self, key: str, limit: int, expiry: int, *, amount: int = 1) -> None:
        """See TokenBucketSupport."""
        place, token = self.places.of(key), expiry * MICROSECONDS
        words, parts = self.memory.words, limit // unit_of(limit, token)
        with self.memory.locked():
            if self.places.is_found(place):
                at = place.at
                full_at = words[at + FULL] * parts + words[at + PARTS] - amount * token
                words[at + FULL], words[at + PARTS] = divmod(max(full_at, 0), parts)

    def clear(self, key: str) -> None:
        """Fill the key's bucket."""
        place = self.places.of(key)
        with self.memory.locked():
            if self.places.is_found(place):
                self.memory.words[place.at + FULL] = 0

    def reset(self) -> int | None:
        """Fill all buckets; says how many were not full."""
        with self.memory.locked():
            count = self._count_restraining()
            for at in self.places.all():
                self.memory.words[at + FULL] = 0
        return count

    def check(self) -> bool:
        """Memory is always there."""
        return True

    def bucket_count(self) -> int:
        """How many buckets are not full."""
        with self.memory.locked():
            return self._count_restraining()

    def _count_restraining(self) -> int:
        now_us = self._now_us()
        words = self.memory.words
        return sum(words[at + FULL] > now_us * words[at + UNIT] for at in self.places.all())

    def _now_us(self) -> int:
        # Rounded to the nearest, as in BucketMemoryStorage.
        return int(self.clock() * MICROSECONDS + 0.5)

    def _look(self, key: str, limit: int, expiry: int, burst: int, amount: int, is_taking: bool) -> BucketState:
        """As ``BucketMemoryStorage``; what differs is where the number stands."""
        if limit <= 0:
            return BucketState(amount <= 0, 0, float(expiry), 0.0 if amount <= 0 else float(expiry))
        place = self.places.of(key)
        token = expiry * MICROSECONDS
        unit = unit_of(limit, token)
        memory, parts = self.memory, limit // unit
        words = memory.words
        memory.lock()
        try:
            now_us = self._now_us()
            now = now_us * limit
            is_known = self.places.is_found(place)
            full_at = words[place.at + FULL] * parts + words[place.at + PARTS] if is_known else 0
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
                if not is_known and (wait_us := self._take_place(place, unit, now_us)):
                    return BucketState(False, 0, wait_us / MICROSECONDS, wait_us / MICROSECONDS)
                # Whoever is killed between the two stores is less than a microsecond off.
                words[place.at + FULL], words[place.at + PARTS] = divmod(now + after, parts)
                missing = after
        finally:
            memory.unlock()
        return BucketState(True, (capacity - missing) // token, -(-missing // limit) / MICROSECONDS, 0.0)

    def _take_place(self, place: Place, unit: int, now_us: int) -> int:
        """Give the identifier the place of a full bucket. Without one, the microseconds until there will be one."""
        words, row = self.memory.words, self.places.of_row(place)
        fulls = words[row.start + FULL : row.stop : row.step].tolist()
        if 0 in fulls:  # nobody's yet, mostly
            at = row[fulls.index(0)]
        else:
            units = words[row.start + UNIT : row.stop : row.step].tolist()
            moments = [-(-full // each) for full, each in zip(fulls, units, strict=True)]
            soonest = min(moments)
            if soonest > now_us:
                return int(soonest - now_us)
            at = row[moments.index(soonest)]
        # A kill between any two of these must leave neither the newcomer somebody's emptiness, nor whoever was here a
        # unit that is not its own, nor anybody in the belief that nothing has moved.
        words[MOVES_AT] += 1
        words[at + FULL] = 0
        words[at] = 0
        words[at + UNIT] = unit
        words[at] = place.name
        place.at = at
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
