"""What we send to Runware is what the model that it is for takes: each has a schema of its own."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import Frame, ImageCall, Media, Operation, VideoCall
from bitmesh_proxy.providers.runware import PROVIDER
from tests.dialects.offers import make_offer
from tests.providers.contracts import violations

LINK = Media(kind="image", url="https://example.org/cat.png")
CLASSIC = {"steps": 4, "seed": 7, "options": {"negative_prompt": "dogs", "guidance_scale": 2.5}}


@pytest.mark.parametrize(
    ("model", "fields", "options"),
    [
        ("runware:100@1", CLASSIC, {}),
        ("runware:100@1", {"images": (LINK,), "mask": LINK}, {"image_input": "inputs.seedImage", "sizes_edits": True}),
        ("runware:101@1", CLASSIC, {}),
        ("runware:106@1", {"images": (LINK,), "width": 1024, "height": 1024}, {}),
        ("bfl:2@1", {"width": 1024, "height": 768, "output_format": "png"}, {}),
        ("bfl:5@1", {"seed": 3, "images": (LINK,), "width": 1024, "height": 1024}, {}),
        ("google:4@2", {"response_format": "b64_json", "images": (LINK, LINK)}, {}),
        ("openai:gpt-image@2", {"quality": "high"}, {"quality_fields": {"high": {"settings": {"quality": "high"}}}}),
        ("bytedance:seedream@4.5", {"count": 2, "width": 2048, "height": 2048, "seed": 1}, {}),
        ("xai:grok-imagine@image", {}, {}),
    ],
)
def test_every_picture_keeps_its_models_schema(model: str, fields: dict[str, Any], options: dict[str, Any]) -> None:
    assert PROVIDER.image is not None
    offer = make_offer(Operation.IMAGE, model, default_size="1024x1024", options=options)
    request = PROVIDER.image.request(ImageCall(model="m", prompt="A cat", **fields), offer)
    assert violations("runware", request) == []


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("google:3@2", {"seconds": "8", "width": 1280, "height": 720, "seed": 7}),
        ("google:3@2", {"seconds": "4", "frames": (Frame(media=LINK), Frame(media=LINK, position="last"))}),
        ("klingai:6@1", {"seconds": "5", "negative_prompt": "dogs", "guidance_scale": 0.5}),
        ("bytedance:seedance@2.0", {"options": {"resolution": "1080p"}, "output_format": "MP4", "output_quality": 90}),
        ("minimax:3@1", {"fps": 25, "seconds": "6"}),
        ("xai:grok-imagine@video", {"references": (LINK,)}),
    ],
)
def test_every_clip_keeps_its_models_schema(model: str, fields: dict[str, Any]) -> None:
    assert PROVIDER.video is not None
    offer = make_offer(Operation.VIDEO, model)
    call = VideoCall(model="m", prompt="A cat runs", **fields)
    assert violations("runware", PROVIDER.video.submit(call, offer)) == []


def test_polling_keeps_the_schema() -> None:
    assert PROVIDER.video is not None
    poll = PROVIDER.video.poll("24cd5dff-cb81-4db5-8506-b72a9425f9d1", make_offer(Operation.VIDEO))
    assert violations("runware", poll) == []


def test_a_field_of_another_model_is_caught_by_this_test() -> None:
    """The schemas tell: a cat with steps is refused where the model knows none."""
    assert PROVIDER.image is not None
    request = PROVIDER.image.request(
        ImageCall(model="m", prompt="A cat", steps=3), make_offer(Operation.IMAGE, "bfl:5@1", default_size="64x64")
    )
    assert violations("runware", request) != []
