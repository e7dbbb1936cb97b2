"""The table of all routes, and their registration, cross-origin rules included."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from bitmesh_proxy.web import bitmesh, credits, models, openai, openai_videos, probes, public_media
from bitmesh_proxy.web.cross_origin import allow_origins
from bitmesh_proxy.web.responses import routes as responses
from bitmesh_proxy.web.route import PLAIN_CALLS_KEY, ROUTES_KEY, Route


def all_routes() -> list[Route]:
    """Every route of the service."""
    return [
        *probes.routes(),
        *bitmesh.routes(),
        *public_media.routes(),
        *models.routes(),
        *credits.routes(),
        *openai.routes(),
        *responses.routes(),
        *openai_videos.routes(),
    ]


def add_routes(app: web.Application, *, cors_origins: Sequence[str]) -> None:
    """Register everything once, at start."""
    allow = allow_origins(app, cors_origins)
    table = app[ROUTES_KEY] = {}
    plain_calls = app[PLAIN_CALLS_KEY] = {}
    for route in all_routes():
        table[route.handler] = route
        if route.plain_call is not None:
            plain_calls[route.path] = route
        allow(app.router.add_route(route.method, route.path, route.handler))
