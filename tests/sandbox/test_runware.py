"""Runware's one address: tasks in an array, results and errors side by side, long work that is asked for again."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image

from bitmesh_proxy.sandbox.movies import walk
from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.runware import only_prompt
from bitmesh_proxy.sandbox.stage import Options
from tests.sandbox.callers import SMALL, Answer, Caller, assert_published, calling

PNG_URI = "data:image/png;base64," + base64.b64encode(Picture(prompt="x", width=160, height=128).render()).decode()


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    options = Options(
        max_movie_frames=SMALL.max_movie_frames, max_movie_pixels=SMALL.max_movie_pixels, job_duration_s=100
    )
    async with calling(options) as caller:
        yield caller


def picture(prompt: str = "a fox", **more: Any) -> dict[str, Any]:
    task = {"taskType": "imageInference", "taskUUID": str(uuid.uuid4()), "model": "runware:400@1"}
    return {**task, "positivePrompt": prompt, "width": 256, "height": 128, **more}


def clip(prompt: str = "a fox", **more: Any) -> dict[str, Any]:
    task = {"taskType": "videoInference", "taskUUID": str(uuid.uuid4()), "model": "bytedance:2@2"}
    return {**task, "positivePrompt": prompt, "duration": 5, "deliveryMethod": "async", **more}


async def run(caller: Caller, *tasks: dict[str, Any]) -> Answer:
    return await caller.post("/runware/v1", list(tasks))


async def poll(caller: Caller, task: dict[str, Any]) -> dict[str, Any]:
    answer = await run(caller, {"taskType": "getResponse", "taskUUID": task["taskUUID"]})
    (item,) = answer.json["data"]
    assert isinstance(item, dict)
    return item


def error_code(answer: Answer) -> str:
    (error,) = answer.json["errors"]
    assert_published("runware", "error", error)
    return str(error["code"])


@pytest.mark.parametrize("body", [[], [{}, {}], ["x"]])
def test_only_the_prompt_of_a_task_that_is_alone_has_markers(body: Any) -> None:
    assert only_prompt(body) == ""
    assert only_prompt([{"positivePrompt": "x"}]) == "x"


async def test_pictures_as_links_with_their_cost(caller: Caller) -> None:
    task = picture(numberResults=2, includeCost=True, outputFormat="WEBP")
    answer = await run(caller, task)
    assert answer.status == 200
    assert "errors" not in answer.json
    for item in answer.json["data"]:
        assert_published("runware", "image", item)
        assert item["taskUUID"] == task["taskUUID"]
        assert 0 < item["cost"] < 0.01
        assert item["imageURL"].startswith(f"{caller.sandbox.url}/runware/image/ws/0.5/ii/")
        fetched = await caller.get(item["imageURL"], headers={"Authorization": ""})
        with Image.open(io.BytesIO(fetched.body)) as image:
            assert (image.format, image.size) == ("WEBP", (256, 128))
    assert len({item["imageUUID"] for item in answer.json["data"]}) == 2


@pytest.mark.parametrize(("kind", "field"), [("base64Data", "imageBase64Data"), ("dataURI", "imageDataURI")])
async def test_pictures_inside_the_answer(caller: Caller, kind: str, field: str) -> None:
    answer = await run(caller, picture(outputType=kind, outputFormat="PNG"))
    (item,) = answer.json["data"]
    assert_published("runware", "image", item)
    assert {"imageURL", "cost"}.isdisjoint(item)
    with Image.open(io.BytesIO(base64.b64decode(item[field].rpartition(",")[2]))) as image:
        assert (image.format, image.size) == ("PNG", (256, 128))


async def test_a_link_dies_when_it_was_told_to(caller: Caller) -> None:
    (item,) = (await run(caller, picture(ttl=60))).json["data"]
    caller.clock.now_s += 59
    assert (await caller.get(item["imageURL"])).status == 200
    caller.clock.now_s += 1
    assert (await caller.get(item["imageURL"])).status == 403


async def test_an_edit_keeps_the_size_of_its_picture(caller: Caller) -> None:
    task = picture(seedImage=PNG_URI, maskImage=PNG_URI, outputType="base64Data")
    del task["width"], task["height"]
    (item,) = (await run(caller, task)).json["data"]
    with Image.open(io.BytesIO(base64.b64decode(item["imageBase64Data"]))) as image:
        assert image.size == (160, 128)


async def test_results_and_errors_stand_in_one_answer(caller: Caller) -> None:
    good, moderated, busy = picture(), picture("x [[sandbox: moderated]]"), picture("x [[sandbox: status=503]]")
    unknown = picture(model="runware:no-such-model@1")
    answer = await run(caller, moderated, good, busy, unknown)
    assert answer.status == 200
    assert [item["taskUUID"] for item in answer.json["data"]] == [good["taskUUID"]]
    for error in answer.json["errors"]:
        assert_published("runware", "error", error)
    assert [(error["taskUUID"], error["code"]) for error in answer.json["errors"]] == [
        (moderated["taskUUID"], "contentPolicyViolation"),
        (busy["taskUUID"], "serviceUnavailable"),
        (unknown["taskUUID"], "invalidModel"),
    ]


@pytest.mark.parametrize(
    ("task", "code", "parameter"),
    [
        (picture(taskUUID="1"), "invalidTaskUUID", "taskUUID"),
        (picture(taskType="imageDreaming"), "invalidTaskType", "taskType"),
        (picture(model="gpt-image-1"), "invalidModel", "model"),
        (picture(numberResults=21), "invalidNumberResults", "numberResults"),
        (picture(width=64), "invalidWidth", "width"),
        (picture(width="wide"), "invalidWidth", "width"),
        (picture(outputFormat="GIF"), "invalidValue", "outputFormat"),
        (picture(seedImage="bm90IGEgcGljdHVyZQ=="), "invalidImage", "seedImage"),
        (picture(inputs={"referenceImages": [7]}), "invalidImage", "inputs.referenceImages"),
        (picture(maskImage=PNG_URI), "missingParameter", "seedImage"),
        (picture(deliveryMethod="pigeon"), "unsupportedDeliveryMethod", "deliveryMethod"),
        # Models with a schema of their own are held to that.
        (picture(model="runware:100@1", steps="four"), "invalidType", "steps"),
        (clip(model="google:3@2", duration=5), "invalidValue", "duration"),
        (clip(deliveryMethod="sync"), "unsupportedDeliveryMethod", "deliveryMethod"),
        (clip(duration="5"), "invalidDuration", "duration"),
        (clip(outputFormat="MOV"), "unsupportedOutputFormat", "outputFormat"),
    ],
)
async def test_what_a_task_is_refused_for(caller: Caller, task: dict[str, Any], code: str, parameter: str) -> None:
    answer = await run(caller, task)
    assert (answer.status, error_code(answer)) == (400, code)
    assert answer.json["errors"][0]["parameter"] == parameter
    assert "data" not in answer.json


async def test_half_a_size_is_none(caller: Caller) -> None:
    task = picture()
    del task["height"]
    assert error_code(await run(caller, task)) == "missingParameter"


async def test_unknown_fields_are_refused_when_the_sandbox_is_strict() -> None:
    async with calling(Options(is_strict=True)) as caller:
        assert error_code(await run(caller, picture(model="runware:100@1", size="256x128"))) == "unsupportedParameter"
        assert (await run(caller, picture(model="runware:400@1", acceleration="high"))).status == 200


async def test_a_clip_is_acknowledged_and_asked_for_until_it_is_there(caller: Caller) -> None:
    task = clip(includeCost=True, width=864, height=480)
    acknowledged = await run(caller, task)
    assert acknowledged.json == {"data": [{"taskType": "videoInference", "taskUUID": task["taskUUID"]}]}
    caller.clock.now_s += 50
    running = await poll(caller, task)
    assert_published("runware", "response", running)
    assert (running["status"], running["progress"]) == ("processing", 50)
    caller.clock.now_s += 50
    done = await poll(caller, task)
    assert_published("runware", "response", done)
    assert_published("runware", "video", done)
    assert (done["status"], done["cost"]) == ("success", 0.25)
    fetched = await caller.get(done["videoURL"])
    assert {box.kind for box in walk(fetched.body)} >= {b"ftyp", b"moov", b"mdat"}
    assert error_code(await run(caller, task)) == "conflictTaskUUID"


async def test_a_picture_can_be_asked_for_later_too(caller: Caller) -> None:
    task = picture(deliveryMethod="async")
    assert set((await run(caller, task)).json["data"][0]) == {"taskType", "taskUUID"}
    caller.clock.now_s += 100
    assert_published("runware", "image", await poll(caller, task))


async def test_a_task_that_fails(caller: Caller) -> None:
    task = clip("x [[sandbox: fail job_s=0]]")
    assert (await run(caller, task)).status == 200
    failed = await poll(caller, task)
    assert_published("runware", "response", failed)
    assert (failed["status"], failed["error"]["code"]) == ("error", "providerError")
    unknown = await run(caller, {"taskType": "getResponse", "taskUUID": str(uuid.uuid4())})
    assert (unknown.status, error_code(unknown)) == (400, "taskNotFound")


async def test_several_tasks_have_markers_of_their_own(caller: Caller) -> None:
    good, bad = clip("x [[sandbox: job_s=0]]"), clip("x [[sandbox: job_s=0 fail]]")
    assert len((await run(caller, good, bad)).json["data"]) == 2
    assert [(await poll(caller, task))["status"] for task in (good, bad)] == ["success", "error"]
    assert error_code(await run(caller, picture("x [[sandbox: nonsense]]"), clip())) == "unknown_sandbox_directive"


async def test_faults_are_worded_as_its_own(caller: Caller) -> None:
    busy = await run(caller, picture("x [[sandbox: status=429 retry_after=3]]"))
    assert (busy.status, error_code(busy), busy.headers["Retry-After"]) == (429, "rateLimitExceeded", "3")
    moderated = await run(caller, picture("x [[sandbox: moderated]]"))
    assert (moderated.status, error_code(moderated)) == (400, "contentPolicyViolation")
    key = await caller.post("/runware/v1", [picture()], headers={"Authorization": "Bearer bad-key"})
    assert (key.status, error_code(key)) == (401, "invalidApiKey")
    none = await caller.post("/runware/v1", [picture()], headers={"Authorization": ""})
    assert (none.status, error_code(none)) == (401, "missingApiKey")


@pytest.mark.parametrize("body", [{}, [], [{"taskUUID": "x"}], ["task"]])
async def test_what_is_no_array_of_tasks_is_refused_as_a_whole(caller: Caller, body: Any) -> None:
    answer = await caller.post("/runware/v1", body)
    assert answer.status == 400
    assert error_code(answer)
