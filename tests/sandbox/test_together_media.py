"""Together's pictures and clips."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from bitmesh_proxy.sandbox.movies import walk
from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.stage import Options
from tests.sandbox.callers import Answer, Caller, assert_published, calling

PNG_URI = "data:image/png;base64," + base64.b64encode(Picture(prompt="x", width=16, height=16).render()).decode()


async def make_pictures(caller: Caller, **more: Any) -> Answer:
    body = {"model": "black-forest-labs/FLUX.1-schnell", "prompt": "a red fox", "width": 48, "height": 32, **more}
    return await caller.post("/together/v1/images/generations", body)


async def test_pictures_as_links(caller: Caller) -> None:
    answer = await make_pictures(caller, n=2, output_format="png")
    assert_published("together", "image", answer.json)
    urls = [item["url"] for item in answer.json["data"]]
    assert [item["index"] for item in answer.json["data"]] == [0, 1]
    bodies = [(await caller.get(url)).body for url in urls]
    assert len(set(bodies)) == 2
    with Image.open(io.BytesIO(bodies[0])) as image:
        assert (image.format, image.size) == ("PNG", (48, 32))
    for url in urls:
        assert url.startswith(f"{caller.sandbox.url}/together/shrt/")
        assert url.rpartition("/")[2].isalnum()
        assert len(url.rpartition("/")[2]) == 16


async def test_pictures_inside_the_answer(caller: Caller) -> None:
    answer = await make_pictures(caller, response_format="base64")
    assert_published("together", "image", answer.json)
    with Image.open(io.BytesIO(base64.b64decode(answer.json["data"][0]["b64_json"]))) as image:
        assert (image.format, image.size) == ("JPEG", (48, 32))


async def test_a_seed_repeats_a_picture(caller: Caller) -> None:
    bodies = [
        (await make_pictures(caller, seed=seed, response_format="base64")).json["data"][0]["b64_json"]
        for seed in (1, 1, 2)
    ]
    assert bodies[0] == bodies[1] != bodies[2]


async def test_an_edit_shows_what_is_edited(caller: Caller) -> None:
    async def body(**more: Any) -> Any:
        return (await make_pictures(caller, seed=1, response_format="base64", **more)).json["data"][0]["b64_json"]

    plain = await body()
    assert await body(image_url=PNG_URI) == await body(reference_images=[PNG_URI]) != plain
    assert await body(image_url="https://example.org/a.png") == plain
    assert (await make_pictures(caller, image_url="data:,x")).status == 400


async def test_a_huge_picture_inside_the_answer(caller: Caller) -> None:
    answer = await make_pictures(caller, prompt="x [[sandbox: huge=300000]]", response_format="base64")
    assert len(base64.b64decode(answer.json["data"][0]["b64_json"])) == 300_000
    answer = await make_pictures(caller, prompt="x [[sandbox: huge=3000000000]]", response_format="base64")
    assert (answer.status, answer.error["code"]) == (400, "too_huge")


@pytest.mark.parametrize(
    "more", [{"n": 0}, {"n": 5}, {"width": 0}, {"height": -1}, {"width": 100_000, "height": 100_000}]
)
async def test_what_cannot_be_drawn_is_refused(caller: Caller, more: dict[str, int]) -> None:
    answer = await make_pictures(caller, **more)
    assert (answer.status, answer.error["code"]) == (400, "invalid_value")


async def make_clip(caller: Caller, **more: Any) -> Answer:
    body = {"model": "minimax/hailuo-02", "prompt": "a red fox", "width": 64, "height": 36, "seconds": "1", **more}
    return await caller.post("/together/v2/videos", body)


async def test_a_clip_goes_through_its_states() -> None:
    async with calling(Options(job_duration_s=8, max_movie_frames=2)) as caller:
        created = await make_clip(caller)
        assert_published("together", "video", created.json)
        path = f"/together/v2/videos/{created.json['id']}"
        states = []
        for _ in range(3):
            answer = await caller.get(path)
            assert_published("together", "video", answer.json)
            states.append((answer.json["status"], "outputs" in answer.json))
            caller.clock.now_s += 4
        assert created.json["status"] == "queued"
        assert states == [("queued", False), ("in_progress", False), ("completed", True)]
        outputs = (await caller.get(path)).json["outputs"]
        assert outputs["cost"] == 0.28
        answer = await caller.get(outputs["video_url"])
        assert answer.headers["Content-Type"] == "video/mp4"
        assert b"moov" in [box.kind for box in walk(answer.body)]


async def test_a_clip_as_webm(caller: Caller) -> None:
    created = await make_clip(caller, output_format="WEBM")
    job = await caller.get(f"/together/v2/videos/{created.json['id']}")
    answer = await caller.get(job.json["outputs"]["video_url"])
    assert (answer.headers["Content-Type"], answer.body[:4].hex()) == ("video/webm", "1a45dfa3")


async def test_a_clips_link_lives_for_a_day(caller: Caller) -> None:
    created = await make_clip(caller)
    url = (await caller.get(f"/together/v2/videos/{created.json['id']}")).json["outputs"]["video_url"]
    caller.clock.now_s += 86_399
    assert (await caller.get(url)).status == 200
    caller.clock.now_s += 1
    assert (await caller.get(url)).status == 403


async def test_a_job_that_fails(caller: Caller) -> None:
    created = await make_clip(caller, prompt="x [[sandbox: fail job_s=2]]")
    path = f"/together/v2/videos/{created.json['id']}"
    caller.clock.now_s += 1.9
    assert (await caller.get(path)).json["status"] == "in_progress"
    caller.clock.now_s += 0.1
    answer = await caller.get(path)
    assert_published("together", "video", answer.json)
    assert answer.json["status"] == "failed"
    assert answer.json["error"]["code"] == "generation_failed"
    assert "outputs" not in answer.json


async def test_a_first_frame_is_read_from_either_place(caller: Caller) -> None:
    frames = [{"input_image": PNG_URI, "frame": "first"}]
    for more in ({"frame_images": frames}, {"media": {"frame_images": frames}}, {"reference_images": [PNG_URI]}):
        assert (await make_clip(caller, **more)).status == 200
    bad = [{"input_image": "data:,x", "frame": 0}]
    assert (await make_clip(caller, frame_images=bad)).status == 400
    assert (await make_clip(caller, media={"frame_images": bad})).status == 400


async def test_clips_that_are_refused(caller: Caller) -> None:
    for more in ({"seconds": "soon"}, {"seconds": 5}, {"steps": 5}, {"guidance_scale": 1.5}, {"width": 0}):
        assert (await make_clip(caller, **more)).status == 400
    answer = await caller.get("/together/v2/videos/nothing")
    assert answer.status == 404
    assert_published("together", "error", answer.json)
