"""A clock that only a test moves."""

from __future__ import annotations

from tests.storage.examples import NOON_S


class Clock:
    """Unix time in seconds."""

    def __init__(self, now_s: float = NOON_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s
