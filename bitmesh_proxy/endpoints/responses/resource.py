"""The response object: every field that the standard requires, with real values from the first snapshot on, and beside
them what the unified document promises (``created``, ``items``, cost and latency in ``usage``). One object for both.

``text.format`` of the kind ``json_schema`` is echoed with ``schema: null``: the published schema allows nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bitmesh_proxy.calls import JsonObject, Usage
from bitmesh_proxy.endpoints.responses.request import ResponseRequest
from bitmesh_proxy.money import NanoUsd, usd_number


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What the account pays, and how long the answer took. ``None``: not known (yet)."""

    charge_nano_usd: NanoUsd | None = None
    latency_ms: int | None = None


class ResponseState(msgspec.Struct, frozen=True, kw_only=True):
    """What of a response moves. ``created_at_s`` and ``completed_at_s`` are whole seconds of Unix time."""

    response_id: str
    created_at_s: int
    status: str
    output: Sequence[JsonObject] = ()
    completed_at_s: int | None = None
    usage: JsonObject | None = None
    error: JsonObject | None = None
    incomplete_reason: str | None = None
    warnings: Sequence[str] = msgspec.field(default=())


def render_response(request: ResponseRequest, state: ResponseState) -> dict[str, Any]:
    """The object at one moment."""
    sampling = request.sampling
    response: dict[str, Any] = {
        "id": state.response_id,
        "object": "response",
        "created_at": state.created_at_s,
        "completed_at": state.completed_at_s,
        "status": state.status,
        "background": request.background,
        "error": state.error,
        "incomplete_details": None if state.incomplete_reason is None else {"reason": state.incomplete_reason},
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": request.model,
        "output": list(state.output),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": request.effort, "summary": request.summary} if request.is_reasoning_set else None,
        "safety_identifier": request.safety_identifier,
        "prompt_cache_key": request.prompt_cache_key,
        "service_tier": "default",  # the only one that is sold here
        "store": request.store,
        "temperature": sampling.get("temperature", 1.0),
        "top_p": sampling.get("top_p", 1.0),
        "presence_penalty": sampling.get("presence_penalty", 0.0),
        "frequency_penalty": sampling.get("frequency_penalty", 0.0),
        "top_logprobs": request.top_logprobs or 0,
        "text": _render_text(request),
        "tool_choice": request.tool_use.choice,
        "tools": list(request.tool_use.tools),
        "truncation": request.truncation,
        "usage": state.usage,
        "metadata": dict(request.metadata),
        "created": state.created_at_s,
        "items": render_items(state.output),
    }
    if state.warnings:
        response["warnings"] = list(state.warnings)
    return response


def _render_text(request: ResponseRequest) -> JsonObject:
    text_format = dict(request.text_format)
    if text_format["type"] == "json_schema":
        text_format["schema"] = None
    return {"format": text_format} | ({"verbosity": request.verbosity} if request.verbosity else {})


def render_usage(usage: Usage, cost: Cost) -> dict[str, Any]:
    """Token counts as the standard has them, cost and latency as the unified document has them."""
    rendered: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    if usage.is_estimated:
        rendered["estimated"] = True
    if cost.charge_nano_usd is not None:
        rendered["total_cost"] = usd_number(cost.charge_nano_usd)
    if cost.latency_ms is not None:
        rendered["latency_ms"] = cost.latency_ms
    return rendered


def render_items(output: Sequence[JsonObject]) -> list[JsonObject]:
    """``items`` of the unified document, from ``output``: the messages, in its own names of parts.

    A text that comes with media is only their caption, and left out, so that ``content[0]`` is what was asked for.
    """
    return [
        {
            "id": item["id"],
            "type": "message",
            "role": item["role"],
            "status": item["status"],
            "content": _render_content(item["content"]),
        }
        for item in output
        if item["type"] == "message"
    ]


def _render_content(parts: Sequence[JsonObject]) -> list[JsonObject]:
    media = [rendered for part in parts if (rendered := _render_media(part)) is not None]
    if media:
        return media
    texts = {"output_text": "text", "refusal": "refusal"}
    return [{"type": "text", "text": part[texts[part["type"]]]} for part in parts if part["type"] in texts]


def _render_media(part: JsonObject) -> JsonObject | None:
    if part["type"] == "input_image":
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    if part["type"] == "input_video":
        return {"type": "video_url", "video_url": {"url": part["video_url"]}}
    if part["type"] == "input_file":
        return {"type": "audio_url", "audio_url": {"url": part["file_url"]}}
    return None
