"""Imagen's predictions, and Veo's operations from the order to the downloaded clip."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image

from bitmesh_proxy.sandbox.gemini_predictions import first_prompt
from bitmesh_proxy.sandbox.movies import walk
from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.stage import Options
from tests.sandbox.callers import SMALL, Answer, Caller, assert_published, calling

PNG = base64.b64encode(Picture(prompt="x", width=16, height=16).render()).decode()
PICTURE = {"bytesBase64Encoded": PNG, "mimeType": "image/png"}


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    options = Options(
        max_movie_frames=SMALL.max_movie_frames, max_movie_pixels=SMALL.max_movie_pixels, job_duration_s=100
    )
    async with calling(options) as caller:
        caller.session.headers["x-goog-api-key"] = "some-key"
        yield caller


async def predict(caller: Caller, prompt: str = "a fox", **parameters: Any) -> Answer:
    body = {"instances": [{"prompt": prompt}], "parameters": parameters}
    return await caller.post("/gemini/v1beta/models/imagen-4.0-generate-001:predict", body)


async def order(caller: Caller, prompt: str = "a fox", model: str = "veo-3.1-generate-001", **more: Any) -> Answer:
    body = {"instances": [{"prompt": prompt, **more.pop("instance", {})}], "parameters": more}
    return await caller.post(f"/gemini/v1beta/models/{model}:predictLongRunning", body)


@pytest.mark.parametrize("body", [{}, {"instances": []}, {"instances": [{"prompt": 7}]}, {"instances": "x"}])
def test_a_prompt_that_is_none(body: Any) -> None:
    assert first_prompt(body) == ""
    assert first_prompt({"instances": [{"prompt": "x"}]}) == "x"


async def test_imagen_makes_several_pictures(caller: Caller) -> None:
    answer = await predict(caller, sampleCount=2, aspectRatio="9:16")
    assert_published("gemini", "predict", answer.json)
    pictures = [base64.b64decode(item["bytesBase64Encoded"]) for item in answer.json["predictions"]]
    assert len(set(pictures)) == 2
    with Image.open(io.BytesIO(pictures[0])) as image:
        assert (image.format, image.size) == ("PNG", (768, 1408))


async def test_what_the_filter_keeps_back_is_missing(caller: Caller) -> None:
    assert (await predict(caller, "x [[sandbox: moderated]]")).json == {}
    (told,) = (await predict(caller, "x [[sandbox: moderated]]", includeRaiReason=True)).json["predictions"]
    assert set(told) == {"raiFilteredReason"}


@pytest.mark.parametrize(
    "parameters", [{"sampleCount": 5}, {"aspectRatio": "2:1"}, {"seedling": 1}, {"sampleImageSize": "4K"}]
)
async def test_imagen_refuses(caller: Caller, parameters: Any) -> None:
    answer = await predict(caller, **parameters)
    assert (answer.status, answer.error["status"]) == (400, "INVALID_ARGUMENT")


async def test_a_clip_from_the_order_to_its_bytes(caller: Caller) -> None:
    ordered = await order(caller, durationSeconds=4, aspectRatio="9:16", resolution="720p", instance={"image": PICTURE})
    assert_published("gemini", "operation", ordered.json)
    assert set(ordered.json) == {"name"}
    url = f"/gemini/v1beta/{ordered.json['name']}"
    assert (await caller.get(url)).json == ordered.json
    caller.clock.now_s += 100
    done = await caller.get(url)
    assert_published("gemini", "operation", done.json)
    assert done.json["done"] is True
    uri = done.json["response"]["generateVideoResponse"]["generatedSamples"][0]["video"]["uri"]
    assert uri.startswith(f"{caller.sandbox.url}/gemini/v1beta/files/")
    clip = await caller.get(uri)
    assert clip.headers["Content-Type"] == "video/mp4"
    assert {box.kind for box in walk(clip.body)} >= {b"ftyp", b"moov", b"mdat"}
    part = await caller.get(uri, headers={"Range": "bytes=4-7"})
    assert (part.status, part.body) == (206, b"ftyp")


async def test_a_clip_wants_the_key_the_word_and_its_time(caller: Caller) -> None:
    name = (await order(caller)).json["name"]
    caller.clock.now_s += 100
    done = (await caller.get(f"/gemini/v1beta/{name}")).json
    uri = done["response"]["generateVideoResponse"]["generatedSamples"][0]["video"]["uri"]
    without_key = await caller.get(uri, headers={"x-goog-api-key": ""})
    assert (without_key.status, without_key.error["status"]) == (403, "PERMISSION_DENIED")
    assert (await caller.get(uri.partition("?")[0])).status == 400
    caller.clock.now_s += Options().video_link_lifetime_s
    assert (await caller.get(uri)).status == 403
    assert (await caller.get("/gemini/v1beta/files/none:download?alt=media")).status == 403


async def test_jobs_that_end_badly(caller: Caller) -> None:
    failed, kept_back = [
        (await order(caller, f"x [[sandbox: {directive} job_s=0]]")).json["name"] for directive in ("fail", "moderated")
    ]
    answer = (await caller.get(f"/gemini/v1beta/{failed}")).json
    assert_published("gemini", "operation", answer)
    assert (answer["done"], answer["error"]["code"]) == (True, 13)
    videos = (await caller.get(f"/gemini/v1beta/{kept_back}")).json["response"]["generateVideoResponse"]
    assert videos["raiMediaFilteredCount"] == len(videos["raiMediaFilteredReasons"]) == 1
    missing = await caller.get("/gemini/v1beta/models/veo-3.1-generate-001/operations/none")
    assert (missing.status, missing.error["status"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("veo-2.0-generate-001", {"durationSeconds": 4}),
        ("veo-3.1-generate-001", {"durationSeconds": 5}),
        ("veo-3.1-generate-001", {"durationSeconds": "4"}),
        ("veo-3.1-generate-001", {"aspectRatio": "1:1"}),
        ("veo-3.1-generate-001", {"resolution": "480p"}),
        ("veo-3.1-generate-001", {"instance": {"lastFrame": PICTURE}}),
        ("veo-3.1-generate-001", {"instance": {"image": {"uri": "https://example.org/a.png"}}}),
    ],
)
async def test_veo_refuses(caller: Caller, model: str, more: Any) -> None:
    answer = await order(caller, model=model, **more)
    assert (answer.status, answer.error["status"]) == (400, "INVALID_ARGUMENT")
