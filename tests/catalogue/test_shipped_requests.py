"""What the shipped rows say that a model takes is what its provider takes: every size, quality and input picture.

The provider is the sandbox, which holds a request to the published schema of the model or of the operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from bitmesh_proxy.calls import Frame, ImageCall, Media, Operation, VideoCall
from bitmesh_proxy.catalogue.loader import load_catalogue
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.providers import PROVIDERS
from bitmesh_proxy.sandbox import runware_tasks
from bitmesh_proxy.sandbox.gemini_pictures import picture_size
from bitmesh_proxy.sandbox.schemas import load_checker
from tests.catalogue.making import SHIPPED_MODELS

PICTURE = Media(kind="image", url="data:image/png;base64,AAAA")
BY_NAME = {provider.name: provider for provider in PROVIDERS}


def offers(provider: str, operation: Operation) -> list[Any]:
    catalogue = load_catalogue([SHIPPED_MODELS], providers=list(BY_NAME))
    return [
        pytest.param(offer, id=offer.upstream_model)
        for model in catalogue.models
        for offer in model.offers
        if offer.provider == provider and offer.operation is operation
    ]


def sizes_of(offer: Offer) -> Iterator[tuple[int | None, int | None]]:
    """No size, and each that the row names, as width and height."""
    yield None, None
    for size in offer.abilities.sizes:
        width, _, height = size.partition("x")
        yield int(width), int(height)


def picture_requests(offer: Offer) -> Iterator[tuple[ImageCall, UpstreamRequest]]:
    dialect = BY_NAME[offer.provider].image
    assert dialect is not None
    most = offer.abilities.max_images_in
    for width, height in sizes_of(offer):
        for quality in (None, *offer.abilities.qualities, *offer.quality_map):
            for images in [()] + ([(PICTURE,) * most] if most else []):
                mask = PICTURE if images and offer.abilities.mask else None
                call = ImageCall(
                    model="m", prompt="A cat", width=width, height=height, quality=quality, images=images, mask=mask
                )
                yield call, dialect.request(call, offer)


def clip_requests(offer: Offer) -> Iterator[UpstreamRequest]:
    dialect = BY_NAME[offer.provider].video
    assert dialect is not None
    for width, height in sizes_of(offer):
        for seconds in (None, *(str(length) for length in offer.abilities.seconds)):
            for position in (None, "first", "last") if offer.abilities.last_frame else (None, "first"):
                places = {None: (), "first": ("first",), "last": ("first", "last")}[position]
                frames = tuple(Frame(media=PICTURE, position=place) for place in places)
                call = VideoCall(model="m", prompt="A cat", width=width, height=height, seconds=seconds, frames=frames)
                yield dialect.submit(call, offer)


def body_of(request: UpstreamRequest) -> Any:
    assert request.body is not None
    return orjson.loads(request.body)


@pytest.mark.parametrize("offer", offers("runware", Operation.IMAGE))
def test_runware_takes_every_picture_that_is_offered(offer: Offer) -> None:
    for _, request in picture_requests(offer):
        (task,) = body_of(request)
        runware_tasks.check(task | {"taskUUID": "00000000-0000-4000-8000-000000000000"}, is_strict=True)
        runware_tasks.inputs_of(task)


@pytest.mark.parametrize("offer", offers("runware", Operation.VIDEO))
def test_runware_takes_every_clip_that_is_offered(offer: Offer) -> None:
    for request in clip_requests(offer):
        (task,) = body_of(request)
        runware_tasks.check(task | {"taskUUID": "00000000-0000-4000-8000-000000000000"}, is_strict=True)
        runware_tasks.inputs_of(task)


@pytest.mark.parametrize("offer", offers("gemini", Operation.IMAGE))
def test_google_makes_every_size_that_is_offered(offer: Offer) -> None:
    for call, request in picture_requests(offer):
        body = body_of(request)
        assert load_checker("gemini", "generate")(body) is None
        shape = body["generationConfig"].get("imageConfig")
        if shape is not None:
            made = picture_size(offer.upstream_model, shape["aspectRatio"], shape.get("imageSize"))
            assert made == (call.width, call.height)


@pytest.mark.parametrize("offer", offers("gemini", Operation.VIDEO))
def test_google_takes_every_clip_that_is_offered(offer: Offer) -> None:
    for request in clip_requests(offer):
        assert load_checker("gemini", "predict_long_running")(body_of(request)) is None
