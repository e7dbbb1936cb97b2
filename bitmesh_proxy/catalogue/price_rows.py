"""Reading prices: decimal strings to nano-dollars, with everything refused that cannot be a price.

A price that is missing, negative, of the wrong unit for the operation, or out of all proportion (a price per token
written as one per million, cents for dollars) is a fault of the row, never a free or a ruinous call. The bounds are
far outside of what any provider takes (2026), so they catch slips of a factor of a thousand, not dear models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.catalogue.rows import LongContextRow, PriceRow
from bitmesh_proxy.money import parse_usd

Complain = Callable[[str], None]

_DECIMAL = re.compile(r"^[0-9]{1,9}(\.[0-9]{1,12})?$")
_ZERO = re.compile(r"^0(\.0+)?$")
_TIER = re.compile(r"^(?:[a-z][a-z0-9_-]*|[0-9]{1,5}x[0-9]{1,5}|[0-9.]+[pkPK]|[a-z][a-z0-9_-]*/[0-9]{1,5}x[0-9]{1,5})$")


class _Unit(msgspec.Struct, frozen=True, kw_only=True):
    """One price key: where it goes in a ``Price``, and the bounds of what is believed, in US dollars."""

    field: str
    lowest_usd: str
    highest_usd: str


_TOKENS = ("0.0005", "1000")
_UNITS: Mapping[str, _Unit] = {
    key: _Unit(field=field, lowest_usd=lowest, highest_usd=highest)
    for key, field, (lowest, highest) in (
        ("usd_per_million_input_tokens", "input_nano_usd_per_million", _TOKENS),
        ("usd_per_million_cached_input_tokens", "cached_input_nano_usd_per_million", _TOKENS),
        ("usd_per_million_cache_write_tokens", "cache_write_nano_usd_per_million", _TOKENS),
        ("usd_per_million_image_input_tokens", "image_input_nano_usd_per_million", _TOKENS),
        ("usd_per_million_output_tokens", "output_nano_usd_per_million", _TOKENS),
        ("usd_per_million_image_output_tokens", "image_output_nano_usd_per_million", _TOKENS),
        ("usd_per_million_characters", "characters_nano_usd_per_million", ("0.01", "10000")),
        ("usd_per_image", "image_nano_usd", ("0.00001", "100")),
        ("usd_per_image_by", "image_tiers", ("0.00001", "100")),
        ("usd_per_input_image", "input_image_nano_usd", ("0.000001", "100")),
        ("usd_per_first_megapixel", "megapixel_first_nano_usd", ("0.00001", "100")),
        ("usd_per_further_megapixel", "megapixel_more_nano_usd", ("0.00001", "100")),
        ("usd_per_second", "second_nano_usd", ("0.00001", "100")),
        ("usd_per_second_by", "second_tiers", ("0.00001", "100")),
        ("usd_per_minute", "minute_nano_usd", ("0.00001", "100")),
        ("usd_per_video", "video_nano_usd", ("0.0001", "1000")),
        ("usd_per_request", "request_nano_usd", ("0.000001", "100")),
    )
}

#: Key in a row → field of a ``Price``, in the order in which prices are shown.
PRICE_FIELDS: Mapping[str, str] = {key: unit.field for key, unit in _UNITS.items()}

_TOKEN_KEYS = frozenset(key for key in _UNITS if key.endswith("_tokens"))
_TEXT_KEYS = frozenset(
    {
        "usd_per_million_input_tokens",
        "usd_per_million_cached_input_tokens",
        "usd_per_million_cache_write_tokens",
        "usd_per_million_output_tokens",
    }
)

#: Keys that mean something for an operation. Others are a slip: a picture at the rate of text, a clip per picture.
_MEANINGFUL: Mapping[Operation, frozenset[str]] = {
    Operation.CHAT: _TEXT_KEYS | {"usd_per_million_image_input_tokens", "usd_per_input_image", "usd_per_request"},
    Operation.IMAGE: _TOKEN_KEYS
    | {
        "usd_per_image",
        "usd_per_image_by",
        "usd_per_input_image",
        "usd_per_first_megapixel",
        "usd_per_further_megapixel",
        "usd_per_request",
    },
    Operation.VIDEO: frozenset(
        {"usd_per_second", "usd_per_second_by", "usd_per_video", "usd_per_input_image", "usd_per_request"}
    ),
    Operation.SPEECH: _TEXT_KEYS | {"usd_per_million_characters", "usd_per_request"},
    Operation.TRANSCRIPTION: _TEXT_KEYS | {"usd_per_second", "usd_per_minute", "usd_per_request"},
    Operation.EMBEDDING: frozenset({"usd_per_million_input_tokens", "usd_per_request"}),
    Operation.MODERATION: frozenset({"usd_per_million_input_tokens", "usd_per_request"}),
}

#: At least one of these alternatives has to be there; all keys of the alternative are needed.
_REQUIRED: Mapping[Operation, tuple[frozenset[str], ...]] = {
    Operation.CHAT: (frozenset({"usd_per_million_input_tokens", "usd_per_million_output_tokens"}),),
    Operation.IMAGE: (frozenset({"usd_per_image"}), frozenset({"usd_per_first_megapixel"})),
    Operation.VIDEO: (frozenset({"usd_per_second"}), frozenset({"usd_per_video"})),
    Operation.SPEECH: (frozenset({"usd_per_million_characters"}),),
    Operation.TRANSCRIPTION: (frozenset({"usd_per_minute"}), frozenset({"usd_per_second"})),
    Operation.EMBEDDING: (frozenset({"usd_per_million_input_tokens"}), frozenset({"usd_per_request"})),
    Operation.MODERATION: (frozenset({"usd_per_million_input_tokens"}), frozenset({"usd_per_request"})),
}


def read_price(
    row: PriceRow,
    operation: Operation,
    complain: Complain,
    *,
    is_free: bool = False,
    is_reported: bool = False,
    long_context: LongContextRow | None = None,
) -> Price:
    """Make a ``Price`` of a row. Each fault is said to ``complain``; the price is then not to be used."""
    given = {key: value for key in _UNITS if (value := getattr(row, key)) is not None and value != {}}
    _check_units(given, operation, complain, is_free=is_free)
    fields: dict[str, Any] = {}
    for key, value in given.items():
        unit = _UNITS[key]
        if isinstance(value, str):
            fields[unit.field] = _read_amount(key, value, unit, complain)
        else:
            fields[unit.field] = {
                _read_tier(key, name, complain): _read_amount(f"{key}.{name}", amount, unit, complain)
                for name, amount in value.items()
            }
    if given and all(_ZERO.match(text) for value in given.values() for text in _texts(value)):
        complain("every price is zero: say free = true if it is meant")
    if long_context is not None:
        fields["long_context_above_tokens"] = long_context.above_tokens
        fields["long_context"] = read_price(
            long_context.price, operation, lambda reason: complain(f"long_context.price: {reason}")
        )
    return Price(is_free=is_free, is_reported=is_reported, **fields)


def read_ratio(key: str, text: str, complain: Complain) -> int:
    """A markup as a ratio in nano: ``"1.2"`` is 1_200_000_000."""
    ratio = _read_decimal(key, text, complain)
    if _DECIMAL.match(text) and not parse_usd("0.01") <= ratio <= parse_usd("1000"):
        complain(f"{key}: {text} is no believable ratio (0.01 to 1000)")
    return ratio


def _check_units(given: Mapping[str, object], operation: Operation, complain: Complain, *, is_free: bool) -> None:
    if is_free:
        if given:
            complain(f"free = true beside a price ({', '.join(given)})")
        return
    for key in given:
        if key not in _MEANINGFUL[operation]:
            complain(f"{key}: not a unit that {operation} is priced by")
    alternatives = _REQUIRED[operation]
    if not any(keys <= given.keys() for keys in alternatives):
        wanted = ", or ".join(" and ".join(sorted(keys)) for keys in alternatives)
        complain(f"unpriced: an offer of {operation} needs {wanted} (or free = true)")
    for by, base in (("usd_per_image_by", "usd_per_image"), ("usd_per_second_by", "usd_per_second")):
        if by in given and base not in given:
            complain(f"{by}: needs {base} beside it, for what no tier names")
    if "usd_per_further_megapixel" in given and "usd_per_first_megapixel" not in given:
        complain("usd_per_further_megapixel: needs usd_per_first_megapixel beside it")


def _texts(value: str | Mapping[str, str]) -> Collection[str]:
    return (value,) if isinstance(value, str) else value.values()


def _read_tier(key: str, name: str, complain: Complain) -> str:
    if not _TIER.match(name):
        complain(f"{key}: {name!r} is no quality, WxH, quality/WxH or resolution")
    return name


def _read_amount(key: str, text: str, unit: _Unit, complain: Complain) -> int:
    amount = _read_decimal(key, text, complain)
    if amount and not parse_usd(unit.lowest_usd) <= amount <= parse_usd(unit.highest_usd):
        complain(f"{key}: {text} USD is not believable (from {unit.lowest_usd} to {unit.highest_usd}, or 0)")
    return amount


def _read_decimal(key: str, text: str, complain: Complain) -> int:
    if text.startswith("-"):
        complain(f"{key}: negative: {text}")
    elif not _DECIMAL.match(text):
        complain(f'{key}: want a plain decimal string such as "0.15", not {text!r}')
    else:
        try:
            return parse_usd(text)
        except ValueError as exc:
            complain(f"{key}: {exc}")
    return 0
