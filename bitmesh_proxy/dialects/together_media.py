"""Together's pictures and clips. Source: Together's published API description of 2026-04-28.

Its picture endpoint looks like OpenAI's and is not: ``width`` and ``height`` instead of ``size``, ``base64`` instead of
``b64_json``, and an edit is a generation with pictures put in. Clips are jobs under another root (``/v2``).
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import orjson

from bitmesh_proxy.calls import Frame, ImageCall, JobState, JobStatus, MediaOutput, MediaResult, Usage, VideoCall
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import ImageDialect, UpstreamRequest, VideoDialect
from bitmesh_proxy.dialects.job_states import read_status
from bitmesh_proxy.dialects.json_answers import (
    child,
    from_base64,
    link,
    milliseconds,
    objects,
    read_success,
    string,
    those_readable,
)
from bitmesh_proxy.dialects.media_inputs import link_of
from bitmesh_proxy.dialects.provider_errors import error_code, error_message, redacted
from bitmesh_proxy.errors import UnsupportedParameter, UnsupportedValue, UpstreamBroken
from bitmesh_proxy.money import parse_reported_usd

_IMAGE_OPTIONS: Final = ("guidance_scale", "image_loras", "negative_prompt")
_VIDEO_OPTIONS: Final = ("generate_audio", "ratio", "resolution")


def image_dialect() -> ImageDialect:
    """``POST /images/generations``, for new pictures and edits alike."""
    return ImageDialect(request=_image_request, read=_read_images)


def video_dialect() -> VideoDialect:
    """``POST /videos`` and ``GET /videos/{id}`` under the root ``v2``."""
    return VideoDialect(
        submit=_video_request,
        read_submit=_read_job,
        poll=_poll_request,
        read_poll=_read_job,
    )


def _image_request(call: ImageCall, offer: Offer) -> UpstreamRequest:
    if call.mask is not None:
        raise UnsupportedParameter("This model takes no mask.", param="mask")
    body: dict[str, Any] = {
        "model": offer.upstream_model,
        "prompt": call.prompt,
        "n": call.count if call.count > 1 else None,
        "width": call.width,
        "height": call.height,
        "steps": call.steps,
        "seed": call.seed,
        "output_format": _output_format(call.output_format),
        "response_format": "base64" if call.response_format in ("b64_json", "b64_ephemeral") else None,
        **_image_inputs(call, offer),
        **{name: call.options.get(name) for name in _IMAGE_OPTIONS},
    }
    return _post("/images/generations", body, offer, root="default")


def _image_inputs(call: ImageCall, offer: Offer) -> dict[str, Any]:
    """Models differ in where they look for pictures; an offer says it, else one picture is the one to be changed."""
    if not call.images:
        return {}
    links = [link_of(image) for image in call.images]
    field = offer.options.get("image_input", "image_url" if len(links) == 1 else "reference_images")
    if field == "image_url":
        if len(links) > 1:
            raise UnsupportedValue("This model takes one input picture.", param="image")
        return {"image_url": links[0]}
    return {field: links}


def _output_format(asked: str | None) -> str | None:
    if asked is None:
        return None
    name = {"jpg": "jpeg"}.get(asked.lower(), asked.lower())
    if name not in ("jpeg", "png"):
        raise UnsupportedValue("This model makes jpeg and png pictures.", param="output_format")
    return name


def _read_images(body: bytes) -> MediaResult:
    answer = read_success(body, "data")
    outputs = those_readable(objects(answer["data"]), _read_image)
    if not outputs:
        raise UpstreamBroken("The provider's answer holds no picture.")
    return MediaResult(
        outputs=outputs,
        usage=Usage(images=len(outputs)),
        provider_request_id=string(answer.get("id")) or None,
        raw=answer,
    )


def _read_image(item: dict[str, Any]) -> MediaOutput:
    if encoded := string(item.get("b64_json")):
        return MediaOutput(kind="image", data=from_base64(encoded))
    if url := link(item.get("url")):
        return MediaOutput(kind="image", url=url)
    raise UpstreamBroken("The provider's answer holds a picture that is neither a link nor base64.")


def _video_request(call: VideoCall, offer: Offer) -> UpstreamRequest:
    seconds = offer.seconds_for(call.seconds)
    body: dict[str, Any] = {
        "model": offer.upstream_model,
        "prompt": call.prompt,
        "width": call.width,
        "height": call.height,
        "seconds": f"{seconds.normalize():f}" if seconds is not None else call.seconds,
        "fps": call.fps,
        "steps": call.steps,
        "seed": call.seed,
        "guidance_scale": _as_integer(call.guidance_scale),
        "output_format": call.output_format,
        "output_quality": call.output_quality,
        "negative_prompt": call.negative_prompt,
        "media": _media(call),
        **{name: call.options.get(name) for name in _VIDEO_OPTIONS},
    }
    return _post("/videos", body, offer, root="v2")


def _as_integer(number: float | None) -> float | int | None:
    """The published schema says integer, callers may say 3.5: a whole number is sent as one, others as they are.

    So are those that JSON's writer takes as floats alone.
    """
    return int(number) if number is not None and abs(number) < 2**53 and float(number).is_integer() else number


def _media(call: VideoCall) -> dict[str, Any] | None:
    """Input pictures in ``media``, their home since 2026: the same names at the top level are deprecated there, and
    the current SDK no longer has them."""
    media: dict[str, Any] = {}
    if call.frames:
        media["frame_images"] = [
            {"input_image": link_of(frame.media), "frame": _position(frame)} for frame in call.frames
        ]
    if call.references:
        media["reference_images"] = [link_of(reference) for reference in call.references]
    return media or None


def _position(frame: Frame) -> int | str:
    position = frame.position
    return int(position) if isinstance(position, str) and position.isdecimal() else position


def _poll_request(provider_job_id: str, _offer: Offer) -> UpstreamRequest:
    return UpstreamRequest(method="GET", root="v2", path=f"/videos/{quote(provider_job_id, safe='')}")


def _read_job(body: bytes) -> JobState:
    answer = read_success(body, "id")
    job_id = string(answer["id"])
    if not job_id:
        raise UpstreamBroken("The provider's job has no id.")
    status = read_status(answer.get("status"))
    outputs = child(answer, "outputs")
    url = link(outputs.get("video_url"))
    problem = redacted(answer.get("error") or child(answer, "info").get("errors"))
    return JobState(
        provider_job_id=job_id,
        status=status,
        outputs=(MediaOutput(kind="video", url=url),) if url else (),
        usage=_usage(answer, outputs) if status is JobStatus.COMPLETED else None,
        error_code=error_code(problem) if isinstance(problem, dict) else None,
        error_message=error_message(problem),
        raw=answer,
    )


def _usage(answer: dict[str, Any], outputs: dict[str, Any]) -> Usage:
    # A number of US dollars (0.28), although the schema calls it an integer.
    cost = parse_reported_usd(outputs.get("cost"))
    return Usage(duration_ms=milliseconds(answer.get("seconds")) or 0, reported_cost_nano_usd=cost)


def _post(path: str, body: dict[str, Any], offer: Offer, *, root: str) -> UpstreamRequest:
    said = {name: value for name, value in body.items() if value is not None}
    return UpstreamRequest(path=path, root=root, body=orjson.dumps({**offer.defaults, **said}))
