"""Together's pictures and clips: ``/v1/images/generations`` and the jobs of ``/v2/videos``.

Links are short: redirects (``/shrt/{id}``) to a signed link that dies, of pictures after an hour, of clips after a day.

Source: togethercomputer/openapi of 2026-04-28 for requests and answers; docs.together.ai for the links, for a clip's
first state ``queued`` and for its cost as a decimal number.
"""

from __future__ import annotations

import base64
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox.files import pad
from bitmesh_proxy.sandbox.inputs import read_thumbnail
from bitmesh_proxy.sandbox.jobs import Job, JobPhase
from bitmesh_proxy.sandbox.movies import Movie
from bitmesh_proxy.sandbox.pictures import Picture, PictureFormat
from bitmesh_proxy.sandbox.plays import Ask, Json, Refused
from bitmesh_proxy.sandbox.replies import send_json
from bitmesh_proxy.sandbox.shelf import ShelvedFile
from bitmesh_proxy.sandbox.stage import Stage

SHORT_ID_LENGTH = 16
VIDEO_COST_USD = 0.28
MAX_PICTURES = 4


def answer_id(stage: Stage) -> str:
    """An id as Together gives one to each answer, of chats too."""
    return f"{stage.new_id(7)}-{stage.new_id(6)}-{stage.new_id(16, '0123456789abcdef')}"


# ---------------------------------------------------------------- pictures


async def image(ask: Ask) -> web.StreamResponse:
    body = ask.body
    count = body.get("n", 1)
    if not 1 <= count <= MAX_PICTURES:
        raise Refused(400, f"n must be between 1 and {MAX_PICTURES}", code="invalid_value", param="n")
    recipes = await _picture_recipes(ask, count)
    items = [await _picture_item(ask, index, recipe) for index, recipe in enumerate(recipes)]
    answer_body = {"id": answer_id(ask.stage), "model": body["model"], "object": "list", "data": items}
    return await send_json(ask, answer_body)


async def _picture_recipes(ask: Ask, count: int) -> list[Picture]:
    body = ask.body
    width, height = body.get("width", 1024), body.get("height", 1024)
    _require_size(ask, width, height)
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


def _require_size(ask: Ask, width: int, height: int) -> None:
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
    _require_size(ask, width, height)
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
