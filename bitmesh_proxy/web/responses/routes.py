"""``/v1/responses`` over HTTP: create, look at, cancel, delete, list the input, count it, compact."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from aiohttp import web
from msgspec.structs import replace

from bitmesh_proxy import keys
from bitmesh_proxy.calls import ChatCall, JsonObject
from bitmesh_proxy.context import Caller, Surface
from bitmesh_proxy.endpoints.responses.framing import DONE
from bitmesh_proxy.endpoints.responses.request import Vocabulary, vocabulary_of
from bitmesh_proxy.errors import GatewayError, InternalError, InvalidRequest, NotFound
from bitmesh_proxy.idempotency import check_key, fingerprint_of
from bitmesh_proxy.pipeline import Incoming
from bitmesh_proxy.storage.responses import StoredResponse
from bitmesh_proxy.upstream.reply import STREAM_HEADERS
from bitmesh_proxy.web.call_bodies import digest_of
from bitmesh_proxy.web.replies import json_answer
from bitmesh_proxy.web.responses.bodies import read_request_body, surface_of_unread
from bitmesh_proxy.web.responses.replies import KEEP_ALIVE, MEDIA_GRACE_S, VERSION_HEADERS, HeldReply
from bitmesh_proxy.web.responses.service import Prepared, Responses
from bitmesh_proxy.web.responses.session import ResponseSession, Transport
from bitmesh_proxy.web.responses.websocket import handle_socket
from bitmesh_proxy.web.route import HttpHandler, Route
from bitmesh_proxy.web.serve_call import caller_of, query_of

MAX_LISTED = 100


async def handle_create(request: web.Request) -> web.StreamResponse:
    """Make a response: whole, streamed, or in the background."""
    caller, responses = caller_of(request), request.app[keys.RESPONSES]
    body = await read_request_body(request)
    _speak(request, body)
    prepared = await responses.prepare(body, caller, request[keys.STATE].context)
    incoming = await _incoming(request, caller, body)
    asked = prepared.request
    if asked.background:
        return await _in_background(request, responses, prepared, incoming)
    session = responses.session(
        prepared,
        caller=caller,
        context=incoming.context,
        transport=Transport.SSE if asked.stream else Transport.WHOLE,
    )
    return await _held(request, responses, session, incoming)


async def _held(
    request: web.Request, responses: Responses, session: ResponseSession, incoming: Incoming
) -> web.StreamResponse:
    answers = request.app[keys.SETTINGS].answers
    is_stream = session.request.stream
    is_chat_stream = is_stream and isinstance(session.call, ChatCall)
    reply = HeldReply(
        request,
        is_stream=is_stream,
        opens_after_s=None if is_chat_stream else MEDIA_GRACE_S if is_stream else answers.keep_alive_after_s,
        interval_s=answers.keep_alive_after_s if is_stream else answers.keep_alive_interval_s,
        begin=session.begin_frames,
    )
    async with reply:
        try:
            await responses.run(session, incoming, reply)
        except GatewayError as error:
            if not reply.is_open:
                raise
            # The head has gone out: the response itself has to say that it failed.
            request[keys.STATE].error_code = error.code
            await reply.send(200, {}, await session.fail(error))
    if reply.response is None:
        raise InternalError("the pipeline returned without an answer")
    return reply.response


async def _in_background(
    request: web.Request, responses: Responses, prepared: Prepared, incoming: Incoming
) -> web.StreamResponse:
    if incoming.idempotency_key is not None:
        raise InvalidRequest("A background response takes no Idempotency-Key.", param="Idempotency-Key")
    session = responses.session(prepared, caller=incoming.caller, context=incoming.context, transport=Transport.SSE)
    queued = session.response
    slot = request[keys.STATE].slot
    assert slot is not None, "the route is a call"
    events = await responses.background.start(session, incoming, slot)
    return await _followed(request, events.follow()) if prepared.request.stream else _json(queued)


async def _followed(request: web.Request, events: AsyncIterator[bytes]) -> web.StreamResponse:
    """Stream the events of a background response as they come. Who leaves, leaves it running."""
    interval_s = request.app[keys.SETTINGS].answers.keep_alive_after_s
    async with HeldReply(
        request, is_stream=True, opens_after_s=0.0, interval_s=interval_s, begin=lambda: KEEP_ALIVE
    ) as reply:
        await reply.start(200, STREAM_HEADERS)
        async for frames in events:
            await reply.write(frames)
        await reply.write(DONE)
        await reply.finish()
    assert reply.response is not None, "it was started"
    return reply.response


async def handle_get(request: web.Request) -> web.StreamResponse:
    """A stored response; with ``stream=true`` the events of one that runs in the background."""
    stored = await _stored(request)
    query = query_of(request)
    if query.get("stream") != "true":
        return _json(stored.body)
    after = _integer(query, "starting_after", -1, low=-1, high=2**31)
    events = await _events_of(request.app, stored, after=after) if stored.is_background else None
    if events is None:
        raise InvalidRequest("Only a background response that runs can be streamed.", param="stream")
    return await _followed(request, events)


async def _events_of(app: web.Application, stored: StoredResponse, *, after: int) -> AsyncIterator[bytes] | None:
    """What a background response has said behind a sequence number and will say, in whichever worker it is made."""
    here = app[keys.RESPONSES].background.log_of(stored.id)
    if here is not None:
        return here.follow(after=after)
    elsewhere = app.get(keys.ELSEWHERE)
    return None if elsewhere is None else await elsewhere.follow(stored.id, after=after)


async def handle_delete(request: web.Request) -> web.StreamResponse:
    """Forget a response. One under way goes on, and is forgotten at its end."""
    response_id = request.match_info["response_id"]
    if not await request.app[keys.RESPONSES].store.delete(caller_of(request).account_id, response_id):
        raise NotFound(f"No response with the id '{response_id[:64]}'.", param="response_id")
    return _json({"id": response_id, "object": "response.deleted", "deleted": True})


async def handle_cancel(request: web.Request) -> web.StreamResponse:
    """Stop a background response."""
    responses, context = request.app[keys.RESPONSES], request[keys.STATE].context
    stored = await responses.cancel(caller_of(request), request.match_info["response_id"], context)
    return _json(stored.body)


async def handle_input_items(request: web.Request) -> web.StreamResponse:
    """What a response was made from, its own input only; the newest first unless asked otherwise."""
    stored, query = await _stored(request), query_of(request)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc.", param="order")
    items = list(stored.input_items) if order == "asc" else list(reversed(stored.input_items))
    after = query.get("after")
    if after is not None:
        places = [index for index, item in enumerate(items) if item.get("id") == after]
        if not places:
            raise InvalidRequest("'after' must be the id of one of the items.", param="after")
        items = items[places[0] + 1 :]
    limit = _integer(query, "limit", 20, low=0, high=MAX_LISTED)
    shown = items[:limit]
    return _json(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(items) > limit,
        }
    )


async def handle_input_tokens(request: web.Request) -> web.StreamResponse:
    """About how many tokens a request's input is. Estimated: every model counts in its own way."""
    responses = request.app[keys.RESPONSES]
    body = await read_request_body(request)
    _speak(request, body)
    prepared = await responses.prepare(body, caller_of(request), request[keys.STATE].context)
    return _json({"object": "response.input_tokens", "input_tokens": prepared.input_tokens, "estimated": True})


async def handle_compact(request: web.Request) -> web.StreamResponse:
    """Make a conversation shorter: an input for the next request, and no response to go on from."""
    caller = caller_of(request)
    body = await read_request_body(request)
    _speak(request, body)
    incoming = await _incoming(request, caller, body)
    compacted, headers = await request.app[keys.RESPONSES].compactor.compact(body, incoming)
    return _json(compacted, headers)


def routes() -> list[Route]:
    """Everything under ``/v1/responses``, and the same under ``/v1/openai``."""
    table: list[tuple[str, str, HttpHandler, str]] = [
        ("POST", "", handle_create, "responses"),
        ("GET", "", handle_socket, "responses_socket"),
        ("POST", "/compact", handle_compact, "responses_compact"),
        ("POST", "/input_tokens", handle_input_tokens, "responses_input_tokens"),
        ("GET", "/{response_id}", handle_get, "responses_get"),
        ("DELETE", "/{response_id}", handle_delete, "responses_delete"),
        ("POST", "/{response_id}/cancel", handle_cancel, "responses_cancel"),
        ("GET", "/{response_id}/input_items", handle_input_items, "responses_input_items"),
    ]
    return [
        Route(
            method=method,
            path=f"{prefix}{path}",
            handler=handler,
            name=name,
            surface=Surface.OPEN_RESPONSES,
            is_call="{response_id}" not in path,
            surface_of_unread=surface_of_unread if method == "POST" and "{response_id}" not in path else None,
        )
        for method, path, handler, name in [(*row[:2], _versioned(row[2]), row[3]) for row in table]
        for prefix in ("/v1/responses", "/v1/openai/responses")
    ]


def _versioned(handler: HttpHandler) -> HttpHandler:
    """Errors say the version too."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except GatewayError as error:
            error.headers = {**error.headers, **VERSION_HEADERS}
            raise

    handle.__name__ = getattr(handler, "__name__", "handle")
    return handle


def _speak(request: web.Request, body: JsonObject) -> None:
    """From here on errors are in the words of the request's own vocabulary."""
    if vocabulary_of(body) is Vocabulary.UNIFIED:
        state = request[keys.STATE]
        state.context = replace(state.context, surface=Surface.UNIFIED)


async def _incoming(request: web.Request, caller: Caller, body: JsonObject) -> Incoming:
    idempotency_key = check_key(request.headers.getall("Idempotency-Key", ()))
    fingerprint = b""
    if idempotency_key is not None:
        fingerprint = fingerprint_of(request.method, request.path, await digest_of(request))
    return Incoming(
        context=request[keys.STATE].context,
        caller=caller,
        body=body,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
    )


async def _stored(request: web.Request) -> StoredResponse:
    context = request[keys.STATE].context
    return await request.app[keys.RESPONSES].get(caller_of(request), request.match_info["response_id"], context)


def _integer(query: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InvalidRequest(f"'{name}' must be an integer from {low} to {high}.", param=name)
    return value


def _json(body: object, headers: Mapping[str, str] = VERSION_HEADERS) -> web.Response:
    return json_answer(body, headers={**headers, **VERSION_HEADERS})
