"""Google's pictures and clips: shapes, blocks, operations, and files that need the key."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bitmesh_proxy.calls import Frame, ImageCall, JobStatus, Media, MediaOutput, Operation, Usage, VideoCall
from bitmesh_proxy.dialects.gemini_media import image_dialect, video_dialect
from bitmesh_proxy.errors import InvalidRequest, ProviderRefused, UpstreamBroken
from tests.dialects.cuts import sample
from tests.dialects.offers import make_offer
from tests.providers.contracts import sent_json

PNG = Media(kind="image", data=b"\x89PNG", media_type="image/png")
BLOB = {"mimeType": "image/png", "bytesBase64Encoded": "iVBORw=="}
IMAGES = image_dialect()
VIDEOS = video_dialect()
ALL_SIZES = {"image_sizes": ["512", "1K", "2K", "4K"]}


def image(**fields: Any) -> ImageCall:
    return ImageCall(model="m", prompt="A cat", **fields)


def image_body(call: ImageCall, **options: Any) -> dict[str, Any]:
    offer = make_offer(Operation.IMAGE, "gemini-image", options=options)
    body: dict[str, Any] = sent_json(IMAGES.request(call, offer))
    return body


def test_a_picture_is_made_from_text_and_pictures() -> None:
    body = image_body(image(images=(PNG,), seed=7, width=1344, height=768))
    assert body == {
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "A cat"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}],
            }
        ],
        "generationConfig": {
            "responseModalities": ["TEXT", "IMAGE"],
            "imageConfig": {"aspectRatio": "16:9"},
            "seed": 7,
        },
    }
    assert not IMAGES.takes_image_urls


#: Every size that Google's documentation names, with its shape and class.
SIZES = {
    (1024, 1024): ("1:1", "1K"),
    (832, 1248): ("2:3", "1K"),
    (1248, 832): ("3:2", "1K"),
    (864, 1184): ("3:4", "1K"),
    (1184, 864): ("4:3", "1K"),
    (896, 1152): ("4:5", "1K"),
    (1152, 896): ("5:4", "1K"),
    (768, 1344): ("9:16", "1K"),
    (1344, 768): ("16:9", "1K"),
    (1536, 672): ("21:9", "1K"),
    (1584, 672): ("21:9", "1K"),
    (848, 1264): ("2:3", "1K"),
    (2048, 2048): ("1:1", "2K"),
    (1696, 2528): ("2:3", "2K"),
    (3168, 1344): ("21:9", "2K"),
    (4096, 4096): ("1:1", "4K"),
    (5504, 3072): ("16:9", "4K"),
    (512, 512): ("1:1", "512"),
}


@pytest.mark.parametrize(("size", "expected"), SIZES.items())
def test_sizes_are_shapes_and_classes(size: tuple[int, int], expected: tuple[str, str]) -> None:
    body = image_body(image(width=size[0], height=size[1]), **ALL_SIZES)
    config = body["generationConfig"]["imageConfig"]
    assert (config["aspectRatio"], config["imageSize"]) == expected


@pytest.mark.parametrize(
    ("call", "options", "param"),
    [
        (image(width=1024, height=540), ALL_SIZES, "size"),
        (image(width=2048, height=2048), {}, "size"),
        (image(width=8000, height=8000), ALL_SIZES, "size"),
        (image(count=2), {}, "n"),
        (image(mask=PNG), {}, "mask"),
        (image(output_format="webp"), {}, "output_format"),
        (image(images=(PNG,)), {"method": "predict"}, "image"),
        (image(images=(Media(kind="image", url="https://x.test/a.png"),)), {}, "image"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(call: ImageCall, options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        image_body(call, **options)
    assert caught.value.param == param


def test_imagen_is_asked_to_predict() -> None:
    offer = make_offer(
        Operation.IMAGE,
        "imagen-4",
        options={"method": "predict", "image_sizes": ["1K", "2K"]},
        defaults={"personGeneration": "allow_adult"},
    )
    request = IMAGES.request(image(count=3, width=1536, height=2048), offer)
    assert request.path == "/models/imagen-4:predict"
    assert sent_json(request) == {
        "instances": [{"prompt": "A cat"}],
        "parameters": {
            "personGeneration": "allow_adult",
            "sampleCount": 3,
            "aspectRatio": "3:4",
            "sampleImageSize": "2K",
        },
    }


def test_a_picture_is_read_with_its_tokens() -> None:
    result = IMAGES.read(sample("gemini/image.json"))
    assert result.outputs == (MediaOutput(kind="image", data=b"\x89PNG", media_type="image/png"),)
    assert result.usage == Usage(
        input_tokens=265, image_input_tokens=258, output_tokens=1297, image_output_tokens=1290, images=1
    )
    assert result.provider_request_id == "aB3dEf"


def test_predictions_are_read_without_those_that_were_kept_back() -> None:
    answer = {"predictions": [{**BLOB}, {"raiFilteredReason": "Blocked"}, {**BLOB, "mimeType": "image/jpeg"}]}
    result = IMAGES.read(orjson.dumps(answer))
    assert [output.media_type for output in result.outputs] == ["image/png", "image/jpeg"]
    assert result.usage == Usage(images=2)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (sample("gemini/image_blocked.json"), "image_safety", "I cannot draw that."),
        (sample("gemini/prompt_blocked.json"), "prohibited_content", "PROHIBITED_CONTENT"),
        (b'{"candidates":[{"content":{"parts":[{"text":"Sorry."}]},"finishReason":"STOP"}]}', "no_image", "Sorry."),
        (b'{"predictions":[{"raiFilteredReason":"Violates our rules"}]}', "image_safety", "Violates our rules"),
        (b'{"predictions":[]}', "image_safety", ""),
    ],
)
def test_a_block_that_came_as_a_success_is_a_refusal(body: bytes, code: str, said: str) -> None:
    with pytest.raises(ProviderRefused) as caught:
        IMAGES.read(body)
    assert (caught.value.status, caught.value.provider_code) == (400, code)
    assert said in caught.value.message
    assert caught.value.body == {"error": {"message": caught.value.message, "code": code}}


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b'{"candidates":[]}', b'{"predictions":[{"bytesBase64Encoded":"!"}]}']
)
def test_what_is_no_picture_is_a_broken_upstream(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        IMAGES.read(body)


def video(**fields: Any) -> VideoCall:
    return VideoCall(model="m", prompt="A cat runs", **fields)


def video_body(call: VideoCall, **offer: Any) -> dict[str, Any]:
    body: dict[str, Any] = sent_json(VIDEOS.submit(call, make_offer(Operation.VIDEO, "veo", **offer)))
    return body


def test_a_clip_is_an_instance_and_parameters() -> None:
    call = video(
        seconds="6",
        width=1080,
        height=1920,
        negative_prompt="dogs",
        seed=7,
        frames=(Frame(media=PNG), Frame(media=PNG, position="last")),
        references=(PNG,),
    )
    assert video_body(call) == {
        "instances": [
            {
                "prompt": "A cat runs",
                "image": BLOB,
                "lastFrame": BLOB,
                "referenceImages": [{"image": BLOB, "referenceType": "asset"}],
            }
        ],
        "parameters": {
            "durationSeconds": 6,
            "aspectRatio": "9:16",
            "resolution": "1080p",
            "negativePrompt": "dogs",
            "seed": 7,
        },
    }
    assert video_body(video(options={"resolution": "720p"}), default_seconds=8)["parameters"] == {
        "durationSeconds": 8,
        "resolution": "720p",
    }
    assert video_body(video(options={"resolution": "4K"}))["parameters"] == {"resolution": "4k"}
    assert video_body(video()) == {"instances": [{"prompt": "A cat runs"}]}


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (video(width=1024, height=1024), "size"),
        (video(width=7680, height=4320), "size"),
        (video(frames=(Frame(media=PNG, position=24),)), "frame_images"),
        (video(frames=(Frame(media=PNG), Frame(media=PNG))), "frame_images"),
        (video(width=1280), "size"),
        (video(options={"resolution": "UHD"}), "resolution"),
        (video(options={"resolution": {"height": 2160}}), "resolution"),
        (video(width=1280, height=720, options={"resolution": "4k"}), "resolution"),
    ],
)
def test_what_a_clip_cannot_be_is_refused_by_name(call: VideoCall, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        video_body(call)
    assert caught.value.param == param


def read(**fields: Any) -> Any:
    return VIDEOS.read_poll(orjson.dumps({"name": "models/veo-3/operations/abc", **fields}))


def test_an_operation_goes_on_until_it_is_done() -> None:
    started = VIDEOS.read_submit(b'{"name":"models/veo-3.1/operations/a-b_1"}')
    assert started.status is JobStatus.IN_PROGRESS
    request = VIDEOS.poll(started.provider_job_id, make_offer(Operation.VIDEO))
    assert (request.method, request.path, request.body) == ("GET", "/models/veo-3.1/operations/a-b_1", None)
    assert read(done=False, metadata={}).status is JobStatus.IN_PROGRESS


@pytest.mark.parametrize("name", ["", "operations/x", "models/v/operations/../../files", "models/v/operations/a?key=1"])
def test_a_name_that_is_none_is_never_asked_for(name: str) -> None:
    with pytest.raises(UpstreamBroken):
        VIDEOS.read_submit(orjson.dumps({"name": name}))
    with pytest.raises(UpstreamBroken):
        VIDEOS.poll(name, make_offer(Operation.VIDEO))


def test_a_finished_clip_is_a_path_that_needs_the_key() -> None:
    state = VIDEOS.read_poll(sample("gemini/video_done.json"))
    assert state.status is JobStatus.COMPLETED
    assert state.outputs == (
        MediaOutput(
            kind="video", path="/files/xyz789:download?alt=media", media_type="video/mp4", needs_credential=True
        ),
    )
    assert state.raw is None  # it holds the address


@pytest.mark.parametrize("uri", ["https://evil.test/files/x", "https://evil.test/v1beta/../../x"])
def test_an_address_that_is_not_the_apis_is_not_followed_with_the_key(uri: str) -> None:
    state = read(done=True, response={"generateVideoResponse": {"generatedSamples": [{"video": {"uri": uri}}]}})
    assert (state.status, state.outputs) == (JobStatus.COMPLETED, ())


def test_a_clip_may_come_as_bytes() -> None:
    video_part = {"bytesBase64Encoded": "aGk=", "mimeType": "video/mp4"}
    state = read(done=True, response={"generateVideoResponse": {"generatedSamples": [{"video": video_part}]}})
    assert state.outputs == (MediaOutput(kind="video", data=b"hi", media_type="video/mp4"),)


@pytest.mark.parametrize("encoded", ["a", "aGk", "not base64!", "data:video/mp4,hi", "ü"])
def test_bytes_that_cannot_be_read_are_no_clip(encoded: str) -> None:
    broken = {"video": {"bytesBase64Encoded": encoded}}
    state = read(done=True, response={"generateVideoResponse": {"generatedSamples": [broken]}})
    assert (state.status, state.outputs) == (JobStatus.COMPLETED, ())
    samples = [broken, {"video": {"encodedVideo": "aGk="}}]
    state = read(done=True, response={"generateVideoResponse": {"generatedSamples": samples}})
    assert state.outputs == (MediaOutput(kind="video", data=b"hi", media_type="video/mp4"),)


def test_how_a_clip_fails() -> None:
    failed = read(done=True, error={"code": 3, "message": "Bad prompt", "status": "INVALID_ARGUMENT"})
    assert (failed.status, failed.error_code, failed.error_message) == (
        JobStatus.FAILED,
        "INVALID_ARGUMENT",
        "Bad prompt",
    )
    kept = {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": ["Violates our rules"]}
    blocked = read(done=True, response={"generateVideoResponse": kept})
    assert (blocked.error_code, blocked.error_message) == ("content_moderated", "Violates our rules")
    assert read(done=True, response={}).error_code == "content_moderated"
    with pytest.raises(ProviderRefused):
        VIDEOS.read_submit(b'{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}')
