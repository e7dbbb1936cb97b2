"""Requests, writers and events with their ids counted and their clock standing still."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from bitmesh_proxy.calls import Event, Finished, FinishReason, Started, TextDelta, ToolCallDelta, Usage, UsageReport
from bitmesh_proxy.endpoints.responses.request import ResponseRequest, parse_request
from bitmesh_proxy.endpoints.responses.writer import EventWriter

CREATED_AT_S = 1_795_300_000.25
TOOLS = [
    {"type": "function", "name": name, "description": None, "parameters": {"type": "object"}, "strict": None}
    for name in ("look", "listen", "speak")
]


def counted_ids() -> Callable[[str], str]:
    """``msg_1``, ``fc_2`` …"""
    numbers = itertools.count(1)
    return lambda prefix: f"{prefix}{next(numbers)}"


def a_request(**fields: Any) -> ResponseRequest:
    """A request as its body would say it; about nothing in particular unless it says so."""
    body = {"model": "a/model", **fields}
    if "messages" not in body:
        body.setdefault("input", "Hello")
    return parse_request(body, counted_ids())


def a_writer(request: ResponseRequest | None = None, *, created_at_s: float = CREATED_AT_S) -> EventWriter:
    """A writer that is about to start."""
    return EventWriter(
        request or a_request(),
        response_id="resp_1",
        created_at_s=created_at_s,
        new_id=counted_ids(),
        clock=lambda: created_at_s + 2,
        input_tokens=2,
    )


def written(request: ResponseRequest, *batches: Sequence[Event]) -> list[Any]:
    """Every event of an answer to the request."""
    writer = a_writer(request)
    events = list(writer.start())
    for batch in batches:
        events += writer.feed(batch)
    return events + writer.finish()


def stopped(reason: FinishReason = FinishReason.STOP) -> list[Event]:
    """The end of an answer, with its usage."""
    usage = Usage(input_tokens=7, cached_input_tokens=2, output_tokens=5, reasoning_tokens=1)
    return [Finished(reason=reason), UsageReport(usage=usage)]


def said(*texts: str) -> list[Event]:
    """The beginning of an answer, with some text."""
    return [Started(), *(TextDelta(text=text) for text in texts)]


def called(index: int, name: str, *arguments: str) -> list[Event]:
    """A call of a tool: its first delta has the name, the others are arguments."""
    first = ToolCallDelta(index=index, call_id=f"call_{index}", name=name)
    return [first, *(ToolCallDelta(index=index, arguments=piece) for piece in arguments)]
