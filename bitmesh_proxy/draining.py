"""The end of a process: from when it takes no new calls, and how much time those that run still have.

All that is waited for shares one time (``http.shutdown_timeout_s``): running answers, responses in the background,
calls that go on without their caller. They are waited for one after the other but run beside each other, so whoever
comes later gets what is left, and ``LAST_S`` at least (if all have as much) to write down what was broken off before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

LAST_S: Final = 2.0


class Draining(asyncio.Event):
    """Set when the process has been told to stop. ``clock`` is in seconds and never goes back."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._timeout_s = timeout_s
        self._clock = clock
        self._end_s: float | None = None

    def set(self) -> None:
        """Begin. The time runs from the first call on."""
        if self._end_s is None:
            self._end_s = self._clock() + self._timeout_s
        super().set()

    def left_s(self) -> float:
        """For how long one may still wait; all of the time if it has not begun (a start that failed)."""
        if self._end_s is None:
            return self._timeout_s
        return max(min(LAST_S, self._timeout_s), self._end_s - self._clock())
