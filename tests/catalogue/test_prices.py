"""Prices as integers: tokens by kind, tiers by what says most, long contexts as a whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.catalogue.prices import IMAGE_RESOLUTIONS, VIDEO_RESOLUTIONS, Price, resolution_pixels

PER_MILLION = 1_000_000


def test_every_kind_of_token_has_its_own_price() -> None:
    price = Price(
        input_nano_usd_per_million=1_000 * PER_MILLION,
        cached_input_nano_usd_per_million=100 * PER_MILLION,
        cache_write_nano_usd_per_million=1_250 * PER_MILLION,
        image_input_nano_usd_per_million=2_000 * PER_MILLION,
        output_nano_usd_per_million=10_000 * PER_MILLION,
        image_output_nano_usd_per_million=40_000 * PER_MILLION,
        characters_nano_usd_per_million=7 * PER_MILLION,
    )
    usage = Usage(
        input_tokens=100,
        cached_input_tokens=30,
        cache_write_tokens=20,
        image_input_tokens=10,
        output_tokens=50,
        image_output_tokens=5,
        characters=3,
    )
    # 40 plain, 30 cached, 20 written, 10 of pictures; 45 of text and 5 of pictures out; 3 characters.
    assert price.token_cost(usage) == (
        40 * 1_000 + 30 * 100 + 20 * 1_250 + 10 * 2_000 + 45 * 10_000 + 5 * 40_000 + 3 * 7
    )


def test_a_kind_without_a_price_of_its_own_costs_what_its_direction_costs() -> None:
    price = Price(input_nano_usd_per_million=2 * PER_MILLION, output_nano_usd_per_million=3 * PER_MILLION)
    usage = Usage(input_tokens=10, cached_input_tokens=4, cache_write_tokens=3, output_tokens=5, image_output_tokens=5)
    assert price.token_cost(usage) == 10 * 2 + 5 * 3


def test_a_cached_price_of_zero_is_zero_and_not_absent() -> None:
    price = Price(input_nano_usd_per_million=2 * PER_MILLION, cached_input_nano_usd_per_million=0)
    assert price.token_cost(Usage(input_tokens=10, cached_input_tokens=10)) == 0


@pytest.mark.parametrize(("tokens", "nano_usd"), [(1, 0), (3, 2), (5, 2), (6, 3), (7, 4)])
def test_halves_of_a_nano_dollar_go_to_the_even_side(tokens: int, nano_usd: int) -> None:
    assert Price(input_nano_usd_per_million=PER_MILLION // 2).token_cost(Usage(input_tokens=tokens)) == nano_usd


@given(
    st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7)
)
def test_parts_that_contradict_the_whole_never_make_a_cost_of_more_tokens_than_there_are(
    total: int, cached: int, written: int, image_in: int, out: int
) -> None:
    price = Price(input_nano_usd_per_million=PER_MILLION, output_nano_usd_per_million=PER_MILLION)
    usage = Usage(
        input_tokens=total,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        image_input_tokens=image_in,
        output_tokens=out,
        image_output_tokens=total,
    )
    assert price.token_cost(usage) == total + out


def test_a_long_context_takes_the_long_price_for_the_whole_call() -> None:
    long_price = Price(input_nano_usd_per_million=2 * PER_MILLION, output_nano_usd_per_million=9 * PER_MILLION)
    price = Price(
        input_nano_usd_per_million=PER_MILLION,
        output_nano_usd_per_million=6 * PER_MILLION,
        long_context_above_tokens=1_000,
        long_context=long_price,
    )
    assert price.token_cost(Usage(input_tokens=1_000, output_tokens=10)) == 1_000 + 60
    assert price.token_cost(Usage(input_tokens=1_001, output_tokens=10)) == 2_002 + 90
    assert price.for_input(1_000) is price
    assert price.for_input(1_001) is long_price


@pytest.mark.parametrize(
    ("quality", "width", "height", "expected"),
    [
        ("hd", 1024, 1024, 80),
        ("standard", 1024, 1024, 40),
        (None, 1024, 1024, 40),
        ("hd", 512, 512, 70),
        (None, None, None, 120),
        ("low", 640, 640, 120),
    ],
)
def test_the_tier_of_a_picture_that_says_most_wins(
    quality: str | None, width: int | None, height: int | None, expected: int
) -> None:
    price = Price(image_nano_usd=120, image_tiers={"hd/1024x1024": 80, "1024x1024": 40, "hd": 70})
    assert price.image_price(quality=quality, width=width, height=height) == expected


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1024, 1024, 134), (1376, 768, 134), (2048, 2048, 134), (2752, 1536, 134), (4096, 4096, 240), (9000, 9000, 500)],
)
def test_a_picture_of_any_size_counts_as_the_resolution_that_holds_it(width: int, height: int, expected: int) -> None:
    price = Price(image_nano_usd=500, image_tiers={"2k": 134, "4k": 240})
    assert price.image_price(width=width, height=height) == expected


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (854, 480, 5),
        (1280, 720, 7),
        (720, 1280, 7),
        (1248, 704, 7),  # between two resolutions: the higher one, so that a hold is never too small
        (1920, 1080, 12),
        (3840, 2160, 30),
        (4000, 4000, 99),
        (None, None, 99),
    ],
)
def test_a_second_of_a_clip_costs_what_its_resolution_costs(
    width: int | None, height: int | None, expected: int
) -> None:
    price = Price(second_nano_usd=99, second_tiers={"4k": 30, "480p": 5, "1080p": 12, "720p": 7})
    assert price.second_price(width=width, height=height) == expected


def test_a_resolution_that_the_caller_named_needs_no_size() -> None:
    price = Price(second_nano_usd=99, second_tiers={"720p": 7, "1080p": 12})
    assert price.named_second_price("720p") == 7
    assert price.named_second_price("720P") == 7
    assert price.named_second_price("900p") == 12
    assert price.named_second_price("4k") == 99


@pytest.mark.parametrize("word", ["8k", "UHD", "", "0p", 4, ["720p"], {}])
def test_a_resolution_that_nobody_knows_is_as_dear_as_any(word: object) -> None:
    price = Price(second_nano_usd=99, second_tiers={"720p": 7, "4k": 150})
    assert price.named_second_price(word) == 150


def test_a_price_without_resolutions_says_nothing_of_them() -> None:
    assert Price(second_nano_usd=99, second_tiers={"high": 7}).named_second_price("720p") is None
    assert Price(second_nano_usd=99).named_second_price("720p") is None


def test_a_price_without_such_figures_gives_none_of_them() -> None:
    assert Price().image_price(width=1024, height=1024) == 0
    assert Price().second_price(width=1280, height=720) == 0


def test_resolution_names() -> None:
    assert resolution_pixels("1080P", VIDEO_RESOLUTIONS) == 1080
    assert resolution_pixels("2k", VIDEO_RESOLUTIONS) == 1440
    assert resolution_pixels("2K", IMAGE_RESOLUTIONS) == 2048
    for word in ("hd", "p", "xp", "1024x1024", "٣p"):
        assert resolution_pixels(word, IMAGE_RESOLUTIONS) is None


def test_counting_tokens_is_known_from_the_figures() -> None:
    assert Price(image_output_nano_usd_per_million=1).counts_tokens
    assert not Price(image_nano_usd=1, characters_nano_usd_per_million=1).counts_tokens
