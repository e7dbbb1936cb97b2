"""What Bitmesh's callers get of a provider's media answers: its JSON, with our links and nothing of what stays here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from bitmesh_proxy.calls import ImageCall, JobState, JobStatus, MediaOutput, MediaResult, Usage
from bitmesh_proxy.endpoints.bitmesh_answers import render_image, render_job
from bitmesh_proxy.endpoints.endpoint import JobView
from bitmesh_proxy.money import parse_usd

CALL = ImageCall(model="vendor/m", prompt="a cat")
URLS = ("https://ai.test/imgrslt/a1", "https://ai.test/imgrslt/b2")
OUTPUTS = (MediaOutput(kind="image", url="https://p.test/1"), MediaOutput(kind="image", data=b"png"))


def result(raw: Any, *, outputs: tuple[MediaOutput, ...] = OUTPUTS) -> MediaResult:
    return MediaResult(outputs=outputs, usage=Usage(images=len(outputs)), provider_request_id="img_1", raw=raw)


def test_the_providers_answer_with_our_links() -> None:
    raw: dict[str, Any] = {
        "id": "oWcQ",
        "model": "black-forest-labs/FLUX.1-schnell",
        "object": "list",
        "data": [
            {"index": 0, "url": "https://api.together.ai/shrt/abc", "type": "url", "timings": {"inference": 0.5}},
            {"index": 1, "b64_json": "iVBORw0KGgo=", "type": "b64_json"},
        ],
    }
    assert render_image(CALL, result(raw), URLS) == {
        "id": "oWcQ",
        "model": "black-forest-labs/FLUX.1-schnell",
        "object": "list",
        "data": [
            {"index": 0, "url": URLS[0], "type": "url", "timings": {"inference": 0.5}},
            {"index": 1, "url": URLS[1], "type": "url"},
        ],
    }
    assert raw["data"][0] == {  # the provider's own object is left alone
        "index": 0,
        "url": "https://api.together.ai/shrt/abc",
        "type": "url",
        "timings": {"inference": 0.5},
    }


def test_pictures_inside_the_json_are_behind_the_link_only() -> None:
    raw = {"created": 1, "data": [{"b64_json": "A" * 500_000, "revised_prompt": "a cat, sitting"}], "usage": {"x": 1}}
    answer = render_image(CALL, result(raw, outputs=OUTPUTS[1:]), URLS[:1])
    assert answer == {
        "created": 1,
        "data": [{"revised_prompt": "a cat, sitting", "url": URLS[0]}],
        "usage": {"x": 1},
    }


def test_a_picture_under_another_name_does_not_pass_for_text() -> None:
    raw = {"data": [{"image": "A" * 500_000, "seed": 7}]}
    assert render_image(CALL, result(raw, outputs=OUTPUTS[1:]), URLS[:1])["data"] == [{"seed": 7, "url": URLS[0]}]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {},
        {"images": [{"url": "https://p.test/1"}]},
        {"data": {"url": "https://p.test/1"}},
        {"data": ["https://p.test/1", "https://p.test/2"]},
        {"data": [{"url": "https://p.test/1"}]},  # fewer than the outputs: whose link is whose?
    ],
)
def test_any_other_shape_is_answered_in_togethers(raw: Any) -> None:
    answer = render_image(CALL, result(raw), URLS)
    assert answer == {
        "id": "img_1",
        "model": "vendor/m",
        "object": "list",
        "data": [{"index": 0, "url": URLS[0], "type": "url"}, {"index": 1, "url": URLS[1], "type": "url"}],
    }
    assert "p.test" not in json.dumps(answer)


# ---------------------------------------------------------------- videos

VIEW = JobView(
    state=JobState(provider_job_id="vid_1", status=JobStatus.IN_PROGRESS),
    model_id="vendor/v",
    created_at_s=1_763_770_000.9,
    call_facts={"width": 1280, "height": 720, "seconds": "5"},
)
TOGETHER: dict[str, Any] = {
    "id": "019a",
    "object": "video",
    "model": "minimax/hailuo-02",
    "status": "in_progress",
    "created_at": 1_763_770_000,
    "size": "1366x768",
    "seconds": "6",
}


def at(status: JobStatus, raw: Any = None, *, urls: tuple[str, ...] = (), **state: Any) -> JobView:
    return replace(VIEW, state=JobState(provider_job_id="vid_1", status=status, raw=raw, **state), urls=urls)


def test_the_providers_payload_with_our_link() -> None:
    raw = {
        **TOGETHER,
        "status": "completed",
        "completed_at": 1_763_770_060,
        "outputs": {"cost": 0.28, "video_url": "https://api.together.ai/shrt/xyz"},
    }
    assert render_job(at(JobStatus.COMPLETED, raw, urls=URLS[:1])) == {
        **raw,
        "id": "vid_1",
        "outputs": {"cost": 0.28, "video_url": URLS[0]},
    }
    assert raw["outputs"]["video_url"] == "https://api.together.ai/shrt/xyz"


def test_a_running_job_keeps_the_providers_payload() -> None:
    assert render_job(at(JobStatus.IN_PROGRESS, TOGETHER)) == {**TOGETHER, "id": "vid_1"}


def test_a_link_that_is_not_ours_yet_stays_here() -> None:
    raw = {**TOGETHER, "outputs": {"cost": 0.28, "video_url": "https://p.test/x"}}
    assert render_job(at(JobStatus.IN_PROGRESS, raw))["outputs"] == {"cost": 0.28}


def test_openais_payload_gets_outputs() -> None:
    raw = {
        "id": "video_1",
        "object": "video",
        "status": "completed",
        "progress": 100,
        "error": None,
        "size": "720x1280",
    }
    answer = render_job(at(JobStatus.COMPLETED, raw, urls=URLS[:1]))
    assert answer == {**raw, "id": "vid_1", "outputs": {"video_url": URLS[0]}}


@pytest.mark.parametrize(
    ("word", "status"),
    [("queued", JobStatus.QUEUED), ("running", JobStatus.IN_PROGRESS), ("done", JobStatus.COMPLETED)],
)
def test_the_status_is_one_of_our_words(word: str, status: JobStatus) -> None:
    assert render_job(at(status, {**TOGETHER, "status": word}))["status"] == status.value


@pytest.mark.parametrize("raw", [None, {}, {"name": "operations/7", "done": False}, {"request_id": "r", "status": 7}])
def test_any_other_payload_becomes_togethers(raw: Any) -> None:
    assert render_job(at(JobStatus.QUEUED, raw, progress_percent=3)) == {
        "id": "vid_1",
        "object": "video",
        "model": "vendor/v",
        "status": "queued",
        "created_at": 1_763_770_000,
        "size": "1280x720",
        "seconds": "5",
        "progress": 3,
    }


def test_a_finished_job_of_any_other_payload() -> None:
    view = at(
        JobStatus.COMPLETED, urls=URLS[:1], usage=Usage(duration_ms=5000, reported_cost_nano_usd=parse_usd("0.28"))
    )
    answer = render_job(replace(view, completed_at_s=1_763_770_061.5, call_facts={}))
    assert answer == {
        "id": "vid_1",
        "object": "video",
        "model": "vendor/v",
        "status": "completed",
        "created_at": 1_763_770_000,
        "completed_at": 1_763_770_061,
        "outputs": {"cost": 0.28, "video_url": URLS[0]},
    }


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({}, {"message": "The provider could not make this video."}),
        ({"error_message": "Blocked.", "error_code": "moderation"}, {"message": "Blocked.", "code": "moderation"}),
    ],
)
def test_a_failed_job_says_why(state: dict[str, Any], error: dict[str, str]) -> None:
    for raw in (None, {**TOGETHER, "error": None}):
        answer = render_job(at(JobStatus.FAILED, raw, **state))
        assert answer["status"] == "failed"
        assert answer["error"] == error


def test_a_providers_own_error_is_kept() -> None:
    raw = {**TOGETHER, "status": "failed", "error": {"message": "NSFW", "code": "x"}}
    answer = render_job(at(JobStatus.FAILED, raw, error_message="else"))
    assert answer["error"] == {"message": "NSFW", "code": "x"}
