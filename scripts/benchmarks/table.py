"""Figures of interleaved rounds, made into one table: medians, in-round ratios, and the noise beside them.

A ratio is taken within each round and then the median of all, because a busy machine slows both sides of one round
alike, and no two rounds alike. ``noise`` is half the spread of the rounds' ratios between their quartiles, in per cent
of the median (of our own figures, where there is nothing to compare with).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HEADINGS = ("work", "unit", "direct", "nginx", "us", "ratio", "noise", "bar")


@dataclass(slots=True, kw_only=True)
class Row:
    """One work, one figure. ``rounds`` holds for each round what each target came to.

    ``against`` is the target that we are divided by, or with ``is_difference`` the one that is taken away from us;
    empty where a figure stands for itself.
    """

    work: str
    unit: str
    against: str = "nginx"
    is_difference: bool = False
    bar: str = ""
    rounds: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, figures: Mapping[str, float | None]) -> None:
        """One round. What could not be measured is left out."""
        self.rounds.append({name: value for name, value in figures.items() if value is not None})

    def median(self, target: str) -> float | None:
        """A target's median over the rounds."""
        values = [figures[target] for figures in self.rounds if target in figures]
        return statistics.median(values) if values else None

    def ratios(self) -> list[float]:
        """What each round says about us beside the other side."""
        other = self.against
        pairs = [(figures["us"], figures[other]) for figures in self.rounds if "us" in figures and other in figures]
        return [us - them for us, them in pairs] if self.is_difference else [us / them for us, them in pairs if them]

    @property
    def ratio(self) -> float | None:
        """The median of ``ratios``."""
        found = self.ratios()
        return statistics.median(found) if found else None

    @property
    def noise_percent(self) -> float | None:
        """See the module's docstring. None with fewer than two rounds."""
        return half_spread_percent(self.ratios() or [figures["us"] for figures in self.rounds if "us" in figures])

    def as_json(self) -> dict[str, Any]:
        """Everything, the single rounds included."""
        return {
            "work": self.work,
            "unit": self.unit,
            "against": self.against,
            "is_difference": self.is_difference,
            "bar": self.bar,
            "medians": {name: self.median(name) for name in sorted({name for each in self.rounds for name in each})},
            "ratio": self.ratio,
            "noise_percent": self.noise_percent,
            "rounds": self.rounds,
        }

    def cells(self) -> tuple[str, ...]:
        """The row as people read it."""
        ratio = self.ratio
        shown = "" if ratio is None else f"{ratio:+.2f}" if self.is_difference else f"{ratio:.2f}"
        noise = self.noise_percent
        medians = [figure(self.median(target)) for target in ("direct", "nginx", "us")]
        return (self.work, self.unit, *medians, shown, "" if noise is None else f"{noise:.0f} %", self.bar)


def half_spread_percent(values: Sequence[float]) -> float | None:
    """Half the distance between the quartiles, in per cent of the median."""
    if len(values) < 2:
        return None
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return abs((high - low) / 2 / middle) * 100 if middle else None


def figure(value: float | None) -> str:
    """Three digits that matter: ``0.123``, ``4.56``, ``78.9``, ``12,345``."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def render(rows: Sequence[Row]) -> str:
    """The table, in Markdown that also reads well in a terminal."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]

    def shown(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column in (0, 1, 7) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([shown(HEADINGS), rule, *(shown(line) for line in lines[1:])])
