"""Google's ``:generateContent`` and ``:streamGenerateContent``: text, pictures and speech, by model.

A blocked prompt, and a picture that may not be shown, are answers with status 200 there. The stream is events with
``alt=sse``, else one JSON array; it has no end mark but the finish reason. Usage is in every chunk.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from aiohttp import web

from bitmesh_proxy.sandbox.chat import Choice, count_prompt_tokens
from bitmesh_proxy.sandbox.files import pad
from bitmesh_proxy.sandbox.gemini_answers import broken, refuse_model
from bitmesh_proxy.sandbox.gemini_conversation import as_chat, check, pictures_of
from bitmesh_proxy.sandbox.gemini_pictures import nearest_ratio, picture_size, picture_tokens
from bitmesh_proxy.sandbox.inputs import read_size, read_thumbnail
from bitmesh_proxy.sandbox.pace import paced, think
from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.plays import Ask, Json, Refused
from bitmesh_proxy.sandbox.replies import Event, json_event, send_events, send_json
from bitmesh_proxy.sandbox.sounds import Speech
from bitmesh_proxy.sandbox.words import count_tokens, quote, tokenize

TITLE = "Google Gemini"
INPUT_PICTURE_TOKENS = 258
AUDIO_TOKENS_PER_S = 25
SPEECH_RATE_HZ = 24_000

Part = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A candidate's parts with what they count. ``tokens`` by modality; ``reason`` is the finish reason."""

    parts: Sequence[Part]
    tokens: Mapping[str, int]
    thoughts_tokens: int = 0
    reason: str = "STOP"


async def generate(ask: Ask) -> web.StreamResponse:
    if ask.directives.moderated and "image" not in _model(ask):
        return await send_json(ask, _blocked(ask))
    content = await _content(ask)
    return await send_json(ask, _response(ask, content.parts, content, reason=content.reason))


async def generate_stream(ask: Ask) -> web.StreamResponse:
    if ask.directives.moderated and "image" not in _model(ask):
        responses = [_blocked(ask)]
    else:
        responses = _responses(ask, await _content(ask))
    if ask.request.query.get("alt") != "sse":
        return await send_json(ask, responses)
    return await send_events(ask, _events(ask, responses), broken=broken())


async def _events(ask: Ask, responses: Sequence[Json]) -> AsyncIterator[Event]:
    *most, last = responses
    async for number, _ in paced(ask, [""] * len(most)):
        yield json_event(most[number])
    yield Event(data=orjson.dumps(last), is_end=True)


def _model(ask: Ask) -> str:
    return ask.request.match_info["model"]


async def _content(ask: Ask) -> Content:
    """Raises Refused for a model that does something else, or not in this way."""
    model = _model(ask)
    if model.startswith(("imagen", "veo")):
        raise refuse_model(model)
    check(ask.body, model)
    wanted = set((ask.body.get("generationConfig") or {}).get("responseModalities") or ())
    if "tts" in model:
        if wanted != {"AUDIO"}:
            raise Refused(400, "The requested combination of response modalities is not supported by the model.")
        return await _speech(ask)
    if "image" in model:
        return await _picture(ask, with_text=not wanted or "TEXT" in wanted)
    if wanted - {"TEXT"}:
        raise Refused(400, "Multi-modal output is not supported.")
    return await _text(ask)


# ---------------------------------------------------------------- text


async def _text(ask: Ask) -> Content:
    chat = as_chat(ask.body, _model(ask))
    thoughts, is_shown = _thoughts(ask)
    if (limit := chat["max_tokens"]) is not None:
        thoughts = "".join(tokenize(thoughts)[:limit])
        chat["max_tokens"] = limit - count_tokens(thoughts)  # which count as well
    completion = await think(replace(ask, body=chat), player=TITLE)
    choice = completion.choices[0]
    parts: list[Part] = [{"text": thoughts, "thought": True}] if is_shown else []
    if choice.tool_call is None:
        parts += [{"text": choice.text}] if choice.text else []
    elif choice.finish_reason != "length":  # of half a call nothing is said
        parts.append(_call_part(ask, choice))
    return Content(
        parts=parts,
        tokens={"TEXT": len(choice.tokens)},
        thoughts_tokens=count_tokens(thoughts),
        reason="MAX_TOKENS" if choice.finish_reason == "length" else "STOP",
    )


def _thoughts(ask: Ask) -> tuple[str, bool]:
    """What it thinks, and whether that is shown; nothing unless thinking is asked for."""
    config = (ask.body.get("generationConfig") or {}).get("thinkingConfig") or {}
    if not config or config.get("thinkingLevel") == "MINIMAL" or config.get("thinkingBudget") == 0:
        return "", False
    thoughts = f"The user said {quote(ask.prompt)}. The sandbox does not think; it only says so."
    return thoughts, bool(config.get("includeThoughts"))


def _call_part(ask: Ask, choice: Choice) -> Part:
    assert choice.tool_call is not None
    call = {"name": choice.tool_call.name, "args": json.loads(choice.tool_call.arguments)}
    if not _model(ask).startswith("gemini-3"):
        return {"functionCall": call}
    signature = base64.b64encode(f"sandbox:{choice.tool_call.name}".encode()).decode()
    return {"functionCall": {"id": ask.stage.new_id(8), **call}, "thoughtSignature": signature}


# ---------------------------------------------------------------- pictures and speech


async def _picture(ask: Ask, *, with_text: bool) -> Content:
    if ask.directives.moderated:
        return Content(parts=[], tokens={}, reason="IMAGE_SAFETY")
    model, sources = _model(ask), pictures_of(ask.body)
    config = ask.body.get("generationConfig") or {}
    shape = config.get("imageConfig") or {}
    try:
        source = await read_thumbnail(sources[0], param="contents") if sources else None
        size = await read_size(sources[0], param="contents") if sources else None
    except Refused as refused:
        raise Refused(400, "Unable to process input image. Please retry or report the problem.") from refused
    ratio = shape.get("aspectRatio") or (nearest_ratio(model, size) if size else "1:1")
    width, height = picture_size(model, ratio, shape.get("imageSize"))
    recipe = Picture(
        prompt=ask.prompt,
        width=width,
        height=height,
        seed=config.get("seed", ask.stage.rng.getrandbits(31)),
        note=f"{model} {width}x{height}",
        source=source,
    )
    parts = [{"text": "Here is the picture of the sandbox:"}] if with_text else []
    said = sum(count_tokens(part["text"]) for part in parts)
    picture = {"inlineData": {"mimeType": recipe.media_type, "data": await encoded(ask, recipe)}}
    pixels = picture_tokens(model, shape.get("imageSize"))
    return Content(parts=[*parts, picture], tokens={"TEXT": said, "IMAGE": pixels})


async def encoded(ask: Ask, recipe: Picture | Speech) -> str:
    """The file in base64, padded if that is asked for."""
    data = await ask.stage.studio.render(recipe)
    return base64.b64encode(pad(data, recipe.media_type, ask.directives.huge).whole()).decode()


async def _speech(ask: Ask) -> Content:
    config = (ask.body.get("generationConfig") or {}).get("speechConfig") or {}
    voice = ((config.get("voiceConfig") or {}).get("prebuiltVoiceConfig") or {}).get("voiceName", "")
    speech = Speech(text=ask.prompt, voice=voice, format="pcm_s16le", rate_hz=SPEECH_RATE_HZ)
    media_type = f"audio/L16;codec=pcm;rate={SPEECH_RATE_HZ}"
    part = {"inlineData": {"mimeType": media_type, "data": await encoded(ask, speech)}}
    return Content(parts=[part], tokens={"AUDIO": round(speech.duration_s * AUDIO_TOKENS_PER_S)})


# ---------------------------------------------------------------- answers


def _responses(ask: Ask, content: Content) -> list[Json]:
    """The chunks of a stream: text in tokens, everything else whole; the last one has the finish reason and no text."""
    chunks = [piece for part in content.parts for piece in _pieces(part)]
    response_id = _response_id(ask)
    responses = [_response(ask, [chunk], content, response_id=response_id) for chunk in chunks]
    end = [] if content.reason.startswith("IMAGE_") else [{"text": ""}]
    return [*responses, _response(ask, end, content, reason=content.reason, response_id=response_id)]


def _pieces(part: Part) -> list[Part]:
    return [{**part, "text": token} for token in tokenize(part["text"])] if "text" in part else [part]


def _response(
    ask: Ask, parts: Sequence[Part], content: Content, *, reason: str | None = None, response_id: str | None = None
) -> Json:
    candidate: dict[str, Any] = {"index": 0}
    if parts:
        candidate["content"] = {"role": "model", "parts": list(parts)}
    if reason is not None:
        candidate["finishReason"] = reason
    response: dict[str, Any] = {
        "candidates": [candidate],
        "modelVersion": _model(ask),
        "responseId": response_id or _response_id(ask),
    }
    if not ask.directives.no_usage:
        response["usageMetadata"] = _usage(ask, content)
    return response


def _response_id(ask: Ask) -> str:
    return ask.stage.new_id(24)


def _blocked(ask: Ask) -> Json:
    body: dict[str, Any] = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "modelVersion": _model(ask),
        "responseId": _response_id(ask),
    }
    if not ask.directives.no_usage:
        body["usageMetadata"] = _usage(ask, Content(parts=(), tokens={}))
    return body


def _usage(ask: Ask, content: Content) -> dict[str, Any]:
    asked = prompt_tokens(ask.body, _model(ask))
    usage: dict[str, Any] = {"promptTokenCount": sum(asked.values()), "promptTokensDetails": _details(asked)}
    said = {name: count for name, count in content.tokens.items() if count}
    if said:
        usage["candidatesTokenCount"] = sum(said.values())
        usage["candidatesTokensDetails"] = _details(said)
    if content.thoughts_tokens:
        usage["thoughtsTokenCount"] = content.thoughts_tokens
    usage["totalTokenCount"] = sum(asked.values()) + sum(said.values()) + content.thoughts_tokens
    return usage


def prompt_tokens(body: Json, model: str) -> dict[str, int]:
    """What the request counts, by modality."""
    counted = {"TEXT": count_prompt_tokens(as_chat(body, model))}
    if pictures := pictures_of(body):
        counted["IMAGE"] = INPUT_PICTURE_TOKENS * len(pictures)
    return counted


def _details(tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"modality": modality, "tokenCount": count} for modality, count in tokens.items()]


async def count(ask: Ask) -> web.StreamResponse:
    """``:countTokens``, of contents or of a whole request."""
    body = ask.body.get("generateContentRequest") or ask.body
    if not body.get("contents"):
        raise Refused(400, "* CountTokensRequest.contents: contents is not specified", param="contents")
    counted = prompt_tokens(body, _model(ask))
    return await send_json(ask, {"totalTokens": sum(counted.values()), "promptTokensDetails": _details(counted)})
