"""A clock that stands still until a test moves it."""

from __future__ import annotations


class HandClock:
    """Seconds as a float, kept as whole microseconds, so that many small steps add up exactly."""

    def __init__(self, start_s: int = 1_700_000_000) -> None:
        # A Unix time: floats are coarsest there, which is the hard case.
        self.now_us = start_s * 1_000_000

    def __call__(self) -> float:
        return self.now_us / 1_000_000

    def move(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)
