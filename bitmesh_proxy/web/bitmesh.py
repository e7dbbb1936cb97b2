"""The Bitmesh routes, each with its ``/v1`` twin."""

from __future__ import annotations

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.context import Surface
from bitmesh_proxy.endpoints import bitmesh
from bitmesh_proxy.web.replies import json_answer
from bitmesh_proxy.web.route import Route
from bitmesh_proxy.web.serve_call import call_handler, caller_of


async def handle_test(request: web.Request) -> web.StreamResponse:
    """Says that authentication and limits let this caller through."""
    caller_of(request)
    return json_answer({"message": "you are the man"})


async def handle_video_status(request: web.Request) -> web.StreamResponse:
    """How a clip is doing, as its provider says; another account's job is not found."""
    state = request[keys.STATE]
    jobs = request.app[keys.JOBS]
    job = await jobs.get(caller_of(request).account_id, request.match_info["id"])
    view = await jobs.view(await jobs.refresh(job), public_base_url=state.context.public_base_url)
    return json_answer(bitmesh.render_job(view))


def routes() -> list[Route]:
    """All but those of the public media."""
    table = [
        ("GET", "/test", handle_test, "test", None),
        ("POST", "/chat", call_handler(bitmesh.CHAT), "chat", bitmesh.CHAT),
        ("POST", "/image", call_handler(bitmesh.IMAGE), "image", None),
        ("POST", "/video", call_handler(bitmesh.VIDEO), "video", None),
        # Google names its operations with slashes in them.
        ("GET", "/video/{id:.+}", handle_video_status, "video_status", None),
    ]
    return [
        Route(method=method, path=prefix + path, handler=handler, name=name, surface=Surface.BITMESH, plain_call=plain)
        for method, path, handler, name, plain in table
        for prefix in ("", "/v1")
    ]
