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
from collections import OrderedDict
from collections.abc import Callable

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

    def take_token(self, key: str, limit: int, token: int, capacity: int) -> int:
        """``acquire_tokens`` of one token for whoever asks often, where it is admitted without further ado.

        ``token`` is ``expiry`` in microseconds, ``capacity`` is ``burst`` of them. Gives how much is then missing from
        a full bucket, in the unit of the two; -1 for anything else, when nothing was taken: ask the other way.
        """
        return -1

    @abstractmethod
    def get_bucket(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """What ``acquire_tokens`` would say, without taking any; ``remaining`` is before the taking."""

    @abstractmethod
    def return_tokens(self, key: str, limit: int, expiry: int, *, amount: int = 1) -> None:
        """Put tokens back. A bucket is never more than full."""


class BucketMemoryStorage(MemoryStorage, TokenBucketSupport):
    """Buckets in the memory of one process, beside the windows of the package's own storage.

    ``clock`` is in seconds and never goes back; Unix time will do as well, until its floats get too coarse in 2106.
    One lock for all buckets: it is held for about a microsecond, and it makes the decision exact between threads too.
    A full bucket is as good as none, so each new key looks at two old ones and forgets those that are full; no thread
    and no sweep is needed. ``max_buckets`` is the bound (about 350 bytes each): beyond it the bucket that was looked at
    longest ago goes, full or not, in favour of the new caller.
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
        self._clock = clock
        self._max_buckets = max_buckets
        #: Key → the moment at which it is full (microseconds × limit), and that limit.
        self._buckets: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._bucket_lock = threading.Lock()

    def acquire_tokens(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """See TokenBucketSupport."""
        return self._look(key, limit, expiry, burst, amount, True)

    def take_token(self, key: str, limit: int, token: int, capacity: int) -> int:
        """See TokenBucketSupport. Nine of ten, and the first of each key: with many keys, most calls are that."""
        lock = self._bucket_lock
        lock.acquire()  # without `with`, which takes twice as long
        try:
            found = self._buckets.get(key)
            now_us = int(self._clock() * MICROSECONDS + 0.5)
            now = now_us * limit
            missing = token if found is None or found[0] <= now else found[0] - now + token
            if missing > capacity or limit <= 0:
                return -1
            self._buckets[key] = (now + missing, limit)
            if found is None:
                self._forget(now_us)
            return missing
        finally:
            lock.release()

    def get_bucket(self, key: str, limit: int, expiry: int, *, burst: int, amount: int = 1) -> BucketState:
        """See TokenBucketSupport."""
        return self._look(key, limit, expiry, burst, amount, False)

    def return_tokens(self, key: str, limit: int, expiry: int, *, amount: int = 1) -> None:
        """See TokenBucketSupport."""
        with self._bucket_lock:
            found = self._buckets.get(key)
            if found is None:
                return
            full_at = found[0] - amount * expiry * MICROSECONDS
            if full_at <= self._now_us() * limit:
                del self._buckets[key]
            else:
                self._buckets[key] = (full_at, limit)

    def clear(self, key: str) -> None:
        """Forget the key's bucket and windows."""
        super().clear(key)
        with self._bucket_lock:
            self._buckets.pop(key, None)

    def reset(self) -> int | None:
        """Forget everything; says how much there was."""
        with self._bucket_lock:
            count = len(self._buckets)
            self._buckets.clear()
        return count + (super().reset() or 0)

    def bucket_count(self) -> int:
        """How many buckets are not known to be full."""
        return len(self._buckets)

    def _now_us(self) -> int:
        # Rounded to the nearest, so that a clock moved by `retry_after_s` lands where it says in spite of its floats.
        return int(self._clock() * MICROSECONDS + 0.5)

    def _look(self, key: str, limit: int, expiry: int, burst: int, amount: int, is_taking: bool) -> BucketState:
        if limit <= 0:
            return BucketState(amount <= 0, 0, float(expiry), 0.0 if amount <= 0 else float(expiry))
        token = expiry * MICROSECONDS  # the time that one token takes to come back, × limit like every time here
        with self._bucket_lock:
            now = self._now_us() * limit
            found = self._buckets.get(key)
            full_at = now if found is None or found[0] < now else found[0]
            missing = full_at - now  # 0: full; burst × token: empty
            after = missing + amount * token
            capacity = burst * token
            if after > capacity:
                wait = after - capacity if amount <= burst else missing
                retry_after_s = -(-wait // limit) / MICROSECONDS
                remaining = max(0, (capacity - missing) // token)
                return BucketState(False, remaining, -(-missing // limit) / MICROSECONDS, retry_after_s)
            if is_taking and amount:
                self._buckets[key] = (now + after, limit)
                if found is None:
                    self._forget(now // limit)
                missing = after
        return BucketState(True, (capacity - missing) // token, -(-missing // limit) / MICROSECONDS, 0.0)

    def _forget(self, now_us: int) -> None:
        """Two steps of a walk in a circle over all buckets, for each new one: at most half of them are ever full."""
        buckets, most = self._buckets, self._max_buckets
        for _ in (1, 2):
            key, bucket = buckets.popitem(last=False)
            if bucket[0] > now_us * bucket[1] and len(buckets) < most:
                buckets[key] = bucket  # to the end of the circle
