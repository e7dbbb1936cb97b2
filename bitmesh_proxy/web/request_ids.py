"""Ids of requests: ``req_`` and 24 hexadecimal digits, ten of the time and fourteen of the system's random numbers.

The time comes first so that ids sort by it, and a new one belongs at the end of the ledger's index: anywhere else it
would cost a page of its own, which at three million requests took four times as long as the rest of the writing.
Random numbers are fetched in bulk: asking the kernel for each id cost one part in twenty-five of a request's CPU time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

RANDOM_BYTES: Final = 7
#: Nanoseconds are counted in units of 2²⁴ (17 ms), whose number fits ten digits until the year 2555.
_TIME_SHIFT: Final = 24
_IDS_AT_ONCE: Final = 256


class RequestIds:
    """Makes ids. ``random_bytes`` gives so many random bytes, ``clock_ns`` is Unix time in nanoseconds."""

    def __init__(
        self, random_bytes: Callable[[int], bytes] = os.urandom, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._random_bytes = random_bytes
        self._clock_ns = clock_ns
        self._digits: list[str] = []
        self._unit = -1
        self._prefix = ""

    def begin_anew(self) -> None:
        """Forget what was fetched: a forked process would make the same ids as the one that it was forked from."""
        self._digits = []

    def make(self) -> str:
        """An id that nobody has had before, and nobody can guess."""
        if not self._digits:
            digits, size = self._random_bytes(RANDOM_BYTES * _IDS_AT_ONCE).hex(), 2 * RANDOM_BYTES
            self._digits = [digits[at : at + size] for at in range(len(digits) - size, -1, -size)]
        unit = self._clock_ns() >> _TIME_SHIFT
        if unit != self._unit:  # else it is written as it was for the last one
            self._unit, self._prefix = unit, f"req_{unit:010x}"
        return self._prefix + self._digits.pop()


#: Of this process.
_ids = RequestIds()
os.register_at_fork(after_in_child=_ids.begin_anew)

#: The next id of this process.
make_request_id: Final = _ids.make
