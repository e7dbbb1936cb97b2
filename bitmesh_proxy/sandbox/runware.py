"""Runware: ``/runware/v1``, one address for tasks in an array.

Each task is checked and done by itself, so that results and errors may stand in one answer with status 200; when
nothing was done at all, it is 400. Work that is ``async`` is acknowledged and asked for with ``getResponse``; clips are
made in no other way. A task's own markers make that task fail when there are several; with one task they count for the
whole request. Source: the task types of Runware's Python SDK 1.8.0 and its documentation, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox.faults import Directives, UnknownDirective, read_markers
from bitmesh_proxy.sandbox.files import serve_shelved
from bitmesh_proxy.sandbox.jobs import Job, JobPhase
from bitmesh_proxy.sandbox.plays import Ask, Json, Play, Refused, Route, bearer
from bitmesh_proxy.sandbox.replies import send_json
from bitmesh_proxy.sandbox.runware_tasks import (
    OWNER,
    Task,
    check,
    draw_movies,
    draw_pictures,
    movie_result,
    picture_result,
    refuse_moderated,
    refuse_violation,
)
from bitmesh_proxy.sandbox.stage import Stage

DOCUMENTATION = "https://runware.ai/docs/en/getting-started/introduction"
#: The error's code where nobody said another.
CODES: Mapping[int, str] = {
    401: "invalidApiKey",
    402: "insufficientCredits",
    403: "forbidden",
    413: "requestTooLarge",
    429: "rateLimitExceeded",
    503: "serviceUnavailable",
    504: "timeoutProvider",
}

Results = list[dict[str, Any]]


def render_refusal(refused: Refused) -> Json:
    return {"errors": [error_of(refused)]}


def error_of(refused: Refused, task: Task | None = None) -> dict[str, Any]:
    """An entry of ``errors``, with the task that it belongs to."""
    code = refused.code or CODES.get(refused.status)
    if code is None:
        code = "invalidRequest" if refused.status < 500 else "internalServerError"
    error = {"code": code, "message": refused.message, "documentation": DOCUMENTATION}
    if refused.param is not None:
        error |= {"parameter": refused.param, "type": "string"}
    if task is not None:
        error |= {"taskUUID": task["taskUUID"], "taskType": task["taskType"]}
    return error


def only_prompt(body: Json) -> str:
    """The prompt of the task, if it is the only one: of several, each has its own markers."""
    return _prompt(body[0]) if len(body) == 1 and isinstance(body[0], dict) else ""


def _prompt(task: Task) -> str:
    prompt = task.get("positivePrompt")
    return prompt if isinstance(prompt, str) else ""


# ---------------------------------------------------------------- tasks


async def run(ask: Ask) -> web.StreamResponse:
    data: Results = []
    errors: Results = []
    for task in ask.body:
        try:
            data += await _do(ask, task)
        except Refused as refused:
            errors.append(error_of(refused, task))
    body: dict[str, Any] = {"data": data} if data or not errors else {}
    if errors:
        body["errors"] = errors
    return await send_json(ask, body, status=200 if "data" in body else 400)


async def _do(ask: Ask, task: Task) -> Results:
    if task["taskType"] == "getResponse":
        return _response(ask, str(task["taskUUID"]))
    check(task, is_strict=ask.stage.options.is_strict)
    directives, prompt = _marked(ask, task)
    manner = task.get("deliveryMethod", "sync" if task["taskType"] == "imageInference" else "async")
    if manner == "async":
        return await _begin(ask, task, prompt, directives)
    if manner != "sync" or task["taskType"] == "videoInference":
        message = f"Invalid value for 'deliveryMethod' parameter: {manner} is not supported for this task."
        raise Refused(400, message, code="unsupportedDeliveryMethod", param="deliveryMethod")
    return [await picture_result(ask, task, recipe) for recipe in await draw_pictures(ask, task, prompt)]


def _marked(ask: Ask, task: Task) -> tuple[Directives, str]:
    """The directives that count for a task, and its prompt without markers. Raises Refused if they refuse it."""
    if len(ask.body) == 1:
        return ask.directives, ask.prompt
    try:
        marked, prompt = read_markers(_prompt(task))
    except UnknownDirective as error:
        raise Refused(400, str(error), code="unknown_sandbox_directive") from error
    if marked.moderated:
        raise refuse_moderated()
    if marked.status is not None:
        raise Refused(marked.status, f"The sandbox was told to refuse this task ({marked.status}).", code=marked.code)
    return ask.directives.over(marked), prompt


async def _begin(ask: Ask, task: Task, prompt: str, directives: Directives) -> Results:
    """Take the work on; the acknowledgement is the task's name and no more."""
    stage, task_id = ask.stage, str(task["taskUUID"])
    if stage.jobs.find(OWNER, task_id) is not None:
        raise Refused(400, f"The taskUUID {task_id} is in use already.", code="conflictTaskUUID", param="taskUUID")
    if task["taskType"] == "videoInference":
        movies = await draw_movies(ask, task, prompt)
        results = [movie_result(ask, task, movie) for movie in movies]
        first: Any = movies[0]
    else:
        pictures = await draw_pictures(ask, task, prompt)
        results = [await picture_result(ask, task, picture) for picture in pictures]
        first = pictures[0]
    job = Job(
        owner=OWNER,
        job_id=task_id,
        created_at=stage.clock(),
        duration_s=stage.options.job_duration_s if directives.job_s is None else directives.job_s,
        will_fail=directives.fail,
        recipe=first,
        facts={"results": results, "task_type": task["taskType"]},
    )
    stage.jobs.add(job)
    return [{"taskType": task["taskType"], "taskUUID": task_id}]


def _response(ask: Ask, task_id: str) -> Results:
    """The state of a task that was begun: ``processing``, its results with ``success``, or an ``error``."""
    job = ask.stage.jobs.find(OWNER, task_id)
    if job is None:
        raise Refused(400, f"No task with the taskUUID {task_id} was found.", code="taskNotFound", param="taskUUID")
    now = ask.stage.clock()
    head = {"taskType": job.facts["task_type"], "taskUUID": task_id}
    match job.phase(now):
        case JobPhase.DONE:
            results: Results = [{**result, "status": "success"} for result in job.facts["results"]]
            return results
        case JobPhase.FAILED:
            error = {"code": "providerError", "message": "The sandbox was told to let this task fail."}
            return [{**head, "status": "error", "error": error}]
        case _:
            return [{**head, "status": "processing", "progress": int(100 * job.progress(now))}]


def answer_headers(stage: Stage) -> Mapping[str, str]:
    return {"x-request-id": stage.new_id(32, "0123456789abcdef")}


FILES = ("/image/ws/0.5/ii/{id}.{extension}", "/video/ws/0.5/vi/{id}.{extension}")

PLAY = Play(
    name=OWNER,
    credential=bearer,
    missing_credential=lambda: Refused(401, "Missing API key.", code="missingApiKey", param="apiKey"),
    bad_credential=lambda key: Refused(401, "Invalid API key.", code="invalidApiKey", param="apiKey"),
    render_refusal=render_refusal,
    refuse_violation=refuse_violation,
    missing_model=lambda model: Refused(400, f"The model '{model}' was not found.", code="invalidModel"),
    moderated=refuse_moderated,
    answer_headers=answer_headers,
    routes=(
        Route(method="POST", path="/v1", handler=run, schema="tasks", prompt=only_prompt, is_list=True),
        *(
            Route(method=method, path=path, handler=serve_shelved, is_public=True)
            for path in FILES
            for method in ("GET", "HEAD")
        ),
    ),
)
