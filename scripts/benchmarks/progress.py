"""What is told while measuring, on standard error, so that the table alone is on standard output."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
