"""Moments and amounts as people type and read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from bitmesh_proxy.money import ZERO, NanoUsd, format_usd, parse_usd


class UsdType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """A decimal amount of US dollars."""

    name = "USD"

    def __init__(self, *, least: NanoUsd | None = None) -> None:
        self._least = least

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> NanoUsd:
        """Exactly, or not at all."""
        if isinstance(value, int):
            return NanoUsd(value)
        try:
            amount = parse_usd(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if self._least is not None and amount < self._least:
            self.fail(f"less than {format_usd(self._least)} US dollars: {value!r}", param, ctx)
        return amount


class MomentType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """``2026-12-31``, ``2026-12-31T12:00``, ``30d`` or ``12h`` (from now); UTC. Gives Unix time in seconds."""

    name = "WHEN"

    def __init__(self, *, ago: bool = False) -> None:
        #: ``30d`` is 30 days ago, not 30 days ahead.
        self._ago = ago

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Unix time."""
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            return self._seconds_of(text)
        except ValueError:
            self.fail(f"{text!r} is no date, moment or distance (2026-12-31, 2026-12-31T12:00, 30d, 12h)", param, ctx)
        except OverflowError:
            self.fail(f"{text!r} is beyond all calendars", param, ctx)

    def _seconds_of(self, text: str) -> float:
        units = {"d": "days", "h": "hours", "m": "minutes"}
        if text[:-1].isdigit() and text[-1:] in units:
            distance = timedelta(**{units[text[-1]]: int(text[:-1])})
            now = datetime.now(UTC)
            return (now - distance if self._ago else now + distance).timestamp()
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).timestamp()


USD = UsdType()
#: May be nothing, and not less.
BUDGET = UsdType(least=ZERO)
AHEAD = MomentType()
AGO = MomentType(ago=True)


def show_moment(moment_s: float | None) -> str:
    """Unix time as ``2026-12-31 12:00:00Z``, UTC; empty for None."""
    return "" if moment_s is None else datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
