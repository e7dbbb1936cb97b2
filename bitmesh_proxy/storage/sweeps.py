"""When what is old is looked for: with something that happens anyway, and not each time that it does."""

from __future__ import annotations


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


class OftenEnough:
    """The same, and sooner where so much has come since that a sweep might not keep up: ``rows``, or an eighth of
    ``room_bytes``."""

    __slots__ = ("_bytes", "_bytes_since", "_rows", "_rows_since", "_times")

    def __init__(self, interval_s: float, *, rows: int, room_bytes: int) -> None:
        self._times = NowAndThen(interval_s)
        self._rows = rows
        self._bytes = room_bytes // 8
        self._rows_since = self._bytes_since = 0

    def note(self, *, rows: int = 0, size_bytes: int = 0) -> None:
        """So much has come."""
        self._rows_since += rows
        self._bytes_since += size_bytes

    def is_due(self, now_s: float) -> bool:
        """Is it time, or has much come? Then it is counted anew, and the next time is an interval later."""
        is_much = self._rows_since >= self._rows or self._bytes_since >= self._bytes
        if not self._times.is_due(now_s, at_once=is_much):
            return False
        self._rows_since = self._bytes_since = 0
        return True
