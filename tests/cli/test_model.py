"""``model``: what is offered, in words and figures; a broken row is named with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.cli.model import describe_price
from tests.cli.conftest import Run, json_of


def test_list_filters_by_type_and_provider(run: Run) -> None:
    everything = json_of(run("model", "list", "--json"))
    videos = json_of(run("model", "list", "--type", "video", "--json"))
    assert {each["type"] for each in videos} == {"video"}
    assert len(videos) < len(everything)
    ours = json_of(run("model", "list", "--provider", "together", "--json"))
    assert all(any(offer["provider"] == "together" for offer in each["offers"]) for each in ours)
    assert "openai/gpt-oss-120b" in run("model", "list", "--type", "chat").output


def test_a_provider_that_is_none_is_said_and_not_taken_for_one_that_offers_nothing(run: Run) -> None:
    said = run("model", "list", "--provider", "togehter", status=1).stderr
    assert "'togehter'" in said
    assert "together" in said


def test_show_takes_an_alias_and_says_what_is_missing(run: Run) -> None:
    assert json_of(run("model", "show", "dall-e-3", "--json"))["id"] == "openai/dall-e-3"
    assert "UPSTREAM MODEL" in run("model", "show", "openai/dall-e-3").output
    assert "does not exist" in run("model", "show", "nobody/nothing", status=1).output


def test_a_broken_catalogue_stops_with_file_and_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.toml").write_text(
        '[[model]]\nid = "own/free"\noperation = "chat"\n\n'
        '[[offer]]\nmodel = "own/free"\nprovider = "together"\nupstream_model = "x"\n'
    )
    monkeypatch.setenv("BITMESH_CATALOGUE__EXTRA_DIRS", f'["{tmp_path}"]')
    output = run("model", "list", status=78).output
    assert "own.toml:5" in output
    assert "price" in output


def test_in_a_list_tiers_are_a_range() -> None:
    tiers = {"480p": 100_000_000, "4k": 600_000_000}
    assert describe_price(Price(second_nano_usd=600_000_000, second_tiers=tiers), in_full=False) == "$0.1 to 0.6/s"
    assert describe_price(Price(image_nano_usd=80_000_000, image_tiers={"hd": 80_000_000}), in_full=False) == (
        "$0.08/picture"
    )
    assert describe_price(Price(video_nano_usd=280_000_000), in_full=False) == "$0.28/clip"


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (Price(is_free=True), "free"),
        (Price(input_nano_usd_per_million=150_000_000, output_nano_usd_per_million=600_000_000),
         "$0.15/M tokens in, $0.6/M tokens out"),
        (Price(video_nano_usd=280_000_000, is_reported=True), "$0.28/clip (as the provider reports)"),
        (Price(second_nano_usd=400_000_000, second_tiers={"4k": 600_000_000}), "$0.4/s, $0.6/s at 4k"),
        (Price(image_tiers={"hd": 80_000_000}), "$0.08/picture at hd"),
    ],
)  # fmt: skip
def test_a_price_in_one_line(price: Price, text: str) -> None:
    assert describe_price(price) == text
