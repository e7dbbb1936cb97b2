"""When what is old is looked for: with something that happens anyway, and not each time that it does. And how long it
may go on then: all who write wait meanwhile, so it is broken off after a while, and goes on a moment later."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

#: So long the writer sweeps in one go. (A row takes 5 us to 2 ms to go, by its size, and many times as long where its
#: pages have to be read from the disk.)
STEP_S: Final = 0.01
#: And so long it does other work before it goes on.
REST_S: Final = 0.1
#: So many are looked for at once. (Where each is looked at to know whether it may go, a thousand took 40 ms.)
FOUND_ROWS: Final = 32


class Step:
    """One go of the writer's at what is old: over after ``STEP_S``, but not before ``least`` rows have gone."""

    def __init__(self, *, least: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._left = least
        self._clock = clock
        self._until_s = clock() + STEP_S

    def is_over(self) -> bool:
        """Is it to be broken off?"""
        return self._left <= 0 and self._clock() >= self._until_s

    def note(self, rows: int) -> None:
        """So many have gone."""
        self._left -= rows

    def execute(self, connection: sqlite3.Connection, sql: str, rows: Sequence[Sequence[Any]]) -> bool:
        """Execute a statement for each of the rows until the step is over. Was it for all of them?

        For the first in any case: what it took to find them may have used up the time, each time anew.
        """
        for place, row in enumerate(rows):
            if self.is_over() and place:
                return False
            connection.execute(sql, row)
            self.note(1)
        return True

    def execute_found(
        self, connection: sqlite3.Connection, sql: str, find: Callable[[int], Sequence[Sequence[Any]]]
    ) -> bool:
        """The same for all that ``find`` gives, of which it is asked for a few at a time: to find takes the writer's
        time too. What the statement was executed for must not be found again."""
        while rows := find(FOUND_ROWS):
            if not self.execute(connection, sql, rows):
                return False
            if len(rows) < FOUND_ROWS:
                break
            if self.is_over():
                return False
        return True


class NowAndThen:
    """Says so once in ``interval_s``, by the times that it is told; the first time at once, and when they went back."""

    __slots__ = ("_interval_s", "_last_s")

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last_s = float("-inf")

    def is_due(self, now_s: float, *, at_once: bool = False) -> bool:
        """Is it time, or is there another reason (``at_once``)? Then the next time is an interval later."""
        if 0 <= now_s - self._last_s < self._interval_s and not at_once:
            return False
        self._last_s = now_s
        return True

    def go_on(self, now_s: float) -> None:
        """There is more to do: it is due again when others have had their turn."""
        self._last_s = now_s + REST_S - self._interval_s


class OftenEnough:
    """The same, and sooner where so much has come since that a sweep might not keep up: ``rows``, or an eighth of
    ``room_bytes``."""

    __slots__ = ("_bytes", "_bytes_since", "_is_going_on", "_owed_rows", "_rows", "_rows_since", "_times")

    def __init__(self, interval_s: float, *, rows: int, room_bytes: int) -> None:
        self._times = NowAndThen(interval_s)
        self._rows = rows
        self._bytes = room_bytes // 8
        self._rows_since = self._bytes_since = 0
        self._is_going_on, self._owed_rows = False, 0

    def note(self, *, rows: int = 0, size_bytes: int = 0) -> None:
        """So much has come."""
        self._rows_since += rows
        self._bytes_since += size_bytes

    def is_due(self, now_s: float) -> bool:
        """Is it time, or has much come? Then it is counted anew, and the next time is an interval later."""
        is_much = self._rows_since >= self._rows or self._bytes_since >= self._bytes
        if not self._times.is_due(now_s, at_once=is_much):
            return False
        self._owed_rows = 2 * self._rows_since if self._is_going_on else 0
        self._is_going_on = False
        self._rows_since = self._bytes_since = 0
        return True

    @property
    def owed_rows(self) -> int:
        """How many are to go at least in the step that is due, however long it takes: twice as many as have come since
        the last one was broken off, so that there is an end."""
        return self._owed_rows

    def go_on(self, now_s: float) -> None:
        """As of ``NowAndThen``."""
        self._is_going_on = True
        self._times.go_on(now_s)
