"""One call on the lane: admitted at once, then taken through the pipeline, and its end noted exactly once."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Protocol

from aiohttp.http_parser import RawRequestMessage

from bitmesh_proxy import keys
from bitmesh_proxy.calls import Call
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.errors import CallerLeft, GatewayError, InternalError
from bitmesh_proxy.limits.concurrency import Slot
from bitmesh_proxy.limits.headers import rate_limit_headers
from bitmesh_proxy.logs import ACCESS
from bitmesh_proxy.pipeline import Incoming
from bitmesh_proxy.straight import StraightCall
from bitmesh_proxy.web.error_formats import render_error
from bitmesh_proxy.web.lane.lane import Lane
from bitmesh_proxy.web.lane.reply import Connection, LaneReply
from bitmesh_proxy.web.middlewares import log_access
from bitmesh_proxy.web.route import Route

log = logging.getLogger(__name__)


class LaneConnection(Connection, Protocol):
    """The caller's connection, as a call sees it."""

    @property
    def peer(self) -> str | None: ...

    def call_ended(self, *, is_reusable: bool) -> None: ...


class LaneCall:
    """From ``begin`` to ``LaneConnection.call_ended``."""

    __slots__ = ("_connection", "_lane", "_message", "_reply", "_route", "_slot", "_state", "_straight", "_task")

    def __init__(self, lane: Lane, connection: LaneConnection, route: Route, message: RawRequestMessage) -> None:
        self._lane = lane
        self._connection = connection
        self._route = route
        self._message = message
        self._state = keys.RequestState(context=lane.context_of(message, route, connection.peer))
        self._reply = LaneReply(connection, self._common_headers)
        self._slot: Slot | None = None
        # Either of them, once the call has been admitted.
        self._straight: StraightCall | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, body: bytes) -> None:
        """Admit the call, and start it if it may go on."""
        self._lane.metrics.under_way += 1
        try:
            self._slot = self._lane.admit(self._message, self._route, self._state)
            self._start(body)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller gets an answer
            self._ended(exc)

    def _start(self, body: bytes) -> None:
        endpoint, caller, line = self._route.plain_call, self._state.caller, self._lane.line
        assert endpoint is not None, "the lane takes no other route"
        assert caller is not None, "it was admitted"
        call = line.chats.parse(body, endpoint, caller)
        plan = line.chats.plan(call, endpoint, caller)
        incoming = Incoming(context=self._state.context, caller=caller, body={})
        if plan is None:
            self._task = asyncio.create_task(self._run(call, incoming, endpoint))
            return
        straight = StraightCall(line, plan, incoming, endpoint=endpoint, reply=self._reply, on_end=self._ended)
        straight.begin()
        self._straight = straight

    def caller_left(self) -> None:
        """The connection is lost."""
        if self._straight is not None:
            self._straight.caller_left()
        elif self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """The caller reads slowly."""
        if self._straight is not None:
            self._straight.pause()

    def resume_writing(self) -> None:
        """The caller reads again."""
        if self._straight is not None:
            self._straight.resume()

    async def _run(self, call: Call, incoming: Incoming, endpoint: Endpoint) -> None:
        """What does not pass straight through."""
        error: Exception | None = None
        try:
            await self._lane.pipeline.serve_parsed(call, incoming, endpoint, self._reply)
        except asyncio.CancelledError:
            error = CallerLeft()
        except Exception as exc:  # noqa: BLE001 - the end of a task: whatever it is, the call must end
            error = exc
        self._ended(error)

    def _ended(self, error: Exception | None) -> None:
        """The answer is out, or ``error`` has to be said."""
        if isinstance(error, CallerLeft):
            self._reply.abort()
        elif isinstance(error, GatewayError):
            self._refuse(error)
        elif error is not None:
            log.error("a request failed", exc_info=error, extra={"request_id": self._state.context.request_id})
            self._refuse(InternalError("Internal server error"))
        self._end()

    def _refuse(self, error: GatewayError) -> None:
        """An error in the caller's dialect; once the answer has begun, the connection is cut instead."""
        state = self._state
        state.error_code = error.code
        if error.__cause__ is not None:
            log.info("%s: %r", error.code, error.__cause__, extra={"request_id": state.context.request_id})
        if self._reply.is_started:
            self._reply.abort()
            return
        rendered = render_error(error, state.context.surface, state.context.request_id)
        with suppress(CallerLeft):
            self._reply.send_now(rendered.status, rendered.headers, rendered.body)

    def _end(self) -> None:
        lane, state, status = self._lane, self._state, self._reply.status
        if self._slot is not None:
            self._slot.__exit__(None, None, None)
        lane.metrics.under_way -= 1
        duration_ms = round((time.monotonic() - state.context.started_s) * 1000)
        lane.metrics.note_request(self._route.name, status, duration_ms=duration_ms)
        if not ACCESS.disabled:
            log_access(state, self._message.method, self._message.path, status, duration_ms=duration_ms)
        transport = self._connection.transport
        self._connection.call_ended(is_reusable=transport is not None and not transport.is_closing())

    def _common_headers(self) -> dict[str, str]:
        return {"X-Request-Id": self._state.context.request_id, **rate_limit_headers(self._state.snapshots)}
