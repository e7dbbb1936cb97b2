"""OpenAI's ``videos``, and the older gateway's ``videos/generations``: requests to calls, jobs to answers. Pure.

``videos`` answers with the job, which is asked after; ``videos/generations`` with the clip, when it is done. OpenAI has
ended its own clips (2026-09-24), but its clients and many servers speak the format. Source: OpenAI's published API
description of 2026-08-21.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from bitmesh_proxy.calls import Frame, JobStatus, JsonObject, Media, VideoCall
from bitmesh_proxy.context import Caller, Surface
from bitmesh_proxy.endpoints.endpoint import Endpoint, JobView
from bitmesh_proxy.endpoints.openai_fields import (
    Field,
    Fields,
    check_fields,
    integer,
    is_number,
    media_of,
    model_of,
    number,
    one_of,
    others,
    required,
    size_of,
    text,
)
from bitmesh_proxy.errors import InvalidRequest
from bitmesh_proxy.money import NanoUsd, usd_number

_SECONDS: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")

FIELDS: Final[Fields] = {
    "prompt": text(32_000, min_characters=1),
    "seconds": Field(
        expected="a number of seconds, or 'auto'", is_valid=lambda value: _read_seconds(value) is not None
    ),
    "quality": one_of("auto", "low", "medium", "high", "standard", "hd"),
    "seed": integer(),
    "fps": integer(1, 240),
    "steps": integer(1),
    "guidance_scale": number(0),
    "negative_prompt": text(32_000),
    "user": text(512),
}
_INPUTS: Final = ("input_reference", "image", "images")
_PLACED: Final = frozenset(
    {"model", "prompt", "size", "seconds", "quality", "seed", "fps", "steps", "guidance_scale", "negative_prompt"}
    | {"test", "stream", "response_format", *_INPUTS}
)


def parse(body: JsonObject, caller: Caller) -> VideoCall:
    """``POST videos`` and ``POST videos/generations``. Raises InvalidRequest."""
    model = model_of(body, caller)
    prompt = required(body, "prompt")
    check_fields(body, FIELDS)
    if body.get("response_format") not in (None, "url"):
        raise InvalidRequest("Invalid 'response_format': clips are answered as links ('url').", param="response_format")
    width, height = size_of(body)
    quality = body.get("quality")
    seconds = body.get("seconds")
    return VideoCall(
        model=model,
        prompt=prompt,
        width=width,
        height=height,
        seconds=None if seconds is None or seconds == "auto" else _read_seconds(seconds),
        fps=body.get("fps"),
        steps=body.get("steps"),
        seed=body.get("seed"),
        guidance_scale=body.get("guidance_scale"),
        negative_prompt=body.get("negative_prompt"),
        quality=None if quality == "auto" else quality,
        frames=tuple(Frame(media=picture, position="first") for picture in _pictures(body)),
        options=others(body, _PLACED),
    )


def _read_seconds(value: object) -> str | None:
    """The length as the decimal string that a call has; ``auto`` as it is; None for anything else."""
    if value == "auto":
        return "auto"
    said = f"{value}" if is_number(value) else value
    if not isinstance(said, str) or not _SECONDS.fullmatch(said):
        return None
    try:
        return said if Decimal(said) > 0 else None
    except InvalidOperation:
        return None


def _pictures(body: JsonObject) -> tuple[Media, ...]:
    """Where the clip begins. More than one is a matter of the model, and refused by those that take one."""
    found: list[Media] = []
    for name in _INPUTS:
        value = body.get(name)
        if value is not None:
            found += [media_of(each, param=name) for each in (value if isinstance(value, list) else [value])]
    return tuple(found)


def render_video(view: JobView) -> JsonObject:
    """A job as OpenAI's ``video`` object. ``url`` (when it is done) and ``cost`` are ours."""
    state, facts, raw = view.state, view.call_facts, view.state.raw or {}
    status = state.status
    shown: dict[str, Any] = {
        "id": state.provider_job_id,
        "object": "video",
        "model": view.model_id,
        "status": JobStatus.FAILED.value if status is JobStatus.CANCELLED else status.value,
        "progress": 100 if status is JobStatus.COMPLETED else state.progress_percent or 0,
        "created_at": int(view.created_at_s),
        "completed_at": None if view.completed_at_s is None else int(view.completed_at_s),
        "expires_at": None,
        "prompt": None,  # prompts are not kept
        "size": _size_of(facts, raw),
        "seconds": str(facts["seconds"]) if facts.get("seconds") is not None else _text_of(raw.get("seconds")),
        "remixed_from_video_id": None,
        "error": None,
    }
    if status in (JobStatus.FAILED, JobStatus.CANCELLED):
        message = state.error_message or "The provider could not make this video."
        shown["error"] = {"code": state.error_code or status.value, "message": message}
    if view.urls:
        shown["url"] = view.urls[0]
    return shown


def _size_of(facts: Mapping[str, Any], raw: JsonObject) -> str:
    if facts.get("width") and facts.get("height"):
        return f"{facts['width']}x{facts['height']}"
    return _text_of(raw.get("size"))


def _text_of(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def render_finished(view: JobView, *, charge_nano_usd: NanoUsd) -> JsonObject:
    """A finished job in the older gateway's shape: that of pictures, with ``latency`` in ms and ``cost`` in USD."""
    ended_at_s = view.completed_at_s if view.completed_at_s is not None else view.created_at_s
    return {
        "created": int(view.created_at_s),
        "data": [{"url": url, "revised_prompt": None} for url in view.urls],
        "latency": round((ended_at_s - view.created_at_s) * 1000),
        "cost": usd_number(charge_nano_usd),
    }


def render_list(views: list[JobView], *, has_more: bool) -> JsonObject:
    """A page of jobs."""
    data = [render_video(view) for view in views]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def render_deleted(video_id: str) -> JsonObject:
    """That a clip is gone."""
    return {"id": video_id, "object": "video.deleted", "deleted": True}


VIDEOS: Final = Endpoint(name="video", surface=Surface.OPENAI, parse=parse, render_job=render_video)
