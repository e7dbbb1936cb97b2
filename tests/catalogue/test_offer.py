"""What a call gets at an offer: length, size, quality."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.offer import Abilities
from tests.catalogue.making import make_offer


def test_the_name_in_the_books_is_provider_and_upstream_model() -> None:
    assert make_offer("together:black-forest-labs/FLUX.2-dev").id == "together:black-forest-labs/FLUX.2-dev"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("4", 4), ("4.0", 4), ("5", 6), ("4.5", 6), ("8", 8), ("8.1", None), ("3", None), ("0", None), (None, 8)],
)
def test_an_offer_that_rounds_up_makes_the_next_longer_clip(asked: str | None, expected: int | None) -> None:
    offer = make_offer(
        operation=Operation.VIDEO, abilities=Abilities(seconds=(4, 6, 8), rounds_seconds_up=True), default_seconds=8
    )
    assert offer.seconds_for(asked) == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize("asked", ["", "five", "-1", "0", "NaN", "Infinity", "1e", "5s"])
def test_what_is_no_length_is_no_length(asked: str) -> None:
    assert make_offer(operation=Operation.VIDEO).seconds_for(asked) is None


def test_without_rounding_only_the_listed_lengths_are_made() -> None:
    offer = make_offer(operation=Operation.VIDEO, abilities=Abilities(seconds=(5, 10)))
    assert [offer.seconds_for(asked) for asked in ("5", "7", "10")] == [Decimal(5), None, Decimal(10)]
    assert offer.seconds_for(None) is None


def test_any_length_up_to_the_longest() -> None:
    offer = make_offer(operation=Operation.VIDEO, abilities=Abilities(max_seconds=15))
    assert [offer.seconds_for(asked) for asked in ("1.5", "15", "15.1")] == [Decimal("1.5"), Decimal(15), None]
    assert make_offer(operation=Operation.VIDEO).seconds_for("600") == Decimal(600)


def test_a_size_is_the_one_asked_or_the_offers_own() -> None:
    offer = make_offer(operation=Operation.IMAGE, default_size="1366x768")
    assert offer.size_for(640, 480) == (640, 480)
    assert offer.size_for(None, None) == (1366, 768)
    assert offer.size_for(640, None) == (1366, 768)
    assert make_offer(operation=Operation.IMAGE).size_for(None, None) is None


def test_a_callers_quality_becomes_the_providers_word() -> None:
    offer = make_offer(operation=Operation.IMAGE, quality_map={"high": "hd", "auto": "standard"})
    assert [offer.quality_for(word) for word in ("high", "auto", "hd", "odd", None)] == [
        "hd",
        "standard",
        "hd",
        "odd",
        None,
    ]
