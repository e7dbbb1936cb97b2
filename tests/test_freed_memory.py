"""Large blocks come back from memory that the process has kept, and not from the system."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from bitmesh_proxy.freed_memory import KEPT_BYTES

#: Makes and drops blocks in a process of its own, and prints how often the system had to give it a page.
PROGRAM = """
import resource, sys
from bitmesh_proxy.freed_memory import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else False
size = int(sys.argv[2])
def use():
    first = b"x" * size
    second = first + b"y"
    return len(second)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str, size_bytes: int) -> tuple[bool, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, word, str(size_bytes)], check=True, capture_output=True, text=True, timeout=60
    )
    told, count = done.stdout.split()
    return told == "True", int(count)


def test_what_was_freed_is_used_again() -> None:
    size_bytes = 5_000_000
    told, kept = faults("keep", size_bytes)
    if not told:
        pytest.skip("this C library cannot be told")
    _, given_back = faults("not", size_bytes)
    pages = 20 * 2 * size_bytes // resource.getpagesize()
    assert kept < pages / 20
    assert given_back > 2 * kept


def test_what_is_larger_than_what_is_kept_is_given_back() -> None:
    told, given_back = faults("keep", KEPT_BYTES + 1)
    if not told:
        pytest.skip("this C library cannot be told")
    assert given_back >= 20 * KEPT_BYTES // resource.getpagesize()
