"""From a request to the pipeline: what every endpoint that makes a call has in common."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.context import Caller
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.endpoints.openai_fields import Fields
from bitmesh_proxy.errors import InternalError
from bitmesh_proxy.idempotency import check_key, fingerprint_of
from bitmesh_proxy.pipeline import Incoming
from bitmesh_proxy.upstream.reply import Reply
from bitmesh_proxy.web.call_bodies import FileKind, digest_of, read_call_body
from bitmesh_proxy.web.replies import HttpReply
from bitmesh_proxy.web.route import HttpHandler


def caller_of(request: web.Request) -> Caller:
    """The authenticated caller of a route that needs one."""
    caller = request[keys.STATE].caller
    if caller is None:
        raise InternalError("a route that needs a caller is declared public")
    return caller


def query_of(request: web.Request) -> Mapping[str, str]:
    """The query. Of a name that stands there several times the last value: a signature may cover that one alone."""
    return dict(request.query.items())


def call_handler(endpoint: Endpoint, *, fields: Fields | None = None, files: FileKind = "image") -> HttpHandler:
    """A handler that takes a JSON body through the pipeline; with ``fields`` a form too (see ``call_bodies``)."""

    async def handle(request: web.Request) -> web.StreamResponse:
        reply = HttpReply(request)
        await serve_call(request, endpoint, reply, fields=fields, files=files)
        if reply.response is None:
            raise InternalError("the pipeline returned without an answer")
        return reply.response

    handle.__name__ = f"handle_{endpoint.name}"
    return handle


async def serve_call(
    request: web.Request,
    endpoint: Endpoint,
    reply: Reply,
    *,
    fields: Fields | None = None,
    files: FileKind = "image",
    body: JsonObject | None = None,
) -> None:
    """Read the request's body, unless it was read already, and take it through the pipeline to ``reply``.

    Raises as ``Pipeline.serve``.
    """
    caller = caller_of(request)
    idempotency_key = check_key(request.headers.getall("Idempotency-Key", ()))
    if body is None:
        body = await read_call_body(request, fields=fields, files=files)
    fingerprint = b""
    if idempotency_key is not None:
        fingerprint = fingerprint_of(request.method, request.path, await digest_of(request))
    incoming = Incoming(
        context=request[keys.STATE].context,
        caller=caller,
        body=body,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
    )
    await request.app[keys.PIPELINE].serve(incoming, endpoint, reply)
