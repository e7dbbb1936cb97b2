"""OpenAI's clips: ``/v1/videos`` as jobs, form or JSON; list, delete, remix, and the file under ``/content``.

The API is closed at OpenAI since 2026-09-24; other servers go on speaking it. The first answer is ``queued``; the file
is MP4, its thumbnail and spritesheet are WebP.
"""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from bitmesh_proxy.sandbox.files import send_recipe
from bitmesh_proxy.sandbox.inputs import read_thumbnail
from bitmesh_proxy.sandbox.jobs import Job, JobPhase
from bitmesh_proxy.sandbox.movies import Movie, Sheet
from bitmesh_proxy.sandbox.plays import Ask, Json, Refused
from bitmesh_proxy.sandbox.replies import send_json
from bitmesh_proxy.sandbox.studio import Recipe

DEFAULTS = {"model": "sora-2", "seconds": "4", "size": "720x1280"}
STATUSES = {
    JobPhase.QUEUED: "queued",
    JobPhase.RUNNING: "in_progress",
    JobPhase.DONE: "completed",
    JobPhase.FAILED: "failed",
}
MAX_LISTED = 100


async def create(ask: Ask) -> web.StreamResponse:
    wanted = {**DEFAULTS, **{name: value for name, value in ask.body.items() if value is not None}}
    width, _, height = wanted["size"].partition("x")
    options = ask.stage.options
    recipe = Movie(
        prompt=ask.prompt,
        width=int(width),
        height=int(height),
        seconds=float(wanted["seconds"]),
        seed=ask.stage.rng.getrandbits(31),
        note=wanted["model"],
        source=await _read_reference(ask),
        max_frames=options.max_movie_frames,
        max_pixels=options.max_movie_pixels,
    )
    return await _start(ask, recipe, model=wanted["model"], remixed_from=None)


async def remix(ask: Ask) -> web.StreamResponse:
    earlier = _found(ask)
    assert isinstance(earlier.recipe, Movie)
    recipe = replace(earlier.recipe, prompt=ask.prompt, seed=earlier.recipe.seed + 1)
    return await _start(ask, recipe, model=earlier.facts["model"], remixed_from=earlier.job_id)


async def _read_reference(ask: Ask) -> bytes | None:
    if uploads := ask.files.get("input_reference"):
        return await read_thumbnail(uploads[0].data, param="input_reference")
    reference = ask.body.get("input_reference")
    if not isinstance(reference, dict):
        return None
    if "image_url" not in reference:
        raise Refused(404, f"No such File object: {reference.get('file_id')}", param="input_reference")
    return await read_thumbnail(reference["image_url"], param="input_reference")


async def _start(ask: Ask, recipe: Movie, *, model: str, remixed_from: str | None) -> web.StreamResponse:
    stage, directives = ask.stage, ask.directives
    job = Job(
        owner="openai",
        job_id=f"video_{stage.new_id(48, '0123456789abcdef')}",
        created_at=stage.clock(),
        duration_s=stage.options.job_duration_s if directives.job_s is None else directives.job_s,
        will_fail=directives.fail,
        recipe=recipe,
        facts={"model": model, "remixed_from": remixed_from, "huge": directives.huge, "prompt": ask.prompt},
    )
    stage.jobs.add(job)
    return await send_json(ask, _resource(ask, job, phase=JobPhase.QUEUED))


async def get(ask: Ask) -> web.StreamResponse:
    return await send_json(ask, _resource(ask, _found(ask)))


async def list_newest(ask: Ask) -> web.StreamResponse:
    query = ask.request.query
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 0 <= int(limit) <= MAX_LISTED:
        raise Refused(400, f"limit must be from 0 to {MAX_LISTED}", code="invalid_value", param="limit")
    jobs = list(ask.stage.jobs.newest_first("openai"))
    if query.get("order") == "asc":
        jobs.reverse()
    if (after := query.get("after")) is not None:
        ids = [job.job_id for job in jobs]
        jobs = jobs[ids.index(after) + 1 :] if after in ids else []
    shown = jobs[: int(limit)]
    body = {
        "object": "list",
        "data": [_resource(ask, job) for job in shown],
        "first_id": shown[0].job_id if shown else None,
        "last_id": shown[-1].job_id if shown else None,
        "has_more": len(jobs) > len(shown),
    }
    return await send_json(ask, body)


async def delete(ask: Ask) -> web.StreamResponse:
    job = _found(ask)
    ask.stage.jobs.remove("openai", job.job_id)
    return await send_json(ask, {"id": job.job_id, "object": "video.deleted", "deleted": True})


async def content(ask: Ask) -> web.StreamResponse:
    job = _found(ask)
    if job.phase(ask.stage.clock()) is not JobPhase.DONE:
        raise Refused(400, "Video is not ready yet, use GET /v1/videos/{video_id} to check status.")
    assert isinstance(job.recipe, Movie)
    variants: dict[str, Recipe] = {
        "video": job.recipe,
        "thumbnail": Sheet(movie=job.recipe, columns=1, rows=1),
        "spritesheet": Sheet(movie=job.recipe, columns=4, rows=3),
    }
    recipe = variants.get(ask.request.query.get("variant", "video"))
    if recipe is None:
        raise Refused(400, f"variant must be one of {', '.join(variants)}", code="invalid_value", param="variant")
    return await send_recipe(ask, recipe, size=job.facts["huge"])


def _found(ask: Ask) -> Job:
    job_id = ask.request.match_info["id"]
    job = ask.stage.jobs.find("openai", job_id)
    if job is None:
        raise Refused(404, f"Video with id '{job_id}' not found.", code="not_found")
    return job


def _resource(ask: Ask, job: Job, phase: JobPhase | None = None) -> dict[str, Json]:
    """The job as it stands, or as in another phase: a new one is always said to be queued."""
    now = ask.stage.clock()
    phase = phase or job.phase(now)
    recipe = job.recipe
    assert isinstance(recipe, Movie)
    is_done = phase is JobPhase.DONE
    error = {"code": "video_generation_failed", "message": "The sandbox was told to let this job fail."}
    return {
        "id": job.job_id,
        "object": "video",
        "model": job.facts["model"],
        "status": STATUSES[phase],
        "progress": 0 if phase is JobPhase.QUEUED else int(100 * job.progress(now)),
        "created_at": int(job.created_at),
        "completed_at": int(job.ends_at) if is_done else None,
        "expires_at": int(job.ends_at + ask.stage.options.video_link_lifetime_s) if is_done else None,
        "prompt": job.facts["prompt"],
        "size": f"{recipe.width}x{recipe.height}",
        "seconds": f"{recipe.seconds:g}",
        "remixed_from_video_id": job.facts["remixed_from"],
        "error": error if phase is JobPhase.FAILED else None,
    }
