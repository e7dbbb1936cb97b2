"""Counts of all worker processes together: whichever is asked, ``/metrics`` says the sum, exact to the last one.

A table of names in shared memory, append-only, and for each *seat* (a worker's number, which its replacement takes
over) a table of how often each was counted, and the sum of what was counted. A worker adds to its own numbers only,
which needs no lock; they lie apart from others', as two cores that store into one cache line wait for each other. What
a worker that died had counted stays, so that no counter ever goes back; only its ``under_way`` is taken back.

A new name needs the memory's lock, and so does whoever adds up. While a worker that stands still keeps it, nothing is
said (Unavailable), for a sum without new names would have gone back; and what has no name yet is kept until it can have
one, as counting must not fail.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.metrics import (
    DURATION_BOUNDS_MS,
    LEDGER_BOUNDS_MS,
    WRITE_BOUNDS_MS,
    LedgerWaits,
    Metrics,
    WriteWaits,
)
from bitmesh_proxy.shared_memory import WORD_BYTES, SharedMemory

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

#: Names are endpoints with statuses and classes of duration, and providers with outcomes: some hundreds.
MAX_COUNTS: Final = 8192
NAME_WORDS: Final = 16
_NAME_BYTES: Final = NAME_WORDS * WORD_BYTES
#: Of each count: how often, and the sum.
_COUNT_WORDS: Final = 2
_SEAT_WORDS: Final = MAX_COUNTS * _COUNT_WORDS
#: The first count of the table, which has no name: requests under way. The first word says how many names there are.
_UNDER_WAY: Final = 0
_SEPARATOR: Final = "\t"


class SharedMetrics(Metrics):
    """``Metrics`` over ``seats`` workers, for the one in ``seat``."""

    def __init__(self, memory: SharedMemory, *, seat: int, seats: int) -> None:
        self._memory = memory
        self._words = memory.words
        self._seats = seats
        self._names_at = 1
        self._counts_at = self._names_at + MAX_COUNTS * NAME_WORDS
        self._own_at = self._counts_at + seat * _SEAT_WORDS
        #: Numbers of the names that are known here.
        self._numbers: dict[str, int] = {}
        #: Words where this worker counts: requests by endpoint, status and class of duration, with their milliseconds;
        #: attempts by provider and outcome; classes of writes, and of waits for the ledger, with their microseconds.
        self._requests_at: dict[tuple[str, int, int], int] = {}
        self._attempts_at: dict[tuple[str, str], int] = {}
        self._writes_at: list[int] = []
        self._ledger_waits_at: list[int] = []
        #: How often, and the sum, of what could not be given a name.
        self._kept: dict[str, tuple[int, int]] = {}
        super().__init__()
        self.ledger_waits = SharedLedgerWaits(self)

    @staticmethod
    def words_for(seats: int) -> int:
        """How much memory a table takes."""
        return 1 + MAX_COUNTS * NAME_WORDS + seats * _SEAT_WORDS

    # What ``Metrics`` keeps in an attribute. Nobody else stores into this worker's word, so that it need not be read.
    @property
    def under_way(self) -> int:
        """Requests being answered by this worker."""
        return self._under_way

    @under_way.setter
    def under_way(self, value: int) -> None:
        self._under_way = self._words[self._own_at] = value

    def note_request(self, endpoint: str, status: int, *, duration_ms: int) -> None:
        """See Metrics."""
        kind = endpoint, status, bisect_left(DURATION_BOUNDS_MS, duration_ms)
        at = self._requests_at.get(kind)
        if at is None:
            try:
                at = self._requests_at[kind] = self._word("requests", *kind)
            except Unavailable:
                self.keep("requests", *kind, count=1, total=duration_ms)
                return
        words = self._words
        words[at] += 1
        words[at + 1] += duration_ms

    def note_attempt(self, provider: str, outcome: str) -> None:
        """See Metrics."""
        at = self._attempts_at.get((provider, outcome))
        if at is None:
            try:
                at = self._attempts_at[provider, outcome] = self._word("attempts", provider, outcome)
            except Unavailable:
                self.keep("attempts", provider, outcome, count=1, total=0)
                return
        self._words[at] += 1

    def note_write(self, wait_s: float, *, writes: int) -> None:
        """See WriteWaits."""
        place, total_us = bisect_left(WRITE_BOUNDS_MS, wait_s * 1000), round(wait_s * 1_000_000) * writes
        if not self._writes_at:
            try:
                self._writes_at += [self._word("writes", each) for each in range(len(WRITE_BOUNDS_MS) + 1)]
            except Unavailable:
                self.keep("writes", place, count=writes, total=total_us)
                return
        at = self._writes_at[place]
        self._words[at] += writes
        self._words[at + 1] += total_us

    def ledger_wait_words(self) -> list[int]:
        """Where this worker counts waits for the ledger, by class. Raises Unavailable."""
        if not self._ledger_waits_at:
            self._ledger_waits_at += [self._word("ledger_waits", place) for place in range(len(LEDGER_BOUNDS_MS) + 1)]
        return self._ledger_waits_at

    def keep(self, *name: str | int, count: int, total: int) -> None:
        """Count something that can have no name now."""
        kept = _SEPARATOR.join(map(str, name))
        count_before, total_before = self._kept.get(kept, (0, 0))
        self._kept[kept] = count_before + count, total_before + total

    def forget_seat(self, seat: int) -> None:
        """A worker has died: it answers nothing any more."""
        self._words[self._counts_at + seat * _SEAT_WORDS] = 0

    def collect(self) -> Iterable[Metric]:
        """The families, made from the sums. Raises Unavailable."""
        return self._summed().collect()

    def _summed(self) -> Metrics:
        with self._memory.locked():
            self._learn_names()
            self._write_kept()
        summed = Metrics()
        summed.under_way, _ = self._sums(_UNDER_WAY)
        summed.write_waits = WriteWaits()
        for name, number in self._numbers.items():
            _add(summed, summed.write_waits, name.split(_SEPARATOR), *self._sums(number))
        return summed

    def _sums(self, number: int) -> tuple[int, int]:
        first = self._counts_at + number * _COUNT_WORDS
        places = range(first, first + self._seats * _SEAT_WORDS, _SEAT_WORDS)
        return sum(self._words[at] for at in places), sum(self._words[at + 1] for at in places)

    def _word(self, *name: str | int) -> int:
        """Where this worker counts that; its sum is behind it."""
        return self._own_at + self._number(_SEPARATOR.join(map(str, name))) * _COUNT_WORDS

    def _number(self, name: str) -> int:
        """The number of a name, which is made if need be. Raises Unavailable."""
        with self._memory.locked():
            self._learn_names()
            self._write_kept()
            return self._named(name)

    def _named(self, name: str) -> int:
        """The same under the lock, when all names are known."""
        number = self._numbers.get(name)
        if number is None:
            number = len(self._numbers) + 1
            written = name.encode().ljust(_NAME_BYTES)
            if number >= MAX_COUNTS or len(written) > _NAME_BYTES:
                raise ValueError(f"no room to count {name!r}")
            at = self._names_at + number * NAME_WORDS
            for place in range(NAME_WORDS):
                self._words[at + place] = int.from_bytes(
                    written[place * WORD_BYTES : (place + 1) * WORD_BYTES], "little"
                )
            self._words[0] = number  # last: a name is there whole or not at all
            self._numbers[name] = number
        return number

    def _write_kept(self) -> None:
        """Count what had to be kept. Under the lock, when all names are known."""
        while self._kept:
            name, (count, total) = self._kept.popitem()
            at = self._own_at + self._named(name) * _COUNT_WORDS
            self._words[at] += count
            self._words[at + 1] += total

    def _learn_names(self) -> None:
        """Take up what others have named. Under the lock."""
        for number in range(len(self._numbers) + 1, self._words[0] + 1):
            at = self._names_at + number * NAME_WORDS
            name = b"".join(word.to_bytes(WORD_BYTES, "little") for word in self._words[at : at + NAME_WORDS])
            self._numbers[name.decode().rstrip()] = number


class SharedWriteWaits(WriteWaits):
    """A database's waits, counted in ``metrics``."""

    def __init__(self, metrics: SharedMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    def note(self, wait_s: float, *, writes: int) -> None:
        """See WriteWaits."""
        self._metrics.note_write(wait_s, writes=writes)


class SharedLedgerWaits(LedgerWaits):
    """The waits of a worker's calls, counted in ``metrics``."""

    def __init__(self, metrics: SharedMetrics) -> None:
        super().__init__()
        self._metrics = metrics
        self._words = metrics._words
        #: Empty until one has waited.
        self._at: Sequence[int] = ()

    def note(self, wait_s: float) -> None:
        """See LedgerWaits."""
        place = bisect_left(LEDGER_BOUNDS_MS, wait_s * 1000)
        if not self._at:
            try:
                self._at = self._metrics.ledger_wait_words()
            except Unavailable:
                self._metrics.keep("ledger_waits", place, count=1, total=round(wait_s * 1_000_000))
                return
        words, at = self._words, self._at[place]
        words[at] += 1
        words[at + 1] += round(wait_s * 1_000_000)


def _add(summed: Metrics, waits: WriteWaits, name: Sequence[str], count: int, total: int) -> None:
    match name:
        case "requests", endpoint, status, place:
            summed._requests[endpoint, int(status)] += count
            classes = summed._durations.setdefault(endpoint, [0] * (len(DURATION_BOUNDS_MS) + 1))
            classes[int(place)] += count
            summed._duration_sums_ms[endpoint] += total
        case "attempts", provider, outcome:
            summed._attempts[provider, outcome] += count
        case "writes", place:
            waits.counts[int(place)] += count
            waits.sum_s += total / 1_000_000
        case "ledger_waits", place:
            summed.ledger_waits.counts[int(place)] += count
            summed.ledger_waits.sum_s += total / 1_000_000
