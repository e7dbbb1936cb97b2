"""The order of all rounds, and the time they may take.

First every work gets one round, then every work a second one, and so on: so a work's rounds are spread over the whole
run, as the machine's other work is. When the time is nearly up, rounds that would not end in time are left out, and
nothing else: each work that can be measured has been by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripts.benchmarks.bench import Work
from scripts.benchmarks.processes import Missing
from scripts.benchmarks.table import Row

#: What keeps one work from being measured, and leaves the others alone.
TROUBLE = (RuntimeError, OSError, Missing, ValueError)


def measure_all(
    makers: Sequence[tuple[str, Callable[[], Work]]],
    *,
    rounds: int,
    end_s: float,
    faults: list[str],
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """All rounds of all works. A work is made when its first turn comes; what fails is a fault, and its last turn.

    ``end_s`` is of ``clock``. Gives the rows that have figures, in the works' order.
    """
    began_s = clock()
    turns = [_Turns(name=name, make=make) for name, make in makers]
    for number in range(rounds):
        for turn in turns:
            if number and (turn.is_over or clock() + turn.longest_s > end_s):
                continue
            say(f"{clock() - began_s:5.0f} s  round {number + 1}: {turn.name}")
            try:
                turn.take(number, clock)
            except TROUBLE as trouble:
                turn.is_over = True
                faults.append(f"{turn.name}: {trouble}")
    return [row for turn in turns if turn.work is not None for row in turn.work.rows if row.rounds]


@dataclass(slots=True, kw_only=True)
class _Turns:
    """A work's rounds so far."""

    name: str
    make: Callable[[], Work]
    work: Work | None = None
    longest_s: float = 0.0
    is_over: bool = False

    def take(self, number: int, clock: Callable[[], float]) -> None:
        if self.work is None:
            self.work = self.make()
            self.is_over = self.work.once
        began_s = clock()
        self.work.measure(number)
        self.longest_s = max(self.longest_s, clock() - began_s)
