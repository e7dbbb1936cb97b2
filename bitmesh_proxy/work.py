"""What one offer does for a call, kind by kind: the attempt, and the answer made of what it gives.

``pipeline.py`` decides which offer is asked; here is what happens when it is. Chat goes through, or is translated;
pictures and clips get links of ours; speech, transcripts, vectors and verdicts are passed on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec
import orjson
from msgspec.structs import replace

from bitmesh_proxy.billing.reservation import Reservation
from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    EmbeddingCall,
    ImageCall,
    ModerationCall,
    SpeechCall,
    TranscriptionCall,
    VideoCall,
)
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.context import Caller, RequestContext, Surface
from bitmesh_proxy.endpoints.endpoint import Endpoint, MadePictures
from bitmesh_proxy.errors import InternalError
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.media.hand_out import hand_out
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.attempts import Attempts, ChatTranslation
from bitmesh_proxy.upstream.outcomes import Outcomes
from bitmesh_proxy.upstream.progress import Progress
from bitmesh_proxy.upstream.reply import STREAM_HEADERS, Reply, Streamed, Whole


class OpenCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call whose row is open: from here to the last byte of its answer every step needs most of this."""

    call: Call
    endpoint: Endpoint
    context: RequestContext
    caller: Caller
    reservation: Reservation
    progress: Progress
    reply: Reply


class OfferWork:
    """Everything that one offer can be asked for. Holds no state of a call."""

    def __init__(
        self,
        *,
        access: Mapping[str, ProviderAccess],
        attempts: Attempts,
        media: MediaResults,
        jobs: JobService,
        outcomes: Outcomes,
        max_answer_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._attempts = attempts
        self._media = media
        self._jobs = jobs
        self._outcomes = outcomes
        self._max_answer_bytes = max_answer_bytes
        self._clock = clock

    def takes_links(self, call: Call, offer: Offer) -> bool:
        """Does the provider fetch pictures itself?"""
        dialect = self._access[offer.provider].provider.dialect_for(call.operation)
        return bool(getattr(dialect, "takes_image_urls", True))

    async def ask(self, opened: OpenCall, offer: Offer) -> Whole | Streamed:
        """One attempt. Raises UpstreamError where the offer failed, and what ``Reply`` raises."""
        access = self._access[offer.provider]
        call, endpoint, progress, reply = opened.call, opened.endpoint, opened.progress, opened.reply
        if isinstance(call, ChatCall):
            return await self._attempts.chat(
                call,
                offer,
                access=access,
                chat_format=endpoint.chat_format,
                translation=translation_of(endpoint, call, opened.context),
                progress=progress,
                reply=reply,
                drops_unasked_usage=endpoint.drops_unasked_usage,
            )
        if isinstance(call, ImageCall) and endpoint.render_pictures is not None:
            return await self._pictures(opened, call, offer)
        if isinstance(call, ImageCall) and endpoint.render_media is not None:
            result = await self._attempts.image(call, offer, access=access, progress=progress)
            urls = [
                await self._media.register(
                    output,
                    provider=offer.provider,
                    account_id=opened.caller.account_id,
                    public_base_url=opened.context.public_base_url,
                )
                for output in result.outputs
            ]
            return Whole(body=orjson.dumps(endpoint.render_media(call, result, urls)), headers=_marks(access))
        if isinstance(call, VideoCall) and endpoint.render_job is not None:
            state = await self._attempts.submit_video(call, offer, access=access, progress=progress)
            job = await self._jobs.start(
                call,
                offer,
                state=state,
                reservation=opened.reservation,
                caller=opened.caller,
                context=opened.context,
            )
            view = await self._jobs.view(job, public_base_url=opened.context.public_base_url)
            return Whole(body=orjson.dumps(endpoint.render_job(view)), headers=_marks(access))
        if isinstance(call, SpeechCall):
            return await self._attempts.speech(call, offer, access=access, progress=progress, reply=reply)
        if isinstance(call, TranscriptionCall):
            body, content_type = await self._attempts.transcription(call, offer, access=access, progress=progress)
            dialect, render = access.provider.transcription, endpoint.render_transcript
            if dialect is not None and render is not None and dialect.wire_format != endpoint.transcription_format:
                body, content_type = render(call, dialect.read_transcript(call, body))
            return Whole(body=body, headers={**_marks(access), "Content-Type": content_type})
        if isinstance(call, EmbeddingCall):
            return await self._attempts.embedding(call, offer, access=access, progress=progress)
        if isinstance(call, ModerationCall):
            return await self._attempts.moderation(call, offer, access=access, progress=progress)
        raise InternalError(f"endpoint {endpoint.name} cannot answer a call of {call.operation}")

    async def _pictures(self, opened: OpenCall, call: ImageCall, offer: Offer) -> Whole | Streamed:
        """Pictures for an endpoint whose answer names its cost, whole or as a stream."""
        access = self._access[offer.provider]
        endpoint, context, progress, reply = opened.endpoint, opened.context, opened.progress, opened.reply
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
            account_id=opened.caller.account_id,
            public_base_url=context.public_base_url,
            max_bytes=self._max_answer_bytes,
        )
        bill = self._outcomes.of(call, opened.reservation, progress, status=200, outcome="completed").bill
        made = MadePictures(
            call=call,
            result=replace(result, outputs=outputs),
            urls=urls,
            context=context,
            latency_ms=latency_ms,
            charge_nano_usd=bill.charge_nano_usd,
        )
        render, render_events = endpoint.render_pictures, endpoint.render_picture_events
        if call.stream and render_events is not None:
            body = await asyncio.to_thread(render_events, made)
            await reply.start(200, {**_marks(access), **STREAM_HEADERS})
            progress.delivered = True
            return Streamed(tail=body)
        assert render is not None, "the endpoint answers with pictures"
        # Pictures as base64 are megabytes: writing them would keep every stream of the process waiting.
        body = await asyncio.to_thread(lambda: orjson.dumps(render(made)))
        return Whole(body=body, headers=_marks(access))


def _marks(access: ProviderAccess) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if access.is_sandbox:
        headers["X-Bitmesh-Sandbox"] = "1"
    return headers


def translation_of(endpoint: Endpoint, call: ChatCall, context: RequestContext) -> ChatTranslation | None:
    """The endpoint's renderers, bound to this call."""
    render_chat, chunk_renderer = endpoint.render_chat, endpoint.chunk_renderer
    if render_chat is None or chunk_renderer is None:
        return None
    return ChatTranslation(
        render_whole=lambda events: orjson.dumps(render_chat(call, events, context)),
        renderer=lambda: chunk_renderer(call, context),
    )
