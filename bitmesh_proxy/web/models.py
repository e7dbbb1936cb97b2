"""``GET /v1/models`` and ``/v1/models/{id}``, for everybody."""

from __future__ import annotations

import orjson
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.context import Surface
from bitmesh_proxy.endpoints.models import parse_query
from bitmesh_proxy.web.route import Access, Route


async def handle_models(request: web.Request) -> web.StreamResponse:
    """The list; its parameters are in ``endpoints.models``."""
    query = parse_query([(name, value) for name, value in request.query.items()])
    return _json(request.app[keys.MODELS].select(query))


async def handle_model(request: web.Request) -> web.StreamResponse:
    """One model, by id or alias; slashes in it may be raw or escaped."""
    return _json(request.app[keys.MODELS].get(request.match_info["id"]))


def routes() -> list[Route]:
    """Both, under every prefix that clients are configured with."""
    return [
        Route(
            method="GET",
            path=prefix + path,
            handler=handler,
            name="models",
            surface=Surface.OPENAI,
            access=Access.PUBLIC,
        )
        for prefix in ("/v1", "/v1/openai")
        for path, handler in (("/models", handle_models), ("/models/{id:.+}", handle_model))
    ]


def _json(body: object) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")
