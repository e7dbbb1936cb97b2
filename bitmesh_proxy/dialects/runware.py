"""Runware: pictures and clips as tasks in an array, all to one address.

One task is sent at a time. Its id is a UUID of our making, which is the job's id too. Results and errors may stand in
one answer with status 200: what was made counts. The cost, in US dollars, comes only if it is asked for. Source: the
task types of Runware's Python SDK 1.8.0 (schemas 20261012), read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from bitmesh_proxy.calls import Frame, ImageCall, JobState, JobStatus, MediaOutput, MediaResult, Usage, VideoCall
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import FRESH_UUID, ImageDialect, UpstreamRequest, VideoDialect
from bitmesh_proxy.dialects.job_states import read_status
from bitmesh_proxy.dialects.json_answers import child, from_base64, link, objects, read_object, string
from bitmesh_proxy.dialects.media_inputs import link_of
from bitmesh_proxy.dialects.openai_usage import token_count
from bitmesh_proxy.dialects.provider_errors import error_code, error_message, redacted, refused_within_success
from bitmesh_proxy.errors import UnsupportedParameter, UnsupportedValue, UpstreamBroken
from bitmesh_proxy.money import NanoUsd, parse_reported_usd

_IMAGE_FORMATS: Final = {"jpg": "JPG", "jpeg": "JPG", "png": "PNG", "webp": "WEBP"}
#: Errors that are Runware's, or of whom it asked, and not the request's.
_OTHERS_FAULTS: Final = frozenset({"internalServerError", "providerError", "serviceUnavailable", "timeoutProvider"})


def image_dialect() -> ImageDialect:
    """New pictures and edits.

    An offer's options: ``image_input`` is where the model looks for pictures (by default ``"inputs.referenceImages"``;
    ``"referenceImages"``, ``"inputs.seedImage"``, ``"seedImage"`` …, a plural taking a list); ``edit_defaults`` are
    fields that go with them; ``sizes_edits``: an edit has the default size too, instead of its picture's;
    ``quality_fields`` maps a quality to fields; ``refuses`` names fields that the model does not know.
    """
    return ImageDialect(request=_image_request, read=_read_images)


def video_dialect() -> VideoDialect:
    """Clips, asynchronously.

    An offer's options: ``frame_input`` is ``"inputs.frameImages"`` (default) or, for older models, ``"frameImages"``;
    ``quality_fields`` and ``refuses`` as for pictures.
    """
    return VideoDialect(
        submit=_video_request,
        read_submit=_read_submitted,
        poll=_poll_request,
        read_poll=_read_job,
        names_job=_names_job,
    )


def _task(kind: str, fields: dict[str, Any], offer: Offer, *inputs: tuple[str, Any]) -> UpstreamRequest:
    # The id comes before anything of the caller's, so that the first place where it stands is this one.
    task = {"taskType": kind, "taskUUID": FRESH_UUID.decode()}
    refused = offer.options.get("refuses", ())
    task |= {name: value for name, value in fields.items() if value is not None and name not in refused}
    for path, value in inputs:
        _put(task, path, value)
    return UpstreamRequest(path="", body=orjson.dumps([task]), needs_fresh_uuid=True)


def _put(task: dict[str, Any], path: str, value: Any) -> None:
    parent, _, name = path.rpartition(".")
    holder = task.setdefault(parent, {}) if parent else task
    holder[name] = value


# ---------------------------------------------------------------- pictures


def _image_request(call: ImageCall, offer: Offer) -> UpstreamRequest:
    size = (call.width, call.height)
    if call.width is None and (not call.images or offer.options.get("sizes_edits")):
        size = offer.size_for(None, None) or (None, None)
    wants_data = call.response_format in ("b64_json", "b64_ephemeral")
    fields = {
        "includeCost": True,
        **offer.defaults,
        **_quality_fields(offer, call.quality),
        "model": offer.upstream_model,
        "positivePrompt": call.prompt,
        "numberResults": call.count,
        "width": size[0],
        "height": size[1],
        "outputType": "base64Data" if wants_data else "URL",
    }
    said = {
        "steps": call.steps,
        "seed": call.seed,
        "outputFormat": _image_format(call.output_format),
        "negativePrompt": call.options.get("negative_prompt"),
        "CFGScale": call.options.get("guidance_scale"),
    }
    fields |= {name: value for name, value in said.items() if value is not None}
    if call.images:
        fields |= offer.options.get("edit_defaults", {})
    return _task("imageInference", fields, offer, *_image_inputs(call, offer))


def _quality_fields(offer: Offer, quality: str | None) -> dict[str, Any]:
    by_quality = offer.options.get("quality_fields", {})
    return dict(by_quality.get(offer.quality_for(quality) or "auto", {}))


def _image_format(asked: str | None) -> str | None:
    if asked is None:
        return None
    name = _IMAGE_FORMATS.get(asked.lower())
    if name is None:
        raise UnsupportedValue("This model makes jpeg, png and webp pictures.", param="output_format")
    return name


def _image_inputs(call: ImageCall, offer: Offer) -> list[tuple[str, Any]]:
    if not call.images:
        if call.mask is not None:
            raise UnsupportedParameter("A mask needs a picture that it belongs to.", param="mask")
        return []
    path = offer.options.get("image_input", "inputs.referenceImages")
    links = [link_of(image) for image in call.images]
    is_list = path.endswith("s")
    if not is_list and len(links) > 1:
        raise UnsupportedValue("This model takes one input picture.", param="image")
    inputs: list[tuple[str, Any]] = [(path, links if is_list else links[0])]
    if call.mask is not None:
        inputs.append((f"{path.rpartition('.')[0]}.maskImage".removeprefix("."), link_of(call.mask)))
    return inputs


def _read_images(body: bytes) -> MediaResult:
    items = _items(body)
    outputs = tuple(output for item in items if (output := _picture(item)) is not None)
    if not outputs:
        raise UpstreamBroken("The provider's answer holds no picture.")
    return MediaResult(
        outputs=outputs,
        usage=Usage(images=len(outputs), reported_cost_nano_usd=_cost(items, outputs)),
        provider_request_id=string(items[0].get("taskUUID")) or None,
    )


def _picture(item: dict[str, Any]) -> MediaOutput | None:
    if encoded := string(item.get("imageBase64Data")) or string(item.get("imageDataURI")):
        return MediaOutput(kind="image", data=from_base64(encoded))
    url = link(item.get("imageURL"))
    return MediaOutput(kind="image", url=url) if url else None


# ---------------------------------------------------------------- clips


def _video_request(call: VideoCall, offer: Offer) -> UpstreamRequest:
    has_pictures = bool(call.frames or call.references)
    size = (call.width, call.height)
    if call.width is None and not has_pictures and not call.options.get("resolution"):
        size = offer.size_for(None, None) or (None, None)
    seconds = offer.seconds_for(call.seconds)
    fields = {
        "deliveryMethod": "async",
        "includeCost": True,
        **offer.defaults,
        **_quality_fields(offer, call.quality),
        "model": offer.upstream_model,
        "positivePrompt": call.prompt,
        "numberResults": 1,
        "width": size[0],
        "height": size[1],
        "duration": None if seconds is None else int(seconds) if seconds == int(seconds) else float(seconds),
    }
    said = {
        "resolution": call.options.get("resolution"),
        "fps": call.fps,
        "steps": call.steps,
        "seed": call.seed,
        "CFGScale": call.guidance_scale,
        "negativePrompt": call.negative_prompt,
        "outputFormat": call.output_format,
        "outputQuality": call.output_quality,
    }
    fields |= {name: value for name, value in said.items() if value is not None}
    return _task("videoInference", fields, offer, *_video_inputs(call, offer))


def _video_inputs(call: VideoCall, offer: Offer) -> list[tuple[str, Any]]:
    inputs: list[tuple[str, Any]] = []
    if call.frames:
        path = offer.options.get("frame_input", "inputs.frameImages")
        name = "image" if "." in path else "inputImage"
        inputs.append((path, [_frame(frame, name, is_alone=len(call.frames) == 1) for frame in call.frames]))
    if call.references:
        inputs.append(("inputs.referenceImages", [link_of(reference) for reference in call.references]))
    return inputs


def _frame(frame: Frame, name: str, *, is_alone: bool) -> dict[str, Any]:
    """Where a picture stands is said only where it is not what the provider takes it for anyway."""
    position = frame.position
    if isinstance(position, str) and position.isdecimal():
        position = int(position)
    is_first = position in ("first", 0)
    return {name: link_of(frame.media)} | (
        {} if is_alone and is_first else {"frame": "first" if is_first else position}
    )


def _poll_request(provider_job_id: str, _offer: Offer) -> UpstreamRequest:
    return UpstreamRequest(path="", body=orjson.dumps([{"taskType": "getResponse", "taskUUID": provider_job_id}]))


def _names_job(provider_job_id: str, answer: Mapping[str, object]) -> bool:
    """What its own providers say no to may come with their status."""
    return any(error.get("taskUUID") == provider_job_id for error in objects(answer.get("errors")))


def _read_submitted(body: bytes) -> JobState:
    state = _read_job(body)
    if not state.provider_job_id:
        raise UpstreamBroken("The provider's job has no id.")
    return state


def _read_job(body: bytes) -> JobState:
    items = _items(body, may_be_empty=True)
    if not items:
        # Asked too early, the provider may not know the task yet: no end. Whoever polls knows the id.
        return JobState(provider_job_id="", status=JobStatus.IN_PROGRESS)
    job_id = string(items[0].get("taskUUID"))
    outputs = tuple(
        MediaOutput(kind="video", url=url) for item in items if (url := link(item.get("videoURL"))) is not None
    )
    status = JobStatus.COMPLETED if outputs else read_status(items[0].get("status"))
    if status is JobStatus.COMPLETED and not outputs:
        status = JobStatus.IN_PROGRESS  # done without a clip: the link is still to come
    problem = _clean(child(items[0], "error") or (items[0] if status is JobStatus.FAILED else {}))
    cost = _cost(items, outputs)
    return JobState(
        provider_job_id=job_id,
        status=status,
        progress_percent=min(token_count(items[0]["progress"]), 100) if "progress" in items[0] else None,
        outputs=outputs,
        usage=Usage(reported_cost_nano_usd=cost) if cost is not None and status is JobStatus.COMPLETED else None,
        error_code=string(problem.get("code")) or None,
        error_message=error_message(problem),
    )


# ---------------------------------------------------------------- answers


def _items(body: bytes, *, may_be_empty: bool = False) -> list[dict[str, Any]]:
    """The results of an answer. Errors that belong to a task stand in for its result; raises ProviderRefused for them
    where nothing was made, UpstreamBroken for what is no answer."""
    answer = read_object(body)
    items = objects(answer.get("data"))
    if items:
        return items
    errors = objects(answer.get("errors"))
    if may_be_empty and errors and string(errors[0].get("taskUUID")):
        return [{**errors[0], "status": "error"}]
    if errors or answer.get("error"):
        is_ours = error_code(answer) in _OTHERS_FAULTS
        raise refused_within_success(answer, status=502 if is_ours else 400)
    if may_be_empty and isinstance(answer.get("data"), list):
        return []
    raise UpstreamBroken("The provider's answer holds neither results nor errors.")


def _cost(items: list[dict[str, Any]], outputs: tuple[MediaOutput, ...]) -> NanoUsd | None:
    """Of all that was made; None where one's cannot be read, for it is not free."""
    costs = [cost for item in items if (cost := parse_reported_usd(item.get("cost"))) is not None]
    return NanoUsd(sum(costs)) if costs and len(costs) >= len(outputs) else None


def _clean(problem: dict[str, Any]) -> dict[str, Any]:
    clean: dict[str, Any] = redacted(problem)
    return clean
