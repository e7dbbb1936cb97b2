from __future__ import annotations

import json
import re
from typing import Any

import pytest

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.calls import ChatCall, Event, ReasoningDelta, StreamFailed, Usage
from bitmesh_proxy.errors import ProviderRefused, UnsupportedValue, UpstreamBroken, UpstreamTimeout
from bitmesh_proxy.money import parse_usd
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.responses import ResponseStore
from bitmesh_proxy.web.responses.session import ResponseSession, Transport, failure_of, in_words_of, new_id
from tests.endpoints.responses.grammar import check, events_of
from tests.endpoints.responses.making import TOOLS, a_request, called, said, stopped
from tests.endpoints.responses.specification import check_response
from tests.web.responses.examples import CONTEXT, a_session, a_store

BILL = Bill(cost_nano_usd=parse_usd("0.03"), charge_nano_usd=parse_usd("0.04"), usage=Usage(input_tokens=1))


@pytest.fixture
def store(database: Database) -> ResponseStore:
    return a_store(database)


def thought(*texts: str) -> list[Event]:
    return [ReasoningDelta(text=text) for text in texts]


def render_whole(session: ResponseSession, events: list[Event]) -> Any:
    render_chat = session.endpoint().render_chat
    assert render_chat is not None
    assert isinstance(session.call, ChatCall)
    return render_chat(session.call, events, CONTEXT)


async def test_a_whole_answer_says_its_cost_and_is_kept_before_it_goes(store: ResponseStore) -> None:
    session = a_session(store, transport=Transport.WHOLE)
    render_whole(session, [*said("Hi"), *stopped()])
    assert await store.get("acct_1", session.response_id) is None
    response = json.loads(await session.finish_whole(b"{}", BILL))
    check_response(response)
    assert (response["usage"]["total_cost"], response["usage"]["latency_ms"]) == (0.04, 500)
    kept = await store.get("acct_1", session.response_id)
    assert kept is not None
    assert (kept.status, tuple(kept.input_items)) == ("completed", session.request.items)


async def test_a_stream_is_rendered_as_it_comes_and_ends_with_the_bill(store: ResponseStore) -> None:
    session = a_session(store, stream=True)
    data = session.render(said("Hi")) + session.render(stopped()) + session.finish()
    data += await session.finish_stream(b"", BILL)
    response = check(events_of([data]))
    assert response["usage"]["total_cost"] == 0.04
    assert response["id"] == session.response_id
    assert session.response["status"] == "completed"


@pytest.mark.parametrize("transport", [Transport.SSE, Transport.WEBSOCKET])
async def test_a_read_of_many_events_is_rendered_as_many_reads_are(store: ResponseStore, transport: Transport) -> None:
    answer = [
        *said("Grüße, ", "100 %d ", "\n\ndata: "),
        *called(0, "look", "{}"),
        *said("b", "c"),
        *thought("d", "e"),
        *stopped(),
    ]
    pieces = [*([event] for event in answer)]
    rendered = []
    for batches in (pieces, [answer]):
        session = a_session(store, transport=transport, stream=True, tools=TOOLS)
        data = b"".join(session.render(batch) for batch in batches)
        anonymous = re.sub(rb"(resp|msg|fc|rs)_[0-9a-f]{32}", rb"\1", data)
        rendered.append(anonymous)
    assert rendered[0] == rendered[1]
    assert rendered[0].count(b'"delta":') == 8
    lines = rendered[0].splitlines() if transport is Transport.WEBSOCKET else rendered[0].split(b"\n")
    events = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith((b"data: ", b"{"))]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_another_offer_begins_anew(store: ResponseStore) -> None:
    session = a_session(store, transport=Transport.WHOLE)
    with pytest.raises(ProviderRefused) as raised:
        render_whole(session, [*said("Half"), StreamFailed(message="busy", code="overloaded")])
    assert raised.value.provider_code == "overloaded"
    render_whole(session, [*said("Whole"), *stopped()])
    response = json.loads(await session.finish_whole(b"{}", BILL))
    assert [item["content"][0]["text"] for item in response["output"]] == ["Whole"]


async def test_a_broken_stream_fails_in_its_own_format(store: ResponseStore) -> None:
    session = a_session(store, stream=True)
    data = session.render(said("Hi"))
    data += await session.fail_stream(UpstreamTimeout("The provider fell silent."), BILL)
    response = check(events_of([data]))
    assert response["error"] == {"code": "upstream_timeout", "message": "The provider fell silent."}
    kept = await store.get("acct_1", session.response_id)
    assert kept is not None
    assert kept.status == "failed"


async def test_what_is_not_to_be_stored_is_not(store: ResponseStore, database: Database) -> None:
    session = a_session(store, transport=Transport.WHOLE, store=False)
    render_whole(session, [*said("Hi"), *stopped()])
    await session.finish_whole(b"{}", BILL)
    assert await database.read("SELECT id FROM responses") == []


async def test_a_websocket_gets_one_line_a_message(store: ResponseStore) -> None:
    session = a_session(store, transport=Transport.WEBSOCKET)
    data = session.render([*said("Hi"), *stopped()]) + await session.finish_stream(b"", BILL)
    messages = [json.loads(line) for line in data.splitlines()]
    assert check(messages)["status"] == "completed"
    assert b"[DONE]" not in data


async def test_a_websockets_turn_that_breaks_ends_with_its_failure_alone(store: ResponseStore) -> None:
    session = a_session(store, transport=Transport.WEBSOCKET)
    data = session.render(said("Hi")) + await session.fail_stream(UpstreamBroken("The provider broke off."), BILL)
    messages = [json.loads(line) for line in data.splitlines()]
    assert [message["type"] for message in messages[-2:]] == ["response.output_text.delta", "response.failed"]
    assert check(messages)["error"]["code"] == "upstream_broken"


async def test_results_behind_links_are_an_answer(store: ResponseStore) -> None:
    session = a_session(store, transport=Transport.WHOLE)
    links = [("http://h.test/imgrslt/a", "video", "video/mp4")]
    response = json.loads(await session.finish_media(links, charge_nano_usd=parse_usd("0.5")))
    check_response(response)
    assert response["items"][0]["content"] == [{"type": "video_url", "video_url": {"url": "http://h.test/imgrslt/a"}}]
    assert response["usage"]["total_cost"] == 0.5


async def test_a_response_of_an_earlier_request_is_adopted_whole(store: ResponseStore) -> None:
    session = a_session(store, transport=Transport.WHOLE)
    session.adopt("resp_first", request_id="req_first")
    response = json.loads(await session.finish_media([], charge_nano_usd=None))
    assert response["id"] == "resp_first"
    assert session.context.request_id == "req_first"
    assert await store.get("acct_1", "resp_first") is None  # it is the first request's to keep


def test_errors_become_failures_in_the_standards_words() -> None:
    assert failure_of(UpstreamBroken("It broke."), CONTEXT).type == "model_error"


def test_fields_have_the_callers_names() -> None:
    renamed = {"n": "max_items", "image": "input", "messages": "input", "size": "size", "width": "size"}
    for ours, theirs in renamed.items():
        error = in_words_of(UnsupportedValue(f"{ours}: the model takes no {ours}.", param=ours), a_request())
        assert (error.param, error.message) == (theirs, f"{theirs}: the model takes no {ours}.")


def test_ids_are_new_each_time() -> None:
    assert new_id("msg_") != new_id("msg_")
    assert new_id("msg_").startswith("msg_")
