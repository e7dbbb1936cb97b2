"""Money is whole nano-dollars (10⁻⁹ USD): ``int`` everywhere, ``INTEGER`` in SQLite. A float never meets a price.

Prices of small things are kept per million units, so that 0.0375 USD per million tokens (37.5 nano-dollars a
thousand) stays a whole number: ``nano_usd_per_million``.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import NewType

NanoUsd = NewType("NanoUsd", int)

NANO_PER_USD = 1_000_000_000
PER_MILLION = 1_000_000
ZERO = NanoUsd(0)

#: SQLite's largest INTEGER; an amount beyond it is a mistake, not money.
MAX_NANO_USD = 2**63 - 1
#: The same in dollars, to be compared with before anything is calculated: decimals can be larger than what can be.
_MAX_USD = Decimal(MAX_NANO_USD) / NANO_PER_USD


def parse_usd(text: str) -> NanoUsd:
    """Read a decimal string of US dollars exactly, ``"0.15"`` → 150_000_000.

    Raises ValueError for anything that is not a plain finite decimal, or finer than a nano-dollar.
    """
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"not a decimal amount of US dollars: {text!r}") from None
    if not amount.is_finite():
        raise ValueError(f"not a finite amount of US dollars: {text!r}")
    if not -_MAX_USD <= amount <= _MAX_USD:
        raise ValueError(f"too large an amount of US dollars: {text!r}")
    nano = amount * NANO_PER_USD
    if nano != nano.to_integral_value() or (amount and not nano):
        raise ValueError(f"finer than a nano-dollar: {text!r}")
    return NanoUsd(int(nano))


def parse_reported_usd(value: object) -> NanoUsd | None:
    """Read a cost as a provider reports it in JSON (number or string), rounded up to a whole nano-dollar.

    Floats are read through their shortest decimal form (0.28 is 0.28), and their noise below 10⁻¹⁵ USD does not count.
    ``None`` for anything that is no amount ≥ 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    if not amount.is_finite() or not 0 <= amount <= _MAX_USD:
        return None
    return round_up(int(amount * NANO_PER_USD * PER_MILLION), PER_MILLION)


def round_up(numerator: int, denominator: int) -> NanoUsd:
    """``numerator / denominator`` rounded up: for reservations and charges, which must never come out too small."""
    return NanoUsd(-(-numerator // denominator))


def round_half_even(numerator: int, denominator: int) -> NanoUsd:
    """``numerator / denominator`` rounded half to even: for costs, where errors must not add up to one side."""
    quotient, remainder = divmod(numerator, denominator)
    double = remainder * 2
    if double > denominator or (double == denominator and quotient % 2):
        quotient += 1
    return NanoUsd(quotient)


def format_usd(amount: int, *, places: int | None = None) -> str:
    """Write nano-dollars as a decimal string, exactly (trailing zeros dropped), or with ``places`` digits."""
    if places is not None:
        return f"{Decimal(amount) / NANO_PER_USD:.{places}f}"
    if 0 < amount < NANO_PER_USD:  # what calls cost; in a third of the time of a format specification
        return "0." + f"{amount}".zfill(9).rstrip("0")
    if amount < 0:
        return "-" + format_usd(-amount)
    whole, nano = divmod(amount, NANO_PER_USD)
    return f"{whole}.{f'{nano}'.zfill(9).rstrip('0')}" if nano else str(whole)


def usd_number(amount: int) -> float:
    """Nano-dollars as a JSON number of US dollars, for answers that promise one. Never calculate with it."""
    return float(Decimal(amount) / NANO_PER_USD)
