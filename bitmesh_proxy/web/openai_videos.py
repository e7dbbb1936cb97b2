"""``/v1/videos``: clips as OpenAI's clients make them, look at them, fetch and delete them; and
``/v1/openai/videos/generations``, which answers when the clip is done.
"""

from __future__ import annotations

import orjson
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.calls import JobStatus
from bitmesh_proxy.context import Surface
from bitmesh_proxy.endpoints import openai_videos
from bitmesh_proxy.endpoints.endpoint import JobView
from bitmesh_proxy.errors import InvalidRequest, NotFound, ProviderRefused, UnsupportedParameter, UpstreamTimeout
from bitmesh_proxy.media.fetch_errors import FetchError, as_gateway_error
from bitmesh_proxy.media.handlers import answer_result
from bitmesh_proxy.money import ZERO, format_usd
from bitmesh_proxy.storage.jobs import Job
from bitmesh_proxy.storage.ledger import LedgerRow, LedgerStore
from bitmesh_proxy.web.held_open import WholeReply, answer_held_open
from bitmesh_proxy.web.replies import json_answer
from bitmesh_proxy.web.route import OPENAI_PREFIXES, HttpHandler, Route
from bitmesh_proxy.web.serve_call import call_handler, caller_of, query_of, serve_call

DEFAULT_PAGE = 20
MAX_PAGE = 100


async def handle_retrieve(request: web.Request) -> web.StreamResponse:
    """How a clip is doing."""
    jobs = request.app[keys.JOBS]
    return json_answer(openai_videos.render_video(await _view(request, await jobs.refresh(await _job(request)))))


async def handle_list(request: web.Request) -> web.StreamResponse:
    """The account's clips, the newest first; ``after``, ``limit`` and ``order`` as OpenAI has them."""
    query = query_of(request)
    limit, order = _limit(query.get("limit")), query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("Invalid 'order': expected 'asc' or 'desc'.", param="order")
    found = await request.app[keys.JOBS].page(
        caller_of(request).account_id,
        after=query.get("after") or None,
        limit=limit + 1,
        newest_first=order == "desc",
    )
    views = [await _view(request, job) for job in found[:limit]]
    return json_answer(openai_videos.render_list(views, has_more=len(found) > limit))


async def handle_delete(request: web.Request) -> web.StreamResponse:
    """Forget a clip that is done: the job and the link to its bytes. The ledger keeps its row."""
    job = await _job(request)
    await request.app[keys.JOBS].delete(job)
    return json_answer(openai_videos.render_deleted(job.provider_job_id))


async def handle_content(request: web.Request) -> web.StreamResponse:
    """The clip's bytes, also in part; to HEAD only what they would come with."""
    variant = query_of(request).get("variant", "video")
    if variant not in ("video", "thumbnail", "spritesheet"):
        raise InvalidRequest("Invalid 'variant': expected 'video'.", param="variant")
    if variant != "video":
        raise UnsupportedParameter(f"Providers give no {variant} here.", param="variant")
    jobs = request.app[keys.JOBS]
    job = await jobs.refresh(await _job(request))
    view = await _view(request, job)
    if job.status is not JobStatus.COMPLETED or not view.urls:
        raise NotFound(f"The video has no content: its status is '{job.status}'.")
    try:
        return await answer_result(
            request,
            request.app[keys.MEDIA],
            view.urls[0].rpartition("/")[2],
            stall_timeout_s=request.app[keys.SETTINGS].media.stall_timeout_s,
        )
    except FetchError as exc:
        raise as_gateway_error(exc) from exc


async def handle_remix(request: web.Request) -> web.StreamResponse:
    """No provider here makes a clip anew from another one's id."""
    await _job(request)
    raise UnsupportedParameter("Videos cannot be remixed here; create a new one from its prompt.", param="id")


async def handle_generation(request: web.Request) -> web.StreamResponse:
    """Make a clip and answer with it, in the older gateway's shape."""
    as_ok = request.app[keys.SETTINGS].answers.legacy_errors_as_ok
    return await answer_held_open(request, _generate(request), errors_as_ok=as_ok)


async def _generate(request: web.Request) -> WholeReply:
    submitted = WholeReply()
    await serve_call(request, openai_videos.VIDEOS, submitted, fields=openai_videos.FIELDS)
    jobs, longest_s = request.app[keys.JOBS], request.app[keys.SETTINGS].answers.max_held_s
    job = await jobs.get(caller_of(request).account_id, orjson.loads(submitted.body)["id"])
    job = await jobs.wait(job, timeout_s=longest_s)
    view = await _view(request, job)
    if not job.status.is_final:
        raise UpstreamTimeout(f"The video is still being made; ask for it at /v1/videos/{job.provider_job_id}.")
    if job.status is not JobStatus.COMPLETED:
        message = view.state.error_message or "The provider could not make this video."
        raise ProviderRefused(message, status=502, provider_code=view.state.error_code)
    row = await LedgerStore(request.app[keys.DATABASE]).request(job.request_id)
    charge = ZERO if row is None else row.charge_nano_usd
    body = orjson.dumps(openai_videos.render_finished(view, charge_nano_usd=charge))
    return WholeReply(headers={**submitted.headers, **_cost_headers(row)}, body=body)


def _cost_headers(row: LedgerRow | None) -> dict[str, str]:
    if row is None or row.basis is None:
        return {}
    return {"X-Bitmesh-Cost": format_usd(row.charge_nano_usd), "X-Bitmesh-Request-Cost-Basis": row.basis.value}


async def _job(request: web.Request) -> Job:
    """The caller's job; another account's is not found."""
    return await request.app[keys.JOBS].get(caller_of(request).account_id, request.match_info["id"])


async def _view(request: web.Request, job: Job) -> JobView:
    base_url = request[keys.STATE].context.public_base_url
    return await request.app[keys.JOBS].view(job, public_base_url=base_url)


def _limit(value: str | None) -> int:
    if not value:
        return DEFAULT_PAGE
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= MAX_PAGE:
        raise InvalidRequest(f"Invalid 'limit': expected an integer from 1 to {MAX_PAGE}.", param="limit")
    return int(value)


def routes() -> list[Route]:
    """All of them. A provider's id of a job may hold slashes."""
    table: list[tuple[str, str, HttpHandler, str]] = [
        ("POST", "/videos/generations", handle_generation, "video"),
        ("POST", "/videos", call_handler(openai_videos.VIDEOS, fields=openai_videos.FIELDS), "video"),
        ("GET", "/videos", handle_list, "video_list"),
        ("POST", "/videos/{id:.+}/remix", handle_remix, "video_remix"),
        ("GET", "/videos/{id:.+}/content", handle_content, "video_content"),
        ("HEAD", "/videos/{id:.+}/content", handle_content, "video_content"),
        ("GET", "/videos/{id:.+}", handle_retrieve, "video_status"),
        ("DELETE", "/videos/{id:.+}", handle_delete, "video_delete"),
    ]
    return [
        Route(method=method, path=prefix + path, handler=handler, name=name, surface=Surface.OPENAI)
        for method, path, handler, name in table
        for prefix in OPENAI_PREFIXES
    ]
