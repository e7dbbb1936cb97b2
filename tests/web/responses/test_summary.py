from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.calls import ChatCall, Event, StreamFailed, Usage
from bitmesh_proxy.errors import InternalError, ProviderRefused, UpstreamBroken
from bitmesh_proxy.money import parse_usd
from bitmesh_proxy.web.responses.summary import SummaryTaker
from tests.endpoints.responses.making import said, stopped
from tests.endpoints.responses.specification import violations
from tests.web.responses.examples import CONTEXT

CALL = ChatCall(model="m", messages=[])


def taken(events: Sequence[Event]) -> SummaryTaker:
    taker = SummaryTaker(CALL, CONTEXT)
    render = taker.endpoint().render_chat
    assert render is not None
    render(CALL, events, CONTEXT)
    return taker


async def test_a_summary_comes_with_its_usage_and_cost() -> None:
    taker = taken([*said("Ada ", "asked."), *stopped()])
    bill = Bill(charge_nano_usd=parse_usd("0.01"), usage=Usage(input_tokens=3, output_tokens=4))
    answer = orjson.loads(await taker.finish_whole(b"{}", bill))
    assert answer["summary"] == "Ada asked."
    assert violations("Usage", answer["usage"]) == []
    assert (answer["usage"]["total_tokens"], answer["usage"]["total_cost"]) == (7, 0.01)


def test_no_summary_is_no_answer() -> None:
    with pytest.raises(UpstreamBroken):
        taken([*said(" "), *stopped()])
    with pytest.raises(ProviderRefused):
        taken([StreamFailed(message="busy")])


async def test_a_summary_is_never_streamed() -> None:
    taker = taken([*said("x"), *stopped()])
    renderer = taker.endpoint().chunk_renderer
    assert renderer is not None
    with pytest.raises(InternalError):
        renderer(CALL, CONTEXT)
    assert await taker.finish_stream(b"t", None) == b"t"
    assert await taker.fail_stream(InternalError("x"), None) == b""
