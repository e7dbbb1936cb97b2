"""The rows that come with the package: that they load, and that their prices are the published ones.

``published_prices.json`` holds what others publish, per single unit. Costs are calculated from it here with decimals,
and compared with what the catalogue makes of its own rows, so that a slip of the pen in either shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bitmesh_proxy.billing.pricing import bound_of
from bitmesh_proxy.calls import ImageCall, Usage
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.loader import load_catalogue
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.providers import PROVIDERS as KNOWN_PROVIDERS
from tests.catalogue.making import SHIPPED_MODELS

#: The day on which the rows were last compared with their sources.
AS_OF = "2026-11-22"
FILES = sorted(SHIPPED_MODELS.glob("*.toml"))
PROVIDERS = {path.stem for path in FILES}
PUBLISHED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "published_prices.json").read_text(encoding="utf-8")
)["entries"]

#: Offered although the provider has ended them: the unified API's document calls them by name. Routing puts them last.
ENDED_BUT_OFFERED = {"openai:dall-e-3", "gemini:veo-2.0-generate-001"}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue([SHIPPED_MODELS], providers=PROVIDERS)


def published_offer_id(entry: Mapping[str, Any]) -> str:
    provider = {"together_ai": "together"}.get(entry["provider"], entry["provider"])
    upstream_model = entry["id"].removeprefix(f"{entry['provider']}/")
    return f"{provider}:{upstream_model}"


def current(*modes: str) -> list[Any]:
    """Published entries of these modes that still live, and whose provider is shipped; tiers of a model left out."""
    return [
        pytest.param(entry, id=entry["id"])
        for entry in PUBLISHED
        if entry["mode"] in modes
        and entry.get("shutdown", "9999") >= AS_OF
        and published_offer_id(entry).partition(":")[0] in PROVIDERS
        and not re.match(r"(low|medium|high)/", entry["id"])
    ]


def find(catalogue: Catalogue, entry: Mapping[str, Any]) -> Offer:
    offer = catalogue.offer(published_offer_id(entry))
    assert offer is not None, f"{entry['id']} is published and current, but not offered"
    return offer


def nano_usd(usd: Decimal) -> int:
    nano = usd * 10**9
    assert nano == nano.to_integral_value()
    return int(nano)


def figure(entry: Mapping[str, Any], key: str, *instead: str) -> Decimal:
    """A published figure, exactly as it is written; that of another key where it is missing."""
    found = next((entry[name] for name in (key, *instead) if name in entry), 0)
    return Decimal(str(found))


# ---------------------------------------------------------------- against what is published


@pytest.mark.parametrize("entry", current("chat"))
def test_text_costs_what_is_published(catalogue: Catalogue, entry: Mapping[str, Any]) -> None:
    # Below every threshold of a dearer long context: those are among the golden calls.
    usage = Usage(input_tokens=90_000, cached_input_tokens=40_000, cache_write_tokens=20_000, output_tokens=3_000)
    inwards = figure(entry, "input_cost_per_token")
    expected = (
        30_000 * inwards
        + 40_000 * figure(entry, "cache_read_input_token_cost", "input_cost_per_token")
        + 20_000 * figure(entry, "cache_creation_input_token_cost", "input_cost_per_token")
        + 3_000 * figure(entry, "output_cost_per_token")
    )
    assert find(catalogue, entry).price.token_cost(usage) == nano_usd(expected)


@pytest.mark.parametrize(
    "entry", [entry for entry in current("image_generation") if "output_cost_per_image_token" in entry.values[0]]
)
def test_pictures_billed_by_tokens_cost_what_is_published(catalogue: Catalogue, entry: Mapping[str, Any]) -> None:
    usage = Usage(
        input_tokens=1_000,
        cached_input_tokens=300,
        image_input_tokens=500,
        output_tokens=5_000,
        image_output_tokens=4_160,
    )
    expected = (
        200 * figure(entry, "input_cost_per_token")
        + 300 * figure(entry, "cache_read_input_token_cost", "input_cost_per_token")
        + 500 * figure(entry, "input_cost_per_image_token", "input_cost_per_token")
        + 840 * figure(entry, "output_cost_per_token", "output_cost_per_image_token")
        + 4_160 * figure(entry, "output_cost_per_image_token")
    )
    assert find(catalogue, entry).price.token_cost(usage) == nano_usd(expected)


@pytest.mark.parametrize(
    "entry", [entry for entry in current("audio_speech") if "input_cost_per_character" in entry.values[0]]
)
def test_speech_costs_what_is_published(catalogue: Catalogue, entry: Mapping[str, Any]) -> None:
    expected = 1_234 * figure(entry, "input_cost_per_character")
    assert find(catalogue, entry).price.token_cost(Usage(characters=1_234)) == nano_usd(expected)


@pytest.mark.parametrize("entry", current("audio_transcription"))
def test_a_minute_of_sound_costs_what_is_published(catalogue: Catalogue, entry: Mapping[str, Any]) -> None:
    assert find(catalogue, entry).price.minute_nano_usd == nano_usd(60 * figure(entry, "input_cost_per_second"))


@pytest.mark.parametrize("entry", current("video_generation"))
def test_a_clip_costs_what_is_published(catalogue: Catalogue, entry: Mapping[str, Any]) -> None:
    price = find(catalogue, entry).price
    assert price.video_nano_usd == nano_usd(figure(entry, "usd_per_video"))


def test_what_providers_have_ended_is_not_offered(catalogue: Catalogue) -> None:
    over = {published_offer_id(entry) for entry in PUBLISHED if entry.get("shutdown", "9999") < AS_OF}
    offered = {offer.id for model in catalogue.models for offer in model.offers}
    assert over & offered <= ENDED_BUT_OFFERED
    ended = {
        offer.id
        for model in catalogue.models
        for offer in model.offers
        if offer.retires_on is not None and offer.retires_on < AS_OF
    }
    assert ended <= ENDED_BUT_OFFERED


def test_ends_that_are_announced_are_listed(catalogue: Catalogue) -> None:
    for entry in PUBLISHED:
        offer = catalogue.offer(published_offer_id(entry))
        if offer is not None and "shutdown" in entry:
            assert offer.retires_on == entry["shutdown"], offer.id


# ---------------------------------------------------------------- golden calls, worked out by hand


def shipped(*rows: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Rows (the name of an offer first) of the providers whose file is shipped."""
    return [row for row in rows if row[0].partition(":")[0] in PROVIDERS]


@pytest.mark.parametrize(
    ("offer_id", "usage", "expected_nano_usd"),
    shipped(
        # 1,000 × 0.15 + 2,000 × 0.60 USD per million
        ("together:openai/gpt-oss-120b", Usage(input_tokens=1_000, output_tokens=2_000), 1_350_000),
        # 600 × 3.00 + 400 × 0.30 + 100 × 15.00 USD per million
        (
            "together:moonshotai/Kimi-K3",
            Usage(input_tokens=1_000, cached_input_tokens=400, output_tokens=100),
            3_420_000,
        ),
        # 7 × 0.47 USD per million is 3,290 nano-dollars
        ("together:Qwen/Qwen3.8-Flash", Usage(output_tokens=7), 3_290),
        ("together:Prism-ML/Ternary-Bonsai-27B", Usage(input_tokens=10**6, output_tokens=10**6), 0),
        # 500 characters × 4 USD per million
        ("together:hexgrad/Kokoro-82M", Usage(characters=500), 2_000_000),
        # 272,000 tokens are still short: 272,000 × 4 + 10 × 20 USD per million
        ("openai:gpt-5.6", Usage(input_tokens=272_000, output_tokens=10), 1_088_200_000),
        # one more, and all of it is long: 272,001 × 8 + 10 × 30 USD per million
        ("openai:gpt-5.6", Usage(input_tokens=272_001, output_tokens=10), 2_176_308_000),
        # 10 × 0.20 + 3 × 1.25 USD per million is 5,750 nano-dollars
        ("openai:gpt-5.4-nano", Usage(input_tokens=10, output_tokens=3), 5_750),
        # 50 tokens of text × 5 + 4,160 of a picture × 30 USD per million
        (
            "openai:gpt-image-2",
            Usage(input_tokens=50, output_tokens=4_160, image_output_tokens=4_160, images=1),
            125_050_000,
        ),
        # 8 × 0.02 USD per million
        ("openai:text-embedding-3-small", Usage(input_tokens=8), 160),
        ("openai:omni-moderation-latest", Usage(input_tokens=10**6), 0),
        # 100 × 2 + 50 × 0.10 + 50 × 2.50 + 10 × 10 USD per million
        (
            "anthropic:claude-sonnet-5-5",
            Usage(input_tokens=200, cached_input_tokens=50, cache_write_tokens=50, output_tokens=10),
            430_000,
        ),
        # above 100,000 tokens: 100,001 × 0.50 + 2 × 2.50 USD per million
        ("anthropic:claude-haiku-5-5", Usage(input_tokens=100_001, output_tokens=2), 50_005_500),
        # above 200,000 tokens: 200,001 × 4 + 1 × 18 USD per million
        ("gemini:gemini-3.1-pro-preview", Usage(input_tokens=200_001, output_tokens=1), 800_022_000),
        # 1,290 tokens of one picture × 30 + 10 of text × 0.30 USD per million
        (
            "gemini:gemini-2.5-flash-image",
            Usage(input_tokens=10, output_tokens=1_290, image_output_tokens=1_290, images=1),
            38_703_000,
        ),
        # 250 characters × 40 USD per million
        ("elevenlabs:eleven_flash_v2_5", Usage(characters=250), 10_000_000),
    ),
)
def test_golden_costs_of_tokens_and_characters(
    catalogue: Catalogue, offer_id: str, usage: Usage, expected_nano_usd: int
) -> None:
    offer = catalogue.offer(offer_id)
    assert offer is not None
    assert offer.price.token_cost(usage) == expected_nano_usd


@pytest.mark.parametrize(
    ("offer_id", "quality", "size", "expected_usd"),
    shipped(
        # OpenAI's last price list of dall-e-3: 0.04 and 0.08 for standard, 0.08 and 0.12 for hd
        ("openai:dall-e-3", None, None, "0.04"),
        ("openai:dall-e-3", "standard", (1792, 1024), "0.08"),
        ("openai:dall-e-3", "low", (1024, 1024), "0.04"),
        ("openai:dall-e-3", "hd", (1024, 1024), "0.08"),
        ("openai:dall-e-3", "high", (1024, 1792), "0.12"),
        ("together:black-forest-labs/FLUX.2-dev", None, (1024, 1024), "0.0275"),
        ("together:google/gemini-3-pro-image", None, (2048, 2048), "0.138"),
        ("together:google/gemini-3-pro-image", None, (4096, 4096), "0.24"),
        ("gemini:gemini-3.1-flash-image", None, (512, 512), "0.06"),
        ("gemini:gemini-3.1-flash-image", None, (1376, 768), "0.08"),
    ),
)
def test_golden_prices_of_a_picture(
    catalogue: Catalogue, offer_id: str, quality: str | None, size: tuple[int, int] | None, expected_usd: str
) -> None:
    offer = catalogue.offer(offer_id)
    assert offer is not None
    width, height = offer.size_for(*(size or (None, None))) or (None, None)
    price = offer.price.image_price(quality=offer.quality_for(quality), width=width, height=height)
    assert price == nano_usd(Decimal(expected_usd))


@pytest.mark.parametrize(
    ("offer_id", "asked", "expected_usd"),
    shipped(
        ("runware:runware:400@1", {"quality": "hd"}, "0.0275"),
        ("runware:runware:108@20", {}, "0.0096"),
        # Four megapixels, and twice the steps: 4 × 2 × 0.007 USD, three times
        ("runware:runware:101@1", {"width": 2048, "height": 2048, "steps": 90, "count": 3}, "0.168"),
        # 0.09 + 3 × 0.015 USD
        ("runware:bfl:5@1", {"width": 2048, "height": 2048}, "0.135"),
    ),
)
def test_golden_reservations_of_a_picture_whose_cost_is_reported(
    catalogue: Catalogue, offer_id: str, asked: dict[str, Any], expected_usd: str
) -> None:
    offer = catalogue.offer(offer_id)
    assert offer is not None
    call = ImageCall(model=offer.model_id, prompt="", **asked)
    assert bound_of(call, offer, offer.price, 1, None) == nano_usd(Decimal(expected_usd))


@pytest.mark.parametrize(
    ("offer_id", "asked", "size", "expected_usd"),
    shipped(
        # The document's example asks 5 seconds of Veo 3.1, which makes 4, 6 or 8: it gets 6, at 0.40 USD each.
        ("together:google/veo-3.1", "5", (1280, 720), "2.40"),
        ("together:google/veo-3.1", None, None, "3.20"),
        ("together:google/veo-3.1-lite", "4", (1280, 720), "0.20"),
        ("together:google/veo-3.1-lite", "4", (1920, 1080), "0.32"),
        ("gemini:veo-3.1-generate-001", "5", None, "2.40"),
        ("gemini:veo-3.1-fast-generate-001", "8", (1920, 1080), "0.96"),
        ("runware:klingai:6@1", "10", None, "0.70"),
    ),
)
def test_golden_prices_of_a_clip(
    catalogue: Catalogue, offer_id: str, asked: str | None, size: tuple[int, int] | None, expected_usd: str
) -> None:
    offer = catalogue.offer(offer_id)
    assert offer is not None
    width, height = offer.size_for(*(size or (None, None))) or (None, None)
    seconds = offer.seconds_for(asked)
    assert seconds is not None
    assert seconds * offer.price.second_price(width=width, height=height) == nano_usd(Decimal(expected_usd))


# ---------------------------------------------------------------- the rows as rows


@pytest.mark.parametrize(
    ("offer_id", "name"),
    shipped(
        ("openai:dall-e-3", "openai/dall-e-3"),
        ("together:black-forest-labs/FLUX.2-dev", "black-forest-labs/FLUX-2-dev"),
        ("together:google/veo-3.1", "google/veo-3.1"),
        ("gemini:veo-2.0-generate-001", "google/veo-2"),
        ("runware:runware:108@20", "qwen/qwen-image-edit"),
    ),
)
def test_models_that_the_unified_document_names_are_offered(catalogue: Catalogue, offer_id: str, name: str) -> None:
    model = catalogue.get(name)
    assert model.id == name
    assert offer_id in {offer.id for offer in model.offers}


def test_every_offer_is_for_work_that_its_provider_can_do(catalogue: Catalogue) -> None:
    known = {provider.name: provider for provider in KNOWN_PROVIDERS}
    for model in catalogue.models:
        for offer in model.offers:
            assert known[offer.provider].dialect_for(offer.operation) is not None, offer.id


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_holds_the_offers_of_its_provider_each_with_its_source(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r'^provider = "(.+)"', text, re.MULTILINE)) == {path.stem}
    explained = set(re.findall(r"^#   (\[[A-Z]\]) ", text, re.MULTILINE))
    offers = re.findall(r"^\[\[offer\]\](.*)$", text, re.MULTILINE)
    assert offers
    for comment in offers:
        marks = set(re.findall(r"\[[A-Z]\]", comment))
        assert marks, f"an offer in {path.name} names no source: {comment!r}"
        assert marks <= explained


def test_every_model_says_how_long_its_answers_get_or_is_no_text_model(catalogue: Catalogue) -> None:
    for model in catalogue.models:
        if model.operation == "chat":
            assert model.context_tokens, model.id
            assert all(offer.max_output_tokens for offer in model.offers), model.id


def test_the_names_that_openais_clients_use_are_known(catalogue: Catalogue) -> None:
    for offer in (offer for model in catalogue.models for offer in model.offers if offer.provider == "openai"):
        assert catalogue.get(offer.upstream_model).id == offer.model_id
