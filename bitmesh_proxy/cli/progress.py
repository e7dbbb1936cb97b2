"""How far a long command has come: one line on a terminal, written over once a second. Nothing elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Self

import click

LINE_CHARACTERS = 70


class ProgressLine:
    """See the module's docstring. ``end``, or the end of a ``with``, takes the line away."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown_s = clock()
        self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def say(self, text: str) -> None:
        """Show it, unless the last one is less than a second old."""
        now_s = self._clock()
        if now_s - self._shown_s < 1 or not sys.stderr.isatty():
            return
        self._shown_s, self._is_shown = now_s, True
        click.echo("\r" + text.ljust(LINE_CHARACTERS), nl=False, err=True)

    def end(self) -> None:
        """Leave an empty line, to be written on."""
        if self._is_shown:
            click.echo("\r".ljust(LINE_CHARACTERS + 1) + "\r", nl=False, err=True)
