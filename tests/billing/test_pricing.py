from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bitmesh_proxy.billing.pricing import bound_of, charge_of, cost_of, with_markup
from bitmesh_proxy.billing.usage import usage_bound
from bitmesh_proxy.calls import (
    Basis,
    Call,
    ChatCall,
    EmbeddingCall,
    Frame,
    ImageCall,
    Media,
    ModerationCall,
    Operation,
    SpeechCall,
    TranscriptionCall,
    Usage,
    VideoCall,
)
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.loader import load_catalogue
from bitmesh_proxy.catalogue.offer import Abilities, Offer
from bitmesh_proxy.catalogue.prices import MEGAPIXEL, Price
from bitmesh_proxy.defaults import defaults_dir
from bitmesh_proxy.errors import InternalError
from bitmesh_proxy.money import NanoUsd, parse_usd
from bitmesh_proxy.providers import PROVIDERS
from tests.billing.offers import CHAT_PRICE, ONE, chat, chat_offer, offer

MODEL = "maker/model"
PICTURE = Media(kind="image", url="https://example.test/a.png")


def hold(call: Call, at: Offer) -> int:
    return bound_of(call, at, at.price, 1000, None)


def cost(usage: Usage, at: Offer, call: Call) -> int:
    return cost_of(usage, at, call)[0]


def test_tokens_at_their_prices() -> None:
    price = replace(
        CHAT_PRICE,
        cached_input_nano_usd_per_million=parse_usd("0.1"),
        cache_write_nano_usd_per_million=parse_usd("1.25"),
    )
    usage = Usage(input_tokens=1000, cached_input_tokens=600, cache_write_tokens=100, output_tokens=500)
    assert cost(usage, chat_offer(price), chat()) == 300 * 1000 + 600 * 100 + 100 * 1250 + 500 * 2000


def test_the_providers_word_on_money_comes_first() -> None:
    usage = Usage(input_tokens=1000, reported_cost_nano_usd=NanoUsd(77))
    assert cost_of(usage, chat_offer(), chat()) == (77, Basis.REPORTED)
    assert cost_of(Usage(input_tokens=1), chat_offer(), chat())[1] is Basis.MEASURED
    assert cost_of(Usage(input_tokens=1, is_estimated=True), chat_offer(), chat())[1] is Basis.ESTIMATED


def test_long_contexts_cost_what_they_cost() -> None:
    dear = Price(input_nano_usd_per_million=parse_usd("10"), output_nano_usd_per_million=parse_usd("20"))
    at = chat_offer(replace(CHAT_PRICE, long_context_above_tokens=1000, long_context=dear))
    assert cost(Usage(input_tokens=1000), at, chat()) == 1000 * 1000
    assert cost(Usage(input_tokens=1001), at, chat()) == 1001 * 10_000
    assert hold(chat("x" * 5000), at) > 2500 * 10_000


def test_hold_of_a_chat_covers_prompt_and_answer() -> None:
    call = chat("x" * 1000, options={"max_tokens": 100})
    assert hold(call, chat_offer()) >= 500 * 1000 + 100 * 2000
    assert hold(call, chat_offer()) < 600 * 1000 + 100 * 2000
    cache_writer = chat_offer(replace(CHAT_PRICE, cache_write_nano_usd_per_million=parse_usd("4")))
    assert hold(call, cache_writer) >= 500 * 4000


def test_pictures_in_a_chat_are_held_for() -> None:
    content = [{"type": "image_url", "image_url": {"url": "https://example.test/a.png"}}]
    call = ChatCall(model=MODEL, messages=[{"role": "user", "content": content}])
    by_tokens = hold(call, chat_offer()) - hold(chat(""), chat_offer())
    assert by_tokens > 1000 * 1000
    by_picture = hold(call, chat_offer(replace(CHAT_PRICE, input_image_nano_usd=5_000_000_000)))
    assert by_picture > 5_000_000_000


@pytest.mark.parametrize(
    ("price", "call", "nano"),
    [
        (Price(image_nano_usd=100), ImageCall(model=MODEL, prompt="a", count=3), 300),
        (
            Price(image_nano_usd=100, input_image_nano_usd=7),
            ImageCall(model=MODEL, prompt="a", images=(PICTURE,) * 2),
            114,
        ),
        (
            Price(image_nano_usd=900, image_tiers={"low": 10, "high": 50, "high/512x512": 40, "256x256": 5}),
            ImageCall(model=MODEL, prompt="a", quality="high"),
            50,
        ),
        (
            Price(image_nano_usd=900, image_tiers={"high": 50, "high/512x512": 40}),
            ImageCall(model=MODEL, prompt="a", quality="high", width=512, height=512),
            40,
        ),
        (Price(image_nano_usd=900, image_tiers={"high": 50}), ImageCall(model=MODEL, prompt="a"), 900),
        (Price(image_nano_usd=900, image_tiers={"high": 50}), ImageCall(model=MODEL, prompt="a", quality="hd"), 50),
        (
            Price(megapixel_first_nano_usd=30, megapixel_more_nano_usd=20),
            ImageCall(model=MODEL, prompt="a", width=1024, height=1024),
            30,
        ),
        (
            Price(megapixel_first_nano_usd=30, megapixel_more_nano_usd=20),
            ImageCall(model=MODEL, prompt="a", width=1025, height=1024),
            50,
        ),
        (
            Price(megapixel_first_nano_usd=30, megapixel_more_nano_usd=20),
            ImageCall(model=MODEL, prompt="a", width=2048, height=2048, count=2),
            2 * 90,
        ),
        (Price(megapixel_first_nano_usd=30, megapixel_more_nano_usd=20), ImageCall(model=MODEL, prompt="a"), 90),
        (Price(image_nano_usd=100, request_nano_usd=1), ImageCall(model=MODEL, prompt="a"), 101),
    ],
)
def test_pictures(price: Price, call: ImageCall, nano: int) -> None:
    at = offer(Operation.IMAGE, price, quality_map={"hd": "high"})
    assert hold(call, at) == nano
    assert cost(Usage(images=call.count), at, call) == nano


def test_pictures_billed_by_tokens_when_tokens_are_named() -> None:
    price = Price(
        input_nano_usd_per_million=parse_usd("5"),
        image_input_nano_usd_per_million=parse_usd("8"),
        output_nano_usd_per_million=parse_usd("30"),
        image_nano_usd=parse_usd("0.2"),
    )
    at, call = offer(Operation.IMAGE, price), ImageCall(model=MODEL, prompt="a")
    usage = Usage(input_tokens=110, image_input_tokens=100, output_tokens=1000, images=1)
    assert cost(usage, at, call) == 10 * 5000 + 100 * 8000 + 1000 * 30_000
    assert cost(Usage(images=1), at, call) == parse_usd("0.2")
    assert hold(call, at) == parse_usd("0.2") + 5000


@pytest.mark.parametrize("words", ["a" * 32_000, "中" * 32_000])
def test_long_words_to_a_picture_or_a_sound_are_held_too(words: str) -> None:
    price = Price(
        input_nano_usd_per_million=parse_usd("5"), image_nano_usd=parse_usd("0.01"), second_nano_usd=NanoUsd(100_000)
    )
    picture, bare = ImageCall(model=MODEL, prompt=words), ImageCall(model=MODEL, prompt="")
    sound = TranscriptionCall(model=MODEL, audio=PICTURE, prompt=words, duration_s=1.0)
    used = Usage(input_tokens=len(words.encode()) // 2)
    for operation, call, rest in (
        (Operation.IMAGE, picture, hold(bare, offer(Operation.IMAGE, price))),
        (Operation.TRANSCRIPTION, sound, 100_000),
    ):
        assert hold(call, offer(operation, price)) == rest + cost(used, offer(operation, price), call)


@pytest.mark.parametrize(("steps", "nano"), [(None, 2 * 30), (8, 2 * 30), (9, 2 * 34), (40, 2 * 150)])
def test_more_steps_than_a_price_covers_cost_in_proportion(steps: int | None, nano: int) -> None:
    at = offer(Operation.IMAGE, Price(image_nano_usd=30), priced_steps=8)
    call = ImageCall(model=MODEL, prompt="a", count=2, steps=steps)
    assert hold(call, at) == nano
    assert cost(Usage(images=2), at, call) == nano


def test_picture_of_unknown_size_is_bounded_by_what_the_offer_can() -> None:
    price = Price(megapixel_first_nano_usd=30, megapixel_more_nano_usd=20)
    call = ImageCall(model=MODEL, prompt="a")
    assert hold(call, offer(Operation.IMAGE, price, abilities=Abilities(max_pixels=2 * MEGAPIXEL))) == 50
    assert hold(call, offer(Operation.IMAGE, price, default_size="512x512")) == 30


@pytest.mark.parametrize(
    ("price", "changes", "nano"),
    [
        (Price(second_nano_usd=100), {"seconds": "5"}, 500),
        (Price(second_nano_usd=100), {"seconds": "2.5"}, 250),
        (Price(second_nano_usd=100), {}, 800),
        (
            Price(second_nano_usd=900, second_tiers={"720p": 10, "1080p": 20}),
            {"seconds": "5", "width": 1280, "height": 720},
            50,
        ),
        (
            Price(second_nano_usd=900, second_tiers={"720p": 10, "1080p": 20}),
            {"seconds": "5", "width": 1300, "height": 740},
            100,
        ),
        (
            Price(second_nano_usd=900, second_tiers={"720p": 10}),
            {"seconds": "5", "options": {"resolution": "720p"}},
            50,
        ),
        (Price(second_nano_usd=900, second_tiers={"high": 10}), {"seconds": "5", "quality": "high"}, 50),
        (Price(video_nano_usd=700), {"seconds": "5"}, 700),
        (
            Price(video_nano_usd=700, input_image_nano_usd=3),
            {"frames": (Frame(media=PICTURE),), "references": (PICTURE,)},
            706,
        ),
    ],
)
def test_clips(price: Price, changes: dict[str, Any], nano: int) -> None:
    at = offer(Operation.VIDEO, price, default_seconds=8)
    call = VideoCall(model=MODEL, prompt="a", **changes)
    assert hold(call, at) == nano
    usage = usage_bound(call, at, default_max_output_tokens=1)
    assert cost(usage, at, call) == nano


TIERS = {"720p": 10, "1080p": 20, "4k": 60}


@pytest.mark.parametrize(
    ("changes", "a_second"),
    [
        ({}, 10),
        ({"options": {"resolution": "4k"}}, 60),
        ({"options": {"resolution": "4K"}}, 60),
        ({"options": {"resolution": "2160p"}}, 60),
        ({"options": {"resolution": "UHD"}}, 60),
        ({"options": {"resolution": ["720p"]}}, 60),
        ({"width": 1920, "height": 1080, "options": {"resolution": "720p"}}, 20),
        ({"width": 1280, "height": 720, "options": {"resolution": "1080p"}}, 20),
        ({"width": 3840}, 60),
        ({"height": 2160}, 60),
    ],
)
def test_no_word_for_a_resolution_makes_a_clip_cheaper(changes: dict[str, Any], a_second: int) -> None:
    price = Price(second_nano_usd=50, second_tiers=TIERS)
    call = VideoCall(model=MODEL, prompt="a", seconds="5", **changes)
    assert hold(call, offer(Operation.VIDEO, price, default_size="1280x720")) == 5 * a_second


def test_an_offers_own_resolution_counts_where_the_caller_names_no_size() -> None:
    at = offer(
        Operation.VIDEO,
        Price(second_nano_usd=50, second_tiers=TIERS),
        default_size="1280x720",
        defaults={"resolution": "1080p"},
    )
    call = VideoCall(model=MODEL, prompt="a", seconds="5")
    assert hold(call, at) == 100
    assert hold(replace(call, width=1280, height=720), at) == 50


def test_sound_and_speech() -> None:
    speech = offer(Operation.SPEECH, Price(characters_nano_usd_per_million=parse_usd("15")))
    assert hold(SpeechCall(model=MODEL, text="x" * 100), speech) == 100 * 15_000
    assert cost(Usage(characters=100), speech, SpeechCall(model=MODEL, text="")) == 100 * 15_000
    tokens = Usage(input_tokens=10, output_tokens=20, characters=100)
    by_tokens = offer(Operation.SPEECH, replace(CHAT_PRICE, characters_nano_usd_per_million=parse_usd("25")))
    assert cost(tokens, by_tokens, SpeechCall(model=MODEL, text="")) == 10 * 1000 + 20 * 2000
    call = TranscriptionCall(model=MODEL, audio=Media(kind="audio", data=b""), duration_s=90.0)
    by_minute = offer(Operation.TRANSCRIPTION, Price(minute_nano_usd=parse_usd("0.006")))
    assert hold(call, by_minute) == cost(Usage(duration_ms=90_000), by_minute, call) == parse_usd("0.009")
    by_second = offer(Operation.TRANSCRIPTION, Price(second_nano_usd=100))
    assert hold(call, by_second) == 9000


def test_vectors_and_verdicts() -> None:
    at = offer(Operation.EMBEDDING, Price(input_nano_usd_per_million=parse_usd("0.02")))
    call = EmbeddingCall(model=MODEL, inputs=["Hello"])
    assert hold(call, at) >= cost(Usage(input_tokens=2), at, call) == 40
    verdict = offer(Operation.MODERATION, Price(request_nano_usd=5))
    assert hold(ModerationCall(model=MODEL, inputs=["a"]), verdict) == 5


@pytest.mark.parametrize(
    "call",
    [
        chat(),
        ImageCall(model=MODEL, prompt="a"),
        VideoCall(model=MODEL, prompt="a"),
        SpeechCall(model=MODEL, text="a"),
        TranscriptionCall(model=MODEL, audio=Media(kind="audio", data=b"")),
        EmbeddingCall(model=MODEL, inputs=["a"]),
    ],
    ids=lambda call: str(call.operation),
)
def test_unpriced_is_refused_and_free_must_be_said(call: Call) -> None:
    with pytest.raises(InternalError, match="no price"):
        hold(call, offer(call.operation, Price()))
    free = offer(call.operation, Price(is_free=True))
    assert hold(call, free) == 0
    assert cost(Usage(input_tokens=5, images=1), free, call) == 0


def test_prices_of_another_kind_of_work_do_not_count() -> None:
    with pytest.raises(InternalError, match="no price"):
        hold(VideoCall(model=MODEL, prompt="a"), offer(Operation.VIDEO, Price(image_nano_usd=5)))


@given(st.integers(0, 10**15), st.integers(0, 10**12))
def test_markup_rounds_up(cost_nano: int, ratio: int) -> None:
    charge = with_markup(NanoUsd(cost_nano), chat_offer(), markup_nano=ratio)
    assert charge * ONE >= cost_nano * ratio > (charge - 1) * ONE


def charge(usage: Usage, at: Offer, call: Call, *, markup: int = ONE, at_most: int = 10**12) -> int:
    return charge_of(
        usage, at, call, cost_nano_usd=cost_of(usage, at, call)[0], markup_nano=markup, hold_nano_usd=NanoUsd(at_most)
    )


def test_charge_is_cost_times_the_nearest_markup() -> None:
    usage = Usage(input_tokens=1000)
    assert charge(usage, chat_offer(), chat(), markup=ONE * 3 // 2) == 1_500_000
    assert charge(usage, chat_offer(markup_nano=2 * ONE), chat(), markup=ONE * 3 // 2) == 2_000_000
    assert charge(usage, chat_offer(), chat(), markup=0) == 0


def test_charge_is_the_sell_price_whatever_it_cost() -> None:
    sell = Price(input_nano_usd_per_million=parse_usd("9"), output_nano_usd_per_million=parse_usd("9"))
    usage = Usage(input_tokens=1000, reported_cost_nano_usd=NanoUsd(5))
    assert charge(usage, chat_offer(sell_price=sell), chat()) == 9_000_000


def test_charge_is_never_above_the_reservation_and_nothing_for_a_test() -> None:
    usage = Usage(input_tokens=1000)
    assert charge(usage, chat_offer(), chat(), at_most=10) == 10
    assert charge(usage, chat_offer(), chat(test=True)) == 0


@settings(max_examples=50, deadline=None)
@given(
    text=st.text(max_size=20),
    limit=st.integers(1, 5000),
    used=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    price=st.builds(
        Price,
        input_nano_usd_per_million=st.integers(1, 10**11),
        cached_input_nano_usd_per_million=st.none() | st.integers(0, 10**9),
        cache_write_nano_usd_per_million=st.none() | st.integers(0, 10**12),
        output_nano_usd_per_million=st.integers(0, 10**12),
        request_nano_usd=st.integers(0, 10**6),
    ),
)
def test_no_usage_within_the_bound_costs_more_than_the_hold(
    text: str, limit: int, used: tuple[float, float, float, float], price: Price
) -> None:
    call, at = chat(text, options={"max_tokens": limit}), chat_offer(price)
    bound = usage_bound(call, at, default_max_output_tokens=1)
    tokens = int(bound.input_tokens * used[0])
    usage = Usage(
        input_tokens=tokens,
        cached_input_tokens=int(tokens * used[1]),
        cache_write_tokens=int(tokens * used[2]),
        output_tokens=int(bound.output_tokens * used[3]),
    )
    assert cost(usage, at, call) <= hold(call, at)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue([defaults_dir() / "models"], providers=[provider.name for provider in PROVIDERS])


def call_for(at: Offer) -> Call:
    match at.operation:
        case Operation.CHAT:
            return chat("Hello")
        case Operation.IMAGE:
            return ImageCall(model=at.model_id, prompt="a cat", count=at.abilities.max_count)
        case Operation.VIDEO:
            return VideoCall(model=at.model_id, prompt="a cat")
        case Operation.SPEECH:
            return SpeechCall(model=at.model_id, text="Hello")
        case Operation.TRANSCRIPTION:
            return TranscriptionCall(model=at.model_id, audio=Media(kind="audio", data=b""), duration_s=60.0)
        case Operation.EMBEDDING:
            return EmbeddingCall(model=at.model_id, inputs=["Hello"])
        case Operation.MODERATION:
            return ModerationCall(model=at.model_id, inputs=["Hello"])


def test_every_offer_of_the_catalogue_has_a_price_and_a_believable_bound(catalogue: Catalogue) -> None:
    offers = [each for model in catalogue.models for each in model.offers]
    assert len(offers) > 20
    for each in offers:
        call = call_for(each)
        at_most = hold(call, each)
        assert (at_most == 0) is each.price.is_free, each.id
        assert at_most < parse_usd("50"), each.id
        assert cost(usage_bound(call, each, default_max_output_tokens=1), each, call) <= at_most, each.id
