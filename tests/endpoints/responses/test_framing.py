from __future__ import annotations

import json

from bitmesh_proxy.calls import FinishReason
from bitmesh_proxy.endpoints.responses.framing import DONE, sse, sse_all, websocket_error, websocket_texts
from tests.dialects.cuts import ways_to_cut
from tests.endpoints.responses.grammar import check, events_of
from tests.endpoints.responses.making import TOOLS, a_request, called, said, stopped, written
from tests.endpoints.responses.specification import violations


def test_a_stream_reads_the_same_wherever_it_is_cut() -> None:
    answer = [*said("Grüße,\r\n\n", "data: x"), *called(0, "look", '{"ü":', "1}")]
    events = written(a_request(tools=TOOLS), answer, stopped(FinishReason.TOOL_CALLS))
    data = sse_all(events) + DONE
    assert all(events_of(chunks) == events for chunks in ways_to_cut(data))
    assert check(events)["status"] == "completed"


def test_an_event_is_one_line_of_data_under_its_own_name() -> None:
    assert sse({"type": "a.b", "x": "1\n2"}) == b'event: a.b\ndata: {"type":"a.b","x":"1\\n2"}\n\n'


def test_an_event_is_one_message_of_a_websocket() -> None:
    events = written(a_request(), said("Grüße,\r\n\n"), stopped())
    assert [json.loads(text) for text in websocket_texts(events)] == events


def test_a_turn_that_never_began_ends_with_an_envelope() -> None:
    error = {"type": "invalid_request_error", "code": "previous_response_not_found", "message": "m", "param": None}
    envelope = json.loads(websocket_error(status=400, error=error))
    assert envelope == {"type": "error", "status": 400, "error": error}
    assert violations("WebSocketErrorEvent", envelope) == []
