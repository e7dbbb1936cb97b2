"""``GET /v1/models`` and ``/v1/models/{id}``, for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.context import Surface
from bitmesh_proxy.endpoints.models import ModelList, parse_query
from bitmesh_proxy.web.replies import json_answer
from bitmesh_proxy.web.route import OPENAI_PREFIXES, Access, Route


class ListedModels:
    """The list, made in a thread when somebody first asks for it. With thousands of models it takes a third of a
    second, which nobody wants to wait for at the start, and no stream in between.
    """

    def __init__(self, make: Callable[[], ModelList]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._made: ModelList | None = None

    async def get(self) -> ModelList:
        """The same for everybody."""
        if self._made is None:
            async with self._lock:
                if self._made is None:
                    self._made = await asyncio.to_thread(self._make)
        return self._made


async def handle_models(request: web.Request) -> web.StreamResponse:
    """The list; its parameters are in ``endpoints.models``."""
    query = parse_query([(name, value) for name, value in request.query.items()])
    models = await request.app[keys.MODELS].get()
    return json_answer(models.select(query))


async def handle_model(request: web.Request) -> web.StreamResponse:
    """One model, by id or alias; slashes in it may be raw or escaped."""
    models = await request.app[keys.MODELS].get()
    return json_answer(models.get(request.match_info["id"]))


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
        for prefix in OPENAI_PREFIXES
        for path, handler in (("/models", handle_models), ("/models/{id:.+}", handle_model))
    ]
