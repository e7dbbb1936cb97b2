"""Responses as a whole: made, waited for, run in the background, looked at, cancelled, compacted.

Every call goes through the pipeline: one meter. What is special here is only what comes before it (a conversation, a
call that fits the model) and after it (jobs that take their time, responses that are kept).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from bitmesh_proxy.auth.sealing import Sealer
from bitmesh_proxy.calls import (
    Call,
    JobStatus,
    JsonObject,
    MediaOutput,
    Operation,
    SpeechCall,
    Usage,
    VideoCall,
)
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.endpoints.endpoint import JobView
from bitmesh_proxy.endpoints.responses.compaction import kept_items, summary_call, transcript_of
from bitmesh_proxy.endpoints.responses.media_calls import call_for
from bitmesh_proxy.endpoints.responses.media_parts import data_uri
from bitmesh_proxy.endpoints.responses.request import ResponseRequest, parse_request
from bitmesh_proxy.endpoints.responses.resource import Cost, render_items, render_usage
from bitmesh_proxy.endpoints.responses.truncation import estimate_tokens, fit
from bitmesh_proxy.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    NotFound,
    ProviderRefused,
    RateLimited,
    Unavailable,
)
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.money import format_usd
from bitmesh_proxy.pipeline import Incoming, Pipeline
from bitmesh_proxy.settings import Responses as ResponseSettings
from bitmesh_proxy.storage.ledger import LedgerRow, LedgerStore
from bitmesh_proxy.storage.responses import ResponseStore, StoredResponse
from bitmesh_proxy.upstream.attempts import Reply
from bitmesh_proxy.web.responses.conversation import Conversation, Conversations
from bitmesh_proxy.web.responses.replies import CapturedReply, EventLog
from bitmesh_proxy.web.responses.session import ResponseSession, Transport, in_words_of, new_id
from bitmesh_proxy.web.responses.summary import SummaryTaker

log = logging.getLogger(__name__)

#: A job's row is looked at so often by whoever waits for it (the poller asks the provider at its own pace).
JOB_LOOK_S = 0.1
#: How soon a process hears that another one was asked to cancel what it works on.
CANCEL_LOOK_S = 1.0
#: Streams of finished background responses that can still be followed.
KEPT_LOGS = 64
MAX_RETRY_AFTER_S = 60.0
#: What of a request is kept elsewhere, or not at all, when a job is to be finished later.
_NOT_KEPT = frozenset(("input", "messages", "image", "images", "mask", "previous_response_id"))


class ProgressSink(Protocol):
    """Where progress goes."""

    async def write(self, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request with its conversation and the call that it becomes."""

    request: ResponseRequest
    call: Call
    conversation: Conversation
    input_characters: int
    asked: Mapping[str, Any]

    @property
    def items(self) -> list[JsonObject]:
        """All that was said up to now, for who goes on from the answer."""
        return [*self.conversation.context, *self.request.items]


class Responses:
    """See the module's docstring. ``clock`` is Unix time."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        catalogue: Catalogue,
        store: ResponseStore,
        sealer: Sealer,
        jobs: JobService,
        ledger: LedgerStore,
        media: MediaResults,
        settings: ResponseSettings,
        instance: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._sealer = sealer
        self._jobs = jobs
        self._ledger = ledger
        self._media = media
        self._settings = settings
        self._instance = instance
        self._clock = clock
        self._conversations = Conversations(store, sealer, max_context_bytes=settings.max_context_bytes)
        self._running: dict[str, tuple[asyncio.Task[None], ResponseSession]] = {}
        self._logs: OrderedDict[str, EventLog] = OrderedDict()
        self._cancelled: set[str] = set()
        self._watcher: asyncio.Task[None] | None = None

    async def close(self, timeout_s: float) -> None:
        """Let what runs in the background come to its end; what does not is ended as interrupted."""
        tasks = [task for task, _ in self._running.values()]
        for task, session in self._running.values():
            if session.job_id is not None:
                task.cancel()  # a job goes on without us; there is nothing to wait for
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        if self._watcher is not None:
            tasks.append(self._watcher)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ before the pipeline

    async def prepare(
        self,
        body: Mapping[str, Any],
        caller: Caller,
        context: RequestContext,
        remembered: Mapping[str, Sequence[JsonObject]] | None = None,
    ) -> Prepared:
        """Read a body. Raises InvalidRequest, PreviousResponseNotFound, ModelNotFound."""
        request = parse_request(body, new_id, bound_model=caller.bound_model)
        model = self._catalogue.get(request.model)
        if request.previous_response_id is not None and request.previous_response_id not in (remembered or {}):
            with suppress(NotFound):  # a job that nobody waited for may be over by now
                await self.get(caller, request.previous_response_id, context)
        conversation = await self._conversations.of(request, caller.account_id, remembered)
        everything = [*conversation.shown_context, *conversation.shown_items]
        shown = fit(
            everything,
            context_tokens=model.context_tokens,
            is_auto=request.truncation == "auto",
            reserved_tokens=(request.max_output_tokens or 0) + len(request.instructions or "") // 4,
            param=request.input_name,
        )
        # What was cut off is cut off the context first.
        cut = max(0, len(shown) - len(conversation.shown_items))
        called = replace(conversation.request, items=tuple(shown[cut:]))
        return Prepared(
            request=conversation.request,
            call=call_for(called, model.operation, shown[:cut]),
            conversation=conversation,
            input_characters=estimate_tokens(shown, instructions=request.instructions) * 4,
            asked={name: value for name, value in body.items() if name not in _NOT_KEPT},
        )

    def session(
        self, prepared: Prepared, *, caller: Caller, context: RequestContext, transport: Transport
    ) -> ResponseSession:
        """A response that is about to be made."""
        return ResponseSession(
            prepared.request,
            prepared.call,
            context=context,
            caller=caller,
            store=self.store,
            instance=self._instance,
            transport=transport,
            input_characters=prepared.input_characters,
            asked=prepared.asked,
            clock=self._clock,
        )

    def estimate(self, prepared: Prepared) -> int:
        """About how many tokens the input is."""
        return prepared.input_characters // 4

    # ------------------------------------------------------------ through it

    async def run(self, session: ResponseSession, incoming: Incoming, reply: Reply) -> None:
        """Make the response, to its last byte. Raises as ``Pipeline.serve`` does while nothing has gone out."""
        try:
            if isinstance(session.call, VideoCall):
                await self._run_job(session, incoming, reply)
            elif isinstance(session.call, SpeechCall):
                await self._run_speech(session, incoming, reply)
            else:
                await self._pipeline.serve(replace(incoming, finisher=session), session.endpoint(), reply)
        except (InvalidRequest, ProviderRefused) as error:
            raise in_words_of(error, session.request) from error.__cause__

    async def _run_job(self, session: ResponseSession, incoming: Incoming, reply: Reply) -> None:
        """Hand the work in and wait for it. The response can be looked at meanwhile, and found when nobody waits."""
        captured = CapturedReply()
        await self._pipeline.serve(replace(incoming, finisher=session), session.endpoint(), captured)
        started = orjson.loads(captured.body)
        session.job_id = started["job_id"]
        if started["response_id"] == session.response_id:
            await session.keep()
        else:
            session.adopt(started["response_id"], request_id=captured.headers["X-Bitmesh-First-Request-Id"])
        view = await self._job_done(session, reply)
        body = await self._end_of_job(session, view)
        row = await self._ledger.request(session.context.request_id)
        await reply.send(200, {**captured.headers, **_cost_headers(row)}, body)

    async def _job_done(self, session: ResponseSession, sink: ProgressSink) -> JobView:
        assert session.job_id is not None
        seen: tuple[int | None, JobStatus] | None = None
        while True:
            job = await self._jobs.get(session.caller.account_id, session.job_id)
            view = await self._jobs.view(job, public_base_url=session.context.public_base_url)
            now = (view.state.progress_percent, view.state.status)
            if now != seen and (frames := session.begin_frames() + session.progress_frames(now[0], now[1].value)):
                await sink.write(frames)
            seen = now
            if view.state.status.is_final:
                return view
            await asyncio.sleep(JOB_LOOK_S)

    async def _end_of_job(self, session: ResponseSession, view: JobView) -> bytes:
        state = view.state
        if state.status is not JobStatus.COMPLETED:
            message = state.error_message or "The provider could not make this."
            code = state.error_code or f"job_{state.status.value}"
            return await session.fail(ProviderRefused(message, status=502, provider_status=502, provider_code=code))
        row = await self._ledger.request(session.context.request_id)
        outputs = [(url, output.kind, output.media_type) for url, output in zip(view.urls, state.outputs, strict=True)]
        return await session.finish_media(
            outputs, usage=state.usage or Usage(), charge_nano_usd=row.charge_nano_usd if row is not None else None
        )

    async def _run_speech(self, session: ResponseSession, incoming: Incoming, reply: Reply) -> None:
        """Speech comes as bytes; here it is a link to them."""
        captured = CapturedReply()
        await self._pipeline.serve(incoming, session.endpoint(), captured)
        media_type = captured.headers.get("Content-Type", "audio/mpeg").partition(";")[0]
        url, shown_type = await self._keep_sound(session, captured.body, media_type)
        row = await self._ledger.request(session.context.request_id)
        charge = row.charge_nano_usd if row is not None else None
        body = await session.finish_media([(url, "audio", shown_type)], charge_nano_usd=charge)
        marks = {name: value for name, value in captured.headers.items() if name.startswith("X-Bitmesh-")}
        await reply.send(200, {"Content-Type": "application/json", **marks, **_cost_headers(row)}, body)

    async def _keep_sound(self, session: ResponseSession, data: bytes, media_type: str) -> tuple[str, str]:
        if session.request.media.response_format in ("b64_json", "b64_ephemeral"):
            return await asyncio.to_thread(data_uri, data, media_type), media_type
        output = MediaOutput(kind="audio", data=data, media_type=media_type)
        url = await self._media.register(
            output,
            provider="speech",
            account_id=session.caller.account_id,
            public_base_url=session.context.public_base_url,
        )
        return url, media_type

    # ------------------------------------------------------------ in the background

    async def start(self, session: ResponseSession, incoming: Incoming) -> EventLog:
        """Begin a background response; gives the log of its events. Raises RateLimited when too many run."""
        if await self.store.count_under_way(session.caller.account_id) >= self._settings.max_background:
            raise RateLimited(
                f"Too many background responses under way: {self._settings.max_background} are allowed.",
                retry_after_s=MAX_RETRY_AFTER_S,
            )
        await session.keep()
        events = EventLog()
        if session.request.stream:
            self._remember_log(session.response_id, events)
        task = asyncio.create_task(self._run_in_background(session, incoming, events))
        self._running[session.response_id] = task, session
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch_for_cancels())
        return events

    async def _watch_for_cancels(self) -> None:
        """Another process on the same database may be the one that is asked to cancel."""
        while self._running:
            await asyncio.sleep(CANCEL_LOOK_S)
            for response_id, (task, session) in list(self._running.items()):
                if self.store.status_of(session.caller.account_id, response_id) == "cancelled":
                    self._cancelled.add(response_id)
                    task.cancel()

    async def _run_in_background(self, session: ResponseSession, incoming: Incoming, events: EventLog) -> None:
        response_id = session.response_id
        try:
            await events.write(session.begin_frames())
            await self.run(session, incoming, events)
        except GatewayError as error:
            await events.send(200, {}, await session.fail(error))
        except asyncio.CancelledError:
            # A job goes on, and is found by whoever asks for the response later.
            if response_id not in self._cancelled and session.job_id is None:
                stopped = Unavailable("The service was stopped while it worked on this response.")
                await asyncio.shield(session.fail(stopped))
        except Exception:
            log.exception("a background response failed", extra={"response_id": response_id})
            await events.send(200, {}, await session.fail(InternalError("Internal server error")))
        finally:
            self._running.pop(response_id, None)
            self._cancelled.discard(response_id)
            await events.finish()

    def _remember_log(self, response_id: str, events: EventLog) -> None:
        over = [each for each, log in self._logs.items() if log.is_over]
        for each in over[: max(0, len(over) - KEPT_LOGS + 1)]:
            del self._logs[each]
        self._logs[response_id] = events

    def log_of(self, response_id: str) -> EventLog | None:
        """The events of a background response that runs, or ended a short while ago, in this process."""
        return self._logs.get(response_id)

    # ------------------------------------------------------------ afterwards

    async def get(self, caller: Caller, response_id: str, context: RequestContext) -> StoredResponse:
        """The response as it is now. Raises NotFound, for another account's too."""
        stored = await self.store.get(caller.account_id, response_id)
        if stored is None:
            raise NotFound(f"No response with the id '{response_id[:64]}'.", param="response_id")
        if not stored.is_under_way or response_id in self._running:
            return self._shown(stored)
        if stored.job_id is not None:
            return self._shown(await self._job_of(stored, caller, context))
        if stored.instance != self._instance and await self.store.is_alive(stored.instance):
            return self._shown(stored)
        error = {"code": "interrupted", "message": "The service was stopped while it worked on this response."}
        return await self._ended(stored, {"status": "failed", "error": error})

    async def cancel(self, caller: Caller, response_id: str, context: RequestContext) -> StoredResponse:
        """Stop a background response. One that is over stays as it is. Raises NotFound, InvalidRequest."""
        stored = await self.get(caller, response_id, context)
        if not stored.is_background:
            raise InvalidRequest("Only a background response can be cancelled.", param="response_id")
        if not stored.is_under_way:
            return stored
        cancelled = await self._ended(stored, {"status": "cancelled"})
        running = self._running.get(response_id)
        if running is not None:
            self._cancelled.add(response_id)
            running[0].cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running[0]])
        return cancelled

    async def _ended(self, stored: StoredResponse, changes: Mapping[str, Any]) -> StoredResponse:
        ended = replace(stored, status=changes["status"], body={**stored.body, **changes})
        await self.store.finish(ended)
        return ended

    def _shown(self, stored: StoredResponse) -> StoredResponse:
        """With all that callers see of it: its items, and its status as it is at this moment."""
        body = {**stored.body, "items": render_items(stored.output)}
        running = self._running.get(stored.id)
        if running is not None and stored.is_under_way:
            body["status"] = running[1].response["status"]
        return replace(stored, body=body)

    async def _job_of(self, stored: StoredResponse, caller: Caller, context: RequestContext) -> StoredResponse:
        """A response that is a job, of which nobody waits for the end any more: ask the job."""
        assert stored.job_id is not None
        job = await self._jobs.get(caller.account_id, stored.job_id)
        if not job.status.is_final:
            return replace(stored, body={**stored.body, "status": "in_progress"})
        view = await self._jobs.view(job, public_base_url=context.public_base_url)
        session = self._resumed(stored, job_id=stored.job_id, job_model=job.model_id, caller=caller, context=context)
        await self._end_of_job(session, view)
        return await self.store.get(caller.account_id, stored.id) or stored

    def _resumed(
        self, stored: StoredResponse, *, job_id: str, job_model: str, caller: Caller, context: RequestContext
    ) -> ResponseSession:
        request = parse_request({**stored.asked, "input": "-"}, new_id)
        session = ResponseSession(
            replace(request, items=tuple(stored.input_items), previous_response_id=stored.previous_id, store=True),
            VideoCall(model=job_model, prompt=""),
            context=replace(context, request_id=stored.request_id, received_at_s=stored.created_at_s),
            caller=caller,
            store=self.store,
            instance=self._instance,
            transport=Transport.WHOLE,
            response_id=stored.id,
            created_at_s=stored.created_at_s,
            clock=self._clock,
        )
        session.resume(job_id)
        return session

    # ------------------------------------------------------------ compaction

    async def compact(self, body: Mapping[str, Any], incoming: Incoming) -> dict[str, Any]:
        """Make a conversation shorter. Raises as ``prepare`` and ``Pipeline.serve`` do."""
        caller, context = incoming.caller, incoming.context
        request = parse_request(body, new_id, bound_model=caller.bound_model)
        model = self._catalogue.get(request.model)
        conversation = await self._conversations.of(request, caller.account_id)
        shown = [*conversation.shown_context, *conversation.shown_items]
        usage: dict[str, Any]
        if model.operation is Operation.CHAT:
            call = summary_call(
                replace(conversation.request, items=conversation.shown_items), conversation.shown_context
            )
            taker = SummaryTaker(call, context)
            reply = CapturedReply()
            await self._pipeline.serve(replace(incoming, finisher=taker), taker.endpoint(), reply)
            taken = orjson.loads(reply.body)
            summary, usage = taken["summary"], taken["usage"]
        else:
            summary, usage = transcript_of(shown), render_usage(Usage(), Cost())
        sealed = await asyncio.to_thread(self._sealer.seal, summary.encode(), caller.account_id)
        kept = kept_items([*conversation.context, *conversation.request.items])
        item = {"id": new_id("cmp_"), "type": "compaction", "status": "completed", "encrypted_content": sealed}
        return {
            "id": new_id("resp_"),
            "object": "response.compaction",
            "created_at": int(context.received_at_s),
            "output": [*kept, item],
            "usage": usage,
        }


def _cost_headers(row: LedgerRow | None) -> dict[str, str]:
    """What the pipeline says of a call whose books are closed before its answer is there."""
    if row is None or row.basis is None:
        return {}
    return {
        "X-Bitmesh-Cost": format_usd(row.charge_nano_usd),
        "X-Bitmesh-Provider": row.provider or "",
        "X-Bitmesh-Request-Cost-Basis": row.basis.value,
    }
