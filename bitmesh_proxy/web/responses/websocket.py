"""``/v1/responses`` over a WebSocket: one turn after another on one connection.

A turn is ``{"type": "response.create", …}``; its events are the stream's, one a message, without ``[DONE]``. Turns that
arrive while one is under way wait, up to a bound. A turn that fails before it began ends with one ``error`` message,
afterwards with ``response.failed`` alone: a client takes either for the end. The connection remembers its latest
response, stored or not, and forgets it when a turn that goes on from it fails.

Source: the Open Responses specification, version 2026-04-24.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.http import WSCloseCode, WSMsgType
from msgspec.structs import replace

from bitmesh_proxy import keys
from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.endpoints.responses.framing import websocket_error
from bitmesh_proxy.errors import (
    CallerLeft,
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    RateLimited,
    UnsupportedParameter,
)
from bitmesh_proxy.money import ZERO
from bitmesh_proxy.pipeline import Incoming
from bitmesh_proxy.web.bodies import parse_json_object
from bitmesh_proxy.web.error_formats import render_error
from bitmesh_proxy.web.request_ids import make_request_id
from bitmesh_proxy.web.responses.replies import VERSION_HEADERS, SocketReply
from bitmesh_proxy.web.responses.session import Transport

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 30.0
FORBIDDEN: Final = ("stream", "stream_options", "background")

#: What has arrived: a message's text, or what was wrong with it.
Arrived = str | GatewayError


async def handle_socket(request: web.Request) -> web.StreamResponse:
    """Take turns until the client goes, or the connection has lived long enough."""
    socket = web.WebSocketResponse(max_msg_size=request.app[keys.SETTINGS].http.max_body_bytes, heartbeat=HEARTBEAT_S)
    if not socket.can_prepare(request).ok:
        raise MethodNotAllowed("Responses are created with POST, or over a WebSocket.", headers={"Allow": "POST"})
    socket.headers.update(VERSION_HEADERS)
    await socket.prepare(request)
    await _Connection(request, socket).run()
    return socket


class _Connection:
    """One connection and what it remembers."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self._request = request
        self._socket = socket
        self._settings = request.app[keys.SETTINGS].responses
        self._arrived: asyncio.Queue[Arrived | None] = asyncio.Queue()
        self._remembered: dict[str, Sequence[JsonObject]] = {}
        self._close_code: int = WSCloseCode.OK

    async def run(self) -> None:
        """Take turns. A turn under way comes to its end, unless its client does not wait for it."""
        reader = asyncio.create_task(self._read())
        turn: asyncio.Task[None] | None = None
        deadline_s = asyncio.get_running_loop().time() + self._settings.websocket_max_s
        try:
            while (arrived := await self._next(deadline_s)) is not None:
                turn = asyncio.create_task(self._turn(arrived))
                await asyncio.wait((turn, reader), return_when=asyncio.FIRST_COMPLETED)
                if reader.done() and not turn.done():
                    return  # who goes away, or asks for more than may wait, stops the meter
                with suppress(CallerLeft):
                    await turn
        finally:
            await _cancelled(reader, *([] if turn is None else [turn]))
            await self._socket.close(code=self._close_code)

    async def _next(self, deadline_s: float) -> Arrived | None:
        """What has arrived next; None when nothing more is to be taken."""
        loop, draining = asyncio.get_running_loop(), self._request.app[keys.DRAINING]
        arrived, drained = asyncio.create_task(self._arrived.get()), asyncio.create_task(draining.wait())
        try:
            await asyncio.wait(
                (arrived, drained), timeout=max(0.0, deadline_s - loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
            if draining.is_set():
                self._close_code = WSCloseCode.GOING_AWAY
                return None
            if arrived.done():
                return arrived.result()
            await self._end_of_time()
            return None
        finally:
            await _cancelled(arrived, drained)

    async def _read(self) -> None:
        """Take messages in while a turn is under way, so that a client who goes is noticed."""
        async for message in self._socket:
            if self._arrived.qsize() >= self._settings.websocket_max_queued:
                await self._send_error(RateLimited("Too many turns are waiting.", retry_after_s=1.0))
                break
            if message.type is WSMsgType.TEXT:
                self._arrived.put_nowait(message.data)
            else:
                self._arrived.put_nowait(InvalidRequest("Messages are JSON texts, not bytes."))
        self._arrived.put_nowait(None)

    async def _end_of_time(self) -> None:
        error = {
            "type": "invalid_request_error",
            "code": "websocket_connection_limit_reached",
            "message": "The connection has lived as long as it may. Open another one.",
            "param": None,
        }
        with suppress(ConnectionError, RuntimeError):
            await self._socket.send_str(websocket_error(status=400, error=error))

    async def _turn(self, arrived: Arrived) -> None:
        previous: str | None = None
        try:
            body = await self._body_of(arrived)
            caller, context = self._admitted()
            given = body.get("previous_response_id")
            previous = given if isinstance(given, str) else None
            is_made = body.pop("generate", None) is not False
            failed = await self._serve(body, caller, context, is_made=is_made)
        except GatewayError as error:
            failed = True
            await self._send_error(error)
        except (CallerLeft, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("a turn failed", extra={"request_id": self._request[keys.STATE].context.request_id})
            failed = True
            await self._send_error(InternalError("Internal server error"))
        if failed and previous is not None:
            self._remembered.pop(previous, None)

    async def _serve(self, body: Mapping[str, Any], caller: Caller, context: RequestContext, *, is_made: bool) -> bool:
        """Make one response; says whether it failed. Raises GatewayError as long as it has not begun.

        ``is_made``: not one that the client only sends ahead, to go on from it: no model is asked about that.
        """
        responses = self._request.app[keys.RESPONSES]
        prepared = await responses.prepare({**body, "stream": True}, caller, context, self._remembered)
        session = responses.session(prepared, caller=caller, context=context, transport=Transport.WEBSOCKET)
        reply = SocketReply(self._socket)
        try:
            if is_made:
                await responses.run(session, Incoming(context=context, caller=caller, body=body), reply)
            else:
                await reply.write(await session.finish_media((), charge_nano_usd=ZERO))
        except GatewayError as error:
            if not reply.has_written:
                raise
            await reply.write(await session.fail(error))
        response = session.response
        if response["status"] in ("completed", "incomplete"):
            self._remembered = {session.response_id: [*prepared.items, *response["output"]]}
        return bool(response["status"] == "failed")

    async def _body_of(self, arrived: Arrived) -> dict[str, Any]:
        """The body of a turn. Raises InvalidRequest."""
        if isinstance(arrived, GatewayError):
            raise arrived
        body = await parse_json_object(arrived.encode(), max_depth=self._request.app[keys.SETTINGS].http.max_json_depth)
        if body.pop("type", None) != "response.create":
            raise InvalidRequest("A message's 'type' must be response.create.", param="type")
        if body.get("stream") is True:  # what is done anyway, and what OpenAI's own clients send
            del body["stream"]
        if not isinstance(body.get("generate"), bool | None):
            raise InvalidRequest("'generate' must be a boolean.", param="generate")
        for name in FORBIDDEN:
            if name in body:
                raise UnsupportedParameter(f"'{name}' has no place on a WebSocket.", param=name)
        return body

    def _admitted(self) -> tuple[Caller, RequestContext]:
        """The caller, once more, and a context of the turn's own. Raises AuthenticationFailed, RateLimited."""
        app, state = self._request.app, self._request[keys.STATE]
        context = replace(
            state.context,
            request_id=make_request_id(),
            received_at_s=time.time(),
            started_s=time.monotonic(),
        )
        caller = app[keys.AUTHENTICATOR].again(self._request, context)
        app[keys.KEY_LIMIT].admit(caller.key_id, rate_per_minute=caller.rate_per_minute)
        app[keys.ENDPOINT_LIMIT].admit(caller.key_id, "responses")
        return caller, context

    async def _send_error(self, error: GatewayError) -> None:
        state = self._request[keys.STATE]
        rendered = render_error(error, state.context.surface, state.context.request_id)
        details = orjson.loads(rendered.body)["error"]
        text = websocket_error(status=rendered.status, error=details)
        try:
            await self._socket.send_str(text)
        except (ConnectionError, RuntimeError) as exc:
            raise CallerLeft from exc


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """End tasks, and wait until they have ended. What they raise has been said, or has nobody to hear it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
