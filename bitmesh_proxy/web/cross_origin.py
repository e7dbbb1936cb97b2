"""What pages of other origins are told. ``aiohttp_cors`` answers for the routes it knows; here is what it leaves out:

- places and methods that there are not: a page whose question about them is not answered, or whose refusal has none of
  these headers, sees a failure of the network in place of the error;
- ``OPTIONS`` that is no browser's question before a request (RFC 9110, 9.3.7): what a place can do;
- ``Vary``: answers name the origin that asked, so that a cache must not give one page's answer to another's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import aiohttp_cors
from aiohttp import hdrs, web

#: Preflight answers may be kept for so long.
CORS_MAX_AGE_S: Final = 600
EXPOSED_HEADERS: Final = (
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

_KEPT_BY_CACHES: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})
_ORIGINS_KEY: Final = web.AppKey("cors_origins", frozenset[str])


def allow_origins(app: web.Application, origins: Sequence[str]) -> Callable[[web.AbstractRoute], object]:
    """Once, at start. Gives what each route is to be handed to."""
    app[_ORIGINS_KEY] = frozenset(origins)
    if not origins:
        return lambda route: route
    cors = aiohttp_cors.setup(
        app,
        defaults={
            origin: aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]  # its package is not typed
                allow_credentials=False,  # keys travel in headers, never in cookies
                allow_headers="*",
                expose_headers=EXPOSED_HEADERS,
                max_age=CORS_MAX_AGE_S,
            )
            for origin in origins
        },
    )
    app.on_response_prepare.append(_complete_headers)  # behind those of aiohttp_cors, which must come first
    add: Callable[[web.AbstractRoute], object] = cors.add
    return add


def answer_options(request: web.Request) -> web.Response | None:
    """The answer to an ``OPTIONS`` that was refused; None if the refusal stands."""
    if request.method != hdrs.METH_OPTIONS or not request.app[_ORIGINS_KEY]:
        return None
    method = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
    if hdrs.ORIGIN in request.headers and method is not None:
        return _preflight(request, method) if _is_allowed(request) else None
    resource = None if request.match_info.http_exception is not None else request.match_info.route.resource
    if resource is None:
        return None
    return web.Response(status=204, headers={hdrs.ALLOW: ",".join(sorted({route.method for route in resource}))})


def _preflight(request: web.Request, method: str) -> web.Response:
    """Let the page ask: what comes says what is wrong."""
    headers = {hdrs.ACCESS_CONTROL_MAX_AGE: str(CORS_MAX_AGE_S), hdrs.ACCESS_CONTROL_ALLOW_METHODS: method}
    if names := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = names
    return web.Response(headers=headers)


async def _complete_headers(request: web.Request, response: web.StreamResponse) -> None:
    if request.method in _KEPT_BY_CACHES:
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    if hdrs.ACCESS_CONTROL_ALLOW_ORIGIN not in response.headers and _is_allowed(request):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ",".join(EXPOSED_HEADERS)


def _is_allowed(request: web.Request) -> bool:
    origin, origins = request.headers.get(hdrs.ORIGIN), request.app[_ORIGINS_KEY]
    return origin is not None and ("*" in origins or origin in origins)
