"""Responses as a whole: put together, made, looked at, cancelled.

Every call goes through the pipeline: one meter. What is special here is only what comes before it (a conversation, a
call that fits the model) and after it (jobs that take their time, responses that are kept).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from bitmesh_proxy.auth.sealing import Sealer
from bitmesh_proxy.calls import Call, JsonObject, SpeechCall, VideoCall
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.routing import model_for
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.endpoints.responses.media_calls import call_for
from bitmesh_proxy.endpoints.responses.request import ResponseRequest, parse_request
from bitmesh_proxy.endpoints.responses.resource import render_items
from bitmesh_proxy.endpoints.responses.truncation import CHARACTERS_PER_TOKEN, estimate_tokens, fit
from bitmesh_proxy.errors import InvalidRequest, NotFound, ProviderRefused
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.pipeline import Incoming, Pipeline
from bitmesh_proxy.settings import Responses as ResponseSettings
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.responses import UNDER_WAY, ResponseStore, StoredResponse
from bitmesh_proxy.upstream.reply import Reply
from bitmesh_proxy.web.responses.background import Background
from bitmesh_proxy.web.responses.compactor import Compactor
from bitmesh_proxy.web.responses.conversation import Conversation, Conversations
from bitmesh_proxy.web.responses.long_work import LongWork
from bitmesh_proxy.web.responses.replies import STOPPED
from bitmesh_proxy.web.responses.session import ResponseSession, Transport, in_words_of, new_id

#: What of a request is kept elsewhere, or not at all, when a job is to be finished later.
_NOT_KEPT = frozenset(("input", "messages", "image", "images", "mask", "previous_response_id"))


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its conversation and the call that it becomes. ``input_tokens`` is an estimate."""

    request: ResponseRequest
    call: Call
    conversation: Conversation
    input_tokens: int
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
        self._jobs = jobs
        self._instance = instance
        self._clock = clock
        self._conversations = Conversations(store, sealer, max_context_bytes=settings.max_context_bytes)
        self._work = LongWork(pipeline=pipeline, jobs=jobs, ledger=ledger, media=media)
        self.background = Background(store, self.run, instance=instance, max_under_way=settings.max_background)
        self.compactor = Compactor(
            pipeline=pipeline, catalogue=catalogue, conversations=self._conversations, sealer=sealer
        )

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
        model = model_for(self._catalogue, request.model, bound_model=caller.bound_model)
        if request.previous_response_id is not None and request.previous_response_id not in (remembered or {}):
            with suppress(NotFound):  # a job that nobody waited for may be over by now
                await self.get(caller, request.previous_response_id, context)
        conversation = await self._conversations.of(request, caller.account_id, remembered)
        everything = [*conversation.shown_context, *conversation.shown_items]
        shown = fit(
            everything,
            context_tokens=model.context_tokens,
            is_auto=request.truncation == "auto",
            reserved_tokens=(request.max_output_tokens or 0) + len(request.instructions or "") // CHARACTERS_PER_TOKEN,
            param=request.input_name,
        )
        # What was cut off is cut off the context first.
        cut = max(0, len(shown) - len(conversation.shown_items))
        called = replace(conversation.request, items=tuple(shown[cut:]))
        return Prepared(
            request=conversation.request,
            call=call_for(called, model.operation, shown[:cut]),
            conversation=conversation,
            input_tokens=estimate_tokens(shown, instructions=request.instructions),
            asked={name: value for name, value in body.items() if name not in _NOT_KEPT} | {"model": request.model},
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
            input_tokens=prepared.input_tokens,
            asked=prepared.asked,
            clock=self._clock,
        )

    # ------------------------------------------------------------ through it

    async def run(self, session: ResponseSession, incoming: Incoming, reply: Reply) -> None:
        """Make the response, to its last byte. Raises as ``Pipeline.serve`` does while nothing has gone out."""
        try:
            if isinstance(session.call, VideoCall):
                await self._work.run_job(session, incoming, reply)
            elif isinstance(session.call, SpeechCall):
                await self._work.run_speech(session, incoming, reply)
            else:
                await self._pipeline.serve(replace(incoming, finisher=session), session.endpoint(), reply)
        except (InvalidRequest, ProviderRefused) as error:
            raise in_words_of(error, session.request) from error.__cause__

    # ------------------------------------------------------------ afterwards

    async def get(self, caller: Caller, response_id: str, context: RequestContext) -> StoredResponse:
        """The response as it is now. Raises NotFound, for another account's too."""
        stored = await self.store.get(caller.account_id, response_id)
        if stored is None:
            raise NotFound(f"No response with the id '{response_id[:64]}'.", param="response_id")
        if not stored.is_under_way or self.background.session_of(response_id) is not None:
            return self._shown(stored)
        if stored.job_id is not None:
            return self._shown(await self._job_of(stored, caller, context))
        if stored.instance != self._instance and await self.store.is_alive(stored.instance):
            # Its row says "queued" up to its end; it is made as soon as it is taken.
            return self._shown(replace(stored, body={**stored.body, "status": "in_progress"}))
        error = {"code": "interrupted", "message": STOPPED}
        return await self._ended(stored, {"status": "failed", "error": error})

    async def cancel(self, caller: Caller, response_id: str, context: RequestContext) -> StoredResponse:
        """Stop a background response. One that is over stays as it is. Raises NotFound, InvalidRequest."""
        stored = await self.get(caller, response_id, context)
        if not stored.is_background:
            raise InvalidRequest("Only a background response can be cancelled.", param="response_id")
        if not stored.is_under_way:
            return stored
        cancelled = await self._ended(stored, {"status": "cancelled"})
        await self.background.cancel(response_id)
        return cancelled

    async def _ended(self, stored: StoredResponse, changes: Mapping[str, Any]) -> StoredResponse:
        ended = replace(stored, status=changes["status"], body={**stored.body, **changes})
        if await self.store.finish(ended):
            return ended
        now = await self.store.get(stored.account_id, stored.id)  # it has come to another end meanwhile
        return stored if now is None else self._shown(now)

    def _shown(self, stored: StoredResponse) -> StoredResponse:
        """With all that callers see of it: its items, and its status as it is at this moment."""
        body = {**stored.body, "items": render_items(stored.output)}
        running = self.background.session_of(stored.id)
        if running is not None and stored.is_under_way and running.response["status"] in UNDER_WAY:
            # Once it has ended, what was read before lacks its output: it counts as running until the row says so too.
            body["status"] = running.response["status"]
        return replace(stored, body=body)

    async def _job_of(self, stored: StoredResponse, caller: Caller, context: RequestContext) -> StoredResponse:
        """A response that is a job, of which nobody waits for the end any more: ask the job."""
        assert stored.job_id is not None
        job = await self._jobs.get(caller.account_id, stored.job_id)
        if not job.status.is_final:
            return replace(stored, body={**stored.body, "status": "in_progress"})
        view = await self._jobs.view(job, public_base_url=context.public_base_url)
        ended_at_s = job.completed_at_s or self._clock()
        session = self._resumed(stored, caller=caller, context=context, ended_at_s=ended_at_s)
        session.resume(stored.job_id)
        await self._work.end_job(session, view)
        return await self.store.get(caller.account_id, stored.id) or stored

    def _resumed(
        self, stored: StoredResponse, *, caller: Caller, context: RequestContext, ended_at_s: float
    ) -> ResponseSession:
        """The response as if it had been waited for up to ``ended_at_s`` (Unix time)."""
        request = parse_request({**stored.asked, "input": "-"}, new_id)
        return ResponseSession(
            replace(request, items=tuple(stored.input_items), previous_response_id=stored.previous_id, store=True),
            VideoCall(model=request.model, prompt=""),
            context=replace(context, request_id=stored.request_id, received_at_s=stored.created_at_s, started_s=0.0),
            caller=caller,
            store=self.store,
            instance=self._instance,
            transport=Transport.WHOLE,
            response_id=stored.id,
            created_at_s=stored.created_at_s,
            clock=lambda: ended_at_s,
            monotonic=lambda: ended_at_s - stored.created_at_s,
        )
