"""What happens to every request on its way in, in this order (the first is the outermost):

    request_state → access_line → render_errors → limit_address → authenticate → limit_key → the handler

Each is short and does one thing. Routes say for themselves who may call them (``Route.access``); a route that says
nothing needs a key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from bitmesh_proxy import keys
from bitmesh_proxy.context import Caller, RequestContext, Surface
from bitmesh_proxy.errors import (
    BodyTooLarge,
    CallerLeft,
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
    RateLimited,
    Unavailable,
    forget_way,
)
from bitmesh_proxy.limits.headers import rate_limit_headers
from bitmesh_proxy.logs import ACCESS, cause_of
from bitmesh_proxy.web.cross_origin import answer_options
from bitmesh_proxy.web.error_formats import render_error
from bitmesh_proxy.web.forwarded import public_base_url
from bitmesh_proxy.web.replies import SERVER
from bitmesh_proxy.web.request_ids import make_request_id
from bitmesh_proxy.web.route import Access, route_of

log = logging.getLogger(__name__)

#: How many requests of a key may look after its running calls at once (``Route.is_call``).
MAX_LOOKS: Final = 64


@web.middleware
async def request_state(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Names the request and finds out where it comes from."""
    address, scheme, host = request.app[keys.FORWARDED].resolve(
        peer_of(request), request.headers, scheme=request.scheme, host=request.headers.get("Host", "")
    )
    public_url = request.app[keys.SETTINGS].http.public_url
    request[keys.STATE] = keys.RequestState(
        context=RequestContext(
            request_id=make_request_id(),
            address=address,
            public_base_url=public_url or public_base_url(scheme, host),
            received_at_s=time.time(),
            started_s=time.monotonic(),
            surface=route_of(request).surface,
        )
    )
    try:
        return await handler(request)
    finally:
        state = request[keys.STATE]
        if state.received is not None:
            state.received.let_go()
        state.received = None  # aiohttp holds on to the request until there comes another


@web.middleware
async def access_line(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line and one count a request when it is over. A caller who left is 499, an outcome and no error; what we
    broke off ourselves is 503, as in the ledger."""
    status = 499
    metrics = request.app[keys.METRICS]
    metrics.under_way += 1
    try:
        response = await handler(request)
        status = response.status
        return response
    except asyncio.CancelledError:
        begun = request[keys.STATE].response
        if begun is not None and begun.body_length:  # all of it had been sent; only what comes after was cut short
            status = begun.status
        elif request.app[keys.CUTTING].is_set():
            status = Unavailable.status
        raise
    finally:
        metrics.under_way -= 1
        duration_ms = round((time.monotonic() - request[keys.STATE].context.started_s) * 1000)
        metrics.note_request(route_of(request).name, status, duration_ms=duration_ms)
        if not ACCESS.disabled:
            state = request[keys.STATE]
            log_access(
                state.context,
                state.caller,
                method=request.method,
                path=request.path,
                status=status,
                code=state.error_code,
                duration_ms=duration_ms,
            )


@web.middleware
async def render_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors in the caller's dialect, as long as the answer has not begun; afterwards the connection is cut."""
    try:
        return await handler(request)
    except CallerLeft:
        if request.transport is not None:  # who takes nothing has not left, but is not waited for any more
            request.transport.abort()
        raise asyncio.CancelledError from None
    except GatewayError as exc:
        error: GatewayError = exc
    except web.HTTPException as exc:
        if (told := answer_options(request)) is not None:
            return told
        error = _from_aiohttp(exc)
    except Exception as exc:
        if isinstance(exc, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            raise asyncio.CancelledError from None  # who left before the answer's head: nobody has been told yet
        log.exception("a request failed", extra={"request_id": request[keys.STATE].context.request_id})
        error = InternalError("Internal server error")
    state = request[keys.STATE]
    state.error_code = error.code
    if error.__cause__ is not None:
        log.info("%s: %s", error.code, cause_of(error), extra={"request_id": state.context.request_id})
    forget_way(error)
    if state.response is not None:
        # Another head now would be written into the open body: cut, so that nobody takes it for whole.
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError
    rendered = render_error(error, await _surface_of(request, error), state.context.request_id)
    return web.Response(status=rendered.status, headers=rendered.headers, body=rendered.body)


async def _surface_of(request: web.Request, error: GatewayError) -> Surface:
    """The caller's dialect; where the body decides it, and was not read before the refusal, what it begins with."""
    surface = request[keys.STATE].context.surface
    if not isinstance(error, RateLimited | Unavailable | InternalError):  # all others are called the same in each
        return surface
    route = route_of(request)
    if route.surface_of_unread is None or surface is not route.surface:
        return surface
    return await route.surface_of_unread(request)


@web.middleware
async def limit_address(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The bucket of the caller's address, before anything that costs more."""
    if route_of(request).access is not Access.PROBE:
        state = request[keys.STATE]
        state.snapshots.append(request.app[keys.ADDRESS_LIMIT].admit(state.context.address))
    return await handler(request)


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who calls. Routes that are public skip this."""
    if route_of(request).access is not Access.KEY:
        return await handler(request)
    state = request[keys.STATE]
    state.caller, state.received = await request.app[keys.AUTHENTICATOR].authenticate(request, state.context)
    try:
        return await handler(request)
    finally:
        if state.received is not None:
            await state.received.close()


@web.middleware
async def limit_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The buckets of the key, of the key at this endpoint, and the number of calls it has under way."""
    state = request[keys.STATE]
    if state.caller is None:
        return await handler(request)
    app, caller, route = request.app, state.caller, route_of(request)
    state.snapshots = [
        app[keys.KEY_LIMIT].admit(caller.key_id, rate_per_minute=caller.rate_per_minute),
        app[keys.ENDPOINT_LIMIT].admit(caller.key_id, route.name),
    ]
    slots = app[keys.CONCURRENCY_LIMIT]
    if not route.is_call:
        with slots.enter(f"{caller.key_id} looks", MAX_LOOKS):
            return await handler(request)
    with slots.enter(caller.key_id, caller.max_concurrent) as state.slot:
        return await handler(request)


#: The first is the outermost.
MIDDLEWARES = (request_state, access_line, render_errors, limit_address, authenticate, limit_key)


async def add_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer names its request and who answers; limited ones say how much is left."""
    response.headers["Server"] = SERVER  # in place of aiohttp's
    state = request.get(keys.STATE)
    if state is None:
        return
    state.response = response
    response.headers["X-Request-Id"] = state.context.request_id
    for name, value in rate_limit_headers(state.snapshots).items():
        response.headers.setdefault(name, value)  # a refusal brings the headers of the limit that refused


def peer_of(request: web.Request) -> str | None:
    """The address of the other end of the connection; ``""`` for a unix socket, None when it has gone."""
    if request.transport is None:
        return None
    peer = request.transport.get_extra_info("peername")
    return peer[0] if isinstance(peer, tuple) else ""


def _from_aiohttp(exc: web.HTTPException) -> GatewayError:
    if exc.status == 404:
        return NotFound("Not found")
    if isinstance(exc, web.HTTPMethodNotAllowed):
        return MethodNotAllowed("Method not allowed", headers={"Allow": ",".join(sorted(exc.allowed_methods))})
    if exc.status == 413:
        return BodyTooLarge("The request body is too large.")
    if exc.status == 403:  # a browser's question before a request; the text says what is wrong with it
        return PermissionDenied(exc.text or exc.reason)
    if 400 <= exc.status < 500:
        return InvalidRequest(exc.reason)
    return InternalError("Internal server error")


def log_access(
    context: RequestContext,
    caller: Caller | None,
    *,
    method: str,
    path: str,
    status: int,
    code: str | None,
    duration_ms: int,
) -> None:
    """The one line that a request leaves in the log. Neither its query nor its body are in it."""
    ACCESS.info(
        "%s %s %d",
        method,
        path,
        status,
        extra={
            "request_id": context.request_id,
            "address": context.address,
            "key_id": caller.key_id if caller else None,
            "code": code,
            "duration_ms": duration_ms,
        },
    )
