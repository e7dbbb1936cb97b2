"""A clock that stands still until a test moves it."""

from __future__ import annotations


class HandClock:
    """Seconds as a float, kept as whole microseconds, so that many small steps add up exactly: ``clock.now_s += 0.1``.

    It begins with a Unix time: floats are coarsest there, which is the hard case.
    """

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_us = round(now_s * 1_000_000)

    def __call__(self) -> float:
        return self.now_us / 1_000_000

    @property
    def now_s(self) -> float:
        return self()

    @now_s.setter
    def now_s(self, now_s: float) -> None:
        self.now_us = round(now_s * 1_000_000)
