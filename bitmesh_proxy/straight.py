"""The line for chat calls that pass straight through, without waiting: each step is called by the one before.

    plan → reserve → send → pass on → settle → the last bytes

It is the line of ``pipeline.py`` with the same rules and built of the same parts, for the one thing that this program
does most. A coroutine costs nothing where something is waited for, but a call waits four times and is otherwise a few
lines of work; told by plain calls (the writer's, the provider's connection's, the caller's), it takes no task, no
future and no turn of the event loop. What is rare is not written twice: connecting, and other offers after the first
has failed, are coroutines in a task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

from msgspec import Struct

from bitmesh_proxy.billing.reservation import Books, Outcome, Reservation
from bitmesh_proxy.billing.usage import tokens_of
from bitmesh_proxy.dialects.base import StreamMeter
from bitmesh_proxy.dialects.openai_chat_usage_filter import UsageChunkFilter
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.errors import CallerLeft, GatewayError, ProviderRefused, UpstreamBroken, UpstreamError
from bitmesh_proxy.pipeline import Incoming, Pipeline, cost_comment, cost_headers, cost_lines
from bitmesh_proxy.storage.ledger import Accrued
from bitmesh_proxy.storage.writer import Failed
from bitmesh_proxy.upstream.answers import MAX_ERROR_BYTES, is_good, marks_of, refusal_of, too_large
from bitmesh_proxy.upstream.client import Upstream
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.heads import AnswerHead
from bitmesh_proxy.upstream.off_loop import THREAD_PARSE_BYTES
from bitmesh_proxy.upstream.outcomes import Outcomes
from bitmesh_proxy.upstream.progress import Progress
from bitmesh_proxy.upstream.reply import STREAM_HEADERS, Reply
from bitmesh_proxy.upstream.straight_chat import StraightAttempt, StraightChats, StraightPlan
from bitmesh_proxy.work import OpenCall

log = logging.getLogger(__name__)

# What an answer is taken for, by its head.
_WHOLE: Final = 0
_STREAM: Final = 1
#: Not the answer that was asked for: an error, or no stream.
_REFUSAL: Final = 2

# Where a call stands.
_OPENING: Final = 0
_ASKING: Final = 1
#: Everything that is left to do is done by a coroutine.
_IN_TASK: Final = 2
_SETTLING: Final = 3
_ENDED: Final = 4


class Outlet(Protocol):
    """Where more of a stream goes, chunk by chunk, however fast the caller reads."""

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        """Has the caller left?"""


class StraightReply(Reply, Protocol):
    """Where an answer goes: a ``Reply``, and the same at once. All but ``abort`` raise CallerLeft."""

    def send_json_now(self, headers: Mapping[str, str], lines: str, body: bytes) -> None:
        """A whole answer with status 200; ``lines`` are further headers as they are written, behind the others."""

    def start_now(self, status: int, headers: Mapping[str, str]) -> None: ...

    def begin_now(self, headers: Mapping[str, str], data: bytes, framed: bytes | None) -> Outlet:
        """The head of a stream with status 200 and its first bytes, together; ``framed`` as in ``push``. Gives where
        whole chunks may go from now on without ``push``."""

    def push(self, data: bytes, framed: bytes | None = None) -> None:
        """More of a stream, however fast the caller reads; whoever pushes hears of that by ``StraightCall.pause``.

        ``framed``: the same bytes as whole chunks, if they came in such.
        """

    def finish_now(self, tail: bytes = b"") -> None: ...


class StraightLine:
    """What all straight calls need. One per application."""

    def __init__(
        self,
        *,
        chats: StraightChats,
        books: Books,
        upstream: Upstream,
        outcomes: Outcomes,
        pipeline: Pipeline,
        render_stream_error: Callable[[GatewayError], bytes],
        max_answer_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.chats = chats
        self.books = books
        self.upstream = upstream
        self.outcomes = outcomes
        self.pipeline = pipeline
        self.render_stream_error = render_stream_error
        self.max_answer_bytes = max_answer_bytes
        self.clock = clock

    def call(
        self,
        plan: StraightPlan,
        incoming: Incoming,
        *,
        endpoint: Endpoint,
        reply: StraightReply,
        on_ended: Callable[[Exception | None], None],
    ) -> StraightCall:
        """A call that has not begun yet."""
        reservation = self.books.reserve(
            context=incoming.context,
            caller=incoming.caller,
            endpoint=endpoint.name,
            model_id=plan.model,
            hold_nano_usd=plan.hold_nano_usd,
            live=not plan.is_test,
        )
        progress = Progress()  # its offer is noted where somebody asks for it
        return StraightCall(self, plan, incoming, endpoint, reply, reservation, on_ended, progress)


class StraightCall(Struct, eq=False):
    """One call, from ``begin`` to ``on_ended``, and the ``Listener`` of its provider.

    ``on_ended`` is called once, with the error that is still to be said to the caller, if any.
    """

    line: StraightLine
    plan: StraightPlan
    incoming: Incoming
    endpoint: Endpoint
    reply: StraightReply
    reservation: Reservation
    on_ended: Callable[[Exception | None], None]
    _progress: Progress
    _state: int = _OPENING
    _kind: int = _WHOLE
    _connection: ProviderConnection | None = None
    _task: asyncio.Task[None] | None = None
    _head: AnswerHead | None = None
    _meter: StreamMeter | None = None
    _filter: UsageChunkFilter | None = None
    #: Of a stream that passes through as it is.
    _outlet: Outlet | None = None
    #: What is read whole: an answer, or a refusal. It mostly comes in one piece; else these are all of them.
    _whole: bytes = b""
    _pieces: list[bytes] | None = None
    _size_bytes: int = 0
    #: A stream's last bytes, but for what it cost.
    _tail: bytes = b""
    #: Said to the caller once the books are closed.
    _to_say: GatewayError | None = None

    # ------------------------------------------------------------ the caller's side

    def begin(self) -> None:
        """Reserve. Raises Unavailable and AuthenticationFailed; then the call has not begun."""
        self.reservation.enter_now(self._opened)

    def caller_left(self) -> None:
        """Nobody listens any more: the provider is left at once, and what was delivered is settled."""
        state, task = self._state, self._task
        if state == _ENDED:
            return
        if state == _IN_TASK:
            assert task is not None, "there is one"
            task.cancel()  # it settles, and its end is the call's
            return
        self._leave_provider()
        try:
            if state == _ASKING:
                if task is not None:
                    task.cancel()
                self._settle_left()
        finally:
            self._end(CallerLeft())

    def pause(self) -> None:
        """The caller reads slowly, so the provider has to wait."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The caller reads again."""
        if self._connection is not None:
            self._connection.resume()

    # ------------------------------------------------------------ reserve, send

    def _opened(self, failed: Failed | None) -> None:
        if failed is not None:
            self._end(failed.error)
            return
        try:
            line, attempt = self.line, self.plan.first
            self._state = _ASKING
            connection = line.upstream.begin(
                attempt.access, attempt.target.origin, head=attempt.head, body=attempt.body, listener=self
            )
            if connection is None:
                self._task = asyncio.create_task(self._connect(attempt))
            else:
                self._connection = connection
                self._progress.sent = True
            if self.plan.stream:  # of a whole answer nothing is delivered before it is settled
                line.books.watch(self.reservation, self._accrued)
        except Exception as exc:  # noqa: BLE001 - what the writer calls must not raise; the caller hears of it
            self._broke(exc)

    async def _connect(self, attempt: StraightAttempt) -> None:
        """No connection is idle, so a new one is opened; or the provider is as busy as it may be."""
        try:
            self._connection = await self.line.upstream.begin_when_free(
                attempt.access, attempt.target.origin, head=attempt.head, body=attempt.body, listener=self
            )
        except GatewayError as exc:
            self._task = None  # first: what follows may be another one's
            self._failed(exc)
        except Exception as exc:  # noqa: BLE001 - the end of a task: whatever it is, the call must end
            self._task = None
            self._broke(exc)
        else:
            self._task = None
            self._progress.sent = True

    def _accrued(self) -> Accrued | None:
        """What ``Outcomes.accrued`` says, by the tariff where it can tell: all open streams are asked every second."""
        plan, progress = self.plan, self._progress
        if not progress.delivered:
            return None
        tariff, prompt_tokens, meter = plan.tariff, plan.prompt_tokens, progress.meter
        if (
            tariff is not None
            and prompt_tokens is not None
            and meter is not None
            and (progress.offer is None or progress.offer is plan.first.offer)  # another one has another tariff
        ):
            characters = meter.output_characters
            if meter.usage is None:
                tokens = tokens_of(characters)
                cost, charge = tariff.sums_of(prompt_tokens, tokens, self.reservation.hold_nano_usd)
                return Accrued(cost_nano_usd=cost, charge_nano_usd=charge)
        return self.line.outcomes.accrued(plan.call, self.reservation, self._full_progress())

    # ------------------------------------------------------------ pass on: the provider's side

    def on_head(self, head: AnswerHead) -> None:
        """See Listener."""
        self._head = head
        if head.code != 200 and not is_good(head.code):
            self._kind = _REFUSAL
        elif head.is_coded:
            self._refused()  # whatever it says
        elif self.plan.stream:
            self._kind = _STREAM if head.media_type == "text/event-stream" else _REFUSAL

    def on_piece(self, data: bytes, framed: bytes | None) -> None:
        """See Listener."""
        meter = self._meter
        if meter is not None:  # a stream that has begun
            meter.feed(data)
            outlet = self._outlet
            if outlet is not None and framed is not None:  # as ``push`` does it; every chunk comes this way
                if outlet.is_closing():
                    raise CallerLeft
                outlet.write(framed)
                return
            usage_filter = self._filter
            if usage_filter is None:
                self.reply.push(data, framed)
            elif passed := usage_filter.feed(data):
                self.reply.push(passed, framed if passed is data else None)
            return
        if self._kind == _STREAM:
            self._begin_stream(data, framed)
            return
        if self._pieces is not None:
            self._pieces.append(data)
        elif self._whole:
            self._pieces = [self._whole, data]
        else:
            self._whole = data
        self._size_bytes += len(data)
        if self._kind == _REFUSAL:
            if self._size_bytes >= MAX_ERROR_BYTES:
                self._refused()
        elif self._size_bytes > self.line.max_answer_bytes:
            self._failed(too_large())

    def on_end(self) -> None:
        """See Listener."""
        if self._kind == _REFUSAL:
            self._refused()
        elif self._kind == _STREAM:
            self._end_stream()
        else:
            self._end_whole()

    def on_error(self, error: Exception) -> None:
        """See Listener."""
        try:
            if isinstance(error, CallerLeft):
                self.caller_left()
            elif self._kind == _REFUSAL and isinstance(error, UpstreamError):
                self._refused()  # the status alone is enough
            elif isinstance(error, GatewayError):
                self._failed(error)
            else:
                self._broke(error)
        except Exception as exc:  # noqa: BLE001 - nobody else would hear of it
            self._broke(exc)

    def _begin_stream(self, data: bytes, framed: bytes | None) -> None:
        """The first piece: an error that comes first is said with a status, for nothing has begun."""
        attempt, progress = self.plan.first, self._progress
        progress.first_byte_s = self.line.clock()
        self._meter = progress.meter = meter = attempt.dialect.meter()
        meter.feed(data)
        error = meter.error
        if error is not None:
            self._failed(ProviderRefused(error, status=502, provider_status=502))
            return
        marks = marks_of(self._known_head().headers)
        headers = {**STREAM_HEADERS, **marks} if marks else STREAM_HEADERS
        progress.delivered = True
        self._head = None  # an open stream need not keep what is over
        attempt.forget_request()
        if not attempt.drops_usage:
            self._outlet = self.reply.begin_now(headers, data, framed)
            return
        self.reply.start_now(200, headers)
        self._filter = UsageChunkFilter()
        if passed := self._filter.feed(data):
            self.reply.push(passed)

    def _end_stream(self) -> None:
        meter = self._meter
        if meter is None:
            self._failed(UpstreamBroken("The provider's stream ended before its first byte."))
            return
        if self._filter is not None and (passed := self._filter.close()):
            self.reply.push(passed)
        # (The outcome is made while somebody still hears if that fails.)
        if meter.error is not None:  # which the caller has read already, in the provider's words
            outcome = self._outcome(status=200, word=ProviderRefused.code)
        elif meter.is_complete:
            outcome = self._outcome_of_stream(meter)
        else:
            self._failed(UpstreamBroken("The provider's stream broke off."))
            return
        self._delivered()
        self._settle(outcome)

    def _outcome_of_stream(self, meter: StreamMeter) -> Outcome:
        """Of a complete one: what ``_outcome`` gives, by the tariff where it can tell."""
        plan = self.plan
        if plan.tariff is not None and (usage := meter.usage) is not None:
            bill = plan.tariff.bill_of_stream(usage, plan.hold_nano_usd)
            if bill is not None:
                progress = self._progress
                provider, request_id = plan.first.provider, meter.provider_request_id
                return Outcome(200, "completed", bill, provider, plan.upstream_model, request_id, progress.first_byte_s)
        return self._outcome(status=200, word="completed")

    def _end_whole(self) -> None:
        self._progress.first_byte_s = self.line.clock()
        body = self._whole_body()
        if len(body) > THREAD_PARSE_BYTES:
            self._leave_provider()
            self._go_on_in_task(self._settle_large(body))
            return
        try:
            outcome = self.line.chats.outcome_of_whole(self.plan, self.plan.first, body, self._progress)
        except UpstreamError as exc:
            self._failed(exc)
            return
        self._delivered()
        self._settle(outcome)

    async def _settle_large(self, body: bytes) -> None:
        """A body that would keep the event loop waiting is read in a thread."""
        try:
            plan = self.plan
            outcome = await asyncio.to_thread(self.line.chats.outcome_of_whole, plan, plan.first, body, self._progress)
        except UpstreamError as exc:
            self._state = _ASKING
            self._failed(exc)
            return
        self._delivered()
        self._settle(outcome)

    def _refused(self) -> None:
        """The provider's error, or something that is no stream."""
        self._failed(refusal_of(self.plan.first.access, self._known_head(), self._whole_body()))

    def _delivered(self) -> None:
        """The provider has done its part."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finish()
        self.line.pipeline.delivered(self.plan.first)

    def _failed(self, error: GatewayError) -> None:
        """The attempt has failed: another offer is tried, or this is the call's end."""
        self._leave_provider()
        try:
            self._try_next_or_end(error)
        except Exception as exc:  # noqa: BLE001 - the provider has been left, so nobody else would hear of it
            self._broke(exc)

    def _try_next_or_end(self, error: GatewayError) -> None:
        line, offer, reply = self.line, self.plan.first.offer, self.reply
        if isinstance(error, UpstreamError):
            has_next = bool(self.plan.others) and not reply.is_started
            context = self.incoming.context
            if line.pipeline.failed(self.plan.call, offer, error, has_next=has_next, context=context):
                self._go_on_in_task(self._try_others())
                return
        outcome = self._outcome(status=error.status, word=error.code, error=error)
        if reply.is_started:
            self._tail = line.render_stream_error(error)
        else:
            self._to_say = error
        self._settle(outcome)

    async def _try_others(self) -> None:
        """The other offers, as the pipeline tries them."""
        opened = OpenCall(
            call=self.plan.call,
            endpoint=self.endpoint,
            context=self.incoming.context,
            caller=self.incoming.caller,
            reservation=self.reservation,
            progress=self._progress,
            reply=self.reply,
        )
        await self.line.pipeline.serve_open(opened, self.plan.others)
        self._end(None)

    def _go_on_in_task(self, work: Coroutine[Any, Any, None]) -> None:
        """``work`` ends the call, or raises."""
        self._state = _IN_TASK
        self._task = task = asyncio.create_task(work)
        task.add_done_callback(self._work_ended)  # which hears of one, too, that was cancelled before its first step

    def _work_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            try:
                if self.reservation.is_open:
                    self._settle_left()
            finally:
                self._end(CallerLeft())
        elif isinstance(error := task.exception(), Exception):
            self._end(error)

    # ------------------------------------------------------------ settle, the last bytes

    def _settle(self, outcome: Outcome) -> None:
        self._state = _SETTLING
        self.reservation.settle_now(outcome, self._settled)

    def _settle_left(self) -> None:
        """Nobody waits for it."""
        outcome = self.line.outcomes.of_broken_off(self.plan.call, self.reservation, self._full_progress())
        self.reservation.settle_now(outcome, _note_fault)

    def _settled(self, failed: Failed | None) -> None:
        if self._state == _ENDED:  # the caller has left meanwhile
            return
        try:
            if failed is not None:
                raise failed.error
            if self._to_say is None:
                self._finish()
        except Exception as exc:  # noqa: BLE001 - what the writer calls must not raise; the caller hears of it
            self._end(exc)
        else:
            self._end(self._to_say)

    def _finish(self) -> None:
        """The last bytes. Raises CallerLeft."""
        bill, provider, reply = self.reservation.bill, self.plan.first.provider, self.reply
        if reply.is_started:
            tail = self._tail
            if self.endpoint.comments_cost:
                tail += cost_comment(cost_headers(bill, provider))
            reply.finish_now(self._progress.behind(tail))
        else:
            marks = marks_of(self._known_head().headers)
            reply.send_json_now(marks, cost_lines(bill, provider), self._whole_body())

    def _outcome(self, *, status: int, word: str, error: GatewayError | None = None) -> Outcome:
        return self.line.outcomes.of(
            self.plan.call, self.reservation, self._full_progress(), status=status, outcome=word, error=error
        )

    def _full_progress(self) -> Progress:
        """With the offer that was tried. Not every call looks it up: it would be one cold line of memory more."""
        progress = self._progress
        if progress.offer is None:
            progress.offer = self.plan.first.offer
        return progress

    def _known_head(self) -> AnswerHead:
        assert self._head is not None, "it comes first"
        return self._head

    def _whole_body(self) -> bytes:
        pieces = self._pieces
        if pieces is not None:
            self._whole, self._pieces = b"".join(pieces), None
        return self._whole

    def _leave_provider(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finish()

    def _broke(self, error: Exception) -> None:
        """A fault of ours."""
        self._leave_provider()
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        if self._state == _ENDED:
            return
        self._state = _ENDED
        self._to_say = None  # its traceback may lead here: a circle would be left to the collector
        reservation = self.reservation
        try:
            if reservation.is_open:  # a fault of ours, and the row is to name the offer
                reservation.note_offer(self._progress.offer or self.plan.first.offer)
            reservation.leave_now()
        finally:
            self.on_ended(error)


def _note_fault(failed: Failed | None) -> None:
    if failed is not None:
        log.error("a call whose caller had left could not be settled", exc_info=failed.error)
