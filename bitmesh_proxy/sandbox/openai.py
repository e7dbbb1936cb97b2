"""OpenAI: ``/openai/v1``. Chat, embeddings, moderations, models; pictures, clips and sound have files of their own.

Source: openai/openai-openapi of 2026-08-21 for requests and answers. A stream carries usage only when asked with
``stream_options.include_usage``: then ``usage`` is null in every chunk and one more chunk without choices holds it.
Reasoning models (GPT-5, o-series) refuse ``max_tokens`` and want ``max_completion_tokens``.
"""

from __future__ import annotations

import asyncio
import base64
import re
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox import openai_audio, openai_images, openai_videos
from bitmesh_proxy.sandbox.chat import Choice, Completion, ToolCall, last_user_text
from bitmesh_proxy.sandbox.files import serve_shelved
from bitmesh_proxy.sandbox.openai_answers import (
    answer_headers,
    refuse_model,
    refuse_moderated,
    refuse_violation,
    render_refusal,
)
from bitmesh_proxy.sandbox.pace import paced, think
from bitmesh_proxy.sandbox.plays import Ask, Play, Refused, Route, bearer, text_at
from bitmesh_proxy.sandbox.replies import DONE, Event, json_event, send_events, send_json
from bitmesh_proxy.sandbox.vectors import embed_all
from bitmesh_proxy.sandbox.words import count_tokens

TITLE = "OpenAI"
#: What ``GET /models`` lists. Any other id is played too.
MODELS = (
    "gpt-5.6", "gpt-5.5", "gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-4o-mini", "gpt-image-2", "gpt-image-1.5",
    "sora-2", "sora-2-pro", "gpt-4o-mini-tts", "gpt-transcribe", "whisper-1", "text-embedding-3-small",
    "text-embedding-3-large", "omni-moderation-latest",
)  # fmt: skip
MODELS_CREATED_AT = 1_767_225_600
DIMENSIONS: Mapping[str, int] = {"text-embedding-3-large": 3072}
DEFAULT_DIMENSIONS = 1536
REASONING_MODEL = re.compile(r"(?:gpt-5|o\d)")


# ---------------------------------------------------------------- chat


async def chat(ask: Ask) -> web.StreamResponse:
    body = ask.body
    _require_known_limit(body)
    completion = await think(ask, player=TITLE)
    head = {
        "id": f"chatcmpl-{ask.stage.new_id(29)}",
        "created": ask.stage.now(),
        "model": body["model"],
        "service_tier": "default",
        "system_fingerprint": "fp_sandbox",
    }
    if body.get("stream"):
        return await send_events(ask, _chunks(ask, completion, head), broken=_broken())
    choices = [_whole_choice(ask, index, choice) for index, choice in enumerate(completion.choices)]
    whole = {**head, "object": "chat.completion", "choices": choices}
    if not ask.directives.no_usage:
        whole["usage"] = _usage(completion)
    return await send_json(ask, whole)


def _require_known_limit(body: Mapping[str, Any]) -> None:
    if body.get("max_tokens") is not None and REASONING_MODEL.match(body["model"]):
        raise Refused(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            code="unsupported_parameter",
            param="max_tokens",
        )


def _usage(completion: Completion) -> dict[str, Any]:
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "total_tokens": completion.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _whole_choice(ask: Ask, index: int, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []}
    if choice.tool_call is not None:
        call_id = f"call_{ask.stage.new_id(24)}"
        message["content"] = None
        message["tool_calls"] = [{"id": call_id, **_called(choice.tool_call, choice.tool_call.arguments)}]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


def _called(call: ToolCall, arguments: str) -> dict[str, Any]:
    if call.is_custom:
        return {"type": "custom", "custom": {"name": call.name, "input": arguments}}
    return {"type": "function", "function": {"name": call.name, "arguments": arguments}}


async def _chunks(ask: Ask, completion: Completion, head: Mapping[str, Any]) -> AsyncIterator[Event]:
    """The role first, then a chunk a token, then the finish reason; usage in a chunk of its own when asked for."""
    wants_usage = bool((ask.body.get("stream_options") or {}).get("include_usage"))
    extra = {"usage": None} if wants_usage else {}

    def chunk(index: int, delta: Mapping[str, Any], finish_reason: str | None = None) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return json_event({**head, "object": "chat.completion.chunk", "choices": [choice], **extra})

    for index, choice in enumerate(completion.choices):
        call = choice.tool_call
        if call is None:
            yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
        else:
            opened = {"index": 0, "id": f"call_{ask.stage.new_id(24)}", **_called(call, "")}
            yield chunk(index, {"role": "assistant", "content": None, "tool_calls": [opened], "refusal": None})
        async for _, token in paced(ask, choice.tokens):
            yield chunk(index, {"content": token} if call is None else {"tool_calls": [_argument_piece(call, token)]})
        yield chunk(index, {}, choice.finish_reason)
    if wants_usage and not ask.directives.no_usage:
        usage = _usage(completion)
        yield json_event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    yield DONE


def _argument_piece(call: ToolCall, token: str) -> dict[str, Any]:
    if call.is_custom:
        return {"index": 0, "custom": {"input": token}}
    return {"index": 0, "function": {"arguments": token}}


def _broken() -> Event:
    message = "The server had an error while processing your request. Sorry about that!"
    return json_event({"error": {"message": message, "type": "server_error", "param": None, "code": None}})


# ---------------------------------------------------------------- embeddings, moderations, models


async def embeddings(ask: Ask) -> web.StreamResponse:
    body = ask.body
    texts = _embedding_texts(body["input"])
    most = DIMENSIONS.get(body["model"], DEFAULT_DIMENSIONS)
    dimensions = body.get("dimensions") or most
    if dimensions > most:
        message = f"Invalid value for 'dimensions' = {dimensions}. Must be less than or equal to {most}."
        raise Refused(400, message, code="invalid_value", param="dimensions")
    data: list[dict[str, Any]] = []
    for index, numbers in enumerate(await asyncio.to_thread(embed_all, texts, dimensions)):
        vector: Any = numbers
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *numbers)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = sum(count_tokens(text) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return await send_json(ask, {"object": "list", "data": data, "model": body["model"], "usage": usage})


def _embedding_texts(given: Any) -> list[str]:
    """One text, several, one list of token numbers, or several of them."""
    if isinstance(given, str):
        return [given]
    if all(isinstance(item, int) for item in given):
        return [" ".join(map(str, given))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in given]


CATEGORIES = (
    "hate", "hate/threatening", "harassment", "harassment/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
#: A word of the text that makes the sandbox flag a category.
TELLING_WORDS: Mapping[str, str] = {"violence": "kill", "harassment": "idiot", "illicit": "burglary"}
PICTURE_CATEGORIES = frozenset(
    {"self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "violence", "violence/graphic"}
)


async def moderations(ask: Ask) -> web.StreamResponse:
    given = ask.body["input"]
    if isinstance(given, list) and any(isinstance(item, dict) for item in given):
        has_picture = any(item.get("type") == "image_url" for item in given)
        results = [_verdict(" ".join(item.get("text", "") for item in given), has_picture=has_picture)]
    else:
        results = [_verdict(text, has_picture=False) for text in ([given] if isinstance(given, str) else given)]
    model = ask.body.get("model", "omni-moderation-latest")
    return await send_json(ask, {"id": f"modr-{ask.stage.new_id(29)}", "model": model, "results": results})


def _verdict(text: str, *, has_picture: bool) -> dict[str, Any]:
    words = set(re.findall(r"\w+", text.lower()))
    flagged = {category: TELLING_WORDS.get(category) in words for category in CATEGORIES}
    return {
        "flagged": any(flagged.values()),
        "categories": flagged,
        "category_scores": {category: 0.97 if hit else 0.0001 for category, hit in flagged.items()},
        "category_applied_input_types": {
            category: ["text", "image"] if has_picture and category in PICTURE_CATEGORIES else ["text"]
            for category in CATEGORIES
        },
    }


async def models(ask: Ask) -> web.StreamResponse:
    return await send_json(ask, {"object": "list", "data": [_model(model) for model in MODELS]})


async def model(ask: Ask) -> web.StreamResponse:
    name = ask.request.match_info["model"]
    if name not in MODELS:
        raise refuse_model(name)
    return await send_json(ask, _model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": MODELS_CREATED_AT, "owned_by": "system"}


PLAY = Play(
    name="openai",
    credential=bearer,
    missing_credential=lambda: Refused(
        401, "You didn't provide an API key. Send it in an Authorization header as a bearer token."
    ),
    bad_credential=lambda key: Refused(401, f"Incorrect API key provided: {key[:2]}***.", code="invalid_api_key"),
    render_refusal=render_refusal,
    refuse_violation=refuse_violation,
    missing_model=refuse_model,
    moderated=refuse_moderated,
    answer_headers=answer_headers,
    routes=(
        Route(method="POST", path="/v1/chat/completions", handler=chat, schema="chat", prompt=last_user_text),
        Route(method="POST", path="/v1/embeddings", handler=embeddings, schema="embedding", prompt=text_at("input")),
        Route(method="POST", path="/v1/moderations", handler=moderations, schema="moderation", prompt=text_at("input")),
        Route(
            method="POST",
            path="/v1/images/generations",
            handler=openai_images.generate,
            schema="image",
            prompt=text_at("prompt"),
        ),
        Route(
            method="POST",
            path="/v1/images/edits",
            handler=openai_images.edit,
            schema="image_edit",
            form_schema="image_edit_form",
            prompt=text_at("prompt"),
        ),
        Route(method="GET", path="/files/{id}.{extension}", handler=serve_shelved, is_public=True),
        Route(method="HEAD", path="/files/{id}.{extension}", handler=serve_shelved, is_public=True),
        Route(
            method="POST",
            path="/v1/videos",
            handler=openai_videos.create,
            schema="video",
            form_schema="video_form",
            prompt=text_at("prompt"),
        ),
        Route(
            method="POST",
            path="/v1/videos/{id}/remix",
            handler=openai_videos.remix,
            schema="video_remix",
            form_schema="video_remix_form",
            prompt=text_at("prompt"),
        ),
        Route(method="GET", path="/v1/videos", handler=openai_videos.list_newest),
        Route(method="GET", path="/v1/videos/{id}", handler=openai_videos.get),
        Route(method="DELETE", path="/v1/videos/{id}", handler=openai_videos.delete),
        Route(method="GET", path="/v1/videos/{id}/content", handler=openai_videos.content),
        Route(
            method="POST",
            path="/v1/audio/speech",
            handler=openai_audio.speak,
            schema="speech",
            prompt=text_at("input"),
        ),
        Route(
            method="POST",
            path="/v1/audio/transcriptions",
            handler=openai_audio.transcribe,
            form_schema="transcription",
            prompt=text_at("prompt"),
        ),
        Route(
            method="POST",
            path="/v1/audio/translations",
            handler=openai_audio.translate,
            form_schema="translation",
            prompt=text_at("prompt"),
        ),
        Route(method="GET", path="/v1/models", handler=models),
        Route(method="GET", path="/v1/models/{model}", handler=model),
    ),
)
