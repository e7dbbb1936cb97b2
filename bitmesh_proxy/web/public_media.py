"""``/imgrslt/{id}``: results for everybody who has their link."""

from __future__ import annotations

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.context import Surface
from bitmesh_proxy.media.handlers import make_handler
from bitmesh_proxy.web.route import Access, Route


async def handle_imgrslt(request: web.Request) -> web.StreamResponse:
    """The bytes behind an id that this service handed out."""
    stall_timeout_s = request.app[keys.SETTINGS].media.stall_timeout_s
    return await make_handler(request.app[keys.MEDIA], stall_timeout_s=stall_timeout_s)(request)


def routes() -> list[Route]:
    """The public media route, with its twin."""
    return [
        Route(
            method=method,
            path=prefix + "/imgrslt/{id}",
            handler=handle_imgrslt,
            name="imgrslt",
            surface=Surface.PUBLIC_MEDIA,
            access=Access.PUBLIC,
        )
        for prefix in ("", "/v1")
        for method in ("GET", "HEAD")
    ]
