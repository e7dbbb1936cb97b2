"""When old rows are looked for: with a write that happens anyway, and not with each of them."""

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
