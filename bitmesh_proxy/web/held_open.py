"""Answers that take long: the connection is held open, and kept alive by spaces in front of the JSON.

Until ``answers.keep_alive_after_s`` an answer is like any other, with its proper status. After that the head goes out
as 200 with a space, and spaces follow, so that no proxy in between gives up; what then goes wrong can only be said in
the body. JSON may begin with spaces, so that clients need not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeAlias

import msgspec
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.errors import CallerLeft, GatewayError, InternalError
from bitmesh_proxy.settings import Answers
from bitmesh_proxy.web.error_formats import render_error


class WholeReply(msgspec.Struct, kw_only=True):
    """A ``Reply`` that keeps a whole answer for whoever sends it later. Streams have no place in it."""

    status: int = 200
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""

    @property
    def is_started(self) -> bool:
        """Nothing goes out from here."""
        return False

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Keep it."""
        self.status, self.headers, self.body = status, headers, body

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """No stream is expected."""
        raise InternalError("a stream where a whole answer was expected")

    async def write(self, data: bytes) -> None:
        """See ``start``."""
        raise InternalError("a stream where a whole answer was expected")

    def write_now(self, data: bytes) -> None:
        """See ``start``."""
        raise InternalError("a stream where a whole answer was expected")

    async def finish(self) -> None:
        """See ``start``."""

    def abort(self) -> None:
        """See ``start``."""


_Outcome: TypeAlias = WholeReply | GatewayError | CallerLeft


async def answer_held_open(
    request: web.Request, work: Coroutine[Any, Any, WholeReply], *, errors_as_ok: bool = False
) -> web.StreamResponse:
    """Answer with what ``work`` gives. A caller who leaves cancels it.

    Raises the GatewayError of ``work`` as long as the head has not gone out. ``errors_as_ok``: failures that come after
    the request was understood are answered with status 200 and the error in the body, the older gateway's habit.
    """
    settings = request.app[keys.SETTINGS].answers
    task = asyncio.create_task(_outcome_of(work))
    try:
        await asyncio.wait({task}, timeout=settings.keep_alive_after_s)
        if not task.done():
            return await _keep_alive(request, task, settings)
        outcome = task.result()
        if isinstance(outcome, WholeReply):
            return web.Response(status=outcome.status, headers=outcome.headers, body=outcome.body)
        # What is wrong with the request itself keeps its status.
        if isinstance(outcome, CallerLeft) or not errors_as_ok or outcome.status < 402:
            raise outcome
        return web.Response(body=_error_body(request, outcome), content_type="application/json")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _outcome_of(work: Coroutine[Any, Any, WholeReply]) -> _Outcome:
    """What ``work`` gives or refuses. A task that fails and whose caller has left meanwhile would be logged as a fault
    that nobody has heard of, as a real one is."""
    try:
        return await work
    except (GatewayError, CallerLeft) as error:
        return error


async def _keep_alive(request: web.Request, task: asyncio.Task[_Outcome], settings: Answers) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "X-Accel-Buffering": "no"})
    try:
        await response.prepare(request)
        while not task.done():
            await response.write(b" ")
            await asyncio.wait({task}, timeout=settings.keep_alive_interval_s)
        outcome = task.result()
        if isinstance(outcome, CallerLeft):
            raise outcome
        await response.write(outcome.body if isinstance(outcome, WholeReply) else _error_body(request, outcome))
        await response.write_eof()
    except ConnectionError as exc:
        raise CallerLeft from exc
    return response


def _error_body(request: web.Request, error: GatewayError) -> bytes:
    state = request[keys.STATE]
    state.error_code = error.code
    return render_error(error, state.context.surface, state.context.request_id).body
