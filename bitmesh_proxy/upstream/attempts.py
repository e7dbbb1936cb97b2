"""One attempt at one offer, for each kind of work: send, look at the head, pass on or read.

Up to the first byte an attempt may fail and another offer be tried; afterwards the answer has begun and only an honest
end is left. A chunk read is a chunk written: nothing is collected on a stream's way, no queue stands in between, and
the meter only looks. What happened is noted in ``Progress`` as it happens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec.structs import replace

from bitmesh_proxy.calls import (
    ChatCall,
    EmbeddingCall,
    Event,
    ImageCall,
    JobState,
    MediaResult,
    ModerationCall,
    SpeechCall,
    Started,
    StreamFailed,
    TextDelta,
    TranscriptionCall,
    UsageReport,
    VideoCall,
)
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import StreamMeter, StreamReader, UpstreamRequest
from bitmesh_proxy.dialects.openai_chat_usage_filter import UsageChunkFilter
from bitmesh_proxy.dialects.reading_meter import characters_of
from bitmesh_proxy.endpoints.endpoint import ChunkRenderer
from bitmesh_proxy.errors import GatewayError, ProviderRefused, UpstreamBroken, UpstreamError
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.answers import (
    MAX_ERROR_BYTES,
    check_is_no_refusal,
    check_is_transcript,
    is_good,
    marks_of,
    refusal_of,
)
from bitmesh_proxy.upstream.client import Upstream, UpstreamAnswer
from bitmesh_proxy.upstream.off_loop import THREAD_PARSE_BYTES, in_thread_if_large
from bitmesh_proxy.upstream.progress import Progress
from bitmesh_proxy.upstream.reply import STREAM_HEADERS, Reply, Streamed, Whole
from bitmesh_proxy.upstream.straight_chat import check_looks_like_json, count_characters, drops_usage


class ChatTranslation(msgspec.Struct, frozen=True, kw_only=True):
    """How a chat answer of another format becomes the caller's."""

    render_whole: Callable[[list[Event]], bytes]
    renderer: Callable[[], ChunkRenderer]


class Attempts:
    """Makes attempts. Holds no state of a call."""

    def __init__(
        self, upstream: Upstream, *, max_answer_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._upstream = upstream
        self._max_answer_bytes = max_answer_bytes
        self._clock = clock

    async def chat(
        self,
        call: ChatCall,
        offer: Offer,
        *,
        access: ProviderAccess,
        chat_format: str,
        translation: ChatTranslation | None,
        progress: Progress,
        reply: Reply,
        drops_unasked_usage: bool = False,
    ) -> Whole | Streamed:
        """A chat call, plain or streamed. A stream has been relayed but for its end when this returns.

        ``drops_unasked_usage``: a chunk with usage that only we asked the provider for does not reach the caller.
        """
        dialect = access.provider.chat
        assert dialect is not None, "routing gives only offers whose provider can"
        request = dialect.request(call, offer)
        straight = dialect.wire_format == chat_format
        progress.begin(offer)
        async with self._upstream.open(access, request, on_sent=progress.note_sent) as answer:
            await self._check_head(access, answer)
            if call.stream:
                if answer.media_type != "text/event-stream":
                    raise await self._refusal(access, answer)
                if straight:
                    drops = drops_unasked_usage and drops_usage(call, dialect)
                    return await self._relay(
                        answer,
                        dialect.meter(),
                        progress=progress,
                        reply=reply,
                        usage_filter=UsageChunkFilter() if drops else None,
                    )
                assert translation is not None
                return await self._translate(answer, dialect.reader(), translation.renderer(), progress, reply)
            body = await self._read_json(answer, progress)
            if straight:
                check_is_no_refusal(body)
                progress.usage, progress.provider_request_id = await in_thread_if_large(dialect.read_usage, body)
                progress.output_characters = count_characters(dialect, body, progress.usage)
                return Whole(body=body, headers=_whole_headers(answer))
            assert translation is not None
            events = list(await in_thread_if_large(dialect.read_whole, body))
            _note_events(events, progress)
            return Whole(body=translation.render_whole(events), headers=_whole_headers(answer))

    async def image(self, call: ImageCall, offer: Offer, *, access: ProviderAccess, progress: Progress) -> MediaResult:
        """Pictures, read whole."""
        dialect = access.provider.image
        assert dialect is not None, "routing gives only offers whose provider can"
        request = await _built(lambda: dialect.request(call, offer), call)
        progress.begin(offer)
        async with self._upstream.open(access, request, on_sent=progress.note_sent) as answer:
            await self._check_head(access, answer)
            body = await self._read_json(answer, progress)
            result = await in_thread_if_large(dialect.read, body)
            progress.usage = result.usage
            progress.provider_request_id = result.provider_request_id
            return replace(result, outputs=access.locate(result.outputs))

    async def image_stream(
        self, call: ImageCall, offer: Offer, *, access: ProviderAccess, progress: Progress, reply: Reply
    ) -> Streamed:
        """Pictures as a stream of partial ones, passed on as it comes; for dialects with a ``stream_meter``."""
        dialect = access.provider.image
        assert dialect is not None, "routing gives only offers whose provider can"
        assert dialect.stream_meter is not None, "the dialect streams"
        request = await _built(lambda: dialect.request(call, offer), call)
        progress.begin(offer)
        async with self._upstream.open(access, request, on_sent=progress.note_sent) as answer:
            await self._check_head(access, answer)
            if answer.media_type != "text/event-stream":
                raise await self._refusal(access, answer)
            return await self._relay(answer, dialect.stream_meter(), progress=progress, reply=reply)

    async def submit_video(
        self, call: VideoCall, offer: Offer, *, access: ProviderAccess, progress: Progress
    ) -> JobState:
        """Hand a clip in; the provider's job goes on without us."""
        dialect = access.provider.video
        assert dialect is not None, "routing gives only offers whose provider can"
        request = await _built(lambda: dialect.submit(call, offer), call)
        progress.begin(offer)
        async with self._upstream.open(access, request, on_sent=progress.note_sent) as answer:
            await self._check_head(access, answer)
            state = dialect.read_submit(await self._read_json(answer, progress))
            progress.provider_request_id = state.provider_job_id
            return replace(state, outputs=access.locate(state.outputs))

    async def poll_video(self, provider_job_id: str, offer: Offer, *, access: ProviderAccess) -> JobState:
        """Ask once how a clip is doing."""
        dialect = access.provider.video
        assert dialect is not None, "a job's provider can do videos"
        async with self._upstream.open(access, dialect.poll(provider_job_id, offer)) as answer:
            await self._check_head(access, answer)
            state = dialect.read_poll(await self._read_json(answer, None))
            return replace(state, outputs=access.locate(state.outputs))

    async def speech(
        self, call: SpeechCall, offer: Offer, *, access: ProviderAccess, progress: Progress, reply: Reply
    ) -> Streamed:
        """Speech, passed on as it comes. Its price is known from the text and the answer's head."""
        dialect = access.provider.speech
        assert dialect is not None, "routing gives only offers whose provider can"
        request = dialect.request(call, offer)
        progress.begin(offer)
        async with self._upstream.open(access, request, on_sent=progress.note_sent) as answer:
            await self._check_head(access, answer)
            if answer.media_type == "text/html":
                raise UpstreamBroken("The provider answered with a page.")
            if answer.media_type.endswith("json"):  # an error under a 200, at best
                raise await self._refusal(access, answer)
            data = await self._first(answer, progress)
            progress.usage = dialect.read_usage(call, answer.headers)
            media_type = dialect.media_type(call, answer.headers)
            stream_headers = STREAM_HEADERS if media_type == "text/event-stream" else {}
            await reply.start(200, {**stream_headers, "Content-Type": media_type, **marks_of(answer.headers)})
            progress.delivered = True
            progress.is_event_stream = media_type == "text/event-stream"
            await answer.taken(reply.write(data))
            await answer.pour(reply.write_now)
            return Streamed()

    async def transcription(
        self, call: TranscriptionCall, offer: Offer, *, access: ProviderAccess, progress: Progress
    ) -> tuple[bytes, str]:
        """A transcript as its provider sends it, and its content type."""
        dialect = access.provider.transcription
        assert dialect is not None, "routing gives only offers whose provider can"
        body, content_type = await self._whole(
            dialect.request(call, offer), offer, access=access, progress=progress, is_json=False
        )
        check_is_transcript(body, content_type.partition(";")[0].strip().lower())
        progress.usage = dialect.read_usage(call, body)
        return body, content_type

    async def embedding(
        self, call: EmbeddingCall, offer: Offer, *, access: ProviderAccess, progress: Progress
    ) -> Whole:
        """Vectors, passed on whole."""
        dialect = access.provider.embedding
        assert dialect is not None, "routing gives only offers whose provider can"
        body, _ = await self._whole(dialect.request(call, offer), offer, access=access, progress=progress)
        check_is_no_refusal(body)
        progress.usage = await in_thread_if_large(dialect.read_usage, body)
        return Whole(body=body)

    async def moderation(
        self, call: ModerationCall, offer: Offer, *, access: ProviderAccess, progress: Progress
    ) -> Whole:
        """A verdict, passed on whole."""
        dialect = access.provider.moderation
        assert dialect is not None, "routing gives only offers whose provider can"
        body, _ = await self._whole(dialect.request(call, offer), offer, access=access, progress=progress)
        check_is_no_refusal(body)
        return Whole(body=body)

    async def _whole(
        self,
        request: UpstreamRequest,
        offer: Offer,
        *,
        access: ProviderAccess,
        progress: Progress,
        is_json: bool = True,
    ) -> tuple[bytes, str]:
        progress.begin(offer)
        async with self._upstream.open(access, request, on_sent=progress.note_sent) as answer:
            await self._check_head(access, answer)
            if is_json or answer.media_type.endswith("json"):
                body = await self._read_json(answer, progress)
            elif answer.media_type == "text/html":
                raise UpstreamBroken("The provider answered with a page.")
            else:
                body = await answer.read(self._max_answer_bytes)
                progress.first_byte_s = self._clock()
            content_type = answer.headers.get("Content-Type")
            if not content_type:
                looks_like_json = is_json or body.lstrip().startswith(b"{")
                content_type = "application/json" if looks_like_json else "text/plain; charset=utf-8"
            return body, content_type

    async def _check_head(self, access: ProviderAccess, answer: UpstreamAnswer) -> None:
        """Raises ProviderRefused for an error status, with what the provider said; UpstreamBroken for what nobody here
        can read."""
        if not is_good(answer.status):
            raise await self._refusal(access, answer)
        if answer.head.is_coded:
            raise refusal_of(access, answer.head, b"")

    async def _refusal(self, access: ProviderAccess, answer: UpstreamAnswer) -> GatewayError:
        return refusal_of(access, answer.head, await self._read_error_body(answer))

    async def _read_error_body(self, answer: UpstreamAnswer) -> bytes:
        parts = b""
        try:
            async for chunk in answer.chunks():
                parts += chunk
                if len(parts) >= MAX_ERROR_BYTES:
                    break
        except UpstreamError:
            pass  # the status alone is enough
        return parts

    async def _read_json(self, answer: UpstreamAnswer, progress: Progress | None) -> bytes:
        """The whole body, which must look like one JSON object: an HTML page under a 200 is no answer."""
        body = await answer.read(self._max_answer_bytes)
        if progress is not None:
            progress.first_byte_s = self._clock()
        check_looks_like_json(body)
        return body

    async def _first(self, answer: UpstreamAnswer, progress: Progress) -> bytes:
        data = await answer.piece()
        if not data:
            raise UpstreamBroken("The provider's stream ended before its first byte.")
        progress.first_byte_s = self._clock()
        return data

    async def _relay(
        self,
        answer: UpstreamAnswer,
        meter: StreamMeter,
        *,
        progress: Progress,
        reply: Reply,
        usage_filter: UsageChunkFilter | None = None,
    ) -> Streamed:
        """Bytes to the caller as they came, but for a chunk that is filtered; the meter looks at them in passing."""
        shown: Callable[[bytes], bytes] = usage_filter.feed if usage_filter is not None else _unchanged
        progress.meter = meter
        data = await self._first(answer, progress)
        meter.feed(data)
        refusal = meter.error
        if refusal is not None:  # the first event is an error: nothing has begun, so say it with a status
            raise ProviderRefused(refusal, status=502, provider_status=502)
        await reply.start(200, {**STREAM_HEADERS, **marks_of(answer.headers)})
        progress.delivered = True
        if passed := shown(data):
            await answer.taken(reply.write(passed))

        def take(data: bytes) -> Awaitable[None] | None:
            meter.feed(data)
            passed = shown(data)
            return reply.write_now(passed) if passed else None

        await answer.pour(take)
        if usage_filter is not None and (passed := usage_filter.close()):
            await reply.write(passed)
        if meter.error is not None:  # the caller has read it already, in the provider's words
            return Streamed(is_broken=True)
        if not meter.is_complete:
            raise UpstreamBroken("The provider's stream broke off.")
        return Streamed()

    async def _translate(
        self,
        answer: UpstreamAnswer,
        reader: StreamReader,
        renderer: ChunkRenderer,
        progress: Progress,
        reply: Reply,
    ) -> Streamed:
        """Events out of the provider's stream, the caller's stream out of the events; one write for each read."""
        data = await self._first(answer, progress)
        events = reader.feed(data)
        failure = next((event for event in events if isinstance(event, StreamFailed)), None)
        if failure is not None and all(isinstance(event, Started | StreamFailed | UsageReport) for event in events):
            # Nothing has begun, so say it with a status.
            status = failure.status
            raise ProviderRefused(failure.message, status=status, provider_status=status, provider_code=failure.code)
        is_broken = _note_events(events, progress)
        await reply.start(200, {**STREAM_HEADERS, **marks_of(answer.headers)})
        progress.delivered = True
        if rendered := renderer.render(events):
            await answer.taken(reply.write(rendered))

        def take(data: bytes) -> Awaitable[None] | None:
            nonlocal is_broken
            events = reader.feed(data)
            if _note_events(events, progress):
                is_broken = True
            rendered = renderer.render(events)
            return reply.write_now(rendered) if rendered else None

        await answer.pour(take)
        events = reader.close()
        has_failed = _note_events(events, progress)
        return Streamed(tail=renderer.render(events) + renderer.finish(), is_broken=is_broken or has_failed)


async def _built(build: Callable[[], UpstreamRequest], call: ImageCall | VideoCall) -> UpstreamRequest:
    """Build a request here, or in a thread when large pictures have to be written into it."""
    if isinstance(call, ImageCall):
        inputs = [*call.images, call.mask]
    else:
        inputs = [*(frame.media for frame in call.frames), *call.references]
    size_bytes = sum(len(media.data or b"") + len(media.url or "") for media in inputs if media is not None)
    return await asyncio.to_thread(build) if size_bytes > THREAD_PARSE_BYTES else build()


def _unchanged(data: bytes) -> bytes:
    return data


def _note_events(events: Sequence[Event], progress: Progress) -> bool:
    """Note what the books need. Was a failure of the provider's among them?"""
    has_failed = False
    for event in events:
        if isinstance(event, TextDelta):
            progress.output_characters += characters_of(event)
        elif isinstance(event, UsageReport):
            progress.usage = event.usage
        elif isinstance(event, StreamFailed):
            has_failed = True
        elif isinstance(event, Started) and progress.provider_request_id is None:
            progress.provider_request_id = event.provider_request_id
        else:
            progress.output_characters += characters_of(event)
    return has_failed


def _whole_headers(answer: UpstreamAnswer) -> dict[str, str]:
    return {"Content-Type": "application/json", **marks_of(answer.headers)}
