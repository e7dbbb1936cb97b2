"""The Bitmesh API's answers, from results to JSON. Pure.

Image and video answers are the provider's own JSON with every link rewritten to this service. Where a provider has no
JSON of the shape that Bitmesh's clients read, one in Together's shape is made. What must not leave is taken out: links
of the provider's, and pictures inside the JSON, which are behind the link.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bitmesh_proxy.calls import ImageCall, JobStatus, JsonObject, MediaResult
from bitmesh_proxy.endpoints.endpoint import JobView
from bitmesh_proxy.money import usd_number

#: Text of an answer that is longer is no text but a picture.
MAX_TEXT_CHARACTERS: Final = 65_536
_INLINE_PICTURES: Final = frozenset(("b64_json", "b64", "base64"))


def render_image(call: ImageCall, result: MediaResult, urls: Sequence[str]) -> JsonObject:
    """A finished image call. ``urls`` are this service's, one for each of the result's outputs."""
    raw = result.raw or {}
    items = raw.get("data")
    if isinstance(items, list) and len(items) == len(urls) and all(isinstance(item, dict) for item in items):
        data = [_image_item(item, url) for item, url in zip(items, urls, strict=True)]
        return {**raw, "data": data}
    return {
        "id": result.provider_request_id or raw.get("id"),
        "model": call.model,
        "object": "list",
        "data": [{"index": index, "url": url, "type": "url"} for index, url in enumerate(urls)],
    }


def _image_item(item: JsonObject, url: str) -> dict[str, Any]:
    kept = {
        name: value
        for name, value in item.items()
        if name not in _INLINE_PICTURES and not (isinstance(value, str) and len(value) > MAX_TEXT_CHARACTERS)
    }
    if "type" in kept:
        kept["type"] = "url"
    return {**kept, "url": url}


def render_job(view: JobView) -> JsonObject:
    """A video job at one moment: the provider's payload, its links rewritten; else one in Together's shape.

    ``status`` is one of our words for it (``queued``, ``in_progress``, ``completed``, ``failed``, ``cancelled``), so
    that a client that waits for one of them waits for the same whatever the provider.
    """
    raw = view.state.raw or {}
    payload = dict(raw) if _is_video_job(raw) else _video_job(view)
    payload["id"] = view.state.provider_job_id
    payload["status"] = view.state.status.value
    outputs = payload.pop("outputs", None)
    outputs = {name: value for name, value in outputs.items() if name != "video_url"} if _is_object(outputs) else {}
    if view.urls:
        outputs["video_url"] = view.urls[0]
    if outputs:
        payload["outputs"] = outputs
    if view.state.status is JobStatus.FAILED and not payload.get("error"):
        payload["error"] = _error_of(view)
    return payload


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_video_job(raw: JsonObject) -> bool:
    """Is this the payload that Together and OpenAI share?"""
    return isinstance(raw.get("status"), str) and (raw.get("object") == "video" or _is_object(raw.get("outputs")))


def _video_job(view: JobView) -> dict[str, Any]:
    facts, usage = view.call_facts, view.state.usage
    payload: dict[str, Any] = {"object": "video", "model": view.model_id, "created_at": int(view.created_at_s)}
    if view.completed_at_s is not None:
        payload["completed_at"] = int(view.completed_at_s)
    if facts.get("width") and facts.get("height"):
        payload["size"] = f"{facts['width']}x{facts['height']}"
    if facts.get("seconds"):
        payload["seconds"] = str(facts["seconds"])
    if view.state.progress_percent is not None:
        payload["progress"] = view.state.progress_percent
    if usage is not None and usage.reported_cost_nano_usd is not None:
        payload["outputs"] = {"cost": usd_number(usage.reported_cost_nano_usd)}
    return payload


def _error_of(view: JobView) -> JsonObject:
    error = {"message": view.state.error_message or "The provider could not make this video."}
    return error | ({"code": view.state.error_code} if view.state.error_code else {})
