"""Takes a summary out of the pipeline: the text of one whole chat answer, with what it used and cost."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.calls import ChatCall, Event, JsonObject, StreamFailed, TextDelta, Usage
from bitmesh_proxy.context import RequestContext
from bitmesh_proxy.endpoints.endpoint import ChunkRenderer, Endpoint
from bitmesh_proxy.endpoints.responses.resource import Cost, render_usage
from bitmesh_proxy.errors import GatewayError, InternalError, ProviderRefused, UpstreamBroken
from bitmesh_proxy.web.responses.session import CHAT_FORMAT


class SummaryTaker:
    """One call's endpoint and finisher. The answer is ``{"summary", "usage"}``."""

    def __init__(self, call: ChatCall, context: RequestContext) -> None:
        self._call = call
        self._context = context
        self._summary = ""

    def endpoint(self) -> Endpoint:
        """What the pipeline is to take the call for."""
        return Endpoint(
            name="responses_compact",
            surface=self._context.surface,
            parse=lambda _body, _caller: self._call,
            chat_format=CHAT_FORMAT,
            render_chat=self._render_chat,
            chunk_renderer=_no_stream,
        )

    def _render_chat(self, call: ChatCall, events: Sequence[Event], _: RequestContext) -> JsonObject:
        for event in events:
            if isinstance(event, StreamFailed):
                raise ProviderRefused(event.message, status=502, provider_status=502, provider_code=event.code)
        self._summary = "".join(event.text for event in events if isinstance(event, TextDelta))
        if not self._summary.strip():
            raise UpstreamBroken("The model gave no summary.")
        return {}

    async def finish_whole(self, body: bytes, bill: Bill | None) -> bytes:
        """The summary with its usage."""
        cost = Cost(charge_nano_usd=bill.charge_nano_usd if bill is not None else None)
        usage = render_usage(bill.usage if bill is not None else Usage(), cost)
        return orjson.dumps({"summary": self._summary, "usage": usage})

    async def finish_stream(self, tail: bytes, bill: Bill | None) -> bytes:
        """A summary is never streamed."""
        return tail

    async def fail_stream(self, error: GatewayError, bill: Bill | None) -> bytes:
        """A summary is never streamed."""
        return b""


def _no_stream(call: ChatCall, context: RequestContext) -> ChunkRenderer:
    raise InternalError("a summary is never streamed")
