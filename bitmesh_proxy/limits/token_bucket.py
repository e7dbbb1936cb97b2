"""Token buckets on the storages of the `limits` package, which ships none.

Like the package's own strategies they come in two halves: ``TokenBucketSupport`` is what a storage has to offer, as its
``MovingWindowSupport`` does, and ``token_bucket_strategy.py`` speaks its terms on top (``hit``, ``test``). Here is the
first half, which is all that our limits need. ``BucketMemoryStorage`` offers it for one process, ``shared_buckets.py``
for several. The whole decision is one call, so it would also fit one script or one transaction.

A bucket holds ``burst`` tokens (by default one window's worth) and is refilled evenly, ``item.amount`` in each window.
In any interval of *t* seconds it therefore admits at most ``burst + t × amount / window``. That is computed as GCRA:
one number per key, the moment at which the bucket will be full again. The arithmetic is exact: whole microseconds,
multiplied by the rate, so that nothing is ever rounded. A wait of ``retry_after_s`` is enough, and nothing shorter is.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from limits.storage.memory import MemoryStorage
from msgspec import Struct

MICROSECONDS = 1_000_000


class BucketState(Struct, frozen=True, gc=False):
    """A bucket at one moment. A struct, because three are made for every request (0.1 us; a named tuple takes 1)."""

    admitted: bool
    #: Whole tokens in it now.
    remaining: int
    #: Until it is full.
    reset_after_s: float
    #: Until as many tokens are in it as were asked for; 0 if they were. A cost above the burst waits for a full bucket,
    #: in vain.
    retry_after_s: float


class TokenBucketSupport(ABC):
    """What a storage offers to token buckets. It reads its own clock, so that all who share it share one time."""

    @abstractmethod
    def acquire_tokens(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """Take ``amount`` tokens if they are there, in one step; else take none.

        ``limit`` tokens come back in each ``expiry`` seconds, until there are ``burst``.
        """

    def taker(self, limit: int, token: int, capacity: int) -> Callable[[str], int]:
        """``acquire_tokens`` of one token by the key alone, for whoever asks often at one rate, where it is admitted
        without further ado.

        ``token`` is ``expiry`` in microseconds, ``capacity`` is ``burst`` of them. The function gives how much is then
        missing from a full bucket, in the unit of the two; -1 for anything else, when nothing was taken: ask the other
        way.
        """
        return lambda key: -1

    @abstractmethod
    def get_bucket(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """What ``acquire_tokens`` would say, without taking any; ``remaining`` is before the taking."""

    @abstractmethod
    def return_tokens(self, key: str, limit: int, expiry: int, *, amount: int = 1) -> None:
        """Put tokens back. A bucket is never more than full."""


#: Of all limits in the memory of this process: it is held for about a microsecond, and a request that goes through all
#: of them takes it once.
LOCK: Final = threading.Lock()
#: As many as the smallest dictionary holds.
_FEW: Final = 5


class Rate:
    """The buckets of one ``limit``, by key: the moment at which each is full, in microseconds × limit.

    A full bucket is as good as none, and is forgotten. Not one by one, which would take more than the hit itself: a
    bucket that is used comes into the young generation; once nothing in the old one restrains anybody any more, that
    is dropped as a whole, and the young one grows old. Mostly this happens after a few newcomers, and then both are so
    small that they never leave the processor's caches.

    While the old one does restrain somebody, each newcomer takes two buckets from it, and those that are not full over
    to the young one. So at most half of all are ever full, however long a few take to fill.
    """

    __slots__ = ("most", "old", "old_full_at", "turn_size", "young", "young_full_at")

    def __init__(self, most: int) -> None:
        #: Of either generation.
        self.most = most
        self.young: dict[str, int] = {}
        self.old: dict[str, int] = {}
        # From then on all of them are full.
        self.young_full_at = 0
        self.old_full_at = 0
        #: So many young ones are worth a look at the old.
        self.turn_size = min(_FEW, most)

    def put(self, key: str, full_at: int, now: int) -> None:
        """Note when a bucket is full. ``now`` is in microseconds × limit, too."""
        young = self.young
        is_new = key not in young
        young[key] = full_at
        if full_at > self.young_full_at:
            self.young_full_at = full_at
        if is_new:
            self.old.pop(key, None)
            if len(young) >= self.turn_size:
                self.turn(now)

    def turn(self, now: int) -> None:
        """A newcomer is there: forget old ones."""
        young, old = self.young, self.old
        if now >= self.old_full_at or len(young) >= self.most:
            old.clear()
        else:
            for _ in range(min(2, len(old))):
                key, full_at = old.popitem()
                if full_at > now:
                    young[key] = full_at
                    if full_at > self.young_full_at:
                        self.young_full_at = full_at
        if old:
            self.turn_size = 0  # the next newcomer goes on
        else:
            self.young, self.old = old, young
            self.young_full_at, self.old_full_at = 0, self.young_full_at
            self.turn_size = min(_FEW, self.most)


class BucketMemoryStorage(MemoryStorage, TokenBucketSupport):
    """Buckets in the memory of one process, beside the windows of the package's own storage.

    ``clock`` is in seconds and never goes back; Unix time will do as well, until its floats get too coarse in 2106.
    One lock for all (``LOCK``), which makes the decision exact between threads too.
    A full bucket is as good as none, so newcomers forget old ones that are full (``Rate``); no thread and no sweep is
    needed. ``max_buckets`` is the bound for those of one rate (about 200 bytes each): beyond it those that were used
    longest ago go, full or not, in favour of the new caller.
    """

    STORAGE_SCHEME = ["bucket+memory"]  # noqa: RUF012 - as the base class declares it

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_buckets: int = 100_000,
        **options: str,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions, **options)
        # The base class starts a thread of 10 ms at once. It starts another when one of its windows needs it.
        self.timer.cancel()
        self.clock = clock
        self._max_buckets = max_buckets
        #: By the limit; there are as many as different rates.
        self._rates: dict[int, Rate] = {}

    def acquire_tokens(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """See TokenBucketSupport."""
        return self._look(key, limit, expiry, burst, amount, True)

    def taker(self, limit: int, token: int, capacity: int) -> Callable[[str], int]:
        """See TokenBucketSupport. Nine of ten, and the first of each key: with many keys, most calls are that."""
        if limit <= 0 or token > capacity:
            return lambda key: -1
        rate, clock = self.rate_of(limit), self.clock
        acquire, release = LOCK.acquire, LOCK.release

        # One function for all; ``Rate.put`` is in it.
        def take(key: str) -> int:
            acquire()  # without `with`, which takes twice as long
            try:
                young = rate.young
                found = young.get(key)
                now = int(clock() * 1e6 + 0.5) * limit
                if found is not None:
                    missing = found - now + token
                    if missing < token:
                        missing = token
                    elif missing > capacity:
                        return -1
                    young[key] = full_at = now + missing
                    if full_at > rate.young_full_at:
                        rate.young_full_at = full_at
                    return missing
                found = rate.old.get(key, 0)
                missing = found - now + token if found > now else token
                if missing > capacity:
                    return -1
                young[key] = full_at = now + missing
                if full_at > rate.young_full_at:
                    rate.young_full_at = full_at
                if found:
                    del rate.old[key]
                if len(young) >= rate.turn_size:
                    rate.turn(now)
                return missing
            finally:
                release()

        return take

    def get_bucket(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """See TokenBucketSupport."""
        return self._look(key, limit, expiry, burst, amount, False)

    def return_tokens(self, key: str, limit: int, expiry: int, *, amount: int = 1) -> None:
        """See TokenBucketSupport."""
        with LOCK:
            rate = self.rate_of(limit)
            generation = rate.young if key in rate.young else rate.old
            found = generation.get(key)
            if found is None:
                return
            full_at = found - amount * expiry * MICROSECONDS
            if full_at <= self._now_us() * limit:
                del generation[key]
            else:
                generation[key] = full_at

    def clear(self, key: str) -> None:
        """Forget the key's bucket and windows."""
        super().clear(key)
        with LOCK:
            for rate in list(self._rates.values()):
                rate.young.pop(key, None)
                rate.old.pop(key, None)

    def reset(self) -> int | None:
        """Forget everything; says how much there was."""
        with LOCK:
            count = self.bucket_count()
            for rate in list(self._rates.values()):
                rate.young.clear()
                rate.old.clear()
        return count + (super().reset() or 0)

    def bucket_count(self) -> int:
        """How many buckets are not known to be full."""
        return sum(len(rate.young) + len(rate.old) for rate in list(self._rates.values()))

    def rate_of(self, limit: int) -> Rate:
        """The buckets of this rate. Under the lock."""
        rate = self._rates.get(limit)
        if rate is None:  # at once for all threads: of two that come together, one gets the other's
            rate = self._rates.setdefault(limit, Rate(max(1, self._max_buckets // 2)))
        return rate

    def _now_us(self) -> int:
        # Rounded to the nearest, so that a clock moved by `retry_after_s` lands where it says in spite of its floats.
        return int(self.clock() * MICROSECONDS + 0.5)

    def _look(self, key: str, limit: int, expiry: int, burst: int, amount: int, is_taking: bool) -> BucketState:
        if limit <= 0:
            return BucketState(amount <= 0, 0, float(expiry), 0.0 if amount <= 0 else float(expiry))
        token = expiry * MICROSECONDS  # the time that one token takes to come back, × limit like every time here
        rate = self.rate_of(limit)
        with LOCK:
            now = self._now_us() * limit
            found = rate.young.get(key) or rate.old.get(key)
            missing = found - now if found is not None and found > now else 0  # 0: full; burst × token: empty
            after = missing + amount * token
            capacity = burst * token
            if after > capacity:
                wait = after - capacity if amount <= burst else missing
                retry_after_s = -(-wait // limit) / MICROSECONDS
                remaining = max(0, (capacity - missing) // token)
                return BucketState(False, remaining, -(-missing // limit) / MICROSECONDS, retry_after_s)
            if is_taking and amount:
                rate.put(key, now + after, now)
                missing = after
        return BucketState(True, (capacity - missing) // token, -(-missing // limit) / MICROSECONDS, 0.0)
