"""That the cheaper offer of a call compares as cheaper, in every unit."""

from __future__ import annotations

import pytest

from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    EmbeddingCall,
    ImageCall,
    Media,
    ModerationCall,
    SpeechCall,
    TranscriptionCall,
    VideoCall,
)
from bitmesh_proxy.catalogue.comparing import comparison_cost
from bitmesh_proxy.catalogue.offer import Abilities
from bitmesh_proxy.catalogue.prices import Price
from tests.catalogue.making import make_offer

M = 1_000_000
PICTURE = Media(kind="image", url="https://example.org/a.png")
LONG_PROMPT = ChatCall(model="m", messages=[{"role": "user", "content": "x" * 400_000}], options={"max_tokens": 1})
LONG_ANSWER = ChatCall(model="m", messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("call", "cheaper", "dearer"),
    [
        # Which of two is cheaper depends on the call: one is cheap to ask, the other cheap to answer.
        (
            LONG_PROMPT,
            Price(input_nano_usd_per_million=1 * M, output_nano_usd_per_million=50 * M),
            Price(input_nano_usd_per_million=2 * M, output_nano_usd_per_million=3 * M),
        ),
        (
            LONG_ANSWER,
            Price(input_nano_usd_per_million=2 * M, output_nano_usd_per_million=3 * M),
            Price(input_nano_usd_per_million=1 * M, output_nano_usd_per_million=50 * M),
        ),
        (LONG_ANSWER, Price(is_free=True), Price(output_nano_usd_per_million=M)),
        (LONG_ANSWER, Price(output_nano_usd_per_million=M), Price(output_nano_usd_per_million=M, request_nano_usd=1)),
        (
            LONG_PROMPT,
            Price(input_nano_usd_per_million=3 * M),
            Price(
                input_nano_usd_per_million=M,
                long_context_above_tokens=1_000,
                long_context=Price(input_nano_usd_per_million=4 * M),
            ),
        ),
        (
            ImageCall(model="m", prompt="p", count=2, width=2048, height=1024),
            Price(image_nano_usd=30),
            Price(megapixel_first_nano_usd=20, megapixel_more_nano_usd=15),
        ),
        (
            ImageCall(model="m", prompt="p"),
            Price(image_nano_usd=90, image_tiers={"512x512": 10}),  # the default size of the offer is meant
            Price(image_nano_usd=20),
        ),
        (
            ImageCall(model="m", prompt="p", images=(PICTURE,)),
            Price(image_nano_usd=25),
            Price(image_nano_usd=20, input_image_nano_usd=10),
        ),
        (VideoCall(model="m", prompt="p", seconds="4"), Price(second_nano_usd=10), Price(video_nano_usd=50)),
        (VideoCall(model="m", prompt="p", seconds="8"), Price(video_nano_usd=50), Price(second_nano_usd=10)),
        (
            VideoCall(model="m", prompt="p", seconds="4", width=1280, height=720),
            Price(second_nano_usd=90, second_tiers={"720p": 5}),
            Price(second_nano_usd=10),
        ),
        (
            SpeechCall(model="m", text="x" * 100),
            Price(characters_nano_usd_per_million=4 * M),
            Price(characters_nano_usd_per_million=15 * M),
        ),
        (
            TranscriptionCall(model="m", audio=Media(kind="audio", data=b"x"), duration_s=120.0),
            Price(minute_nano_usd=59),
            Price(second_nano_usd=1),
        ),
        (
            EmbeddingCall(model="m", inputs=["x" * 4_000]),
            Price(input_nano_usd_per_million=20 * M),
            Price(input_nano_usd_per_million=130 * M),
        ),
        (
            ModerationCall(model="m", inputs=["x" * 4_000, {"type": "image_url"}]),
            Price(is_free=True),
            Price(input_nano_usd_per_million=M),
        ),
    ],
)
def test_the_cheaper_offer_of_this_call_compares_as_cheaper(call: Call, cheaper: Price, dearer: Price) -> None:
    def cost(price: Price) -> int:
        offer = make_offer(
            operation=call.operation, price=price, abilities=Abilities(seconds=(4, 8)), default_size="512x512"
        )
        return comparison_cost(offer, call)

    assert cost(cheaper) < cost(dearer)


def test_a_usual_picture_is_one_megapixel_as_it_is_billed() -> None:
    call = ImageCall(model="m", prompt="p", width=1024, height=1024)
    flat, by_megapixel = Price(image_nano_usd=20), Price(megapixel_first_nano_usd=20, megapixel_more_nano_usd=1000)
    costs = {comparison_cost(make_offer(operation=call.operation, price=price), call) for price in (flat, by_megapixel)}
    assert costs == {20}
