"""What a sandbox has begun goes on in the next one, wherever that listens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from bitmesh_proxy.sandbox.journal import MAX_LINES
from bitmesh_proxy.sandbox.performance import STAGE
from bitmesh_proxy.sandbox.server import Sandbox
from tests.hand_clock import HandClock
from tests.sandbox.callers import SMALL, Answer, Caller
from tests.sandbox.test_together_media import PNG_URI

CLIP = {"model": "minimax/video-01-director", "prompt": "a red fox [[sandbox: job_s=8]]", "width": 64, "height": 48}
VEO = "/gemini/v1beta/models/veo-2.0-generate-001:predictLongRunning"


@asynccontextmanager
async def calling(path: Path, clock: HandClock) -> AsyncIterator[Caller]:
    async with (
        Sandbox(clock=clock, options=SMALL, journal=path) as sandbox,
        ClientSession(headers={"Authorization": "Bearer some-key", "x-goog-api-key": "some-key"}) as session,
    ):
        yield Caller(sandbox=sandbox, session=session, clock=clock)


async def state_of(caller: Caller, job: Any) -> Answer:
    return await caller.get(f"/together/v2/videos/{job['id']}")


async def test_a_clip_under_way_is_made_all_the_same(tmp_path: Path) -> None:
    path, clock = tmp_path / "kept", HandClock()
    async with calling(path, clock) as caller:
        began = await caller.post(
            "/together/v2/videos", {**CLIP, "media": {"frame_images": [{"input_image": PNG_URI}]}}
        )
        failing = await caller.post("/together/v2/videos", {**CLIP, "prompt": "x [[sandbox: fail job_s=8]]"})
        named = await caller.post(VEO, {"instances": [{"prompt": "a red fox [[sandbox: job_s=8]]"}]})
        assert (await state_of(caller, began.json)).json["status"] == "queued"
    for _ in range(2):  # and once more
        async with calling(path, clock) as caller:
            assert (await state_of(caller, began.json)).json == {**began.json, "status": "queued"}
    clock.now_s += 8
    async with calling(path, clock) as caller:
        url = (await state_of(caller, began.json)).json["outputs"]["video_url"]
        assert url.startswith(caller.sandbox.url)
        assert (await caller.get(url)).headers["Content-Type"] == "video/mp4"
        assert (await state_of(caller, failing.json)).json["status"] == "failed"
        operation = (await caller.get(f"/gemini/v1beta/{named.json['name']}")).json
        assert operation["done"] is True
        (sample,) = operation["response"]["generateVideoResponse"]["generatedSamples"]
        assert (await caller.get(sample["video"]["uri"])).headers["Content-Type"] == "video/mp4"
    clock.now_s += 86_400
    async with calling(path, clock) as caller:
        assert (await state_of(caller, began.json)).status == 404


async def test_a_file_that_cannot_be_read_or_written_is_done_without(tmp_path: Path) -> None:
    path, clock = tmp_path / "kept", HandClock()
    path.write_bytes(b'\xff\n{"origin": 5}\n{"origin": "http://x", "job": {"owner": "together"')
    async with calling(path, clock) as caller:
        began = await caller.post("/together/v2/videos", CLIP)
    async with calling(path, clock) as caller:
        assert (await state_of(caller, began.json)).status == 200
    nowhere = tmp_path / "nowhere" / "kept"
    async with calling(nowhere, clock) as caller:
        began = await caller.post("/together/v2/videos", CLIP)
        assert (await state_of(caller, began.json)).status == 200


async def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    path, clock = tmp_path / "kept", HandClock()
    async with calling(path, clock) as caller:
        began = await caller.post("/together/v2/videos", CLIP)
        jobs = caller.sandbox.app[STAGE].jobs
        job = jobs.find("together", began.json["id"])
        assert job is not None
        for number in range(2 * MAX_LINES):
            jobs.add(replace(job, job_id=str(number)))
    assert len(path.read_bytes().splitlines()) == MAX_LINES
    async with calling(path, clock) as caller:
        assert len(caller.sandbox.app[STAGE].jobs) == MAX_LINES
        assert (await state_of(caller, {"id": number})).status == 200
