"""Together's pictures and clips: what goes where, and what is read."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bitmesh_proxy.calls import (
    Frame,
    ImageCall,
    JobStatus,
    Media,
    MediaOutput,
    Operation,
    Usage,
    VideoCall,
)
from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.dialects.together_media import image_dialect, video_dialect
from bitmesh_proxy.errors import InvalidRequest, ProviderRefused, UpstreamBroken
from bitmesh_proxy.money import parse_usd
from tests.dialects.cuts import sample
from tests.dialects.offers import make_offer
from tests.providers.contracts import sent_json

IMAGES = image_dialect()
VIDEOS = video_dialect()


def request_of(call: ImageCall | VideoCall, **offer: Any) -> UpstreamRequest:
    if isinstance(call, VideoCall):
        return VIDEOS.submit(call, make_offer(Operation.VIDEO, **offer))
    return IMAGES.request(call, make_offer(Operation.IMAGE, **offer))


PNG = Media(kind="image", data=b"\x89PNG...", media_type="image/png")


LINK = Media(kind="image", url="https://example.org/cat.png")


def image(**fields: Any) -> ImageCall:
    return ImageCall(model="m", prompt="A cat", **fields)


def test_pictures_go_where_the_model_looks_for_them() -> None:
    one, two = image(images=(LINK,)), image(images=(LINK, PNG))
    assert sent_json(request_of(one))["image_url"] == LINK.url
    assert sent_json(request_of(two))["reference_images"] == [LINK.url, "data:image/png;base64,iVBORy4uLg=="]
    reference = {"image_input": "reference_images"}
    assert sent_json(request_of(one, options=reference))["reference_images"] == [LINK.url]
    with pytest.raises(InvalidRequest):
        request_of(two, options={"image_input": "image_url"})


@pytest.mark.parametrize(
    ("call", "param"), [(image(mask=PNG, images=(PNG,)), "mask"), (image(output_format="webp"), "output_format")]
)
def test_what_together_cannot_do_is_refused_by_name(call: ImageCall, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(call)
    assert caught.value.param == param


def test_base64_is_asked_for_by_togethers_word() -> None:
    assert sent_json(request_of(image(response_format="b64_ephemeral")))["response_format"] == "base64"
    assert "response_format" not in sent_json(request_of(image(response_format="url")))


def test_an_offers_defaults_give_way_to_the_caller() -> None:
    defaults = {"steps": 4, "disable_safety_checker": False}
    assert sent_json(request_of(image(), defaults=defaults)).items() >= defaults.items()
    assert sent_json(request_of(image(steps=8), defaults=defaults))["steps"] == 8


def test_pictures_are_read_as_links_and_as_bytes() -> None:
    result = IMAGES.read(sample("together/images.json"))
    assert result.outputs == (
        MediaOutput(kind="image", url="https://api.together.ai/shrt/DwlaBdSakNRFlBxN"),
        MediaOutput(kind="image", data=b"\xff\xd8\xff\xe0"),
    )
    assert result.usage == Usage(images=2)
    assert result.provider_request_id == "oWcQx2k-img-1"


@pytest.mark.parametrize("item", ["{}", '{"url":"javascript:alert(1)"}', '{"url":7}', '{"b64_json":"%%"}', '"x"', ""])
def test_what_is_no_picture_is_a_broken_upstream(item: str) -> None:
    with pytest.raises(UpstreamBroken):
        IMAGES.read(b'{"id":"1","data":[' + item.encode() + b"]}")


def test_of_several_pictures_those_that_are_there_count() -> None:
    result = IMAGES.read(b'{"id":"1","data":[{"index":0,"b64_json":"%%"},{"index":1,"url":"https://x.test/a.png"}]}')
    assert result.outputs == (MediaOutput(kind="image", url="https://x.test/a.png"),)
    assert result.usage == Usage(images=1)


def video(**fields: Any) -> VideoCall:
    return VideoCall(model="m", prompt="A cat runs", **fields)


def test_frames_and_references_live_in_media() -> None:
    frames = (Frame(media=LINK), Frame(media=LINK, position="12"), Frame(media=LINK, position="last"))
    body = sent_json(request_of(video(frames=frames, references=(LINK,))))
    assert [frame["frame"] for frame in body["media"]["frame_images"]] == ["first", 12, "last"]
    assert body["media"]["reference_images"] == [LINK.url]
    assert "frame_images" not in body


def test_a_length_is_a_string_and_what_will_be_charged() -> None:
    assert sent_json(request_of(video(seconds="5.0")))["seconds"] == "5"
    assert sent_json(request_of(video(), default_seconds=10))["seconds"] == "10"
    assert "seconds" not in sent_json(request_of(video()))


def test_a_guidance_that_is_no_whole_number_is_not_rounded() -> None:
    assert sent_json(request_of(video(guidance_scale=6.5)))["guidance_scale"] == 6.5
    assert repr(sent_json(request_of(video(guidance_scale=6.0)))["guidance_scale"]) == "6"
    assert sent_json(request_of(video(guidance_scale=1e300)))["guidance_scale"] == 1e300


def read_job(body: bytes) -> Any:
    return VIDEOS.read_poll(body)


def test_a_finished_clip_names_its_cost_in_dollars() -> None:
    state = read_job(sample("together/video_completed.json"))
    assert state.status is JobStatus.COMPLETED
    assert state.outputs == (MediaOutput(kind="video", url="https://api.together.ai/shrt/UKUn8Zz7EjXegsLh"),)
    assert state.usage == Usage(duration_ms=5000, reported_cost_nano_usd=parse_usd("0.28"))


def test_an_absurd_length_or_cost_is_none() -> None:
    outputs = {"video_url": "https://api.together.ai/1", "cost": "1e999999999"}
    for seconds in ("1e999999999", "1e999990"):
        answer = {"id": "1", "status": "completed", "seconds": seconds, "outputs": outputs}
        assert read_job(orjson.dumps(answer)).usage == Usage()


def test_a_failed_clip_says_why_without_secrets() -> None:
    state = read_job(sample("together/video_failed.json"))
    assert (state.status, state.error_code) == (JobStatus.FAILED, "content_policy_violation")
    assert state.error_message == "The prompt was refused. ([redacted])"
    assert state.usage is None
    older = read_job(b'{"id":"1","status":"failed","info":{"errors":["Out of memory"]}}')
    assert older.error_message == "Out of memory"


@pytest.mark.parametrize("status", ["in_progress", "running", "post-processing", "", None, 7])
def test_a_word_that_nobody_knows_is_not_an_end(status: Any) -> None:
    state = read_job(orjson.dumps({"id": "1", "status": status, "outputs": None}))
    assert state.status is JobStatus.IN_PROGRESS
    assert state.usage is None


def test_a_job_without_an_id_is_a_broken_upstream_and_an_error_a_refusal() -> None:
    with pytest.raises(UpstreamBroken):
        read_job(b'{"status":"queued"}')
    with pytest.raises(ProviderRefused):
        read_job(b'{"error":{"message":"No such model"}}')
