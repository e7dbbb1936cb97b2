"""Together AI: ``/together/v1`` and, for videos, ``/together/v2``.

Source: togethercomputer/openapi of 2026-04-28 for requests and answers; docs.together.ai for the video job's
``queued`` and its cost as a decimal number, and for the short links, which are redirects to a signed link that dies
(pictures after an hour, clips after a day). ``usage`` comes unasked on the last chunk of a stream.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox import together_audio
from bitmesh_proxy.sandbox.chat import Choice, Completion, last_user_text
from bitmesh_proxy.sandbox.files import pad, serve_shelved
from bitmesh_proxy.sandbox.inputs import read_thumbnail
from bitmesh_proxy.sandbox.jobs import Job, JobPhase
from bitmesh_proxy.sandbox.movies import Movie
from bitmesh_proxy.sandbox.pace import paced, think
from bitmesh_proxy.sandbox.pictures import Picture, PictureFormat
from bitmesh_proxy.sandbox.plays import Ask, Json, Play, Refused, Route, bearer, text_at
from bitmesh_proxy.sandbox.replies import DONE, Event, json_event, send_events, send_json
from bitmesh_proxy.sandbox.schemas import Violation
from bitmesh_proxy.sandbox.shelf import ShelvedFile
from bitmesh_proxy.sandbox.stage import Stage
from bitmesh_proxy.sandbox.vectors import embed_all
from bitmesh_proxy.sandbox.words import count_tokens

TITLE = "Together AI"
SHORT_ID_LENGTH = 16
VIDEO_COST_USD = 0.28
MAX_PICTURES = 4
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
    head = {"id": _chat_id(ask.stage), "created": ask.stage.now(), "model": ask.body["model"]}
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


def _chat_id(stage: Stage) -> str:
    return f"{stage.new_id(7)}-{stage.new_id(6)}-{stage.new_id(16, '0123456789abcdef')}"


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
    return int(ask.body.get("seed") or ask.stage.rng.getrandbits(48))


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


# ---------------------------------------------------------------- pictures


async def image(ask: Ask) -> web.StreamResponse:
    body = ask.body
    count = body.get("n", 1)
    if not 1 <= count <= MAX_PICTURES:
        raise Refused(400, f"n must be between 1 and {MAX_PICTURES}", code="invalid_value", param="n")
    recipes = await _picture_recipes(ask, count)
    items = [await _picture_item(ask, index, recipe) for index, recipe in enumerate(recipes)]
    answer_body = {"id": _chat_id(ask.stage), "model": body["model"], "object": "list", "data": items}
    return await send_json(ask, answer_body)


async def _picture_recipes(ask: Ask, count: int) -> list[Picture]:
    body = ask.body
    width, height = body.get("width", 1024), body.get("height", 1024)
    require_size(ask, width, height)
    reference = body.get("image_url") or next(iter(body.get("reference_images") or ()), None)
    source = await read_thumbnail(reference, param="image_url") if reference else None
    seed = body.get("seed", ask.stage.rng.getrandbits(31))
    form: PictureFormat = "png" if body.get("output_format") == "png" else "jpeg"
    note = f"{body['model']} {width}x{height}"
    return [
        Picture(
            prompt=ask.prompt, width=width, height=height, seed=seed + number, format=form, note=note, source=source
        )
        for number in range(count)
    ]


def require_size(ask: Ask, width: int, height: int) -> None:
    """Raises Refused for a picture without area, or with more than the sandbox draws."""
    if width < 1 or height < 1 or width * height > ask.stage.options.max_picture_pixels:
        raise Refused(400, f"width and height are out of range: {width}x{height}", code="invalid_value", param="width")


async def _picture_item(ask: Ask, index: int, recipe: Picture) -> Json:
    data = await ask.stage.studio.render(recipe)
    timings = {"inference": 0.1}
    if ask.body.get("response_format") == "base64":
        encoded = base64.b64encode(pad(data, recipe.media_type, ask.directives.huge).whole()).decode()
        return {"index": index, "type": "b64_json", "b64_json": encoded, "timings": timings}
    lifetime_s = ask.stage.options.image_link_lifetime_s
    url = _shelve(ask, ShelvedFile(recipe=recipe, expires_at=ask.stage.clock() + lifetime_s, huge=ask.directives.huge))
    return {"index": index, "type": "url", "url": url, "timings": timings}


def _shelve(ask: Ask, file: ShelvedFile) -> str:
    """Put the file under a new id; the short link."""
    file_id = ask.stage.new_id(SHORT_ID_LENGTH)
    ask.stage.shelf.put(file_id, file)
    return f"{ask.origin}/together/shrt/{file_id}"


async def short_link(ask: Ask) -> web.StreamResponse:
    file_id = ask.request.match_info["id"]
    file = ask.stage.shelf.find(file_id)
    if file is None:
        return web.Response(status=404, text="Not Found")
    target = f"{ask.origin}/together/files/{file_id}.{file.recipe.extension}"
    return web.Response(status=302, headers={"Location": target})


# ---------------------------------------------------------------- clips


async def create_video(ask: Ask) -> web.StreamResponse:
    stage, body = ask.stage, ask.body
    now = stage.clock()
    duration_s = stage.options.job_duration_s if ask.directives.job_s is None else ask.directives.job_s
    recipe = await _movie_recipe(ask)
    lifetime_s = stage.options.video_link_lifetime_s
    shelved = ShelvedFile(recipe=recipe, expires_at=now + duration_s + lifetime_s, huge=ask.directives.huge)
    job = Job(
        owner="together",
        job_id=f"{stage.new_id(8, '0123456789abcdef')}-{stage.new_id(4, '0123456789abcdef')}-sandbox",
        created_at=now,
        duration_s=duration_s,
        will_fail=ask.directives.fail,
        recipe=recipe,
        facts={"model": body["model"], "video_url": _shelve(ask, shelved)},
    )
    stage.jobs.add(job)
    return await send_json(ask, {**_video_head(job), "status": "queued"})


async def _movie_recipe(ask: Ask) -> Movie:
    body = ask.body
    width, height = body.get("width", 1366), body.get("height", 768)
    require_size(ask, width, height)
    try:
        seconds = float(body.get("seconds", "5"))
    except ValueError as error:
        raise Refused(400, "seconds must be a number in a string", code="invalid_value", param="seconds") from error
    media = body.get("media") or {}
    frames = media.get("frame_images") or body.get("frame_images") or ()
    references = media.get("reference_images") or body.get("reference_images") or ()
    reference = frames[0]["input_image"] if frames else next(iter(references), None)
    options = ask.stage.options
    return Movie(
        prompt=ask.prompt,
        width=width,
        height=height,
        seconds=seconds,
        fps=body.get("fps", 24),
        seed=body.get("seed", 0),
        format="webm" if body.get("output_format") == "WEBM" else "mp4",
        note=body["model"],
        source=await read_thumbnail(reference, param="frame_images") if reference else None,
        max_frames=options.max_movie_frames,
        max_pixels=options.max_movie_pixels,
    )


def _video_head(job: Job) -> dict[str, Any]:
    recipe = job.recipe
    assert isinstance(recipe, Movie)
    return {
        "id": job.job_id,
        "object": "video",
        "model": job.facts["model"],
        "created_at": job.created_at,
        "size": f"{recipe.width}x{recipe.height}",
        "seconds": f"{recipe.seconds:g}",
    }


async def get_video(ask: Ask) -> web.StreamResponse:
    job = ask.stage.jobs.find("together", ask.request.match_info["id"])
    if job is None:
        raise Refused(404, "Video job not found", code="not_found")
    return await send_json(ask, _video_job(job, ask.stage.clock()))


def _video_job(job: Job, now: float) -> dict[str, Any]:
    head = _video_head(job)
    match job.phase(now):
        case JobPhase.QUEUED:
            return {**head, "status": "queued"}
        case JobPhase.RUNNING:
            return {**head, "status": "in_progress"}
        case JobPhase.FAILED:
            error = {"code": "generation_failed", "message": "The sandbox was told to let this job fail."}
            return {**head, "status": "failed", "completed_at": job.ends_at, "error": error}
        case JobPhase.DONE:
            outputs = {"cost": VIDEO_COST_USD, "video_url": job.facts["video_url"]}
            return {**head, "status": "completed", "completed_at": job.ends_at, "outputs": outputs}


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
        "x-request-id": _chat_id(stage),
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
        Route(method="POST", path="/v1/images/generations", handler=image, schema="image", prompt=text_at("prompt")),
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
        Route(method="GET", path="/v1/models", handler=models),
        Route(method="POST", path="/v2/videos", handler=create_video, schema="video", prompt=text_at("prompt")),
        Route(method="GET", path="/v2/videos/{id}", handler=get_video),
        Route(method="GET", path="/shrt/{id}", handler=short_link, is_public=True),
        Route(method="HEAD", path="/shrt/{id}", handler=short_link, is_public=True),
        Route(method="GET", path="/files/{id}.{extension}", handler=serve_shelved, is_public=True),
        Route(method="HEAD", path="/files/{id}.{extension}", handler=serve_shelved, is_public=True),
    ),
)
