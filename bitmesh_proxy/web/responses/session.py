"""One response on its way: between the pipeline, which makes it, and whoever reads it.

The pipeline sees an endpoint whose renderers are this session's, and a finisher that writes the last bytes when the
bill is known: cost stands in the answer, and a stored response is kept before its end goes out. How events become bytes
is the transport's: server-sent events, lines for a WebSocket, or nothing but the whole response.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import string
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import orjson
from msgspec.structs import replace

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    Event,
    Finished,
    FinishReason,
    JsonObject,
    TextDelta,
    TranscriptionCall,
    Usage,
    UsageReport,
    VideoCall,
)
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.endpoints.endpoint import Endpoint, JobView, MadePictures
from bitmesh_proxy.endpoints.responses.framing import DONE, around_line, around_sse, sse_all, websocket_texts
from bitmesh_proxy.endpoints.responses.media_parts import output_link
from bitmesh_proxy.endpoints.responses.request import ResponseRequest
from bitmesh_proxy.endpoints.responses.resource import Cost
from bitmesh_proxy.endpoints.responses.writer import EventWriter, Failure
from bitmesh_proxy.errors import GatewayError, ProviderRefused, UpstreamBroken
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.responses import ResponseStore, StoredResponse
from bitmesh_proxy.web.error_formats import render_error

log = logging.getLogger(__name__)

#: What the pipeline's chat format is compared with: no provider speaks it, so every answer is translated.
CHAT_FORMAT = "open_responses"
NAME = "responses"
#: Answers above this size are written off the loop.
THREAD_BYTES = 256 * 1024


class Transport(StrEnum):
    """How a response reaches its reader."""

    WHOLE = "whole"
    SSE = "sse"
    WEBSOCKET = "websocket"


def new_id(prefix: str) -> str:
    """A prefix and 128 random bits."""
    return prefix + os.urandom(16).hex()


def random_letters(count: int) -> str:
    """So many letters that say nothing."""
    return "".join(secrets.choice(string.ascii_letters) for _ in range(count))


def failure_of(error: GatewayError, context: RequestContext) -> Failure:
    """An error as a response tells it: in the words of its caller's vocabulary."""
    told = orjson.loads(render_error(error, context.surface, "").body)["error"]
    return Failure(message=told["message"], code=told["code"], type=told["type"], param=told["param"])


class ResponseSession:
    """See the module's docstring. ``clock`` is Unix time, ``monotonic`` what latency is measured by."""

    def __init__(
        self,
        request: ResponseRequest,
        call: Call,
        *,
        context: RequestContext,
        caller: Caller,
        store: ResponseStore,
        instance: int,
        transport: Transport,
        input_tokens: int = 0,
        asked: JsonObject | None = None,
        response_id: str | None = None,
        created_at_s: float | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request = request
        self.call = call
        self.context = context
        self.caller = caller
        self.transport = transport
        self.response_id = response_id or new_id("resp_")
        self.job_id: str | None = None
        self._store = store
        self._instance = instance
        self._input_tokens = input_tokens
        self._asked = asked or {}
        self._created_at_s = context.received_at_s if created_at_s is None else created_at_s
        self._clock = clock
        self._monotonic = monotonic
        self._is_begun = False
        self._is_kept = False
        self._pictures: MadePictures | None = None
        self._writer = self._new_writer()

    @property
    def response(self) -> dict[str, Any]:
        """The response object as it is now."""
        return self._writer.response

    def endpoint(self) -> Endpoint:
        """What the pipeline is to take this call for."""
        return Endpoint(
            name=NAME,
            surface=self.context.surface,
            parse=lambda _body, _caller: self.call,
            chat_format=CHAT_FORMAT,
            render_chat=self._render_chat,
            chunk_renderer=self._chunk_renderer,
            render_pictures=self._render_pictures,
            render_job=self._render_job,
        )

    # ------------------------------------------------------------ what the pipeline asks

    def _chunk_renderer(self, call: ChatCall, _: RequestContext) -> ResponseSession:
        return self

    def render(self, events: Sequence[Event]) -> bytes:
        """Part of a translated stream."""
        frames = [] if self._is_begun else [self.begin_frames()]
        writer = self._writer
        for event in events:
            more = writer.more_text(event)
            frames.append(self.framed(writer.feed((event,))) if more is None else more)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def finish(self) -> bytes:
        """Nothing: the end waits for the bill."""
        return b""

    def _render_chat(self, call: ChatCall, events: Sequence[Event], _: RequestContext) -> JsonObject:
        """Read a whole answer; another offer's, if an earlier one failed. Raises ProviderRefused for an error in it."""
        self._writer, self._is_begun = self._new_writer(), False
        self.begin()
        self._writer.feed(events)
        failure = self._writer.failure
        if failure is not None:
            raise ProviderRefused(failure.message, status=502, provider_status=502, provider_code=failure.code)
        return {}

    def _render_pictures(self, made: MadePictures) -> JsonObject:
        self._pictures = made
        return {}

    def _render_job(self, view: JobView) -> JsonObject:
        return {"job_id": view.state.provider_job_id, "response_id": self.response_id}

    async def finish_whole(self, body: bytes, bill: Bill | None) -> bytes:
        """The end of an answer that came whole. A job has not come yet: its body says where it is."""
        if isinstance(self.call, VideoCall):
            return body
        events = self.begin()
        if isinstance(self.call, TranscriptionCall):
            events += self._writer.feed([TextDelta(text=_transcript(body))])
        if (made := self._pictures) is not None:
            for output, url in zip(made.result.outputs, made.urls, strict=True):
                link = url or output_link(output)
                if link is not None:
                    events += self._writer.media(link, kind="image", media_type=output.media_type)
        if not isinstance(self.call, ChatCall):
            events += self._stopped(bill)
        return await self._end(events, self._cost(bill.charge_nano_usd if bill is not None else None))

    async def finish_stream(self, tail: bytes, bill: Bill | None) -> bytes:
        """The end of a stream."""
        charge = bill.charge_nano_usd if bill is not None else None
        return tail + await self._end(self.begin(), self._cost(charge))

    async def fail_stream(self, error: GatewayError, bill: Bill | None) -> bytes:
        """The end of a stream that broke off."""
        return await self.fail(error, charge_nano_usd=bill.charge_nano_usd if bill is not None else None)

    # ------------------------------------------------------------ what the rest asks

    def resume(self, job_id: str) -> None:
        """Go on with a response that is stored already, and waits for its job."""
        self.job_id = job_id
        self._is_kept = True

    def adopt(self, response_id: str, *, request_id: str) -> None:
        """Be the response that an earlier request with the same Idempotency-Key began."""
        self.response_id = response_id
        self.context = replace(self.context, request_id=request_id)
        self._is_kept = True
        self._writer = self._new_writer()

    def begin(self) -> list[JsonObject]:
        """The events that begin the response; nothing the second time."""
        if self._is_begun:
            return []
        self._is_begun = True
        return self._writer.start()

    def begin_frames(self) -> bytes:
        """``begin`` as bytes."""
        return self.framed(self.begin())

    def progress_frames(self, percent: int | None, stage: str) -> bytes:
        """How far it is, for those who asked to be told."""
        return self.framed(self._writer.progress(percent, stage))

    async def fail(self, error: GatewayError, *, charge_nano_usd: NanoUsd | None = None) -> bytes:
        """End it with an error."""
        events = [*self.begin(), *self._writer.fail(failure_of(error, self.context), self._cost(charge_nano_usd))]
        return await self._closing(events)

    def cancel(self) -> bytes:
        """End it because its caller wants no more of it. Its row says so already."""
        failure = Failure(message="The response was cancelled.", code="cancelled", type="invalid_request_error")
        return self.framed([*self.begin(), *self._writer.fail(failure, self._cost(None))])

    async def finish_media(
        self,
        urls: Sequence[tuple[str, Any, str | None]],
        *,
        usage: Usage | None = None,
        charge_nano_usd: NanoUsd | None = None,
    ) -> bytes:
        """The end of a response whose results lie behind links of ours: (url, kind, media type) of each."""
        events = self.begin()
        for url, kind, media_type in urls:
            events += self._writer.media(url, kind=kind, media_type=media_type)
        events += self._writer.feed([UsageReport(usage=usage or Usage()), Finished(reason=FinishReason.STOP)])
        return await self._end(events, self._cost(charge_nano_usd))

    def framed(self, events: Sequence[JsonObject]) -> bytes:
        """Events as the transport's bytes; for a WebSocket one line is one message."""
        if self.transport is Transport.SSE:
            return sse_all(events)
        if self.transport is Transport.WEBSOCKET:
            return "".join(f"{text}\n" for text in websocket_texts(events)).encode()
        return b""

    async def keep(self) -> bool:
        """Keep the response as it is now (if it is to be kept), and say whether it is. That it cannot be kept is no
        reason for an answer to fail."""
        if not self.request.store:
            return False
        stored = self.stored(self.response)
        try:
            if self._is_kept:
                return await self._store.finish(stored)
            self._is_kept = True
            await self._store.save(stored)
            return True
        except GatewayError as error:
            log.warning("a response could not be stored: %s", error.code, extra={"response_id": self.response_id})
            return False

    def stored(self, response: JsonObject) -> StoredResponse:
        """The row of the response."""
        return StoredResponse(
            id=self.response_id,
            account_id=self.caller.account_id,
            previous_id=self.request.previous_response_id,
            status=response["status"],
            is_background=self.request.background,
            instance=self._instance,
            job_id=self.job_id,
            request_id=self.context.request_id,
            body=response,
            input_items=self.request.items,
            # Only a job may have to be finished by another process than the one that began it.
            asked=self._asked if self.job_id is not None else {},
            created_at_s=self._created_at_s,
        )

    # ------------------------------------------------------------ inside

    def _new_writer(self) -> EventWriter:
        return EventWriter(
            self.request,
            response_id=self.response_id,
            created_at_s=self._created_at_s,
            new_id=new_id,
            clock=self._clock,
            input_tokens=self._input_tokens,
            random_text=random_letters,
            around=around_sse if self.transport is Transport.SSE else around_line,
            # A client of a WebSocket takes the first ``error`` for the end of its turn.
            tells_errors=self.transport is not Transport.WEBSOCKET,
        )

    def _stopped(self, bill: Bill | None) -> list[JsonObject]:
        usage = bill.usage if bill is not None else Usage()
        return self._writer.feed([UsageReport(usage=usage), Finished(reason=FinishReason.STOP)])

    def _cost(self, charge_nano_usd: NanoUsd | None) -> Cost:
        latency_ms = round((self._monotonic() - self.context.started_s) * 1000)
        return Cost(charge_nano_usd=charge_nano_usd, latency_ms=max(0, latency_ms))

    async def _end(self, events: list[JsonObject], cost: Cost) -> bytes:
        return await self._closing([*events, *self._writer.finish(cost)])

    async def _closing(self, events: list[JsonObject]) -> bytes:
        await self.keep()
        if self.transport is Transport.WHOLE:
            return await _dumped(self.response)
        return self.framed(events) + (DONE if self.transport is Transport.SSE else b"")


async def _dumped(response: JsonObject) -> bytes:
    """Pictures as base64 are megabytes: writing them here would keep every stream of the process waiting."""
    size = sum(len(part.get("image_url") or "") for item in response["output"] for part in item.get("content") or ())
    if size > THREAD_BYTES:
        return await asyncio.to_thread(orjson.dumps, response)
    return orjson.dumps(response)


def _transcript(body: bytes) -> str:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace").strip()
    text = answer.get("text") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise UpstreamBroken("The provider's transcript has no text.")
    return text


E = TypeVar("E", bound=GatewayError)

#: The middle's and the providers' names of what has one name here.
_NAMES = {"n": "max_items", "width": "size", "height": "size"}
_CONVERSATION_NAMES = frozenset(("image", "messages", "prompt"))


def in_words_of(error: E, request: ResponseRequest) -> E:
    """The error with the caller's own name of the field, also where its message begins with the name."""
    ours = error.param
    if ours is not None:
        error.param = request.input_name if ours in _CONVERSATION_NAMES else _NAMES.get(ours, ours)
        if error.message.startswith(f"{ours}: "):
            error.message = error.param + error.message[len(ours) :]
    return error
