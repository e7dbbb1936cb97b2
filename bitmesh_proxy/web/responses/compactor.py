"""Makes conversations shorter, by a summary of the model's own: through the pipeline, like every call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from msgspec.structs import replace

from bitmesh_proxy.auth.sealing import Sealer
from bitmesh_proxy.calls import Operation, Usage
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.routing import model_for
from bitmesh_proxy.endpoints.responses.compaction import kept_items, summary_call, transcript_of
from bitmesh_proxy.endpoints.responses.request import ResponseRequest, parse_request
from bitmesh_proxy.endpoints.responses.resource import Cost, render_usage
from bitmesh_proxy.pipeline import Incoming, Pipeline
from bitmesh_proxy.web.responses.conversation import Conversation, Conversations
from bitmesh_proxy.web.responses.replies import CapturedReply
from bitmesh_proxy.web.responses.session import new_id
from bitmesh_proxy.web.responses.summary import SummaryTaker


class Compactor:
    """See the module's docstring."""

    def __init__(
        self, *, pipeline: Pipeline, catalogue: Catalogue, conversations: Conversations, sealer: Sealer
    ) -> None:
        self._pipeline = pipeline
        self._catalogue = catalogue
        self._conversations = conversations
        self._sealer = sealer

    async def compact(self, body: Mapping[str, Any], incoming: Incoming) -> tuple[dict[str, Any], dict[str, str]]:
        """The shorter conversation, and the headers that tell what it cost. Raises InvalidRequest,
        PreviousResponseNotFound, and as ``Pipeline.serve`` does."""
        caller = incoming.caller
        request = parse_request(body, new_id, bound_model=caller.bound_model)
        conversation = await self._conversations.of(request, caller.account_id)
        summary, usage, headers = await self._summary(request, conversation, incoming)
        sealed = await asyncio.to_thread(self._sealer.seal, summary.encode(), caller.account_id)
        kept = kept_items([*conversation.context, *conversation.request.items])
        item = {"id": new_id("cmp_"), "type": "compaction", "status": "completed", "encrypted_content": sealed}
        compacted = {
            "id": new_id("resp_"),
            "object": "response.compaction",
            "created_at": int(incoming.context.received_at_s),
            "output": [*kept, item],
            "usage": usage,
        }
        return compacted, headers

    async def _summary(
        self, request: ResponseRequest, conversation: Conversation, incoming: Incoming
    ) -> tuple[str, dict[str, Any], dict[str, str]]:
        """The summary, its usage and headers; of a model that does not speak, the transcript, which costs nothing."""
        shown, context = conversation.shown_items, conversation.shown_context
        model = model_for(self._catalogue, request.model, bound_model=incoming.caller.bound_model)
        if model.operation is not Operation.CHAT:
            return transcript_of([*context, *shown]), render_usage(Usage(), Cost()), {}
        taker = SummaryTaker(summary_call(replace(request, items=shown), context), incoming.context)
        reply = CapturedReply()
        await self._pipeline.serve(replace(incoming, finisher=taker), taker.endpoint(), reply)
        taken = orjson.loads(reply.body)
        headers = {name: value for name, value in reply.headers.items() if name.startswith("X-Bitmesh-")}
        return taken["summary"], taken["usage"], headers
