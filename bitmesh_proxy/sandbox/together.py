"""Together AI: ``/together/v1`` and, for videos, ``/together/v2``. Chat, embeddings and the list of models are here.

``usage`` comes unasked on the last chunk of a stream. Source: togethercomputer/openapi of 2026-04-28.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox import together_audio, together_media
from bitmesh_proxy.sandbox.chat import Choice, Completion, last_user_text
from bitmesh_proxy.sandbox.files import serve_shelved
from bitmesh_proxy.sandbox.pace import paced, think
from bitmesh_proxy.sandbox.plays import Ask, Json, Play, Refused, Route, bearer, text_at
from bitmesh_proxy.sandbox.replies import DONE, Event, json_event, send_events, send_json
from bitmesh_proxy.sandbox.schemas import Violation
from bitmesh_proxy.sandbox.stage import Stage
from bitmesh_proxy.sandbox.together_media import answer_id
from bitmesh_proxy.sandbox.vectors import embed_all
from bitmesh_proxy.sandbox.words import count_tokens

TITLE = "Together AI"
#: Model → (kind, context length); what ``GET /models`` lists. Any other id is played too.
MODELS: Mapping[str, tuple[str, int | None]] = {
    "meta-llama/Llama-3.3-70B-Instruct-Turbo": ("chat", 131072),
    "openai/gpt-oss-120b": ("chat", 131072),
    "Qwen/Qwen3-235B-A22B-Instruct-2507-tput": ("chat", 262144),
    "black-forest-labs/FLUX.1-schnell": ("image", None),
    "black-forest-labs/FLUX.1.1-pro": ("image", None),
    "black-forest-labs/FLUX.1-kontext-pro": ("image", None),
    "BAAI/bge-base-en-v1.5": ("embedding", 512),
}
DIMENSIONS: Mapping[str, int] = {"BAAI/bge-base-en-v1.5": 768}
DEFAULT_DIMENSIONS = 1024


# ---------------------------------------------------------------- refusals

KINDS: Mapping[int, str] = {
    401: "authentication_error",
    402: "credit_limit",
    404: "not_found_error",
    429: "rate_limit",
    503: "service_unavailable",
}


def render_refusal(refused: Refused) -> Json:
    kind = refused.kind or KINDS.get(refused.status)
    if kind is None:
        kind = "invalid_request_error" if refused.status < 500 else "server_error"
    return {
        "error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code},
    }


def refuse_violation(violation: Violation) -> Refused:
    code = {"missing": "missing_field", "unknown": "unknown_field"}.get(violation.kind, "invalid_value")
    return Refused(400, f"Input validation error: {violation.message}", code=code, param=violation.field or None)


def refuse_model(model: str) -> Refused:
    message = f"Unable to access model {model}. Please visit https://api.together.ai/models to view the list of models."
    return Refused(404, message, kind="invalid_request_error", code="model_not_available", param="model")


# ---------------------------------------------------------------- chat


async def chat(ask: Ask) -> web.StreamResponse:
    completion = await think(ask, player=TITLE)
    head = {"id": answer_id(ask.stage), "created": ask.stage.now(), "model": ask.body["model"]}
    if ask.body.get("stream"):
        return await send_events(ask, _chunks(ask, completion, head), broken=_broken())
    body = {
        **head,
        "object": "chat.completion",
        "prompt": [],
        "choices": [_whole_choice(ask, index, choice) for index, choice in enumerate(completion.choices)],
    }
    if not ask.directives.no_usage:
        body["usage"] = _usage(completion)
    return await send_json(ask, body)


def _usage(completion: Completion) -> dict[str, int]:
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "total_tokens": completion.total_tokens,
    }


def _whole_choice(ask: Ask, index: int, choice: Choice) -> Json:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "tool_calls": []}
    if choice.tool_call is not None:
        message["content"] = None
        message["tool_calls"] = [_tool_call(ask.stage, choice.tool_call.name, choice.tool_call.arguments)]
    return {
        "index": index,
        "finish_reason": choice.finish_reason,
        "logprobs": None,
        "seed": _seed(ask),
        "message": message,
    }


def _tool_call(stage: Stage, name: str, arguments: str) -> dict[str, Any]:
    return {
        "index": 0,
        "id": f"call_{stage.new_id(24)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _seed(ask: Ask) -> int:
    seed = ask.body.get("seed") or ask.stage.rng.getrandbits(48)
    return int(max(-(2**63), min(seed, 2**63 - 1)))  # JSON's writer takes no others


async def _chunks(ask: Ask, completion: Completion, head: Mapping[str, Any]) -> AsyncIterator[Event]:
    """Each token as a chunk with the role in every delta; the last chunk of the last choice carries the usage."""

    def chunk(index: int, delta: Mapping[str, Any], **more: Any) -> Event:
        choice = {
            "index": index,
            "text": delta.get("content") or "",
            "logprobs": None,
            "finish_reason": more.get("finish_reason"),
            "seed": more.get("seed"),
            "delta": {"role": "assistant", **delta},
        }
        usage = more.get("usage")
        return json_event({**head, "object": "chat.completion.chunk", "choices": [choice], "usage": usage})

    for index, choice in enumerate(completion.choices):
        if (call := choice.tool_call) is not None:
            opened = _tool_call(ask.stage, call.name, call.arguments)
            yield chunk(index, {"content": "", "tool_calls": [opened]})
        else:
            async for number, token in paced(ask, choice.tokens):
                yield chunk(index, {"token_id": 1000 + number, "content": token})
        is_last = index == len(completion.choices) - 1
        usage = _usage(completion) if is_last and not ask.directives.no_usage else None
        yield chunk(index, {"content": ""}, finish_reason=choice.finish_reason, seed=_seed(ask), usage=usage)
    yield DONE


def _broken() -> Event:
    return json_event({"error": {"message": "The server had an error while generating", "type": "server_error"}})


# ---------------------------------------------------------------- the rest


async def embeddings(ask: Ask) -> web.StreamResponse:
    texts = ask.body["input"] if isinstance(ask.body["input"], list) else [ask.body["input"]]
    dimensions = DIMENSIONS.get(ask.body["model"], DEFAULT_DIMENSIONS)
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(await asyncio.to_thread(embed_all, texts, dimensions))
    ]
    tokens = sum(count_tokens(text) for text in texts)
    body = {"object": "list", "model": ask.body["model"], "data": data}
    if not ask.directives.no_usage:
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return await send_json(ask, body)


async def models(ask: Ask) -> web.StreamResponse:
    free = {"hourly": 0, "input": 0, "output": 0, "base": 0, "finetune": 0}
    listed = []
    for model, (kind, context_length) in MODELS.items():
        organization, _, name = model.partition("/")
        row = {"id": model, "object": "model", "created": 1_700_000_000, "type": kind, "display_name": name}
        row |= {"organization": organization, "pricing": free}
        listed.append(row if context_length is None else {**row, "context_length": context_length})
    return await send_json(ask, listed)


def answer_headers(stage: Stage) -> Mapping[str, str]:
    return {
        "x-request-id": answer_id(stage),
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "9",
        "x-ratelimit-reset": "1",
        "x-tokenlimit-limit": "3000",
        "x-tokenlimit-remaining": "2999",
    }


PLAY = Play(
    name="together",
    credential=bearer,
    missing_credential=lambda: Refused(401, "Missing API key. Send it as a bearer token.", code="missing_api_key"),
    bad_credential=lambda key: Refused(401, "Invalid API key provided.", code="invalid_api_key"),
    render_refusal=render_refusal,
    refuse_violation=refuse_violation,
    missing_model=refuse_model,
    moderated=lambda: Refused(
        422,
        "The prompt was refused by the content policy",
        kind="invalid_request_error",
        code="content_policy_violation",
    ),
    answer_headers=answer_headers,
    routes=(
        Route(method="POST", path="/v1/chat/completions", handler=chat, schema="chat", prompt=last_user_text),
        Route(
            method="POST",
            path="/v1/images/generations",
            handler=together_media.image,
            schema="image",
            prompt=text_at("prompt"),
        ),
        Route(method="POST", path="/v1/embeddings", handler=embeddings, schema="embedding", prompt=text_at("input")),
        Route(
            method="POST",
            path="/v1/audio/speech",
            handler=together_audio.speak,
            schema="speech",
            prompt=text_at("input"),
        ),
        Route(
            method="POST",
            path="/v1/audio/transcriptions",
            handler=together_audio.transcribe,
            form_schema="transcription",
            prompt=text_at("prompt"),
        ),
        Route(
            method="POST",
            path="/v1/audio/translations",
            handler=together_audio.translate,
            form_schema="translation",
            prompt=text_at("prompt"),
        ),
        Route(method="GET", path="/v1/models", handler=models),
        Route(
            method="POST",
            path="/v2/videos",
            handler=together_media.create_video,
            schema="video",
            prompt=text_at("prompt"),
        ),
        Route(method="GET", path="/v2/videos/{id}", handler=together_media.get_video),
        Route(method="GET", path="/shrt/{id}", handler=together_media.short_link, is_public=True),
        Route(method="HEAD", path="/shrt/{id}", handler=together_media.short_link, is_public=True),
        Route(method="GET", path="/files/{id}.{extension}", handler=serve_shelved, is_public=True),
        Route(method="HEAD", path="/files/{id}.{extension}", handler=serve_shelved, is_public=True),
    ),
)
