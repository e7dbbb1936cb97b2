"""Threads that all want the same at the same time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

THREADS = 8


def in_threads(work: Callable[[], T]) -> list[T]:
    """What each thread's ``work`` gave. They begin together, and take turns as often as the interpreter can."""
    start = threading.Barrier(THREADS)

    def begin() -> T:
        start.wait()
        return work()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return [future.result() for future in [pool.submit(begin) for _ in range(THREADS)]]
    finally:
        sys.setswitchinterval(before)
