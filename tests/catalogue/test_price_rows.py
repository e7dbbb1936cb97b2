"""Reading prices: exact, in a unit that the operation has, and believable."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.price_rows import read_price, read_ratio
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.catalogue.rows import LongContextRow, PriceRow


def read(operation: Operation, complaints: list[str], **row: Any) -> Price:
    more = {name: row.pop(name) for name in ("is_free", "is_reported", "long_context") if name in row}
    return read_price(msgspec.convert(row, PriceRow), operation, complaints.append, **more)


@given(st.decimals(min_value=Decimal("0.0005"), max_value=1000, places=9, allow_nan=False))
def test_a_price_is_read_exactly(usd: Decimal) -> None:
    complaints: list[str] = []
    price = read(
        Operation.CHAT,
        complaints,
        usd_per_million_input_tokens=f"{usd:f}",
        usd_per_million_output_tokens="1",
    )
    assert complaints == []
    assert Decimal(price.input_nano_usd_per_million) == usd * 10**9


@pytest.mark.parametrize(
    ("operation", "row"),
    [
        (Operation.CHAT, {"usd_per_million_input_tokens": "0", "usd_per_million_output_tokens": "1"}),
        (Operation.CHAT, {"usd_per_million_input_tokens": "1000", "usd_per_million_output_tokens": "0.0005"}),
        (Operation.IMAGE, {"usd_per_image": "0.04"}),
        (Operation.IMAGE, {"usd_per_first_megapixel": "0.03", "usd_per_further_megapixel": "0.015"}),
        (Operation.IMAGE, {"usd_per_image": "0.1", "usd_per_million_image_output_tokens": "30"}),
        (Operation.IMAGE, {"usd_per_image": "0.1", "usd_per_image_by": {"hd/1024x1024": "0.08", "4K": "1"}}),
        (Operation.VIDEO, {"usd_per_video": "0.28"}),
        (Operation.VIDEO, {"usd_per_second": "0.4", "usd_per_second_by": {"1080p": "0.6", "2k": "1"}}),
        (Operation.SPEECH, {"usd_per_million_characters": "15"}),
        (Operation.TRANSCRIPTION, {"usd_per_minute": "0.0045"}),
        (Operation.TRANSCRIPTION, {"usd_per_second": "0.0001", "usd_per_million_input_tokens": "2.5"}),
        (Operation.EMBEDDING, {"usd_per_million_input_tokens": "0.02"}),
        (Operation.MODERATION, {"usd_per_request": "0.001"}),
        (Operation.MODERATION, {"is_free": True}),
    ],
)
def test_what_is_priced_in_its_own_unit_is_taken(operation: Operation, row: dict[str, Any]) -> None:
    complaints: list[str] = []
    price = read(operation, complaints, **row)
    assert complaints == []
    assert price.is_free == row.get("is_free", False)


@pytest.mark.parametrize(
    ("operation", "row", "reason"),
    [
        (Operation.IMAGE, {"usd_per_image_by": {"1k": "0.1"}}, "usd_per_image_by: needs usd_per_image beside it"),
        (Operation.IMAGE, {"usd_per_image": "100.1"}, "usd_per_image: 100.1 USD is not believable"),
        (Operation.IMAGE, {"usd_per_image": "1", "usd_per_image_by": {"high/1k": "1"}}, "'high/1k' is no quality"),
        (Operation.IMAGE, {"usd_per_image": "1", "usd_per_image_by": {"hd": "-1"}}, "usd_per_image_by.hd: negative"),
        (Operation.IMAGE, {"usd_per_further_megapixel": "0.1"}, "needs usd_per_first_megapixel beside it"),
        # At the rate of text a picture would cost next to nothing: tokens alone are no price of a picture.
        (Operation.IMAGE, {"usd_per_million_image_output_tokens": "30"}, "unpriced"),
        (Operation.IMAGE, {"usd_per_million_input_tokens": "1", "usd_per_million_output_tokens": "2"}, "unpriced"),
        (Operation.IMAGE, {"usd_per_image": "0.04", "usd_per_second": "1"}, "usd_per_second: not a unit that image"),
        (Operation.VIDEO, {"usd_per_image": "0.1"}, "usd_per_image: not a unit that video is priced by"),
        (Operation.VIDEO, {"usd_per_second_by": {"1080p": "0.1"}}, "usd_per_second_by: needs usd_per_second beside"),
        (Operation.VIDEO, {"usd_per_video": "1000.1"}, "usd_per_video: 1000.1 USD is not believable"),
        (Operation.SPEECH, {"usd_per_million_output_tokens": "12"}, "unpriced"),
        (Operation.SPEECH, {"usd_per_million_characters": "0.000015"}, "not believable"),  # per single character
        (Operation.TRANSCRIPTION, {"usd_per_million_characters": "12"}, "unpriced"),
        (Operation.EMBEDDING, {"usd_per_million_output_tokens": "12"}, "unpriced"),
        (Operation.MODERATION, {"usd_per_image": "12"}, "unpriced"),
        (Operation.CHAT, {}, "unpriced: an offer of chat needs usd_per_million_input_tokens and usd_per_million_outp"),
        (Operation.CHAT, {"is_free": True, "usd_per_request": "1"}, "free = true beside a price (usd_per_request)"),
        (
            Operation.CHAT,
            {"usd_per_million_input_tokens": "0.0", "usd_per_million_output_tokens": "0"},
            "every price is zero: say free = true if it is meant",
        ),
    ],
)
def test_what_is_no_price_of_the_operation_is_refused(operation: Operation, row: dict[str, Any], reason: str) -> None:
    complaints: list[str] = []
    read(operation, complaints, **row)
    assert any(reason in complaint for complaint in complaints), complaints


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "1.", ".5", " 1", "1_000", "1,5", "NaN", "Infinity", "٣", "0x1", "$1", "1 USD"]
)
def test_only_plain_decimals_are_prices(text: str) -> None:
    complaints: list[str] = []
    read(Operation.VIDEO, complaints, usd_per_video="1", usd_per_request=text)
    assert len(complaints) == 1
    assert complaints[0].startswith("usd_per_request: ")


def test_a_long_context_is_held_to_the_same_rules() -> None:
    complaints: list[str] = []
    row = {"usd_per_million_input_tokens": "1", "usd_per_million_output_tokens": "2"}
    long_context = LongContextRow(above_tokens=10, price=PriceRow(usd_per_million_input_tokens="-2"))
    read(Operation.CHAT, complaints, **row, long_context=long_context)
    assert [complaint.partition(" ")[0] for complaint in complaints] == ["long_context.price:"] * 2


@pytest.mark.parametrize(("text", "nano"), [("1", 10**9), ("1.25", 1_250_000_000), ("0.01", 10**7), ("1000", 10**12)])
def test_a_markup_is_a_ratio(text: str, nano: int) -> None:
    complaints: list[str] = []
    assert read_ratio("markup", text, complaints.append) == nano
    assert complaints == []


@pytest.mark.parametrize("text", ["0", "0.009", "1001", "-1", "much", ""])
def test_a_ratio_that_cannot_be_is_refused_once(text: str) -> None:
    complaints: list[str] = []
    read_ratio("markup", text, complaints.append)
    assert len(complaints) == 1
