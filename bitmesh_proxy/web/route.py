"""A route: path, method, handler, and what the middlewares have to know about it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

import msgspec
from aiohttp import web

from bitmesh_proxy.context import Surface
from bitmesh_proxy.endpoints.endpoint import Endpoint

#: Where the older gateway had OpenAI's routes.
LEGACY_PREFIX: Final = "/v1/openai"
#: Where OpenAI's routes are.
OPENAI_PREFIXES: Final = ("/v1", LEGACY_PREFIX)

HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SurfaceOf = Callable[[web.Request], Awaitable[Surface]]


class Access(StrEnum):
    """Who may call a route."""

    #: An authenticated API key.
    KEY = "key"
    #: Anybody, within the limit of the address.
    PUBLIC = "public"
    #: Anybody, unlimited: health checks.
    PROBE = "probe"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` is what the endpoint is called in limits, metrics and the ledger.

    ``plain_call``: the handler does nothing but take a JSON body through the pipeline, for this endpoint; then the lane
    may do it in its place (``web/lane``).
    ``is_call``: it counts as one of the calls that its key has under way. What looks after a call that runs, or ends
    it, does not: a key with no place left needs it most.
    ``surface_of_unread``: where the body decides how errors look, how one looks that comes before the body is read.
    """

    method: str
    path: str
    handler: HttpHandler
    name: str
    surface: Surface
    access: Access = Access.KEY
    plain_call: Endpoint | None = None
    is_call: bool = True
    surface_of_unread: SurfaceOf | None = None


async def _nowhere(request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


def _nowhere_of(surface: Surface) -> Route:
    return Route(method="*", path="*", handler=_nowhere, name="unknown", surface=surface, access=Access.PUBLIC)


#: What a request that matches no route is taken for; under ``/v1`` by a caller who speaks OpenAI's dialect.
NOWHERE = _nowhere_of(Surface.BITMESH)
NOWHERE_IN_V1 = _nowhere_of(Surface.OPENAI)
#: Places under ``/v1`` that are twins of Bitmesh's.
_BITMESH_TWINS = re.compile(r"/v1/(?:test|chat|image|video(?:/.*)?|imgrslt(?:/.*)?|tools-result(?:/.*)?)/?")

ROUTES_KEY = web.AppKey("routes", dict[HttpHandler, Route])
#: Routes with a ``plain_call``, by their path; each takes POST.
PLAIN_CALLS_KEY = web.AppKey("plain_calls", dict[str, Route])


def route_of(request: web.Request) -> Route:
    """The route that a request was matched to; a stand-in for one that matched none."""
    route = request.app[ROUTES_KEY].get(request.match_info.handler)
    if route is not None:
        return route
    path = request.path
    return NOWHERE_IN_V1 if path.startswith("/v1/") and not _BITMESH_TWINS.fullmatch(path) else NOWHERE
