"""Anthropic: ``/anthropic/v1``. Messages whole and as its own stream of events, token counting, models.

Source: the API description behind Anthropic's SDKs (2026-05-06) for requests and answers; its documentation for the
order of events (``ping`` among them), the rate-limit headers and the words of refusals.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox.anthropic_conversation import as_chat, check, count_cached, last_user_text
from bitmesh_proxy.sandbox.chat import Choice, Completion, count_prompt_tokens
from bitmesh_proxy.sandbox.pace import paced, think
from bitmesh_proxy.sandbox.plays import Ask, Handler, Json, Play, Refused, Route
from bitmesh_proxy.sandbox.replies import Event, json_event, send_events, send_json
from bitmesh_proxy.sandbox.schemas import Violation
from bitmesh_proxy.sandbox.stage import Stage
from bitmesh_proxy.sandbox.words import count_tokens, quote, tokenize

TITLE = "Anthropic"
#: What ``GET /models`` lists: model → (name, tokens in, tokens out). Any other id is played too.
MODELS: Mapping[str, tuple[str, int, int]] = {
    "claude-opus-5-5": ("Claude Opus 5.5", 1_000_000, 128_000),
    "claude-sonnet-5-5": ("Claude Sonnet 5.5", 1_000_000, 128_000),
    "claude-haiku-4-5": ("Claude Haiku 4.5", 200_000, 64_000),
}
VERSIONS = ("2023-01-01", "2023-06-01")
STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}


# ---------------------------------------------------------------- refusals

KINDS: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def render_refusal(refused: Refused) -> Json:
    kind = refused.kind or KINDS.get(refused.status)
    if kind is None:
        kind = "invalid_request_error" if refused.status < 500 else "api_error"
    error: dict[str, Any] = {"type": kind, "message": refused.message}
    if refused.code is not None:
        error["details"] = {"error_code": refused.code}
    return {"type": "error", "error": error, "request_id": refused.headers.get("request-id")}


def refuse_violation(violation: Violation) -> Refused:
    words = {"missing": "Field required", "unknown": "Extra inputs are not permitted"}
    field = violation.field.replace("[", ".").replace("]", "")
    return Refused(400, f"{field}: {words.get(violation.kind, violation.message)}")


def credential(headers: Mapping[str, str]) -> str | None:
    return headers.get("x-api-key") or None


def versioned(handler: Handler) -> Handler:
    """Refuses a request that does not say for which version of the API it was written."""

    async def handle(ask: Ask) -> web.StreamResponse:
        version = ask.request.headers.get("anthropic-version")
        if version is None:
            raise Refused(400, "anthropic-version: header is required")
        if version not in VERSIONS:
            raise Refused(400, f'anthropic-version: "{version}" is not a valid version')
        return await handler(ask)

    return handle


# ---------------------------------------------------------------- messages


async def message(ask: Ask) -> web.StreamResponse:
    await check(ask)
    thoughts = _thoughts(ask)
    chat = as_chat(ask.body)
    chat["max_tokens"] -= count_tokens(thoughts)  # which count as well
    completion = await think(replace(ask, body=chat), player=TITLE)
    choice = completion.choices[0]
    usage = _usage(ask, completion, thoughts)
    if ask.body.get("stream"):
        return await send_events(ask, _events(ask, choice, thoughts, usage), broken=_broken())
    body = {**_head(ask), "content": _content(ask, choice, thoughts), **_end(choice)}
    if not ask.directives.no_usage:
        body["usage"] = usage
    return await send_json(ask, body)


def _head(ask: Ask) -> dict[str, Any]:
    return {
        "model": ask.body["model"],
        "id": f"msg_01{ask.stage.new_id(22)}",
        "type": "message",
        "role": "assistant",
        "container": None,
    }


def _end(choice: Choice) -> dict[str, Any]:
    reason = "stop_sequence" if choice.stopped_by else STOP_REASONS.get(choice.finish_reason, "end_turn")
    return {"stop_reason": reason, "stop_sequence": choice.stopped_by, "stop_details": None}


def _thoughts(ask: Ask) -> str:
    """What it thinks before it answers, as far as the limit goes; nothing unless thinking is on."""
    if (ask.body.get("thinking") or {}).get("type") not in ("enabled", "adaptive"):
        return ""
    thoughts = f"The user said {quote(ask.prompt)}. The sandbox does not think; it only says so."
    return "".join(tokenize(thoughts)[: ask.body["max_tokens"]])


def _usage(ask: Ask, completion: Completion, thoughts: str) -> dict[str, Any]:
    written, read = count_cached(ask)
    return {
        "input_tokens": max(0, completion.prompt_tokens - written - read),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": completion.completion_tokens + count_tokens(thoughts),
        "service_tier": "standard",
        "inference_geo": "not_available",
        "server_tool_use": None,
    }


def _content(ask: Ask, choice: Choice, thoughts: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    if thoughts:
        content.append({"type": "thinking", "thinking": thoughts, "signature": _signature(thoughts)})
    if choice.tool_call is not None:
        given = {} if choice.finish_reason == "length" else json.loads(choice.tool_call.arguments)
        content.append(_tool_use(ask.stage, choice.tool_call.name, given))
    elif choice.text:
        content.append({"type": "text", "text": choice.text, "citations": None})
    return content


def _tool_use(stage: Stage, name: str, given: Json) -> dict[str, Any]:
    tool_id = f"toolu_01{stage.new_id(22)}"
    return {"type": "tool_use", "id": tool_id, "name": name, "input": given, "caller": {"type": "direct"}}


def _signature(thoughts: str) -> str:
    return base64.b64encode(f"sandbox:{thoughts}".encode()).decode()


# ---------------------------------------------------------------- the stream


async def _events(ask: Ask, choice: Choice, thoughts: str, usage: Mapping[str, Any]) -> AsyncIterator[Event]:
    begun = {**_head(ask), "content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    if not ask.directives.no_usage:
        begun["usage"] = {**usage, "output_tokens": 1}
    yield _event("message_start", message=begun)
    yield _event("ping")
    place = 0
    if thoughts:
        async for event in _thinking_events(ask, thoughts):
            yield event
        place = 1
    if choice.tool_call is not None or choice.tokens:
        async for event in _block_events(ask, choice, place):
            yield event
    figures = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    end = _end(choice)
    said = {} if ask.directives.no_usage else {"usage": {name: usage[name] for name in figures}}
    yield _event("message_delta", delta={**end, "container": None}, **said)
    yield replace(_event("message_stop"), is_end=True)


async def _thinking_events(ask: Ask, thoughts: str) -> AsyncIterator[Event]:
    yield _event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""})
    async for _, token in paced(ask, tokenize(thoughts)):
        yield _event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": token})
    delta = {"type": "signature_delta", "signature": _signature(thoughts)}
    yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)


async def _block_events(ask: Ask, choice: Choice, place: int) -> AsyncIterator[Event]:
    """A tool call's arguments come as pieces of JSON, text as text."""
    if choice.tool_call is not None:
        block, kind, name = _tool_use(ask.stage, choice.tool_call.name, {}), "input_json_delta", "partial_json"
    else:
        block, kind, name = {"type": "text", "text": "", "citations": None}, "text_delta", "text"
    yield _event("content_block_start", index=place, content_block=block)
    async for _, token in paced(ask, choice.tokens):
        yield _event("content_block_delta", index=place, delta={"type": kind, name: token})
    yield _event("content_block_stop", index=place)


def _event(kind: str, **fields: Json) -> Event:
    return json_event({"type": kind, **fields}, name=kind)


def _broken() -> Event:
    return _event("error", error={"type": "overloaded_error", "message": "Overloaded"})


# ---------------------------------------------------------------- the rest


async def count(ask: Ask) -> web.StreamResponse:
    await check(replace(ask, body={"max_tokens": 1 << 30, **ask.body}))
    return await send_json(ask, {"input_tokens": count_prompt_tokens(as_chat(ask.body))})


async def models(ask: Ask) -> web.StreamResponse:
    data = [_model(model) for model in MODELS]
    return await send_json(ask, {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]})


def _model(model: str) -> dict[str, Any]:
    title, most_in, most_out = MODELS[model]
    return {
        "type": "model",
        "id": model,
        "display_name": title,
        "created_at": "2026-01-01T00:00:00Z",
        "capabilities": None,
        "max_input_tokens": most_in,
        "max_tokens": most_out,
    }


def answer_headers(stage: Stage) -> Mapping[str, str]:
    reset = datetime.fromtimestamp(stage.now() + 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    headers = {
        "request-id": f"req_01{stage.new_id(22)}",
        "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
    }
    limits = {"requests": 4000, "tokens": 2_500_000, "input-tokens": 2_000_000, "output-tokens": 500_000}
    for name, limit in limits.items():
        headers[f"anthropic-ratelimit-{name}-limit"] = str(limit)
        headers[f"anthropic-ratelimit-{name}-remaining"] = str(limit - 1)
        headers[f"anthropic-ratelimit-{name}-reset"] = reset
    return headers


posted = partial(Route, method="POST", prompt=last_user_text)

PLAY = Play(
    name="anthropic",
    credential=credential,
    missing_credential=lambda: Refused(401, "x-api-key header is required"),
    bad_credential=lambda key: Refused(401, "invalid x-api-key"),
    render_refusal=render_refusal,
    refuse_violation=refuse_violation,
    missing_model=lambda model: Refused(404, f"model: {model}"),
    moderated=lambda: Refused(400, "Output blocked by content filtering policy"),
    answer_headers=answer_headers,
    routes=(
        posted(path="/v1/messages", handler=versioned(message), schema="message"),
        posted(path="/v1/messages/count_tokens", handler=versioned(count), schema="count"),
        Route(method="GET", path="/v1/models", handler=versioned(models)),
    ),
)
