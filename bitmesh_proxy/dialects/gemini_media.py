"""Google's pictures (Gemini image models and Imagen) and clips (Veo).

Gemini image models answer ``generateContent`` with parts; Imagen is ``predict``; Veo is ``predictLongRunning``, an
operation that is polled. Sizes are an aspect ratio and a class of resolution. A finished clip can be fetched only with
our key: its address is cut down to a path, so that the key goes to the configured address and nowhere else.
Source: Google's discovery document of generativelanguage v1beta (2026-08-22) for generateContent; its Python SDK 2.34.0
for the instances and parameters of the other two, which the document leaves open.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson
from msgspec.structs import replace

from bitmesh_proxy.calls import ImageCall, JobState, JobStatus, Media, MediaOutput, MediaResult, VideoCall
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import ImageDialect, UpstreamRequest, VideoDialect
from bitmesh_proxy.dialects.gemini_chat import model_path
from bitmesh_proxy.dialects.gemini_reader import blocked, parse_usage, picture_of
from bitmesh_proxy.dialects.json_answers import child, from_base64, link, objects, read_object, string
from bitmesh_proxy.dialects.media_inputs import base64_of, media_type_of
from bitmesh_proxy.dialects.provider_errors import error_code, error_message, redacted, refused_within_success
from bitmesh_proxy.errors import UnsupportedParameter, UnsupportedValue, UpstreamBroken

_RATIOS: Final = {
    name: int(name.partition(":")[0]) / int(name.partition(":")[2])
    for name in ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9", "1:4", "4:1", "1:8", "8:1")
}
#: Sizes are multiples of 16 or 32, so that 1344x768 stands for 16:9.
_RATIO_TOLERANCE: Final = 0.04
#: Class of resolution → most pixels that still belong to it.
_IMAGE_SIZES: Final = (("512", 500_000), ("1K", 2_100_000), ("2K", 8_000_000), ("4K", 32_000_000))
_CLIP_LINES: Final = {"720p": 720, "1080p": 1080, "4k": 2160}
_OPERATION: Final = re.compile(r"models/[\w.\-]+/operations/[\w.\-]+")
#: What the API's own paths begin with; what comes after it is a path for us.
_VERSION: Final = "/v1beta/"


def image_dialect() -> ImageDialect:
    """Pictures.

    An offer's options: ``method`` is ``"predict"`` for Imagen; ``image_sizes`` lists the classes of resolution that the
    model can choose from (``["1K", "2K", "4K"]``; without it there is one, 1K).
    """
    return ImageDialect(request=_image_request, read=_read_images, takes_image_urls=False)


def video_dialect() -> VideoDialect:
    """Clips as long-running operations."""
    return VideoDialect(
        submit=_video_request,
        read_submit=_read_operation,
        poll=_poll_request,
        read_poll=_read_operation,
        takes_image_urls=False,
    )


# ---------------------------------------------------------------- pictures


def _image_request(call: ImageCall, offer: Offer) -> UpstreamRequest:
    if call.mask is not None:
        raise UnsupportedParameter("This model takes no mask.", param="mask")
    if call.output_format is not None:
        raise UnsupportedParameter("This model chooses the format of its pictures itself.", param="output_format")
    if offer.options.get("method") == "predict":
        return _imagen_request(call, offer)
    if call.count > 1:
        raise UnsupportedValue("This model makes one picture at a time.", param="n")
    parts: list[dict[str, Any]] = [{"text": call.prompt}]
    parts += [{"inlineData": _blob(image, "mimeType", "data")} for image in call.images]
    config: dict[str, Any] = {**offer.defaults, "responseModalities": ["TEXT", "IMAGE"]}
    if shape := _image_config(call, offer):
        config["imageConfig"] = shape
    if call.seed is not None:
        config["seed"] = call.seed
    body = {"contents": [{"role": "user", "parts": parts}], "generationConfig": config}
    return UpstreamRequest(path=model_path(offer, "generateContent"), body=orjson.dumps(body))


def _imagen_request(call: ImageCall, offer: Offer) -> UpstreamRequest:
    if call.images:
        raise UnsupportedParameter("This model takes no input pictures.", param="image")
    parameters: dict[str, Any] = {**offer.defaults, "sampleCount": call.count}
    if shape := _image_config(call, offer):
        parameters["aspectRatio"] = shape["aspectRatio"]
        if "imageSize" in shape:
            parameters["sampleImageSize"] = shape["imageSize"]
    body = {"instances": [{"prompt": call.prompt}], "parameters": parameters}
    return UpstreamRequest(path=model_path(offer, "predict"), body=orjson.dumps(body))


def _image_config(call: ImageCall, offer: Offer) -> dict[str, str]:
    if call.width is None or call.height is None:
        return {}
    sizes = offer.options.get("image_sizes", ())
    pixels = call.width * call.height
    size = next((name for name, most in _IMAGE_SIZES if pixels <= most), None)
    if size is None or size not in (sizes or ("1K",)):
        raise UnsupportedValue(f"This model makes pictures of the classes {', '.join(sizes or ('1K',))}.", param="size")
    return {"aspectRatio": _ratio(call.width, call.height), **({"imageSize": size} if sizes else {})}


def _ratio(width: int, height: int) -> str:
    asked = width / height
    name, ratio = min(_RATIOS.items(), key=lambda item: abs(item[1] / asked - 1))
    if abs(ratio / asked - 1) > _RATIO_TOLERANCE:
        raise UnsupportedValue(f"This model knows the shapes {', '.join(_RATIOS)}.", param="size")
    return name


def _blob(media: Media, type_name: str, data_name: str) -> dict[str, str]:
    return {type_name: media_type_of(media), data_name: base64_of(media, param="image")}


def _read_images(body: bytes) -> MediaResult:
    answer = read_object(body)
    if answer.get("error"):
        raise refused_within_success(answer)
    outputs = _predictions(answer) if "predictions" in answer else _candidate_pictures(answer)
    usage = parse_usage(child(answer, "usageMetadata"))
    return MediaResult(
        outputs=outputs,
        usage=replace(usage, images=len(outputs)),
        provider_request_id=string(answer.get("responseId")) or None,
    )


def _candidate_pictures(answer: dict[str, Any]) -> tuple[MediaOutput, ...]:
    """Raises ProviderRefused where there is none: with the reason, and what the model said instead."""
    if reason := string(child(answer, "promptFeedback").get("blockReason")):
        raise blocked(reason)
    candidates = objects(answer.get("candidates"))
    if not candidates:
        raise UpstreamBroken("The provider's answer holds no candidate.")
    parts = objects(child(candidates[0], "content").get("parts"))
    outputs = tuple(output for part in parts if (output := picture_of(part)) is not None)
    if not outputs:
        reason = string(candidates[0].get("finishReason")) or "NO_IMAGE"
        raise blocked(
            "NO_IMAGE" if reason == "STOP" else reason,
            said=" ".join(string(part.get("text")) for part in parts if part.get("thought") is not True).strip(),
        )
    return outputs


def _predictions(answer: dict[str, Any]) -> tuple[MediaOutput, ...]:
    predictions = objects(answer["predictions"])
    outputs = tuple(
        MediaOutput(
            kind="image",
            data=from_base64(string(prediction["bytesBase64Encoded"])),
            media_type=string(prediction.get("mimeType")) or None,
        )
        for prediction in predictions
        if string(prediction.get("bytesBase64Encoded"))
    )
    if not outputs:
        reasons = [string(prediction.get("raiFilteredReason")) for prediction in predictions]
        raise blocked("IMAGE_SAFETY", said=" ".join(reasons).strip())
    return outputs


# ---------------------------------------------------------------- clips


def _video_request(call: VideoCall, offer: Offer) -> UpstreamRequest:
    instance: dict[str, Any] = {"prompt": call.prompt, **_instance_pictures(call)}
    parameters: dict[str, Any] = dict(offer.defaults)
    seconds = offer.seconds_for(call.seconds)
    if seconds is not None:
        parameters["durationSeconds"] = int(seconds)
    if (call.width is None) != (call.height is None):
        raise UnsupportedValue("This model takes width and height together.", param="size")
    named = _named_resolution(call.options.get("resolution"))
    if call.width is not None and call.height is not None:
        parameters["aspectRatio"] = _clip_ratio(call.width, call.height)
        parameters["resolution"] = _resolution(min(call.width, call.height))
        if named not in (None, parameters["resolution"]):
            raise UnsupportedValue("The size is of another resolution.", param="resolution")
    elif named is not None:
        parameters["resolution"] = named
    if call.negative_prompt is not None:
        parameters["negativePrompt"] = call.negative_prompt
    if call.seed is not None:
        parameters["seed"] = call.seed
    body = {"instances": [instance], **({"parameters": parameters} if parameters else {})}
    return UpstreamRequest(path=model_path(offer, "predictLongRunning"), body=orjson.dumps(body))


def _instance_pictures(call: VideoCall) -> dict[str, Any]:
    pictures: dict[str, Any] = {}
    for frame in call.frames:
        name = "lastFrame" if frame.position == "last" else "image"
        if name in pictures or str(frame.position) not in ("first", "0", "last"):
            raise UnsupportedParameter(
                "This model takes pictures of how the clip begins and ends.", param="frame_images"
            )
        pictures[name] = _blob(frame.media, "mimeType", "bytesBase64Encoded")
    if call.references:
        pictures["referenceImages"] = [
            {"image": _blob(reference, "mimeType", "bytesBase64Encoded"), "referenceType": "asset"}
            for reference in call.references
        ]
    return pictures


def _clip_ratio(width: int, height: int) -> str:
    name = _ratio(width, height)
    if name not in ("16:9", "9:16"):
        raise UnsupportedValue("This model makes clips of 16:9 and 9:16.", param="size")
    return name


def _named_resolution(said: object) -> str | None:
    """The provider's word for what the caller named: the price goes by it, so it has to be one."""
    if said is None:
        return None
    name = said.lower() if isinstance(said, str) else ""
    if name not in _CLIP_LINES:
        raise UnsupportedValue(f"This model knows the resolutions {', '.join(_CLIP_LINES)}.", param="resolution")
    return name


def _resolution(lines: int) -> str:
    for name, known in _CLIP_LINES.items():
        if lines <= known:
            return name
    raise UnsupportedValue("This model makes clips of at most 4k.", param="size")


def _poll_request(provider_job_id: str, _offer: Offer) -> UpstreamRequest:
    if not _OPERATION.fullmatch(provider_job_id):
        raise UpstreamBroken("The provider's name of this job is none that can be asked for.")
    return UpstreamRequest(method="GET", path=f"/{quote(provider_job_id)}")


def _read_operation(body: bytes) -> JobState:
    operation = read_object(body)
    name = string(operation.get("name"))
    if not name and operation.get("error"):
        raise refused_within_success(operation)
    if not _OPERATION.fullmatch(name):
        raise UpstreamBroken("The provider's job has no name.")
    if operation.get("done") is not True:
        return JobState(provider_job_id=name, status=JobStatus.IN_PROGRESS)
    if operation.get("error"):
        problem = redacted(operation["error"])
        return _failed(name, error_code({"error": problem}), error_message(problem))
    answer = child(operation, "response", "generateVideoResponse")
    outputs, has_unreadable = _clips(objects(answer.get("generatedSamples")))
    if not outputs and not has_unreadable:
        reasons = answer.get("raiMediaFilteredReasons")
        return _failed(name, "content_moderated", error_message(reasons) or "The provider kept the clip back.")
    # No figures: what it cost is the length that was asked for. (Done, and nothing of it can be read: whoever polls
    # ends a job that gives no clip. An error here would say nothing about it, and it would be polled for ever.)
    return JobState(provider_job_id=name, status=JobStatus.COMPLETED, progress_percent=100, outputs=outputs)


def _failed(name: str, code: str | None, message: str | None) -> JobState:
    return JobState(provider_job_id=name, status=JobStatus.FAILED, error_code=code, error_message=message)


def _clips(samples: list[dict[str, Any]]) -> tuple[tuple[MediaOutput, ...], bool]:
    """The clips that can be read, and whether there are others."""
    outputs, has_unreadable = [], False
    for sample in samples:
        try:
            output = _clip(child(sample, "video"))
        except UpstreamBroken:
            has_unreadable = True
            continue
        if output is not None:
            outputs.append(output)
    return tuple(outputs), has_unreadable


def _clip(video: dict[str, Any]) -> MediaOutput | None:
    media_type = string(video.get("mimeType")) or "video/mp4"
    if encoded := string(video.get("bytesBase64Encoded")) or string(video.get("encodedVideo")):
        return MediaOutput(kind="video", data=from_base64(encoded), media_type=media_type)
    uri = link(video.get("uri"))
    if uri is None:
        return None
    parts = urlsplit(uri)
    _, version, path = parts.path.partition(_VERSION)
    if not version or ".." in path:
        raise UpstreamBroken("The provider's clip lies at an address that is not the provider's.")
    query = f"?{parts.query}" if parts.query else ""
    return MediaOutput(kind="video", path=f"/{path}{query}", media_type=media_type, needs_credential=True)
