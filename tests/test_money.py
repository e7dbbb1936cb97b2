from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.money import (
    MAX_NANO_USD,
    NANO_PER_USD,
    format_usd,
    parse_reported_usd,
    parse_usd,
    round_half_even,
    round_up,
    usd_number,
)

amounts = st.integers(-MAX_NANO_USD, MAX_NANO_USD)


@pytest.mark.parametrize(
    ("text", "nano"),
    [("0.15", 150_000_000), ("0", 0), ("1e-9", 1), ("-2.5", -2_500_000_000), ("0.000000001", 1), ("1E2", 10**11)],
)
def test_parse_reads_decimals_exactly(text: str, nano: int) -> None:
    assert parse_usd(text) == nano


@pytest.mark.parametrize(
    "text",
    ["", "abc", "NaN", "Infinity", "-inf", "0.0000000001", "1e10", "1,5", "$1", "9223372037", "1e999999999", "1e-9999"],
)
def test_parse_refuses_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r"US dollars|nano-dollar"):
        parse_usd(text)


@given(amounts)
def test_what_is_written_reads_back(nano: int) -> None:
    assert parse_usd(format_usd(nano)) == nano


def test_writing_is_plain() -> None:
    assert format_usd(0) == "0"
    assert format_usd(1) == "0.000000001"
    assert format_usd(NANO_PER_USD) == "1"
    assert format_usd(100 * NANO_PER_USD) == "100"
    assert format_usd(-1_500_000_000) == "-1.5"
    assert format_usd(1_234_567_890, places=2) == "1.23"
    assert usd_number(150_000_000) == 0.15


@pytest.mark.parametrize(
    ("value", "nano"),
    [
        (0.28, 280_000_000),
        ("0.28", 280_000_000),
        (3, 3 * NANO_PER_USD),
        (0, 0),
        (1e-10, 1),  # rounded up: what is taken is never written down as less
        ("0.0000000011", 2),
        (0.1 + 0.2, 300_000_000),  # a float's noise is not money
        (5e-324, 0),
    ],
)
def test_reported_costs_round_up(value: object, nano: int) -> None:
    assert parse_reported_usd(value) == nano


@pytest.mark.parametrize(
    "value", [None, True, False, -1, "-0.1", "free", float("nan"), float("inf"), 1e12, "1e999999999", [], {"usd": 1}]
)
def test_reported_nonsense_is_no_amount(value: object) -> None:
    assert parse_reported_usd(value) is None


@given(st.integers(-(10**24), 10**24), st.integers(1, 10**12))
def test_round_up_is_the_least_whole_number_not_below(numerator: int, denominator: int) -> None:
    rounded = round_up(numerator, denominator)
    assert (rounded - 1) * denominator < numerator <= rounded * denominator


@given(st.integers(-(10**24), 10**24), st.integers(1, 10**12))
def test_round_half_even_is_nearest_and_even_in_the_middle(numerator: int, denominator: int) -> None:
    rounded = round_half_even(numerator, denominator)
    off = abs(rounded * denominator - numerator)
    assert 2 * off <= denominator
    if 2 * off == denominator:
        assert rounded % 2 == 0


@given(st.integers(-999, 999))
def test_round_half_even_agrees_with_decimal(halves: int) -> None:
    assert round_half_even(halves, 2) == (Decimal(halves) / 2).to_integral_value()
