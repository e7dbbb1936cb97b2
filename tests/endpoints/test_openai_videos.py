"""Orders of clips, and jobs as OpenAI's clients see them."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import Frame, JobState, JobStatus, Media, VideoCall
from bitmesh_proxy.context import Caller
from bitmesh_proxy.endpoints.endpoint import JobView
from bitmesh_proxy.endpoints.openai_videos import parse, render_deleted, render_finished, render_list, render_video
from bitmesh_proxy.errors import InvalidRequest, MissingParameter
from bitmesh_proxy.money import NanoUsd

CALLER = Caller(account_id="acc_1", key_id="key_1")
LINK = "https://example.org/a.png"
FRAME = Frame(media=Media(kind="image", url=LINK), position="first")


def test_everything_arrives() -> None:
    body = {
        "model": "m", "prompt": "p", "seconds": 5, "size": "1280x720", "quality": "high", "seed": 1, "fps": 24,
        "steps": 20, "guidance_scale": 3.5, "negative_prompt": "np", "input_reference": {"image_url": LINK},
        "image": [LINK], "own": 1, "user": "u", "test": True, "response_format": "url",
    }  # fmt: skip
    assert parse(body, CALLER) == VideoCall(
        model="m",
        prompt="p",
        width=1280,
        height=720,
        seconds="5",
        fps=24,
        steps=20,
        seed=1,
        guidance_scale=3.5,
        negative_prompt="np",
        quality="high",
        frames=(FRAME, FRAME),
        options={"own": 1, "user": "u"},
    )


@pytest.mark.parametrize(("said", "seconds"), [("8", "8"), (8, "8"), (2.5, "2.5"), ("auto", None), (None, None)])
def test_a_length_is_a_decimal_string(said: Any, seconds: str | None) -> None:
    assert parse({"model": "m", "prompt": "p", "seconds": said}, CALLER).seconds == seconds


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""), ("prompt", 5), ("seconds", 0), ("seconds", "0.0"), ("seconds", -1), ("seconds", "long"),
        ("seconds", True), ("seconds", 1e9), ("seconds", 1e-9), ("size", "big"), ("quality", "ultra"), ("fps", 0),
        ("seed", "1"), ("steps", 0), ("guidance_scale", "a"), ("negative_prompt", 1), ("user", 1),
        ("response_format", "b64_json"), ("input_reference", "a.png"), ("image", [5]),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse({"model": "m", "prompt": "p", field: value}, CALLER)
    assert caught.value.param == field
    with pytest.raises(MissingParameter):
        parse({"model": "m"}, CALLER)


def view(status: JobStatus, **more: Any) -> JobView:
    facts = more.pop("facts", {"width": 1280, "height": 720, "seconds": "5"})
    urls = ("http://here/imgrslt/1",) if status is JobStatus.COMPLETED else ()
    return JobView(
        state=JobState(provider_job_id="v1", status=status, **more),
        model_id="m",
        created_at_s=1000.5,
        completed_at_s=1003.0 if status.is_final else None,
        urls=urls,
        call_facts=facts,
    )


def test_a_job_under_way() -> None:
    assert render_video(view(JobStatus.IN_PROGRESS, progress_percent=40)) == {
        "id": "v1",
        "object": "video",
        "model": "m",
        "status": "in_progress",
        "progress": 40,
        "created_at": 1000,
        "completed_at": None,
        "expires_at": None,
        "prompt": None,
        "size": "1280x720",
        "seconds": "5",
        "remixed_from_video_id": None,
        "error": None,
    }


def test_a_job_at_its_end() -> None:
    done = render_video(view(JobStatus.COMPLETED, facts={}, raw={"size": "640x480", "seconds": 4}))
    assert (done["progress"], done["completed_at"], done["url"]) == (100, 1003, "http://here/imgrslt/1")
    assert (done["size"], done["seconds"]) == ("640x480", "4")
    failed = render_video(view(JobStatus.FAILED, error_code="c", error_message="m"))
    assert (failed["status"], failed["error"]) == ("failed", {"code": "c", "message": "m"})
    cancelled = render_video(view(JobStatus.CANCELLED))
    assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")


def test_the_older_shape_says_what_it_cost() -> None:
    assert render_finished(view(JobStatus.COMPLETED), charge_nano_usd=NanoUsd(280_000_000)) == {
        "created": 1000,
        "data": [{"url": "http://here/imgrslt/1", "revised_prompt": None}],
        "latency": 2500,
        "cost": 0.28,
    }


def test_lists_and_deletions() -> None:
    page = render_list([view(JobStatus.QUEUED)], has_more=True)
    assert (page["first_id"], page["last_id"], page["has_more"], len(page["data"])) == ("v1", "v1", True, 1)
    assert render_list([], has_more=False)["first_id"] is None
    assert render_deleted("v1") == {"id": "v1", "object": "video.deleted", "deleted": True}
