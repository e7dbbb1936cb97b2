"""OpenAI's clips as jobs."""

from __future__ import annotations

import base64
import io
from typing import Any

import aiohttp
import pytest
from PIL import Image

from bitmesh_proxy.sandbox.movies import walk
from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.stage import Options
from tests.sandbox.callers import Answer, Caller, assert_published, calling

URL = "/openai/v1/videos"
PNG = Picture(prompt="x", width=16, height=16).render()


async def create(caller: Caller, **more: Any) -> Answer:
    return await caller.post(URL, {"prompt": "a red fox", "size": "1280x720", **more})


async def test_a_clip_goes_through_its_states() -> None:
    async with calling(Options(job_duration_s=8, max_movie_frames=2, max_movie_pixels=1024)) as caller:
        created = await create(caller, seconds="8")
        assert_published("openai", "video", created.json)
        path = f"{URL}/{created.json['id']}"
        seen = []
        for _ in range(3):
            assert (await caller.get(f"{path}/content")).status == 400
            caller.clock.now_s += 2.5
            job = (await caller.get(path)).json
            assert_published("openai", "video", job)
            seen.append((job["status"], job["progress"]))
        caller.clock.now_s += 2.5
        job = (await caller.get(path)).json
        assert created.json["status"] == "queued"
        assert seen == [("in_progress", 31), ("in_progress", 62), ("in_progress", 93)]
        assert (job["status"], job["progress"], job["seconds"], job["size"]) == ("completed", 100, "8", "1280x720")
        assert job["expires_at"] > job["completed_at"] == job["created_at"] + 8


async def test_a_new_job_is_said_to_be_queued(caller: Caller) -> None:
    job = (await create(caller)).json
    assert (job["status"], job["progress"], job["completed_at"], job["expires_at"]) == ("queued", 0, None, None)
    assert (job["model"], job["seconds"]) == ("sora-2", "4")


async def test_the_file_and_its_stills(caller: Caller) -> None:
    path = f"{URL}/{(await create(caller, prompt='x [[sandbox: huge=100000]]')).json['id']}/content"
    clip = await caller.get(path)
    assert (clip.headers["Content-Type"], len(clip.body)) == ("video/mp4", 100_000)
    assert [box.kind for box in walk(clip.body)][-1] == b"free"
    part = await caller.get(path, headers={"Range": "bytes=4-7"})
    assert (part.status, part.body) == (206, b"ftyp")
    sizes = {}
    for variant in ("thumbnail", "spritesheet"):
        still = await caller.get(f"{path}?variant={variant}")
        assert still.headers["Content-Type"] == "image/webp"
        with Image.open(io.BytesIO(still.body)) as image:
            sizes[variant] = image.size
    assert sizes["spritesheet"] == (4 * sizes["thumbnail"][0], 3 * sizes["thumbnail"][1])
    assert (await caller.get(f"{path}?variant=poster")).status == 400


async def test_by_form_with_a_first_frame(caller: Caller) -> None:
    form = aiohttp.FormData({"prompt": "x", "model": "sora-2-pro", "seconds": "12"}, default_to_multipart=True)
    form.add_field("input_reference", PNG, filename="a.png", content_type="image/png")
    answer = await caller.post(URL, data=form)
    assert_published("openai", "video", answer.json)
    assert (answer.json["model"], answer.json["seconds"], answer.json["size"]) == ("sora-2-pro", "12", "720x1280")


@pytest.mark.parametrize(
    ("reference", "status"),
    [
        ({"image_url": "data:image/png;base64," + base64.b64encode(PNG).decode()}, 200),
        ({"image_url": "https://example.org/a.png"}, 200),
        ({"image_url": "data:image/png;base64,AAAA"}, 400),
        ({"file_id": "file-1"}, 404),
    ],
)
async def test_a_first_frame_by_json(caller: Caller, reference: dict[str, str], status: int) -> None:
    assert (await create(caller, input_reference=reference)).status == status


@pytest.mark.parametrize("more", [{"seconds": 4}, {"seconds": "5"}, {"size": "10x10"}, {"prompt": ""}])
async def test_what_is_refused(caller: Caller, more: dict[str, Any]) -> None:
    answer = await create(caller, **more)
    assert answer.status == 400
    assert_published("openai", "error", answer.json)


async def test_a_job_that_fails(caller: Caller) -> None:
    created = await create(caller, prompt="x [[sandbox: fail job_s=3]]")
    caller.clock.now_s += 3
    job = (await caller.get(f"{URL}/{created.json['id']}")).json
    assert_published("openai", "video", job)
    assert (job["status"], job["error"]["code"], job["completed_at"]) == ("failed", "video_generation_failed", None)


async def test_the_list_is_newest_first_in_pages(caller: Caller) -> None:
    ids = [(await create(caller)).json["id"] for _ in range(3)][::-1]
    page = (await caller.get(f"{URL}?limit=2")).json
    assert_published("openai", "video_list", page)
    assert ([job["id"] for job in page["data"]], page["has_more"], page["last_id"]) == (ids[:2], True, ids[1])
    rest = (await caller.get(f"{URL}?after={ids[1]}")).json
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (ids[2:], False)
    oldest_first = (await caller.get(f"{URL}?order=asc")).json
    assert [job["id"] for job in oldest_first["data"]] == ids[::-1]
    empty = (await caller.get(f"{URL}?after=nothing")).json
    assert (empty["data"], empty["first_id"]) == ([], None)
    assert_published("openai", "video_list", empty)
    for limit in ("101", "-1", "many"):
        assert (await caller.get(f"{URL}?limit={limit}")).status == 400


async def test_a_deleted_job_is_gone(caller: Caller) -> None:
    path = f"{URL}/{(await create(caller)).json['id']}"
    answer = await caller.call("DELETE", path)
    assert_published("openai", "video_deleted", answer.json)
    for method, suffix in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert (await caller.call(method, path + suffix)).status == 404


async def test_a_remix_is_a_new_job(caller: Caller) -> None:
    first = (await create(caller)).json
    remix = (await caller.post(f"{URL}/{first['id']}/remix", {"prompt": "at night"})).json
    assert_published("openai", "video", remix)
    assert (remix["remixed_from_video_id"], remix["prompt"], remix["size"]) == (first["id"], "at night", first["size"])
    assert remix["id"] != first["id"]
    assert (await caller.post(f"{URL}/video_0/remix", {"prompt": "x"})).status == 404
