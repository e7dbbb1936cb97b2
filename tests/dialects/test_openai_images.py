"""OpenAI's pictures: what goes where, what is read, and streams that are metered in passing."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import (
    ImageCall,
    Media,
    MediaOutput,
    Operation,
    Usage,
)
from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.dialects.openai_images import dialect
from bitmesh_proxy.errors import InvalidRequest, ProviderRefused, UpstreamBroken
from tests.dialects.cuts import sample, ways_to_cut
from tests.dialects.offers import make_offer
from tests.providers.contracts import sent_form, sent_json

DIALECT = dialect(takes_response_format=lambda offer: offer.upstream_model.startswith("dall-e"))


def request_of(call: ImageCall, upstream_model: str = "gpt-image-2", **offer: Any) -> UpstreamRequest:
    return DIALECT.request(call, make_offer(Operation.IMAGE, upstream_model, **offer))


PNG = Media(kind="image", data=b"\x89PNG...", media_type="image/png")


JPEG_URI = Media(kind="image", url="data:image/jpeg;base64,/9j/4A==")


LINK = Media(kind="image", url="https://example.org/cat.png")


def image(**fields: Any) -> ImageCall:
    return ImageCall(model="m", prompt="A cat", **fields)


def test_gpt_image_is_never_asked_for_a_response_format_and_dalle_is() -> None:
    call = image(response_format="url")
    assert "response_format" not in sent_json(request_of(call, "gpt-image-2"))
    assert sent_json(request_of(call, "dall-e-3"))["response_format"] == "url"


def test_a_quality_is_sent_in_the_offers_words() -> None:
    words = {"hd": "high"}
    assert sent_json(request_of(image(quality="hd"), quality_map=words))["quality"] == "high"
    assert sent_json(request_of(image(quality="low"), quality_map=words))["quality"] == "low"


def test_an_edit_with_bytes_is_a_form() -> None:
    fields = sent_form(request_of(image(images=(PNG, JPEG_URI), mask=PNG)))
    assert fields["image[]"] == [b"\x89PNG...", b"\xff\xd8\xff\xe0"]
    assert fields["mask"] == [b"\x89PNG..."]
    assert "image" not in fields
    one = request_of(image(images=(JPEG_URI,))).form
    assert one is not None
    assert [(part.name, part.filename, part.media_type) for part in one if part.filename] == [
        ("image", "image.jpg", "image/jpeg")
    ]


def test_an_edit_of_a_link_is_json_so_that_nobody_here_fetches_it() -> None:
    body = sent_json(request_of(image(images=(LINK, PNG), mask=PNG)))
    assert body["images"][0] == {"image_url": "https://example.org/cat.png"}
    assert body["images"][1] == body["mask"] == {"image_url": "data:image/png;base64,iVBORy4uLg=="}


@pytest.mark.parametrize("url", ["data:image/png;base64,!!!", "data:image/png,plain"])
def test_a_data_uri_that_cannot_be_read_is_the_callers_mistake(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(image(images=(Media(kind="image", url=url),)))
    assert caught.value.param == "image"


def test_a_mask_without_a_picture_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(image(mask=PNG))
    assert caught.value.param == "mask"


def read_image(body: bytes) -> Any:
    return DIALECT.read(body)


def test_pictures_are_read_with_their_tokens() -> None:
    result = read_image(sample("openai/images.json"))
    assert result.outputs == (MediaOutput(kind="image", data=b"\x89PNG", media_type="image/png"),)
    assert result.usage == Usage(
        input_tokens=50, image_input_tokens=40, output_tokens=1200, image_output_tokens=1196, images=1
    )
    assert result.raw["data"][0]["b64_json"] == "iVBORw=="


def test_a_link_is_a_picture_too() -> None:
    result = read_image(b'{"created":1,"data":[{"url":"https://x.test/a.png","revised_prompt":"A black cat"}]}')
    assert result.outputs == (MediaOutput(kind="image", url="https://x.test/a.png", revised_prompt="A black cat"),)
    assert result.usage == Usage(images=1)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"data":[]}',
        b'{"data":[{}]}',
        b'{"data":[{"b64_json":"!"}]}',
        b'{"data":[{"url":"x"}]}',
    ],
)
def test_what_is_no_picture_is_a_broken_upstream(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        read_image(body)


@pytest.mark.parametrize("other", ["{}", '{"b64_json":"!"}', '{"url":null,"respect_moderation":false}'])
def test_of_several_pictures_those_that_are_there_count(other: str) -> None:
    result = read_image(b'{"data":[' + other.encode() + b',{"b64_json":"iVBORw=="}]}')
    assert result.outputs == (MediaOutput(kind="image", data=b"\x89PNG"),)
    assert result.usage == Usage(images=1)


def test_a_refusal_that_came_as_a_success() -> None:
    with pytest.raises(ProviderRefused) as caught:
        read_image(b'{"error":{"code":400,"message":"Blocked"}}')
    assert caught.value.status == 400


def test_a_stream_of_pictures_is_metered_cut_anywhere() -> None:
    assert DIALECT.stream_meter is not None
    stream = sample("openai/images_stream.sse")
    for chunks in ways_to_cut(stream):
        meter = DIALECT.stream_meter()
        for chunk in chunks:
            meter.feed(chunk)
        assert meter.is_complete
        assert meter.error is None
        assert meter.usage == Usage(
            input_tokens=100, image_input_tokens=0, output_tokens=2400, image_output_tokens=2400, images=2
        )
    meter = DIALECT.stream_meter()
    most = b'data: {"usage":{"input_tokens":9007199254740992,"output_tokens":9007199254740992}}\n\n'
    meter.feed(most * 1100)  # so often the most is more than the books can take
    assert meter.usage == Usage(input_tokens=2**40, output_tokens=2**40, image_output_tokens=2**40, images=1100)
    meter = DIALECT.stream_meter()
    meter.feed(stream[: stream.index(b"image_generation.completed")])
    assert not meter.is_complete
    meter.feed(b'\n\nevent: error\ndata: {"type":"error","error":{"message":"Blocked"}}\n\n')
    assert meter.error == "Blocked"


def test_a_finished_picture_without_usage_is_a_finished_picture() -> None:
    assert DIALECT.stream_meter is not None
    sketch = b'data: {"type":"image_edit.partial_image","b64_json":"' + b"AAAA" + b'"}\n\n'
    finished = sketch.replace(b"partial_image", b"completed")
    for chunks in ways_to_cut(sketch + finished + finished):
        meter = DIALECT.stream_meter()
        meter.feed(sketch)
        assert (meter.is_complete, meter.usage) == (False, None)
        for chunk in chunks:
            meter.feed(chunk)
        assert (meter.is_complete, meter.usage) == (True, Usage(images=2))
