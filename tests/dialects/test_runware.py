"""Runware's tasks: where pictures go, what comes back, and jobs by an id of our making."""

from __future__ import annotations

import uuid
from typing import Any

import orjson
import pytest

from bitmesh_proxy.calls import Frame, ImageCall, JobStatus, Media, MediaOutput, Operation, Usage, VideoCall
from bitmesh_proxy.dialects.base import FRESH_UUID
from bitmesh_proxy.dialects.runware import image_dialect, video_dialect
from bitmesh_proxy.errors import InvalidRequest, ProviderRefused, UpstreamBroken
from bitmesh_proxy.money import parse_usd
from tests.dialects.cuts import sample
from tests.dialects.offers import make_offer
from tests.providers.contracts import sent_json

LINK = Media(kind="image", url="https://example.org/cat.png")
PNG = Media(kind="image", data=b"\x89PNG", media_type="image/png")
URI = "data:image/png;base64,iVBORw=="
IMAGES = image_dialect()
VIDEOS = video_dialect()


def image(**fields: Any) -> ImageCall:
    return ImageCall(model="m", prompt="A cat", **fields)


def video(**fields: Any) -> VideoCall:
    return VideoCall(model="m", prompt="A cat runs", **fields)


def task_of(call: ImageCall | VideoCall, **offer: Any) -> dict[str, Any]:
    if isinstance(call, VideoCall):
        request = VIDEOS.submit(call, make_offer(Operation.VIDEO, "google:3@2", **offer))
    else:
        request = IMAGES.request(call, make_offer(Operation.IMAGE, "runware:101@1", **offer))
    (task,) = sent_json(request)
    found: dict[str, Any] = task
    return found


def test_a_picture_is_a_task_that_names_its_cost() -> None:
    call = image(count=2, width=512, height=768, steps=20, seed=7, output_format="jpg", options={"guidance_scale": 3.5})
    assert task_of(call, defaults={"outputFormat": "WEBP", "checkNSFW": True}) == {
        "taskType": "imageInference",
        "taskUUID": FRESH_UUID.decode(),
        "includeCost": True,
        "outputFormat": "JPG",
        "checkNSFW": True,
        "model": "runware:101@1",
        "positivePrompt": "A cat",
        "numberResults": 2,
        "width": 512,
        "height": 768,
        "outputType": "URL",
        "steps": 20,
        "seed": 7,
        "CFGScale": 3.5,
    }
    assert task_of(image(response_format="b64_json"))["outputType"] == "base64Data"


def test_the_id_is_made_when_it_is_sent_and_stands_before_the_callers_words() -> None:
    call = ImageCall(model="m", prompt=FRESH_UUID.decode())
    request = IMAGES.request(call, make_offer(Operation.IMAGE))
    assert request.needs_fresh_uuid
    assert request.body is not None
    fresh = orjson.loads(request.body.replace(FRESH_UUID, b"new", 1))[0]
    assert (fresh["taskUUID"], fresh["positivePrompt"]) == ("new", FRESH_UUID.decode())
    assert uuid.UUID(FRESH_UUID.decode()).version == 4


def test_a_default_size_is_sent_unless_the_picture_has_its_own() -> None:
    offer = {"default_size": "1024x512"}
    assert (task_of(image(), **offer)["width"], task_of(image(), **offer)["height"]) == (1024, 512)
    assert "width" not in task_of(image(images=(LINK,)), **offer)
    assert task_of(image(images=(LINK,)), options={"sizes_edits": True}, **offer)["width"] == 1024
    assert task_of(image(images=(LINK,), width=64, height=64), **offer)["width"] == 64


@pytest.mark.parametrize(
    ("path", "images", "expected"),
    [
        (None, (LINK, PNG), {"inputs": {"referenceImages": [LINK.url, URI]}}),
        ("referenceImages", (LINK,), {"referenceImages": [LINK.url]}),
        ("inputs.references", (LINK,), {"inputs": {"references": [LINK.url]}}),
        ("inputs.image", (LINK,), {"inputs": {"image": LINK.url}}),
        ("seedImage", (PNG,), {"seedImage": URI}),
    ],
)
def test_pictures_go_where_the_model_looks_for_them(
    path: str | None, images: tuple[Media, ...], expected: dict[str, Any]
) -> None:
    options = {"image_input": path} if path else {}
    task = task_of(image(images=images), options=options)
    assert {name: task[name] for name in expected} == expected


def test_a_mask_goes_beside_its_picture() -> None:
    call = image(images=(LINK,), mask=PNG)
    assert task_of(call, options={"image_input": "inputs.seedImage"})["inputs"] == {
        "seedImage": LINK.url,
        "maskImage": URI,
    }
    flat = task_of(call, options={"image_input": "seedImage", "edit_defaults": {"strength": 0.8}})
    assert (flat["seedImage"], flat["maskImage"], flat["strength"]) == (LINK.url, URI, 0.8)
    assert "strength" not in task_of(image(), options={"edit_defaults": {"strength": 0.8}})


def test_a_quality_is_a_set_of_fields() -> None:
    options = {"quality_fields": {"auto": {"steps": 25}, "high": {"steps": 45, "acceleration": "low"}}}
    assert task_of(image(), options=options)["steps"] == 25
    high = task_of(image(quality="hd"), options=options, quality_map={"hd": "high"})
    assert (high["steps"], high["acceleration"]) == (45, "low")
    assert task_of(image(quality="high", steps=3), options=options)["steps"] == 3


def test_what_a_model_does_not_know_is_left_out() -> None:
    assert "steps" not in task_of(image(steps=3), options={"refuses": ["steps"]})


@pytest.mark.parametrize(
    ("call", "options", "param"),
    [
        (image(mask=PNG), {}, "mask"),
        (image(output_format="tiff"), {}, "output_format"),
        (image(images=(LINK, LINK)), {"image_input": "seedImage"}, "image"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(call: ImageCall, options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        task_of(call, options=options)
    assert caught.value.param == param


def test_what_was_made_counts_though_an_error_stands_beside_it() -> None:
    result = IMAGES.read(sample("runware/images.json"))
    assert result.outputs == (
        MediaOutput(kind="image", url="https://im.runware.ai/image/ws/0.5/ii/77da2d99-a6d3-44d9-b8c0-ae9fb06b6200.jpg"),
        MediaOutput(kind="image", data=b"\xff\xd8\xff\xe0"),
    )
    assert result.usage == Usage(images=2, reported_cost_nano_usd=parse_usd("0.0026"))
    assert result.raw is None  # it holds the provider's links
    without_cost = IMAGES.read(b'{"data":[{"imageURL":"https://x.test/a.png"}]}')
    assert without_cost.usage == Usage(images=1)
    unclear = (
        b'{"data":[{"imageURL":"https://x.test/a.png","cost":0.1},{"imageURL":"https://x.test/b.png","cost":"x"}]}'
    )
    assert IMAGES.read(unclear).usage == Usage(images=2), "the one's cost is not that of both"


def test_an_error_alone_is_a_refusal_though_it_came_as_a_success() -> None:
    with pytest.raises(ProviderRefused) as caught:
        IMAGES.read(sample("runware/refused.json"))
    refusal = caught.value
    assert (refusal.status, refusal.provider_code, refusal.param) == (400, "contentPolicyViolation", "positivePrompt")
    with pytest.raises(ProviderRefused) as caught:
        IMAGES.read(b'{"errors":[{"code":"providerError","message":"Elsewhere"}]}')
    assert (caught.value.status, caught.value.may_fail_over) == (502, True)
    with pytest.raises(ProviderRefused) as caught:
        IMAGES.read(b'{"errors":[{"code":"insufficientCredits","message":"Invoice 7 is open"}]}')
    assert (caught.value.status, caught.value.body) == (502, None)
    assert "Invoice" not in caught.value.message


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"data":[]}', b'{"data":[{"imageURL":"ftp://x"}]}'])
def test_what_is_no_answer_is_a_broken_upstream(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        IMAGES.read(body)


def test_a_clip_is_an_asynchronous_task() -> None:
    call = video(
        seconds="8",
        width=1280,
        height=720,
        fps=25,
        steps=30,
        seed=7,
        guidance_scale=6.5,
        output_format="MP4",
        output_quality=90,
        negative_prompt="dogs",
        quality="high",
    )
    assert task_of(call, options={"quality_fields": {"high": {"providerSettings": {"x": 1}}}}) == {
        "taskType": "videoInference",
        "taskUUID": FRESH_UUID.decode(),
        "deliveryMethod": "async",
        "includeCost": True,
        "providerSettings": {"x": 1},
        "model": "google:3@2",
        "positivePrompt": "A cat runs",
        "numberResults": 1,
        "width": 1280,
        "height": 720,
        "duration": 8,
        "fps": 25,
        "steps": 30,
        "seed": 7,
        "CFGScale": 6.5,
        "negativePrompt": "dogs",
        "outputFormat": "MP4",
        "outputQuality": 90,
    }


def test_lengths_and_sizes_that_nobody_asked_for() -> None:
    offer = {"default_seconds": 5, "default_size": "1280x720"}
    assert task_of(video(), **offer).items() >= {"duration": 5, "width": 1280, "height": 720}.items()
    assert "width" not in task_of(video(frames=(Frame(media=LINK),)), **offer)
    by_class = task_of(video(options={"resolution": "1080p"}), **offer)
    assert by_class["resolution"] == "1080p"
    assert "width" not in by_class
    assert task_of(video(seconds="2.5"))["duration"] == 2.5
    assert "duration" not in task_of(video())


def test_frames_and_references() -> None:
    first = video(frames=(Frame(media=LINK),), references=(PNG,))
    assert task_of(first)["inputs"] == {"frameImages": [{"image": LINK.url}], "referenceImages": [URI]}
    frames = (Frame(media=LINK, position="0"), Frame(media=PNG, position="24"), Frame(media=LINK, position="last"))
    older = task_of(video(frames=frames), options={"frame_input": "frameImages"})
    assert older["frameImages"] == [
        {"inputImage": LINK.url, "frame": "first"},
        {"inputImage": URI, "frame": 24},
        {"inputImage": LINK.url, "frame": "last"},
    ]
    alone = video(frames=(Frame(media=LINK, position="last"),))
    assert task_of(alone)["inputs"]["frameImages"] == [{"image": LINK.url, "frame": "last"}]


def read(*items: dict[str, Any], **answer: Any) -> Any:
    return VIDEOS.read_poll(orjson.dumps({"data": list(items), **answer}))


def test_a_job_goes_on_until_its_clip_is_there() -> None:
    job_id = "24cd5dff-cb81-4db5-8506-b72a9425f9d1"
    started = VIDEOS.read_submit(orjson.dumps({"data": [{"taskType": "videoInference", "taskUUID": job_id}]}))
    assert (started.provider_job_id, started.status) == (job_id, JobStatus.IN_PROGRESS)
    poll = VIDEOS.poll(job_id, make_offer(Operation.VIDEO))
    assert sent_json(poll) == [{"taskType": "getResponse", "taskUUID": job_id}]
    assert not poll.needs_fresh_uuid
    assert read({"taskUUID": job_id, "status": "processing", "progress": 40}).progress_percent == 40
    for not_yet in (read(), read({"taskUUID": job_id, "status": "success"}), read({"taskUUID": job_id, "status": "?"})):
        assert (not_yet.status, not_yet.usage) == (JobStatus.IN_PROGRESS, None)
    done = VIDEOS.read_poll(sample("runware/video_done.json"))
    assert done.status is JobStatus.COMPLETED
    assert done.usage == Usage(reported_cost_nano_usd=parse_usd("0.18"))
    assert [output.url for output in done.outputs] == [
        "https://vm.runware.ai/video/ws/0.5/vi/b7db282d-2943-4f12-992f-77df3ad3ec71.mp4"
    ]


def test_how_a_job_fails() -> None:
    problem = {"code": "providerError", "message": "Failed with Bearer abcdefghijklmnopqrst"}
    in_item = read({"taskUUID": "a", "status": "error", "error": problem})
    beside = VIDEOS.read_poll(orjson.dumps({"errors": [{**problem, "taskUUID": "a"}]}))
    for state in (in_item, beside):
        assert (state.provider_job_id, state.status) == ("a", JobStatus.FAILED)
        assert (state.error_code, state.error_message) == ("providerError", "Failed with [redacted]")
    with pytest.raises(ProviderRefused):
        VIDEOS.read_poll(b'{"errors":[{"code":"invalidModel","message":"No such model"}]}')
    with pytest.raises(UpstreamBroken):
        VIDEOS.read_poll(b"{}")


@pytest.mark.parametrize("body", [b'{"data":[]}', b'{"data":[{}]}', b'{"data":[{"taskUUID":7}]}'])
def test_a_job_that_nobody_could_ask_for_has_not_begun(body: bytes) -> None:
    with pytest.raises(UpstreamBroken, match="no id"):
        VIDEOS.read_submit(body)


def test_an_error_is_about_the_job_that_it_names() -> None:
    assert VIDEOS.names_job is not None
    assert VIDEOS.names_job("a", {"errors": [{"code": "x"}, {"code": "invalidProviderContent", "taskUUID": "a"}]})
    for answer in ({}, {"errors": [{"taskUUID": "b"}]}, {"errors": "a"}, {"error": {"taskUUID": "a"}}):
        assert not VIDEOS.names_job("a", answer)
