"""The table of all routes, and their registration, cross-origin rules included."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp_cors
from aiohttp import web

from bitmesh_proxy.web import bitmesh, credits, models, openai, openai_videos, probes, public_media
from bitmesh_proxy.web.responses import routes as responses
from bitmesh_proxy.web.route import PLAIN_CALLS_KEY, ROUTES_KEY, Route

#: Preflight answers may be kept for so long.
CORS_MAX_AGE_S = 600
EXPOSED_HEADERS = (
    "X-Request-Id",
    "X-Bitmesh-Cost",
    "X-Bitmesh-Provider",
    "X-Bitmesh-Request-Cost-Basis",
    "X-Bitmesh-Sandbox",
    "Retry-After",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
)


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
    cors = aiohttp_cors.setup(
        app,
        defaults={
            origin: aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]  # its package is not typed
                allow_credentials=False,  # keys travel in headers, never in cookies
                allow_headers="*",
                expose_headers=EXPOSED_HEADERS,
                max_age=CORS_MAX_AGE_S,
            )
            for origin in cors_origins
        },
    )
    table = app[ROUTES_KEY] = {}
    plain_calls = app[PLAIN_CALLS_KEY] = {}
    for route in all_routes():
        table[route.handler] = route
        if route.plain_call is not None:
            plain_calls[route.path] = route
        added = app.router.add_route(route.method, route.path, route.handler)
        if cors_origins:
            cors.add(added)
