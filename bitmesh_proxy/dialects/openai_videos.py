"""OpenAI's clips as jobs: ``/videos``, ``/videos/{id}``, ``/videos/{id}/content``.

OpenAI itself has ended them (2026-09-24); other servers speak the same. Source: OpenAI's published API description of
2026-08-21. The bytes need the credential, so that the content is named by its path and never by a link.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from bitmesh_proxy.calls import JobState, JobStatus, Media, MediaOutput, Usage, VideoCall
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import UpstreamRequest, VideoDialect
from bitmesh_proxy.dialects.job_states import read_status
from bitmesh_proxy.dialects.json_answers import milliseconds, read_success, string
from bitmesh_proxy.dialects.media_inputs import file_part, is_remote, link_of, text_part
from bitmesh_proxy.dialects.openai_usage import token_count
from bitmesh_proxy.dialects.provider_errors import error_code, error_message, redacted
from bitmesh_proxy.errors import UnsupportedParameter, UnsupportedValue, UpstreamBroken


def dialect(
    *, takes_image_urls: bool = True, takes_json: bool = True, extra: frozenset[str] = frozenset()
) -> VideoDialect:
    """Make a provider's dialect.

    ``takes_image_urls``: it fetches the reference picture itself. ``takes_json``: a call without a file may be JSON; a
    form every server takes. ``extra``: fields beyond OpenAI's that it knows.
    """

    def submit(call: VideoCall, offer: Offer) -> UpstreamRequest:
        body = _fields(call, offer, extra)
        reference = _reference(call)
        if takes_json and (reference is None or is_remote(reference)):
            if reference is not None:
                body["input_reference"] = {"image_url": link_of(reference)}
            return UpstreamRequest(path="/videos", body=orjson.dumps(body))
        parts = [text_part(name, value) for name, value in body.items()]
        if reference is not None:
            parts.append(file_part("input_reference", reference, param="image"))
        return UpstreamRequest(path="/videos", form=tuple(parts))

    return VideoDialect(
        submit=submit,
        read_submit=_read_job,
        poll=_poll,
        read_poll=_read_job,
        takes_image_urls=takes_image_urls,
    )


def _fields(call: VideoCall, offer: Offer, extra: frozenset[str]) -> dict[str, Any]:
    if (call.width is None) != (call.height is None):
        raise UnsupportedValue("This model takes width and height together.", param="size")
    seconds = offer.seconds_for(call.seconds)
    size = offer.size_for(call.width, call.height)
    said: dict[str, Any] = {
        "model": offer.upstream_model,
        "prompt": call.prompt,
        "seconds": f"{seconds.normalize():f}" if seconds is not None else call.seconds,
        "size": f"{size[0]}x{size[1]}" if size is not None else None,
    }
    further = {
        "num_inference_steps": call.steps,
        **call.options,
        "fps": call.fps,
        "guidance_scale": call.guidance_scale,
        "negative_prompt": call.negative_prompt,
        "seed": call.seed,
        "steps": call.steps,
    }
    said |= {name: value for name, value in further.items() if name in extra}
    return {**offer.defaults, **{name: value for name, value in said.items() if value is not None}}


def _reference(call: VideoCall) -> Media | None:
    """The one picture that this protocol takes: it is where the clip begins."""
    if len(call.frames) + len(call.references) > 1:
        raise UnsupportedValue("This model takes one input picture.", param="image")
    if call.frames and str(call.frames[0].position) not in ("first", "0"):
        raise UnsupportedParameter("This model takes a picture only for where the clip begins.", param="frame_images")
    return next(iter((*(frame.media for frame in call.frames), *call.references)), None)


def _poll(provider_job_id: str, _offer: Offer) -> UpstreamRequest:
    return UpstreamRequest(method="GET", path=f"/videos/{quote(provider_job_id, safe='')}")


def _read_job(body: bytes) -> JobState:
    answer = read_success(body, "id")
    job_id = string(answer["id"])
    if not job_id:
        raise UpstreamBroken("The provider's job has no id.")
    status = read_status(answer.get("status"))
    problem = redacted(answer.get("error"))
    is_done = status is JobStatus.COMPLETED
    return JobState(
        provider_job_id=job_id,
        status=status,
        progress_percent=min(token_count(answer.get("progress")), 100) if answer.get("progress") is not None else None,
        outputs=(_content(job_id),) if is_done else (),
        usage=Usage(duration_ms=milliseconds(answer.get("seconds")) or 0) if is_done else None,
        error_code=error_code(problem) if isinstance(problem, dict) else None,
        error_message=error_message(problem),
        raw=answer,
    )


def _content(job_id: str) -> MediaOutput:
    path = f"/videos/{quote(job_id, safe='')}/content"
    return MediaOutput(kind="video", path=path, media_type="video/mp4", needs_credential=True)
