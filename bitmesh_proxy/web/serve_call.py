"""From a request to the pipeline: what every endpoint that makes a call has in common."""

from __future__ import annotations

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.context import Caller
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.errors import InternalError
from bitmesh_proxy.idempotency import check_key, fingerprint_of
from bitmesh_proxy.pipeline import Incoming
from bitmesh_proxy.web.received import receive
from bitmesh_proxy.web.replies import HttpReply
from bitmesh_proxy.web.route import HttpHandler


def caller_of(request: web.Request) -> Caller:
    """The authenticated caller of a route that needs one."""
    caller = request[keys.STATE].caller
    if caller is None:
        raise InternalError("a route that needs a caller is declared public")
    return caller


def call_handler(endpoint: Endpoint) -> HttpHandler:
    """A handler that takes a JSON body through the pipeline."""

    async def handle(request: web.Request) -> web.StreamResponse:
        state = request[keys.STATE]
        caller = caller_of(request)
        idempotency_key = check_key(request.headers.get("Idempotency-Key"))
        if state.received is None:
            state.received = await receive(request, request.app[keys.SETTINGS].http)
        received = state.received
        body = await received.json_object(request.app[keys.SETTINGS].http.max_json_depth)
        reply = HttpReply(request)
        await request.app[keys.PIPELINE].serve(
            Incoming(
                context=state.context,
                caller=caller,
                body=body,
                idempotency_key=idempotency_key,
                fingerprint=fingerprint_of(request.method, request.path, received.raw) if idempotency_key else b"",
            ),
            endpoint,
            reply,
        )
        if reply.response is None:
            raise InternalError("the pipeline returned without an answer")
        return reply.response

    handle.__name__ = f"handle_{endpoint.name}"
    return handle
