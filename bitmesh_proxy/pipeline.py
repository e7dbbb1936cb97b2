"""The way of a request, as code. Start reading here.

    parse, validate → route (which offers, in which order) → idempotency → reserve → attempts (translate, send, relay)
    → settle → the end of the answer

Three rules hold whatever happens in between. No provider is called before its row and its reservation are durable.
Every way out, cancellation included, ends in exactly one settle or release. And the last byte of an answer leaves only
after it has been settled, so that a crash behind it loses no row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.billing.reservation import Books
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.calls import Call, JsonObject, VideoCall
from bitmesh_proxy.catalogue.health import OfferHealth
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.errors import (
    CallerLeft,
    GatewayError,
    ProviderRefused,
    Unavailable,
    UnsupportedParameter,
    UnsupportedValue,
    UpstreamError,
)
from bitmesh_proxy.idempotency import IdempotencyGate, Replay, Ticket
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.media.inputs import InputMedia
from bitmesh_proxy.metrics import Metrics
from bitmesh_proxy.money import format_usd
from bitmesh_proxy.upstream.failover import is_offers_fault, may_try_next
from bitmesh_proxy.upstream.outcomes import Outcomes
from bitmesh_proxy.upstream.progress import Progress
from bitmesh_proxy.upstream.reply import Reply, Streamed, Whole
from bitmesh_proxy.work import OfferWork, OpenCall

log = logging.getLogger(__name__)


class Finisher(Protocol):
    """For answers that say what they cost: makes their last bytes once the books are closed.

    ``bill`` is None where the books stay open (a job's). ``failed`` ends a stream that broke off.
    """

    async def finish_whole(self, body: bytes, bill: Bill | None) -> bytes: ...

    async def finish_stream(self, tail: bytes, bill: Bill | None) -> bytes: ...

    async def fail_stream(self, error: GatewayError, bill: Bill | None) -> bytes: ...


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has been authenticated, limited and read."""

    context: RequestContext
    caller: Caller
    body: JsonObject
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    finisher: Finisher | None = None


class Tried(Protocol):
    """An offer, as far as its success concerns anybody."""

    @property
    def id(self) -> str: ...

    @property
    def provider(self) -> str: ...


class Pipeline:
    """The line, with the rooms it goes through. One per application.

    ``route`` gives the offers that may be tried, best first, and raises as ``routing.route``.
    """

    def __init__(
        self,
        *,
        route: Callable[[Call, Caller], tuple[Offer, ...]],
        health: OfferHealth,
        metrics: Metrics,
        books: Books,
        work: OfferWork,
        outcomes: Outcomes,
        inputs: InputMedia,
        jobs: JobService,
        idempotency: IdempotencyGate,
        settlements: Settlements,
        render_stream_error: Callable[[GatewayError], bytes],
    ) -> None:
        self._route = route
        self._health = health
        self._metrics = metrics
        self._books = books
        self._work = work
        self._outcomes = outcomes
        self._inputs = inputs
        self._jobs = jobs
        self._idempotency = idempotency
        self._settlements = settlements
        self._render_stream_error = render_stream_error

    async def serve(self, incoming: Incoming, endpoint: Endpoint, reply: Reply) -> None:
        """Take one call from its body to the last byte of its answer.

        Raises GatewayError as long as nothing of the answer has gone out, CallerLeft when nobody listens any more.
        """
        await self.serve_parsed(endpoint.parse(incoming.body, incoming.caller), incoming, endpoint, reply)

    async def serve_parsed(self, call: Call, incoming: Incoming, endpoint: Endpoint, reply: Reply) -> None:
        """As ``serve``, for a body that has been parsed."""
        ticket: Ticket | None = None
        if incoming.idempotency_key is not None:
            entered = await self._idempotency.enter(
                key_id=incoming.caller.key_id,
                idempotency_key=incoming.idempotency_key,
                fingerprint=incoming.fingerprint,
                request_id=incoming.context.request_id,
            )
            if isinstance(entered, Replay):
                await reply.send(entered.status, entered.headers, entered.body)
                return
            ticket = entered
        line = self._serve_new(call, incoming, endpoint=endpoint, ticket=ticket, reply=reply)
        if isinstance(call, VideoCall) or (ticket is not None and not call.stream):
            # The caller may leave; the work goes on, so that a job is never orphaned and a retry finds the answer.
            await self._settlements.run(line)
        else:
            await line

    async def _serve_new(
        self, call: Call, incoming: Incoming, *, endpoint: Endpoint, ticket: Ticket | None, reply: Reply
    ) -> None:
        try:
            call = await self._inputs.checked(call, public_base_url=incoming.context.public_base_url)
            offers = self._route(call, incoming.caller)
            if not all(self._work.takes_links(call, offer) for offer in offers):
                call = await self._inputs.fetched(call)
            caller, context = incoming.caller, incoming.context
            is_job = isinstance(call, VideoCall)
            progress = Progress()
            async with self._jobs.place(caller.key_id, context.request_id) if is_job else nullcontext():
                async with self._books.reserve(
                    context=context,
                    caller=caller,
                    endpoint=endpoint.name,
                    model_id=offers[0].model_id,
                    hold_nano_usd=self._outcomes.hold_of(call, offers),
                    live=not call.test,
                ) as reservation:
                    self._books.watch(reservation, lambda: self._outcomes.accrued(call, reservation, progress))
                    opened = OpenCall(
                        call=call,
                        endpoint=endpoint,
                        context=context,
                        caller=caller,
                        reservation=reservation,
                        progress=progress,
                        reply=reply,
                    )
                    delivery = await self._deliver(opened, offers)
            if incoming.finisher is not None:
                delivery = await _finished(delivery, incoming.finisher, reservation.bill)
        except BaseException:
            if ticket is not None:
                # What has been read, and paid, in part is not made a second time under the same key.
                await self._note(ticket.finish_stream if reply.is_started else ticket.abandon)
            raise
        await self._complete(opened, delivery, ticket)

    async def serve_open(self, opened: OpenCall, offers: Sequence[Offer]) -> None:
        """The rest of the line: attempt, settle, the last bytes. Raises as ``serve``."""
        await self._complete(opened, await self._deliver(opened, offers))

    async def _deliver(self, opened: OpenCall, offers: Sequence[Offer]) -> Whole | Streamed:
        """Attempt and settle. What comes back lacks nothing but its last bytes."""
        call, reservation, progress = opened.call, opened.reservation, opened.progress
        try:
            delivery = await self._first_that_delivers(opened, offers)
        except (asyncio.CancelledError, CallerLeft):
            await reservation.settle(self._outcomes.of_broken_off(call, reservation, progress))
            raise
        except GatewayError as error:
            outcome = self._outcomes.of(
                call, reservation, progress, status=error.status, outcome=error.code, error=error
            )
            await reservation.settle(outcome)
            if not opened.reply.is_started or not progress.is_event_stream:
                raise  # in the middle of other bytes no error can be said: the connection is cut
            tail = self._render_stream_error(error)
            return Streamed(tail=tail, is_broken=True, error=error)
        if reservation.is_open:
            is_broken = isinstance(delivery, Streamed) and delivery.is_broken
            word = ProviderRefused.code if is_broken else "completed"
            await reservation.settle(self._outcomes.of(call, reservation, progress, status=200, outcome=word))
        return delivery

    async def _first_that_delivers(self, opened: OpenCall, offers: Sequence[Offer]) -> Whole | Streamed:
        """Try the offers in their order until one delivers. After the first byte there is no other try."""
        problem: GatewayError | None = None
        for number, offer in enumerate(offers, start=1):
            opened.reservation.note_offer(offer)
            try:
                delivery = await self._work.ask(opened, offer)
            except (UnsupportedParameter, UnsupportedValue) as error:
                if opened.progress.offer is offer:  # the attempt had begun
                    raise
                # What the provider's protocol has no words for, another one's may have.
                problem = problem or error
                continue
            except UpstreamError as error:
                has_next = number < len(offers) and not opened.reply.is_started
                if not self.failed(opened.call, offer, error, has_next=has_next, context=opened.context):
                    raise
                problem = error
                continue
            self.delivered(offer)
            return delivery
        raise problem or Unavailable("No provider can take this call now.")

    def delivered(self, offer: Tried) -> None:
        """Note that an offer has done its part."""
        if self._health.has_failures:
            self._health.note_success(offer.id)
        self._metrics.note_attempt(offer.provider, "ok")

    def failed(
        self, call: Call, offer: Offer, error: UpstreamError, *, has_next: bool, context: RequestContext
    ) -> bool:
        """Note that an offer has failed, and say whether the next one, if there is one, is to be tried."""
        self._metrics.note_attempt(offer.provider, error.code)
        if is_offers_fault(error):
            self._health.note_failure(offer.id)
        if not has_next or not may_try_next(call, error):
            return False
        log.info(
            "an offer failed, the next one is tried: %s, %s",
            offer.id,
            error.code,
            extra={"request_id": context.request_id},
        )
        return True

    async def _complete(self, opened: OpenCall, delivery: Whole | Streamed, ticket: Ticket | None = None) -> None:
        """The last bytes, after the books are closed."""
        reply, progress = opened.reply, opened.progress
        headers = cost_headers(opened.reservation.bill, progress.offer.provider if progress.offer else None)
        if isinstance(delivery, Streamed):
            tail = delivery.tail
            if opened.endpoint.comments_cost and progress.is_event_stream:
                tail += cost_comment(headers)
            if ticket is not None:
                await self._note(ticket.finish_stream)
            if tail:
                await reply.write(progress.behind(tail))
            await reply.finish()
            return
        headers = {**delivery.headers, **headers}
        if ticket is not None:
            await self._note(lambda: ticket.finish(delivery.status, headers, delivery.body))
        await reply.send(delivery.status, headers, delivery.body)

    async def _note(self, end_ticket: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """End an idempotency ticket: at once, or as soon as the database takes it. The answer does not depend on it."""
        try:
            await self._settlements.run(end_ticket())
        except Unavailable:
            self._settlements.insist(end_ticket)


def cost_headers(bill: Bill | None, provider: str | None) -> dict[str, str]:
    """Who has answered, and what it cost; None: the books are still open."""
    headers = {} if provider is None else {"X-Bitmesh-Provider": provider}
    if bill is not None:
        headers["X-Bitmesh-Cost"] = format_usd(bill.charge_nano_usd)
        headers["X-Bitmesh-Request-Cost-Basis"] = bill.basis._value_  # not `value`: that is a descriptor of Python code
    return headers


def cost_lines(bill: Bill | None, provider: str) -> str:
    """The same as the lines of a head."""
    line = f"X-Bitmesh-Provider: {provider}\r\n"
    if bill is None:
        return line
    cost = format_usd(bill.charge_nano_usd)
    return f"{line}X-Bitmesh-Cost: {cost}\r\nX-Bitmesh-Request-Cost-Basis: {bill.basis._value_}\r\n"


def cost_comment(headers: Mapping[str, str]) -> bytes:
    """The cost headers of whole answers as comments of an event stream, which are known only at its end."""
    return b"".join(f": {name}: {value}\n".encode() for name, value in sorted(headers.items())) + b"\n"


async def _finished(delivery: Whole | Streamed, finisher: Finisher, bill: Bill | None) -> Whole | Streamed:
    if isinstance(delivery, Whole):
        return replace(delivery, body=await finisher.finish_whole(delivery.body, bill))
    if delivery.error is not None:
        return replace(delivery, tail=await finisher.fail_stream(delivery.error, bill))
    return replace(delivery, tail=await finisher.finish_stream(delivery.tail, bill))
