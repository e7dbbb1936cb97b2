"""Runware's tasks, one by one: what each is refused for, what it draws, and what its result says.

Source: the task types of Runware's Python SDK 1.8.0 and its documentation of tasks, errors and costs, read 2026-11.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bitmesh_proxy.sandbox.files import pad
from bitmesh_proxy.sandbox.inputs import read_size, read_thumbnail
from bitmesh_proxy.sandbox.movies import Movie, MovieFormat
from bitmesh_proxy.sandbox.performance import MISSING_MODEL
from bitmesh_proxy.sandbox.pictures import Picture, PictureFormat
from bitmesh_proxy.sandbox.plays import Ask, Refused
from bitmesh_proxy.sandbox.schemas import Violation, load_document, load_part_checker
from bitmesh_proxy.sandbox.shelf import ShelvedFile

OWNER = "runware"
KINDS: Mapping[str, str] = {"imageInference": "ImageInferenceParams", "videoInference": "VideoInferenceParams"}
UUID_4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
AIR = re.compile(r"[\w.\-]+:[\w.\-]+@[\w.\-]+")
PICTURE_FORMATS: Mapping[str, PictureFormat] = {"JPG": "jpeg", "PNG": "png", "WEBP": "webp"}
MOVIE_FORMATS: Mapping[str, MovieFormat] = {"MP4": "mp4", "WEBM": "webm"}
#: US dollars: a picture of a megapixel, and a second of a clip.
PICTURE_COST_USD = 0.0038
SECOND_COST_USD = 0.05
MOST_RESULTS = 20
SIDES = (128, 6144)
#: Where tasks have their pictures; under ``inputs`` too.
SINGLE_INPUTS = ("seedImage", "inputImage", "image")
LISTED_INPUTS = ("referenceImages", "references", "frameImages")

Task = Mapping[str, Any]


def refuse_violation(violation: Violation) -> Refused:
    words = {"missing": "missingParameter", "unknown": "unsupportedParameter", "type": "invalidType"}
    code = words.get(violation.kind, "invalidValue")
    field = violation.field or None
    return Refused(400, f"Invalid value for '{field}' parameter. {violation.message}", code=code, param=field)


def refuse_model(model: str) -> Refused:
    message = f"Invalid value for 'model' parameter. The model '{model}' was not found."
    return Refused(400, message, code="invalidModel", param="model")


def refuse_moderated() -> Refused:
    message = "The content was flagged by the provider's moderation."
    return Refused(400, message, code="contentPolicyViolation", param="positivePrompt")


def check(task: Task, *, is_strict: bool) -> None:
    """Raises Refused for a task that its model, or its kind, does not allow.

    ``is_strict``: also for fields that the model's own schema, where it has one, does not name.
    """
    if not UUID_4.fullmatch(str(task["taskUUID"])):
        message = "Invalid value for 'taskUUID' parameter. It must be a valid UUIDv4."
        raise Refused(400, message, code="invalidTaskUUID", param="taskUUID")
    kind = KINDS.get(str(task["taskType"]))
    if kind is None:
        message = f"Invalid value for 'taskType' parameter: the sandbox plays {', '.join(KINDS)} and getResponse."
        raise Refused(400, message, code="invalidTaskType", param="taskType")
    model = str(task.get("model", ""))
    component = load_document(OWNER)["models"].get(model, kind)
    # The schema of a kind does not name what only some models take.
    check_part = load_part_checker(OWNER, component, is_strict and component != kind)
    if (violation := check_part(task)) is not None:
        raise refuse_violation(violation)
    if not AIR.fullmatch(model) or MISSING_MODEL in model:
        raise refuse_model(model)
    if not 1 <= task.get("numberResults", 1) <= MOST_RESULTS:
        message = f"Invalid value for 'numberResults' parameter. It must be from 1 to {MOST_RESULTS}."
        raise Refused(400, message, code="invalidNumberResults", param="numberResults")
    _check_sides(task)


def _check_sides(task: Task) -> None:
    if ("width" in task) != ("height" in task):
        absent = "height" if "width" in task else "width"
        message = f"Missing required parameter '{absent}': width and height go together."
        raise Refused(400, message, code="missingParameter", param=absent)
    for name in ("width", "height"):
        side = task.get(name, SIDES[0])
        if not isinstance(side, int) or not SIDES[0] <= side <= SIDES[1]:
            message = f"Invalid value for '{name}' parameter. It must be a whole number from {SIDES[0]} to {SIDES[1]}."
            raise Refused(400, message, code=f"invalid{name.capitalize()}", param=name)


def inputs_of(task: Task) -> list[tuple[str, str]]:
    """The pictures of a task with the parameter that each stands in; the masks last."""
    found: list[tuple[str, str]] = []
    masks: list[tuple[str, str]] = []
    nested = task.get("inputs")
    for prefix, holder in (("", task), ("inputs.", nested if isinstance(nested, dict) else {})):
        for name in SINGLE_INPUTS:
            found += _addresses(f"{prefix}{name}", [holder[name]] if name in holder else [])
        for name in LISTED_INPUTS:
            found += _addresses(f"{prefix}{name}", holder.get(name, []))
        if "maskImage" in holder:
            masks += _addresses(f"{prefix}maskImage", [holder["maskImage"]])
    if masks and not found:
        message = "Missing required parameter 'seedImage': a mask needs the picture that it belongs to."
        raise Refused(400, message, code="missingParameter", param="seedImage")
    return found + masks


def _addresses(param: str, values: object) -> list[tuple[str, str]]:
    """Addresses, data, or objects that hold one (frames). Raises Refused for anything else."""
    found = []
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, dict):
            value = value.get("image") or value.get("inputImage")
        if not isinstance(value, str):
            message = f"Invalid value for '{param}' parameter. It must be an address, a data URI or base64."
            raise Refused(400, message, code="invalidImage", param=param)
        found.append((param, value))
    return found


async def read_source(task: Task) -> tuple[bytes | None, tuple[int, int] | None]:
    """A thumbnail and the size of the first picture of a task; all of them have to be pictures."""
    first: bytes | None = None
    size: tuple[int, int] | None = None
    for place, (param, address) in enumerate(inputs_of(task)):
        try:
            thumbnail = await read_thumbnail(address, param=param)
            if place == 0:
                first, size = thumbnail, await read_size(address, param=param)
        except Refused as refused:
            message = f"Invalid value for '{param}' parameter. {refused.message}"
            raise Refused(400, message, code="invalidImage", param=param) from refused
    return first, size


# ---------------------------------------------------------------- pictures


async def draw_pictures(ask: Ask, task: Task, prompt: str) -> list[Picture]:
    """The recipes of an imageInference. Raises Refused for a size that is too large to be drawn."""
    source, size = await read_source(task)
    width, height = (task["width"], task["height"]) if "width" in task else size or (1024, 1024)
    if width * height > ask.stage.options.max_picture_pixels:
        message = f"Invalid value for 'width' parameter. {width}x{height} is too large."
        raise Refused(400, message, code="invalidWidth", param="width")
    seed = task.get("seed", ask.stage.rng.getrandbits(31))
    return [
        Picture(
            prompt=prompt,
            width=width,
            height=height,
            seed=seed + number,
            format=PICTURE_FORMATS[task.get("outputFormat", "JPG")],
            note=f"{task['model']} {width}x{height}",
            source=source,
        )
        for number in range(task.get("numberResults", 1))
    ]


async def picture_result(ask: Ask, task: Task, recipe: Picture) -> dict[str, Any]:
    """One result: a link (by default), base64 or a data URI."""
    result: dict[str, Any] = {"taskType": task["taskType"], "taskUUID": task["taskUUID"]}
    result |= {"imageUUID": new_uuid(ask), "seed": recipe.seed, "NSFWContent": False}
    if task.get("outputType", "URL") == "URL":
        lifetime_s = task.get("ttl", ask.stage.options.image_link_lifetime_s)
        result["imageURL"] = shelve(ask, result["imageUUID"], recipe, folder="image", lifetime_s=lifetime_s)
    else:
        data = await ask.stage.studio.render(recipe)
        encoded = base64.b64encode(pad(data, recipe.media_type, ask.directives.huge).whole()).decode()
        if task["outputType"] == "dataURI":
            result["imageDataURI"] = f"data:{recipe.media_type};base64,{encoded}"
        else:
            result["imageBase64Data"] = encoded
    megapixels = recipe.width * recipe.height / 1024**2
    return result | cost_of(ask, task, PICTURE_COST_USD * megapixels)


# ---------------------------------------------------------------- clips


async def draw_movies(ask: Ask, task: Task, prompt: str) -> Sequence[Movie]:
    """The recipes of a videoInference. QuickTime is not made here."""
    form = MOVIE_FORMATS.get(task.get("outputFormat", "MP4"))
    if form is None:
        message = "Invalid value for 'outputFormat' parameter. The sandbox makes MP4 and WEBM."
        raise Refused(400, message, code="unsupportedOutputFormat", param="outputFormat")
    seconds = task.get("duration", 5)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= 60:
        message = "Invalid value for 'duration' parameter. It must be a number of seconds."
        raise Refused(400, message, code="invalidDuration", param="duration")
    source, size = await read_source(task)
    width, height = (task["width"], task["height"]) if "width" in task else size or (1280, 720)
    options = ask.stage.options
    return [
        Movie(
            prompt=prompt,
            width=width,
            height=height,
            seconds=float(seconds),
            fps=task.get("fps", 24),
            seed=task.get("seed", 0) + number,
            format=form,
            note=task["model"],
            source=source,
            max_frames=options.max_movie_frames,
            max_pixels=options.max_movie_pixels,
        )
        for number in range(task.get("numberResults", 1))
    ]


def movie_result(ask: Ask, task: Task, recipe: Movie) -> dict[str, Any]:
    result: dict[str, Any] = {"taskType": task["taskType"], "taskUUID": task["taskUUID"]}
    result |= {"videoUUID": new_uuid(ask), "seed": recipe.seed, "NSFWContent": False}
    lifetime_s = task.get("ttl", ask.stage.options.video_link_lifetime_s)
    result["videoURL"] = shelve(ask, result["videoUUID"], recipe, folder="video", lifetime_s=lifetime_s)
    return result | cost_of(ask, task, SECOND_COST_USD * recipe.seconds)


# ---------------------------------------------------------------- for both


def new_uuid(ask: Ask) -> str:
    digits = ask.stage.new_id(32, "0123456789abcdef")
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def shelve(ask: Ask, file_id: str, recipe: Picture | Movie, *, folder: str, lifetime_s: float) -> str:
    """Put the file where its link finds it; the link."""
    expires_at = ask.stage.clock() + lifetime_s
    ask.stage.shelf.put(file_id, ShelvedFile(recipe=recipe, expires_at=expires_at, huge=ask.directives.huge))
    return f"{ask.origin}/runware/{folder}/ws/0.5/{folder[0]}i/{file_id}.{recipe.extension}"


def cost_of(ask: Ask, task: Task, usd: float) -> dict[str, float]:
    """The cost, which is told only to who asks for it."""
    return {"cost": round(usd, 6)} if task.get("includeCost") and not ask.directives.no_usage else {}
