"""One call on the lane: admitted at once, then taken through the pipeline, and its end noted exactly once."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from typing import Protocol

from msgspec import Struct

from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.errors import CallerLeft, GatewayError, InternalError, Unavailable
from bitmesh_proxy.limits.base import Passed
from bitmesh_proxy.logs import ACCESS, cause_of
from bitmesh_proxy.pipeline import Incoming
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.straight import StraightCall
from bitmesh_proxy.web.error_formats import render_error
from bitmesh_proxy.web.lane.entry import Entry
from bitmesh_proxy.web.lane.lane import Lane
from bitmesh_proxy.web.lane.reply import Connection, LaneReply
from bitmesh_proxy.web.middlewares import log_access

log = logging.getLogger(__name__)


class LaneConnection(Connection, Protocol):
    """The caller's connection, as a call sees it."""

    def call_ended(self, *, is_reusable: bool) -> None: ...


class LaneCall(Struct, eq=False):
    """From ``begin`` to ``LaneConnection.call_ended``."""

    lane: Lane
    connection: LaneConnection
    entry: Entry
    context: RequestContext
    reply: LaneReply
    caller: Caller | None = None
    has_slot: bool = False
    error_code: str | None = None
    #: The nonce of its signature is.
    is_burning: bool = False
    # Either of them is at work.
    straight: StraightCall | None = None
    task: asyncio.Task[None] | None = None

    def begin(self, body: bytes, newcomer: bytes = b"") -> None:
        """Admit the call, in the order of the plain way, and start it if it may go on. ``newcomer``: a token's digest
        where the entry is of none, since there will hardly be a use for what would be kept in one of its own."""
        lane, entry = self.lane, self.entry
        bucket = entry.address_bucket
        lane.metrics.under_way += 1
        try:
            caller, passed = entry.caller, None
            # Both are only for callers whose time will not be over.
            if (passage := entry.passage) is not None:
                try:
                    if newcomer:
                        caller = lane.directory.in_memory(newcomer)
                    elif caller is None or entry.keys_version != lane.keys_version():
                        caller = entry.caller = lane.directory.in_memory(entry.token_digest)
                        entry.keys_version = lane.directory.version
                except (Unavailable, StorageError):  # that is said behind the limit of addresses
                    caller = None
                if caller is not None and caller.expires_at_s is None:
                    passed = passage("" if bucket is None else bucket.identifier, caller)
            elif (gate := entry.gate) is not None and entry.keys_version == lane.keys_version():
                passed = gate.enter()
            if passed is not None:
                assert caller is not None, "he has passed"
                self._admit(caller, body, passed)
                return
            if newcomer:
                self.entry = entry = entry.with_token(newcomer)
            if bucket is not None:
                limit = bucket.limit
                missing = limit.take(bucket.key)
                self.reply.passed = ((limit, missing) if missing >= 0 else limit.admit(bucket.identifier),)
            if entry.visitor.signed is not None:  # its nonce has to be burnt first, durably
                lane.authenticate_signed(entry, body, partial(self._authenticated, body))
                self.is_burning = True
                return
            caller = entry.caller
            # Those whose time will be over are asked for every time.
            if caller is None or caller.expires_at_s is not None or entry.keys_version != lane.keys_version():
                authenticator = lane.authenticator
                caller = authenticator.by_token_digest(entry.token_digest)
                entry.keys_version = authenticator.directory.version
            self._admit(caller, body)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller gets an answer
            self._ended(exc)

    def _authenticated(self, body: bytes, caller: Caller | Exception) -> None:
        if not self.is_burning:  # the caller has left, and the call is over
            return
        self.is_burning = False
        try:
            if isinstance(caller, Exception):
                raise caller
            if self.connection.transport is None:  # nobody has said so
                raise CallerLeft
            self._admit(caller, body)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller gets an answer
            self._ended(exc)

    def _admit(self, caller: Caller, body: bytes, passed: list[Passed] | None = None) -> None:
        """Through the limits of the key, unless they are behind it (``passed``), and into the line. In one piece, as
        every call comes this way."""
        self.caller = caller
        lane, entry = self.lane, self.entry
        if passed is not None:
            self.reply.passed, self.has_slot = passed, True
        else:
            if entry.caller is not caller or entry.passage is not None:
                passed = lane.admit_newcomer(entry, caller)
            else:
                passed, buckets = [], entry.buckets
                for bucket in lane.buckets_of(entry, caller) if buckets is None else buckets:
                    limit = bucket.limit
                    missing = limit.take(bucket.key)
                    passed.append((limit, missing) if missing >= 0 else limit.admit(bucket.identifier))
            self.reply.passed = passed
            lane.slots.take(caller.key_id, entry.max_concurrent)
            self.has_slot = True
        endpoint, line = entry.route.plain_call, lane.line
        assert endpoint is not None, "the lane takes no other route"
        incoming = Incoming(context=self.context, caller=caller, body={})
        plan = line.chats.glance(body, endpoint, caller)
        if plan is None:
            call = line.chats.parse(body, endpoint, caller)
            plan = line.chats.plan(call, endpoint, caller)
            if plan is None:  # it does not pass straight through
                serving = lane.pipeline.serve_parsed(call, incoming, endpoint, self.reply)
                self.task = asyncio.create_task(serving)
                self.task.add_done_callback(self._served)  # which hears of one, too, that was cancelled before it began
                return
        straight = line.call(plan, incoming, endpoint=endpoint, reply=self.reply, on_ended=self._ended)
        straight.begin()
        self.straight = straight

    def caller_left(self) -> None:
        """The connection is lost."""
        if self.straight is not None:
            self.straight.caller_left()
        elif self.task is not None:
            self.task.cancel()
        elif self.is_burning:
            self.is_burning = False
            self._ended(CallerLeft())

    def pause_writing(self) -> None:
        """The caller reads slowly."""
        if self.straight is not None:
            self.straight.pause()

    def resume_writing(self) -> None:
        """The caller reads again."""
        if self.straight is not None:
            self.straight.resume()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._ended(CallerLeft() if task.cancelled() else task.exception())

    def _ended(self, error: BaseException | None) -> None:
        """The answer is out, or ``error`` has to be said."""
        try:
            if error is not None:
                self._say(error)
        finally:  # in the same piece, as every call comes this way
            lane, context, status = self.lane, self.context, self.reply.status
            # 499: something of the answer is missing, so that a next one would be taken for it.
            transport = self.connection.transport
            is_reusable = status != 499 and transport is not None and not transport.is_closing()
            if status == 499 and lane.cutting.is_set():
                status = Unavailable.status
            # They know this call: a circle is left to the collector, for a tenth of all.
            self.straight = self.task = None
            if self.has_slot:
                assert self.caller is not None, "it is the caller's"
                lane.slots.give_back(self.caller.key_id)
            lane.metrics.under_way -= 1
            duration_ms = round((time.monotonic() - context.started_s) * 1000)
            lane.metrics.note_request(self.entry.route.name, status, duration_ms=duration_ms)
            if not ACCESS.disabled:
                log_access(
                    context,
                    self.caller,
                    method="POST",  # the lane takes no other
                    path=self.entry.route.path,
                    status=status,
                    code=self.error_code,
                    duration_ms=duration_ms,
                )
            self.connection.call_ended(is_reusable=is_reusable)

    def _say(self, error: BaseException) -> None:
        if isinstance(error, CallerLeft):
            self.reply.abort()
        elif isinstance(error, GatewayError):
            self._refuse(error)
        else:
            log.error("a request failed", exc_info=error, extra={"request_id": self.context.request_id})
            self._refuse(InternalError("Internal server error"))

    def _refuse(self, error: GatewayError) -> None:
        """An error in the caller's dialect; once the answer has begun, the connection is cut instead."""
        context = self.context
        self.error_code = error.code
        if error.__cause__ is not None:
            log.info("%s: %s", error.code, cause_of(error), extra={"request_id": context.request_id})
        if self.reply.is_started:
            self.reply.abort()
            return
        rendered = render_error(error, context.surface, context.request_id)
        with suppress(CallerLeft):
            self.reply.send_now(rendered.status, rendered.headers, rendered.body)
