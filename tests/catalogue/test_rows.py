"""The types of rows: what TOML may say, and that nothing else is taken."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.offer import Abilities
from bitmesh_proxy.catalogue.price_rows import read_price
from bitmesh_proxy.catalogue.rows import ModelRow, OfferRow, PriceRow

OFFER = 'model = "m"\nprovider = "p"\nupstream_model = "u"\n'
MODEL = 'id = "m"\noperation = "chat"\n'


def convert(text: str, row_type: type[Any]) -> Any:
    return msgspec.convert(tomllib.loads(text), row_type)


@pytest.mark.parametrize(
    "line",
    [
        "colour = 1",
        "usd_per_image = 0.04",
        "usd_per_image = 1",
        'usd_per_image_by = { "1k" = 0.04 }',
        'usd_per_image_by = "0.04"',
        "markup = 1.2",
        'tools = "yes"',
        "seconds = [0]",
        "seconds = [1.5]",
        "max_images_in = -1",
        "max_count = 0",
        'retires_on = "tomorrow"',
        "sell = { usd_per_pixel = '1' }",
        "sell = { free = true }",
        "long_context = { above_tokens = 5 }",
        "long_context = { above_tokens = 5, price = { markup = '1' } }",
    ],
)
def test_an_offer_row_takes_nothing_else(line: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        convert(OFFER + line, OfferRow)


@pytest.mark.parametrize(
    "line", ["provider2 = 'x'", "aliases = 'a'", "aliases = ['a b']", "aliases = ['']", "title = 5"]
)
def test_a_model_row_takes_nothing_else(line: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        convert(MODEL + line, ModelRow)


@pytest.mark.parametrize("missing", ["model", "provider", "upstream_model"])
def test_an_offer_says_of_what_by_whom_and_under_which_name(missing: str) -> None:
    lines = [line for line in OFFER.splitlines() if not line.startswith(f"{missing} ")]
    with pytest.raises(msgspec.ValidationError, match=missing):
        convert("\n".join(lines), OfferRow)


def test_a_bare_offer_can_do_nothing_special() -> None:
    row = convert(OFFER, OfferRow)
    defaults = Abilities()
    for name in Abilities.__struct_fields__:
        assert getattr(row, name) == getattr(defaults, name), name


def test_every_price_key_of_a_row_reaches_the_price() -> None:
    """A key that exists and is then forgotten would be a price of zero."""
    for field in msgspec.structs.fields(PriceRow):
        value: Any = {"x": "1"} if field.encode_name.endswith("_by") else "1"
        with_it = msgspec.convert({field.encode_name: value}, PriceRow)
        complaints: list[str] = []
        changed = read_price(with_it, Operation.IMAGE, complaints.append)
        assert changed != read_price(PriceRow(), Operation.IMAGE, complaints.append), field.encode_name
