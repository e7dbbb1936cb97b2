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
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from bitmesh_proxy.billing.bill import Bill, Ending, bill_of, hold_of
from bitmesh_proxy.billing.reservation import Books, Outcome, Reservation
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    EmbeddingCall,
    ImageCall,
    JsonObject,
    ModerationCall,
    SpeechCall,
    TranscriptionCall,
    VideoCall,
)
from bitmesh_proxy.catalogue import routing
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.health import OfferHealth
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.context import Caller, RequestContext, Surface
from bitmesh_proxy.endpoints.endpoint import Endpoint, MadePictures
from bitmesh_proxy.errors import (
    CallerLeft,
    GatewayError,
    InternalError,
    ProviderRefused,
    Unavailable,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from bitmesh_proxy.idempotency import IdempotencyGate, Replay, Ticket
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.media.hand_out import hand_out
from bitmesh_proxy.media.inputs import InputMedia
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.metrics import Metrics
from bitmesh_proxy.money import NanoUsd, format_usd
from bitmesh_proxy.settings import Billing, Settings
from bitmesh_proxy.storage.ledger import Accrued
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.attempts import STREAM_HEADERS, Attempts, ChatTranslation, Reply, Streamed, Whole
from bitmesh_proxy.upstream.progress import Progress

log = logging.getLogger(__name__)


class Finisher(Protocol):
    """For answers that say what they cost: makes their last bytes once the books are closed.

    ``bill`` is None where the books stay open (a job's). ``failed`` ends a stream that broke off.
    """

    async def finish_whole(self, body: bytes, bill: Bill | None) -> bytes: ...

    async def finish_stream(self, tail: bytes, bill: Bill | None) -> bytes: ...

    async def fail_stream(self, error: GatewayError, bill: Bill | None) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A request that has been authenticated, limited and read."""

    context: RequestContext
    caller: Caller
    body: JsonObject
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    finisher: Finisher | None = None


class Pipeline:
    """The line, with the rooms it goes through. One per application."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalogue: Catalogue,
        access: Mapping[str, ProviderAccess],
        health: OfferHealth,
        metrics: Metrics,
        books: Books,
        attempts: Attempts,
        media: MediaResults,
        inputs: InputMedia,
        jobs: JobService,
        idempotency: IdempotencyGate,
        settlements: Settlements,
        render_stream_error: Callable[[GatewayError, Surface], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._access = access
        self._health = health
        self._metrics = metrics
        self._books = books
        self._attempts = attempts
        self._media = media
        self._inputs = inputs
        self._jobs = jobs
        self._idempotency = idempotency
        self._settlements = settlements
        self._render_stream_error = render_stream_error
        self._clock = clock

    async def serve(self, incoming: Incoming, endpoint: Endpoint, reply: Reply) -> None:
        """Take one call from its body to the last byte of its answer.

        Raises GatewayError as long as nothing of the answer has gone out, CallerLeft when nobody listens any more.
        """
        call = endpoint.parse(incoming.body, incoming.caller)
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
            if not all(self._takes_links(call, offer) for offer in offers):
                call = await self._inputs.fetched(call)
            if isinstance(call, VideoCall):
                await self._jobs.check_room(incoming.caller.key_id)
            progress = Progress()
            async with self._books.reserve(
                context=incoming.context,
                caller=incoming.caller,
                endpoint=endpoint.name,
                model_id=offers[0].model_id,
                hold_nano_usd=self._estimate(call, offers),
                live=not call.test,
            ) as reservation:
                self._books.watch(reservation, lambda: self._accrued(call, reservation, progress))
                delivery = await self._deliver(
                    call,
                    offers,
                    endpoint=endpoint,
                    incoming=incoming,
                    reservation=reservation,
                    progress=progress,
                    reply=reply,
                )
            if incoming.finisher is not None:
                delivery = await _finished(delivery, incoming.finisher, reservation.bill)
        except BaseException:
            if ticket is not None:
                # What has been read, and paid, in part is not made a second time under the same key.
                await self._note(ticket.finish_stream if reply.is_started else ticket.abandon)
            raise
        await self._complete(delivery, reservation, progress=progress, ticket=ticket, reply=reply)

    async def _deliver(
        self,
        call: Call,
        offers: Sequence[Offer],
        *,
        endpoint: Endpoint,
        incoming: Incoming,
        reservation: Reservation,
        progress: Progress,
        reply: Reply,
    ) -> Whole | Streamed:
        """Attempt and settle. What comes back lacks nothing but its last bytes."""
        try:
            delivery = await self._first_that_delivers(
                call,
                offers,
                endpoint=endpoint,
                incoming=incoming,
                reservation=reservation,
                progress=progress,
                reply=reply,
            )
        except (asyncio.CancelledError, CallerLeft):
            await reservation.settle(self._outcome(call, reservation, progress, status=499, outcome="caller_left"))
            raise
        except GatewayError as error:
            outcome = self._outcome(call, reservation, progress, status=error.status, outcome=error.code, error=error)
            await reservation.settle(outcome)
            if not reply.is_started or not progress.is_event_stream:
                raise  # in the middle of other bytes no error can be said: the connection is cut
            return Streamed(tail=self._render_stream_error(error, endpoint.surface), is_broken=True, error=error)
        if reservation.is_open:
            is_broken = isinstance(delivery, Streamed) and delivery.is_broken
            word = ProviderRefused.code if is_broken else "completed"
            await reservation.settle(self._outcome(call, reservation, progress, status=200, outcome=word))
        return delivery

    async def _first_that_delivers(
        self,
        call: Call,
        offers: Sequence[Offer],
        *,
        endpoint: Endpoint,
        incoming: Incoming,
        reservation: Reservation,
        progress: Progress,
        reply: Reply,
    ) -> Whole | Streamed:
        """Try the offers in their order until one delivers. After the first byte there is no other try."""
        for number, offer in enumerate(offers, start=1):
            reservation.note_offer(offer)
            try:
                delivery = await self._attempt(
                    call,
                    offer,
                    endpoint=endpoint,
                    incoming=incoming,
                    reservation=reservation,
                    progress=progress,
                    reply=reply,
                )
            except UpstreamError as error:
                self._metrics.note_attempt(offer.provider, error.code)
                if is_offers_fault(error):
                    self._health.note_failure(offer.id)
                if reply.is_started or number == len(offers) or not may_try_next(call, error):
                    raise
                log.info(
                    "an offer failed, the next one is tried: %s, %s",
                    offer.id,
                    error.code,
                    extra={"request_id": incoming.context.request_id},
                )
                continue
            self._health.note_success(offer.id)
            self._metrics.note_attempt(offer.provider, "ok")
            return delivery
        raise Unavailable("No provider can take this call now.")

    async def _attempt(
        self,
        call: Call,
        offer: Offer,
        *,
        endpoint: Endpoint,
        incoming: Incoming,
        reservation: Reservation,
        progress: Progress,
        reply: Reply,
    ) -> Whole | Streamed:
        access = self._access[offer.provider]
        if isinstance(call, ChatCall):
            return await self._attempts.chat(
                call,
                offer,
                access=access,
                chat_format=endpoint.chat_format,
                translation=translation_of(endpoint, call, incoming.context),
                progress=progress,
                reply=reply,
                drops_unasked_usage=endpoint.drops_unasked_usage,
            )
        if isinstance(call, ImageCall) and endpoint.render_pictures is not None:
            return await self._pictures(
                call,
                offer,
                endpoint=endpoint,
                incoming=incoming,
                reservation=reservation,
                progress=progress,
                reply=reply,
            )
        if isinstance(call, ImageCall) and endpoint.render_media is not None:
            result = await self._attempts.image(call, offer, access=access, progress=progress)
            urls = [
                await self._media.register(
                    output,
                    provider=offer.provider,
                    account_id=incoming.caller.account_id,
                    public_base_url=incoming.context.public_base_url,
                )
                for output in result.outputs
            ]
            return Whole(body=orjson.dumps(endpoint.render_media(call, result, urls)), headers=self._marks(access))
        if isinstance(call, VideoCall) and endpoint.render_job is not None:
            state = await self._attempts.submit_video(call, offer, access=access, progress=progress)
            job = await self._jobs.start(
                call, offer, state=state, reservation=reservation, caller=incoming.caller, context=incoming.context
            )
            view = await self._jobs.view(job, public_base_url=incoming.context.public_base_url)
            return Whole(body=orjson.dumps(endpoint.render_job(view)), headers=self._marks(access))
        if isinstance(call, SpeechCall):
            return await self._attempts.speech(call, offer, access=access, progress=progress, reply=reply)
        if isinstance(call, TranscriptionCall):
            body, content_type = await self._attempts.transcription(call, offer, access=access, progress=progress)
            dialect, render = access.provider.transcription, endpoint.render_transcript
            if dialect is not None and render is not None and dialect.wire_format != endpoint.transcription_format:
                body, content_type = render(call, dialect.read_text(call, body))
            return Whole(body=body, headers={**self._marks(access), "Content-Type": content_type})
        if isinstance(call, EmbeddingCall):
            return await self._attempts.embedding(call, offer, access=access, progress=progress)
        if isinstance(call, ModerationCall):
            return await self._attempts.moderation(call, offer, access=access, progress=progress)
        raise InternalError(f"endpoint {endpoint.name} cannot answer a call of {call.operation}")

    async def _pictures(
        self,
        call: ImageCall,
        offer: Offer,
        *,
        endpoint: Endpoint,
        incoming: Incoming,
        reservation: Reservation,
        progress: Progress,
        reply: Reply,
    ) -> Whole | Streamed:
        """Pictures for an endpoint whose answer names its cost, whole or as a stream."""
        access, context = self._access[offer.provider], incoming.context
        image = access.provider.image
        if call.stream and image is not None and image.stream_meter is not None and endpoint.surface is Surface.OPENAI:
            return await self._attempts.image_stream(call, offer, access=access, progress=progress, reply=reply)
        begun_s = self._clock()
        asked = replace(call, stream=False)
        result = await self._attempts.image(asked, offer, access=access, progress=progress)
        latency_ms = round((self._clock() - begun_s) * 1000)
        outputs, urls = await hand_out(
            self._media,
            call,
            result.outputs,
            provider=offer.provider,
            account_id=incoming.caller.account_id,
            public_base_url=context.public_base_url,
            max_bytes=self._settings.upstream.max_answer_bytes,
        )
        bill = self._outcome(call, reservation, progress, status=200, outcome="completed").bill
        made = MadePictures(
            call=call,
            result=replace(result, outputs=outputs),
            urls=urls,
            model_id=offer.model_id,
            context=context,
            latency_ms=latency_ms,
            charge_nano_usd=bill.charge_nano_usd,
        )
        render, render_events = endpoint.render_pictures, endpoint.render_picture_events
        if call.stream and render_events is not None:
            body = await asyncio.to_thread(render_events, made)
            await reply.start(200, {**self._marks(access), **STREAM_HEADERS})
            progress.delivered = True
            return Streamed(tail=body)
        assert render is not None, "the endpoint answers with pictures"
        # Pictures as base64 are megabytes: writing them would keep every stream of the process waiting.
        body = await asyncio.to_thread(lambda: orjson.dumps(render(made)))
        return Whole(body=body, headers=self._marks(access))

    async def _complete(
        self,
        delivery: Whole | Streamed,
        reservation: Reservation,
        *,
        progress: Progress,
        ticket: Ticket | None,
        reply: Reply,
    ) -> None:
        """The last bytes, after the books are closed."""
        if isinstance(delivery, Streamed):
            if ticket is not None:
                await self._note(ticket.finish_stream)
            if delivery.tail:
                await reply.write(delivery.tail)
            await reply.finish()
            return
        headers = {**delivery.headers, **self._cost_headers(reservation, progress)}
        if ticket is not None:
            await self._note(lambda: ticket.finish(delivery.status, headers, delivery.body))
        await reply.send(delivery.status, headers, delivery.body)

    async def _note(self, end_ticket: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """End an idempotency ticket: at once, or as soon as the database takes it. The answer does not depend on it."""
        try:
            await self._settlements.run(end_ticket())
        except Unavailable:
            self._settlements.insist(end_ticket)

    def _route(self, call: Call, caller: Caller) -> tuple[Offer, ...]:
        offers = routing.route(
            self._catalogue,
            call,
            available=self._access.keys(),
            health=self._health,
            allowed_models=caller.allowed_models,
        )
        return offers[: self._settings.upstream.max_attempts]

    def _takes_links(self, call: Call, offer: Offer) -> bool:
        """Does the provider fetch pictures itself?"""
        dialect = self._access[offer.provider].provider.dialect_for(call.operation)
        return bool(getattr(dialect, "takes_image_urls", True))

    def _estimate(self, call: Call, offers: Sequence[Offer]) -> NanoUsd:
        """The upper bound over every offer that may be tried, as the account would be charged."""
        return max(
            hold_of(
                call,
                offer,
                markup_nano=self._books.markup_nano,
                default_max_output_tokens=self._settings.billing.default_max_output_tokens,
            )
            for offer in offers
        )

    def _outcome(
        self,
        call: Call,
        reservation: Reservation,
        progress: Progress,
        *,
        status: int,
        outcome: str,
        error: GatewayError | None = None,
    ) -> Outcome:
        bill = bill_of(
            call,
            progress.offer,
            usage=progress.reported_usage,
            output_characters=progress.characters,
            ending=ending_of(call, progress, outcome=outcome, error=error, settings=self._settings.billing),
            markup_nano=self._books.markup_nano,
            hold_nano_usd=reservation.hold_nano_usd,
        )
        return Outcome(
            status=status,
            outcome=outcome,
            bill=bill,
            offer=progress.offer,
            provider_request_id=progress.request_id,
            first_byte_s=progress.first_byte_s,
        )

    def _accrued(self, call: Call, reservation: Reservation, progress: Progress) -> Accrued | None:
        """What would be charged if everything stopped now: noted now and then, for the case of a crash."""
        if not progress.delivered:
            return None
        bill = self._outcome(call, reservation, progress, status=200, outcome="caller_left").bill
        return Accrued(cost_nano_usd=bill.cost_nano_usd, charge_nano_usd=bill.charge_nano_usd)

    def _cost_headers(self, reservation: Reservation, progress: Progress) -> dict[str, str]:
        headers = {"X-Bitmesh-Provider": progress.offer.provider} if progress.offer else {}
        bill = reservation.bill
        if bill is not None:
            headers["X-Bitmesh-Cost"] = format_usd(bill.charge_nano_usd)
            headers["X-Bitmesh-Request-Cost-Basis"] = bill.basis.value
        return headers

    def _marks(self, access: ProviderAccess) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if access.is_sandbox:
            headers["X-Bitmesh-Sandbox"] = "1"
        return headers


async def _finished(delivery: Whole | Streamed, finisher: Finisher, bill: Bill | None) -> Whole | Streamed:
    if isinstance(delivery, Whole):
        return replace(delivery, body=await finisher.finish_whole(delivery.body, bill))
    if delivery.error is not None:
        return replace(delivery, tail=await finisher.fail_stream(delivery.error, bill))
    return replace(delivery, tail=await finisher.finish_stream(delivery.tail, bill))


def is_offers_fault(error: UpstreamError) -> bool:
    """Does the failure speak against the offer, rather than against this one request?"""
    if isinstance(error, ProviderRefused):
        return error.may_fail_over
    return isinstance(error, UpstreamUnreachable | UpstreamBroken | UpstreamTimeout)


def may_try_next(call: Call, error: UpstreamError) -> bool:
    """May another offer be tried without paying twice?

    Chat: whenever the offer failed and did not just stay silent. Media: only when surely nothing was begun, because a
    picture or clip that a provider began is billed whether or not its answer arrived.
    """
    if isinstance(error, UpstreamUnreachable):
        return True
    if isinstance(error, ProviderRefused):
        if isinstance(call, ChatCall):
            return error.may_fail_over
        return error.provider_status in (401, 402, 403, 404, 429, 503)
    return isinstance(call, ChatCall) and isinstance(error, UpstreamBroken)


def ending_of(call: Call, progress: Progress, *, outcome: str, error: GatewayError | None, settings: Billing) -> Ending:
    """How a call ended, as far as the bill depends on it.

    Of a chat whose caller left before its first byte nothing was delivered, so nothing is charged; pictures and clips
    are made to their end by their provider, whoever leaves.
    """
    if outcome == "completed":
        return Ending.COMPLETE
    if not progress.sent or isinstance(error, ProviderRefused):
        return Ending.NOTHING
    if progress.delivered:
        return Ending.CUT
    if outcome == "caller_left" and not isinstance(call, ChatCall) and settings.charge_abandoned_media:
        return Ending.CUT
    return Ending.UNDELIVERED


def translation_of(endpoint: Endpoint, call: ChatCall, context: RequestContext) -> ChatTranslation | None:
    """The endpoint's renderers, bound to this call."""
    render_chat, chunk_renderer = endpoint.render_chat, endpoint.chunk_renderer
    if render_chat is None or chunk_renderer is None:
        return None
    return ChatTranslation(
        render_whole=lambda events: orjson.dumps(render_chat(call, events, context)),
        renderer=lambda: chunk_renderer(call, context),
    )
