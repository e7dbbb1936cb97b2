"""Google's ``:predict`` (Imagen) and ``:predictLongRunning`` (Veo) with its operations and files.

A finished clip lies at an address that wants the key too. What the safety filter keeps back is missing from the
answer, with a reason where the request asked for one.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox.files import send_recipe
from bitmesh_proxy.sandbox.gemini_answers import refuse_model
from bitmesh_proxy.sandbox.gemini_generate import encoded
from bitmesh_proxy.sandbox.gemini_pictures import IMAGEN_SIZES, clip_size
from bitmesh_proxy.sandbox.inputs import read_thumbnail
from bitmesh_proxy.sandbox.jobs import Job, JobPhase
from bitmesh_proxy.sandbox.movies import Movie
from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.plays import Ask, Json, Refused
from bitmesh_proxy.sandbox.replies import send_json
from bitmesh_proxy.sandbox.shelf import ShelvedFile

OWNER = "gemini"
ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
FILTERED = "The sandbox was told to keep this back. Support codes: 00000000"
#: Lengths of clips in seconds, of Veo 2 and of its successors.
VEO_2_SECONDS = (5, 6, 7, 8)
VEO_3_SECONDS = (4, 6, 8)
FPS = 24


def first_prompt(body: Json) -> str:
    """The prompt of the first instance; "" for what is none."""
    instances = body.get("instances")
    first = instances[0] if isinstance(instances, list) and instances else None
    prompt = first.get("prompt") if isinstance(first, dict) else None
    return prompt if isinstance(prompt, str) else ""


# ---------------------------------------------------------------- Imagen


async def predict(ask: Ask) -> web.StreamResponse:
    model = ask.request.match_info["model"]
    if not model.startswith("imagen"):
        raise refuse_model(model, "predict")
    parameters = ask.body.get("parameters") or {}
    if ask.directives.moderated:
        with_reason = parameters.get("includeRaiReason")
        return await send_json(ask, {"predictions": [{"raiFilteredReason": FILTERED}]} if with_reason else {})
    width, height = IMAGEN_SIZES[parameters.get("aspectRatio", "1:1")]
    scale = 2 if parameters.get("sampleImageSize") == "2K" else 1
    seed = ask.stage.rng.getrandbits(31)
    predictions = []
    for number in range(parameters.get("sampleCount", 4)):
        recipe = Picture(prompt=ask.prompt, width=width * scale, height=height * scale, seed=seed + number, note=model)
        predictions.append({"mimeType": recipe.media_type, "bytesBase64Encoded": await encoded(ask, recipe)})
    return await send_json(ask, {"predictions": predictions})


# ---------------------------------------------------------------- Veo


async def predict_long_running(ask: Ask) -> web.StreamResponse:
    model, stage = ask.request.match_info["model"], ask.stage
    if not model.startswith("veo"):
        raise refuse_model(model, "predictLongRunning")
    recipe = await _movie(ask, model)
    now = stage.clock()
    duration_s = stage.options.job_duration_s if ask.directives.job_s is None else ask.directives.job_s
    file_id = stage.new_id(12, ID_LETTERS)
    expires_at = now + duration_s + stage.options.video_link_lifetime_s
    stage.shelf.put(file_id, ShelvedFile(recipe=recipe, expires_at=expires_at, huge=ask.directives.huge))
    name = f"models/{model}/operations/{stage.new_id(12, ID_LETTERS)}"
    job = Job(
        owner=OWNER,
        job_id=name,
        created_at=now,
        duration_s=duration_s,
        will_fail=ask.directives.fail,
        recipe=recipe,
        facts={"file_id": file_id, "is_filtered": ask.directives.moderated},
    )
    stage.jobs.add(job)
    return await send_json(ask, {"name": name})


async def _movie(ask: Ask, model: str) -> Movie:
    instance, parameters = ask.body["instances"][0], ask.body.get("parameters") or {}
    allowed = VEO_2_SECONDS if model.startswith("veo-2") else VEO_3_SECONDS
    seconds = parameters.get("durationSeconds", 8)
    if seconds not in allowed:
        known = ", ".join(str(number) for number in allowed)
        message = f"The number value for `durationSeconds` is out of bound. Please provide a value in {known}."
        raise Refused(400, message, param="durationSeconds")
    if "lastFrame" in instance and "image" not in instance:
        raise Refused(400, "`lastFrame` needs an `image` that the clip begins with.", param="lastFrame")
    source = instance.get("image") or next((item["image"] for item in instance.get("referenceImages") or ()), None)
    width, height = clip_size(parameters.get("aspectRatio", "16:9"), parameters.get("resolution", "720p"))
    options = ask.stage.options
    return Movie(
        prompt=ask.prompt,
        width=width,
        height=height,
        seconds=float(seconds),
        fps=FPS,
        seed=parameters.get("seed", 0),
        note=model,
        source=await read_thumbnail(source["bytesBase64Encoded"], param="image") if source else None,
        max_frames=options.max_movie_frames,
        max_pixels=options.max_movie_pixels,
    )


async def get_operation(ask: Ask) -> web.StreamResponse:
    found = ask.request.match_info
    name = f"models/{found['model']}/operations/{found['operation']}"
    job = ask.stage.jobs.find(OWNER, name)
    if job is None:
        raise Refused(404, f"Operation {name} was not found.")
    return await send_json(ask, _operation(ask, job))


def _operation(ask: Ask, job: Job) -> Json:
    match job.phase(ask.stage.clock()):
        case JobPhase.DONE:
            return {"name": job.job_id, "done": True, "response": _finished(ask, job)}
        case JobPhase.FAILED:
            error = {"code": 13, "message": "Video generation failed: the sandbox was told to let this job fail."}
            return {"name": job.job_id, "done": True, "error": error}
        case _:
            return {"name": job.job_id}


def _finished(ask: Ask, job: Job) -> dict[str, Any]:
    if job.facts["is_filtered"]:
        videos: dict[str, Any] = {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": [FILTERED]}
    else:
        uri = f"{ask.origin}/gemini/v1beta/files/{job.facts['file_id']}:download?alt=media"
        videos = {"generatedSamples": [{"video": {"uri": uri}}]}
    kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
    return {"@type": kind, "generateVideoResponse": videos}


async def download(ask: Ask) -> web.StreamResponse:
    """The clip's bytes, for ``alt=media`` and with the key. What is gone is worded as what was never allowed."""
    file_id = ask.request.match_info["file"]
    found = ask.stage.shelf.find(file_id)
    if found is None or ask.stage.clock() >= found.expires_at:
        raise Refused(403, f"You do not have permission to access the File {file_id} or it may not exist.")
    if ask.request.query.get("alt") != "media":
        raise Refused(400, "Download is only supported with alt=media.")
    return await send_recipe(ask, found.recipe, size=found.huge)
