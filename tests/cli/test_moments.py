"""Moments and amounts as people type them."""

from __future__ import annotations

import time

import click
import pytest

from bitmesh_proxy.cli.moments import AGO, AHEAD, BUDGET, USD, show_moment


def test_dates_and_moments_are_utc() -> None:
    assert AHEAD.convert("2026-12-31", None, None) == 1_798_675_200.0
    assert AHEAD.convert("2026-12-31T12:00", None, None) == 1_798_718_400.0
    assert AHEAD.convert("2026-12-31T12:00+02:00", None, None) == 1_798_711_200.0
    assert show_moment(1_798_718_400.0) == "2026-12-31 12:00:00Z"
    assert show_moment(None) == ""


def test_distances_point_ahead_or_back() -> None:
    before = time.time()
    ahead, back = AHEAD.convert("30d", None, None), AGO.convert("12h", None, None)
    after = time.time()
    assert before + 30 * 86_400 <= ahead <= after + 30 * 86_400
    assert before - 12 * 3600 <= back <= after - 12 * 3600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "d",
        "30w",
        "31.12.2026",
        "-3d",
        "²d",
        "99999999d",
        "9" * 30 + "h",
        "9" * 5000 + "d",
        "9999-12-31T23:59-14:00",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        AHEAD.convert(text, None, None)


@pytest.mark.parametrize(("text", "nano_usd"), [("10", 10_000_000_000), ("0.000000001", 1), ("-1.5", -1_500_000_000)])
def test_amounts_are_exact(text: str, nano_usd: int) -> None:
    assert USD.convert(text, None, None) == nano_usd


def test_a_budget_is_no_less_than_nothing() -> None:
    assert BUDGET.convert("0", None, None) == 0
    with pytest.raises(click.UsageError, match="less than 0 US dollars"):
        BUDGET.convert("-0.5", None, None)
