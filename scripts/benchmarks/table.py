"""Figures of interleaved rounds, made into one table: medians, in-round ratios, the noise beside them, and the bars.

A ratio is taken within each round and then the median of all, because a busy machine slows both sides of one round
alike, and no two rounds alike. ``noise`` is half the spread of the rounds' ratios between their quartiles, in per cent
of the median (of our own figures, where there is nothing to compare with). ``other`` is what we are compared with where
that is neither nginx nor direct.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

HEADINGS = ("work", "unit", "direct", "nginx", "us", "other", "ratio", "noise", "bar", "met")
_TEXTS = (0, 1, 5, 8, 9)  # the columns that begin at the left


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What is wanted of a row's ratio (or difference), or with ``of="us"`` of our own figure."""

    limit: float
    of: Literal["ratio", "us"] = "ratio"
    is_least: bool = False

    def missed_by(self, value: float) -> float:
        """How far ``value`` is on the wrong side, as a share of the limit; 0 where it is met."""
        beyond = self.limit - value if self.is_least else value - self.limit
        if beyond <= 0:
            return 0.0
        return beyond / self.limit if self.limit else math.inf


@dataclass(slots=True, kw_only=True)
class Row:
    """One work, one figure. ``rounds`` holds for each round what each target came to.

    ``against`` is the target that we are divided by, or with ``is_difference`` the one that is taken away from us;
    empty where a figure stands for itself. ``note`` is what a reader has to know beside the figure.
    """

    work: str
    unit: str
    against: str = "nginx"
    is_difference: bool = False
    bars: Sequence[Bar] = ()
    note: str = ""
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

    @property
    def missed_by(self) -> float | None:
        """By how much the bar that is missed most is missed, as a share of it. None: no bar, or no figure for it."""
        figures = {"ratio": self.ratio, "us": self.median("us")}
        known = [(bar, figures[bar.of]) for bar in self.bars]
        missed = [bar.missed_by(value) for bar, value in known if value is not None]
        # One bar of two that is known to be missed is enough to say so; one that is met is not.
        return max(missed) if missed and (len(missed) == len(known) or max(missed) > 0) else None

    @property
    def is_met(self) -> bool | None:
        """Are all its bars met? None where there is none, or nothing to hold it against."""
        missed = self.missed_by
        return None if missed is None else missed == 0

    def bar_text(self) -> str:
        """The bars, for people."""
        return " and ".join(self._bar_text(bar) for bar in self.bars)

    def _bar_text(self, bar: Bar) -> str:
        sign = "+" if self.is_difference and bar.of == "ratio" else ""
        value = f"1/{1 / bar.limit:.0f}" if 0 < bar.limit < 0.1 else f"{bar.limit:,g}"
        return f"{'us ' if bar.of == 'us' and self.against else ''}{'>=' if bar.is_least else '<='} {sign}{value}"

    def as_json(self) -> dict[str, Any]:
        """Everything, the single rounds included."""
        missed = self.missed_by
        return {
            "work": self.work,
            "unit": self.unit,
            "against": self.against,
            "is_difference": self.is_difference,
            "bar": self.bar_text(),
            "met": self.is_met,
            "missed_by_percent": None if missed is None or math.isinf(missed) else round(missed * 100, 1),
            "note": self.note,
            "medians": {name: self.median(name) for name in sorted({name for each in self.rounds for name in each})},
            "ratio": self.ratio,
            "noise_percent": self.noise_percent,
            "rounds": self.rounds,
        }

    def cells(self) -> tuple[str, ...]:
        """The row as people read it."""
        noise, met = self.noise_percent, self.is_met
        return (
            f"{self.work} ({self.note})" if self.note else self.work,
            self.unit,
            *(figure(self.median(target)) for target in ("direct", "nginx", "us")),
            self._other(),
            self._shown_ratio(),
            "" if noise is None else f"{noise:.0f} %",
            self.bar_text(),
            "" if met is None else "yes" if met else "no",
        )

    def _other(self) -> str:
        them = self.median(self.against) if self.against not in ("", "direct", "nginx") else None
        return "" if them is None else f"{self.against} {figure(them)}"

    def _shown_ratio(self) -> str:
        ratio = self.ratio
        if ratio is None:
            return ""
        if self.is_difference:
            return f"{ratio:+.2f}"
        return f"1/{1 / ratio:,.0f}" if 0 < ratio < 0.1 else f"{ratio:.2f}"


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
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def render(rows: Sequence[Row]) -> str:
    """The table, in Markdown that also reads well in a terminal. A column that nobody fills is left out."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    used = [column for column in range(len(HEADINGS)) if column != 5 or any(line[5] for line in lines[1:])]
    widths = {column: max(len(line[column]) for line in lines) for column in used}

    def shown(line: Sequence[str]) -> str:
        cells = (
            line[column].ljust(widths[column]) if column in _TEXTS else line[column].rjust(widths[column])
            for column in used
        )
        return f"| {' | '.join(cells)} |"

    rule = "| " + " | ".join("-" * widths[column] for column in used) + " |"
    return "\n".join([shown(HEADINGS), rule, *(shown(line) for line in lines[1:])])
