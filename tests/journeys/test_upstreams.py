"""What providers do wrong, and what of it callers and books see."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from bitmesh_proxy.calls import Basis
from bitmesh_proxy.dialects.sse import SseParser
from tests.closed_port import closed_port
from tests.journeys.gateway import Gateway, chat, image, running_gateway
from tests.journeys.scripted import MODEL, TOKEN_NANO_USD, at, scripted, whole_answer, with_more

pytestmark = pytest.mark.journey

SAY = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
#: Line ends, comments, spaces and fields as no two servers have them.
ODD_STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\n"
    b'event: x\r\ndata:{"id":"c-1","choices":[{"index":0,"delta":{"content":"H\\u00e9"}}]}\r\n\r\n'
    b'id: 7\r\ndata: {"choices": [ {"delta": {"content": "llo \xf0\x9f\x90\xa6", "x": 1e3},'
    b' "finish_reason": "stop"} ] }\r\n\r\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
    b"data: [DONE]\n\n: bye\n\n"
)


@pytest.fixture
async def quick_to_give_up(tmp_path: Path) -> AsyncIterator[Gateway]:
    upstream = {"first_byte_timeout_s": 0.3, "idle_timeout_s": 0.3}
    async with running_gateway(tmp_path / "data", {"upstream": upstream}) as running:
        yield running


async def stream_of(request: web.Request, *pieces: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
        await asyncio.sleep(0)
    return response


@pytest.mark.both_ways
async def test_not_a_byte_of_a_stream_is_changed(tmp_path: Path) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, *(ODD_STREAM[at : at + 11] for at in range(0, len(ODD_STREAM), 11)))

    async with (
        scripted(script) as upstream,
        running_gateway(tmp_path / "data", at(tmp_path / "rows", one=upstream.url)) as gateway,
    ):
        answer = await gateway.post("/chat", {**SAY, "stream": True})
        assert (answer.status, answer.body) == (200, ODD_STREAM)
        row = await gateway.last_row()
        assert (row.outcome, row.basis, row.charge_nano_usd) == ("completed", Basis.MEASURED, 5 * TOKEN_NANO_USD)
        await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("odd", ['"x"', "null", "-1", "2.5", "0", "{}"])
async def test_a_figure_that_cannot_be_read_is_estimated_and_not_free(tmp_path: Path, odd: str) -> None:
    """The other one is right, and stands."""
    figures = [f'{{"prompt_tokens":{odd},"completion_tokens":2}}', f'{{"prompt_tokens":3,"completion_tokens":{odd}}}']
    usage = figures[0]

    async def script(request: web.Request) -> web.StreamResponse:
        if orjson.loads(await request.read()).get("stream"):
            end = f'data: {{"id":"c-1","choices":[],"usage":{usage}}}\n\n'.encode()
            return await stream_of(request, TOKEN, TOKEN, FINISHED, end, DONE)
        choice = '{"index":0,"message":{"role":"assistant","content":"HelloHello"},"finish_reason":"stop"}'
        return web.Response(
            body=f'{{"id":"c-1","choices":[{choice}],"usage":{usage}}}', content_type="application/json"
        )

    async with (
        scripted(script) as upstream,
        running_gateway(tmp_path / "data", at(tmp_path / "rows", one=upstream.url)) as gateway,
    ):
        turn = {"model": MODEL, "input": "Hello"}
        calls = [
            (path, {**body, "stream": stream})
            for path, body in (("/chat", SAY), ("/v1/chat/completions", SAY), ("/v1/responses", turn))
            for stream in (False, True)
        ]
        for said, tokens in zip(figures, ((7, 2), (3, 3)), strict=True):
            usage = said
            for path, body in calls:
                assert (await gateway.post(path, body)).status == 200
                row = await gateway.last_row()
                assert (row.input_tokens, row.output_tokens) == tokens, (path, body)
                assert (row.basis, row.charge_nano_usd) == (Basis.ESTIMATED, sum(tokens) * TOKEN_NANO_USD)
        await gateway.check_books()


@pytest.mark.both_ways
async def test_not_a_byte_of_a_whole_answer_is_changed(tmp_path: Path) -> None:
    body = b'{ "id":"c-9", "choices":[], "big": 1e300, "a": 1, "a": 2,'
    body += b' "usage":{"prompt_tokens":3,"completion_tokens":2}}\n'

    async def script(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    async with (
        scripted(script) as upstream,
        running_gateway(tmp_path / "data", at(tmp_path / "rows", one=upstream.url)) as gateway,
    ):
        answer = await gateway.post("/chat", SAY)
        assert (answer.status, answer.body) == (200, body)
        assert (await gateway.last_row()).charge_nano_usd == 5 * TOKEN_NANO_USD
        await gateway.check_books()


FAULTS = [
    ("status=400", 400, "provider_error"),
    ("status=422", 422, "provider_error"),
    ("status=429 retry_after=7", 429, "provider_error"),
    ("status=500", 500, "provider_error"),
    ("status=503", 503, "provider_error"),
    ("html=502", 502, "provider_error"),
    ("html=200", 502, "upstream_broken"),
    ("garbage", 502, "upstream_broken"),
    ("hangup", 502, "upstream_broken"),
    ("break_after=1", 502, "upstream_broken"),
]
#: By the time these strike, a stream has begun.
NOT_IN_STREAMS = {"garbage", "break_after=1"}


@pytest.mark.both_ways
@pytest.mark.parametrize(
    ("directives", "status", "outcome", "stream"),
    [(*fault, stream) for fault in FAULTS for stream in (False, True) if not stream or fault[0] not in NOT_IN_STREAMS],
)
async def test_a_provider_that_fails_before_its_first_byte_has_a_status_and_costs_the_caller_nothing(
    gateway: Gateway, directives: str, status: int, outcome: str, stream: bool
) -> None:
    gateway.fault(directives)
    answer = await gateway.post("/chat", chat(stream=stream))
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json) == {"error"}
    assert answer.json["error"]
    assert b"<html" not in answer.body.lower()
    assert answer.headers.get("Retry-After") == ("7" if "retry_after" in directives else None)
    row = await gateway.last_row()
    assert (row.outcome, row.http_status, row.charge_nano_usd) == (outcome, status, 0)
    assert await gateway.balance() == 10 * 10**9
    await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("status", [401, 402])
async def test_what_a_provider_says_about_our_own_credential_stays_with_us(gateway: Gateway, status: int) -> None:
    gateway.fault(f"status={status}")
    answer = await gateway.post("/chat", chat())
    assert (answer.status, answer.json) == (502, {"error": "The provider cannot be used at the moment."})
    assert (await gateway.last_row()).state == "released"
    await gateway.check_books()


@pytest.mark.both_ways
async def test_a_refused_prompt_keeps_the_providers_error(gateway: Gateway) -> None:
    gateway.fault("moderated")
    answer = await gateway.post("/chat", chat())
    assert answer.status == 422
    assert "content policy" in answer.json["error"]["message"]
    assert "errors" not in answer.json
    assert (await gateway.last_row()).outcome == "provider_error"
    await gateway.check_books()


@pytest.mark.both_ways
async def test_an_unreachable_provider_is_502(tmp_path: Path) -> None:
    with closed_port() as port:
        settings = at(tmp_path / "rows", one=f"http://127.0.0.1:{port}/v1")
        async with running_gateway(tmp_path / "data", settings) as gateway:
            answer = await gateway.post("/chat", SAY)
            assert (answer.status, answer.json) == (502, {"error": "The provider cannot be reached."})
            row = await gateway.last_row()
            assert (row.state, row.outcome, row.cost_nano_usd) == ("released", "upstream_unreachable", 0)
            await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_does_not_answer_is_504(quick_to_give_up: Gateway, stream: bool) -> None:
    quick_to_give_up.fault("stall=60")
    answer = await quick_to_give_up.post("/chat", chat(stream=stream))
    assert (answer.status, answer.json) == (504, {"error": "The provider did not answer in time."})
    row = await quick_to_give_up.last_row()
    assert (row.outcome, row.http_status, row.charge_nano_usd) == ("upstream_timeout", 504, 0)
    assert row.cost_nano_usd > 0  # it had the prompt
    await quick_to_give_up.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize(
    ("directives", "outcome"), [("stall_after=4:60", "upstream_timeout"), ("break_after=4", "upstream_broken")]
)
async def test_a_stream_that_stops_ends_with_an_error_event_and_charges_what_was_delivered(
    quick_to_give_up: Gateway, directives: str, outcome: str
) -> None:
    gateway = quick_to_give_up
    gateway.fault(directives + " tokens=100")
    answer = await gateway.post("/chat", chat(stream=True, max_tokens=100))
    assert answer.status == 200
    *events, last = answer.body.decode().strip().split("\n\n")
    assert len(events) == 4
    assert f'"code":"{outcome}"' in last
    assert "[DONE]" not in answer.body.decode()
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.basis) == ("settled", outcome, Basis.ESTIMATED)
    assert 0 < row.charge_nano_usd < row.hold_nano_usd
    await gateway.check_books()


@pytest.mark.both_ways
async def test_an_error_inside_a_stream_is_passed_on_and_not_called_a_success(gateway: Gateway) -> None:
    gateway.fault("error_in_stream=3")
    answer = await gateway.post("/chat", chat(stream=True))
    assert answer.status == 200
    assert answer.body.count(b'"error"') == 1
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.basis) == ("settled", "provider_error", Basis.ESTIMATED)
    assert row.charge_nano_usd > 0
    await gateway.check_books()


TOKEN = b'data: {"id":"c-1","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
FINISHED = b'data: {"id":"c-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.both_ways
@pytest.mark.parametrize("include_usage", [False, True])  # without, a stream is not passed on as it is
async def test_what_we_say_behind_a_stream_is_no_part_of_its_last_event(tmp_path: Path, include_usage: bool) -> None:
    """What it cost, or that it broke off, wherever it did."""
    stream: list[bytes] = []

    async def script(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, *stream)

    async with (
        scripted(script) as upstream,
        running_gateway(tmp_path / "data", at(tmp_path / "rows", one=upstream.url)) as gateway,
    ):
        body = {**SAY, "stream": True, "stream_options": {"include_usage": include_usage}}
        for end in (DONE, DONE[:-1], DONE[:-2], DONE[:-2] + b"\r\n", DONE + b": bye"):
            stream[:] = [TOKEN, FINISHED, end]
            answer = await gateway.post("/v1/chat/completions", body)
            assert answer.body.startswith(TOKEN + FINISHED + end)
            assert SseParser().feed(answer.body) == [TOKEN[6:-2], FINISHED[6:-2], b"[DONE]"]
            assert b"\n: X-Bitmesh-Cost: " in answer.body
            assert (await gateway.last_row()).outcome == "completed"
        for path in ("/chat", "/v1/chat/completions"):
            for end in (b"", b'data: {"id":"c-1","choices":[{"del', b": still th", b"da", b'data: {"id":"c-1"}\n'):
                stream[:] = [TOKEN, TOKEN, end] if end else [TOKEN, TOKEN]
                answer = await gateway.post(path, body)
                assert answer.body.startswith(TOKEN + TOKEN)
                events = SseParser().feed(answer.body)
                assert orjson.loads(events[-1])["error"]["code"] == "upstream_broken"
                assert (await gateway.last_row()).outcome == "upstream_broken"
        await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("stream", [False, True])
async def test_what_comes_compressed_though_nobody_asked_is_no_answer(tmp_path: Path, stream: bool) -> None:
    """Least of all one whose caller is not told that it is compressed."""

    async def script(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        media_type = "text/event-stream" if stream else "application/json"
        headers = {"Content-Type": media_type, "Content-Encoding": "gzip"}
        return web.Response(body=gzip.compress(ODD_STREAM), headers=headers)

    async with (
        scripted(script) as upstream,
        running_gateway(tmp_path / "data", at(tmp_path / "rows", one=upstream.url)) as gateway,
    ):
        answer = await gateway.post("/chat", {**SAY, "stream": stream})
        assert answer.status == 502
        assert "compressed" in answer.json["error"]
        row = await gateway.last_row()
        assert (row.outcome, row.charge_nano_usd) == ("upstream_broken", 0)
        await gateway.check_books()


@pytest.mark.both_ways
async def test_an_error_as_the_first_event_has_a_status(gateway: Gateway) -> None:
    gateway.fault("error_in_stream=0")
    answer = await gateway.post("/chat", chat(stream=True))
    assert answer.status == 502
    assert answer.json["error"]
    row = await gateway.last_row()
    assert (row.state, row.outcome) == ("released", "provider_error")
    await gateway.check_books()


@pytest.mark.both_ways
async def test_a_stream_without_usage_is_charged_by_its_text(gateway: Gateway) -> None:
    gateway.fault("no_usage no_done tokens=8")
    answer = await gateway.post("/chat", chat(stream=True))
    assert answer.status == 200
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.basis) == ("settled", "completed", Basis.ESTIMATED)
    assert 0 < row.charge_nano_usd <= row.hold_nano_usd
    await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 429, 500, 503, 401, None])
async def test_the_next_offer_is_tried_before_the_first_byte(tmp_path: Path, stream: bool, status: int | None) -> None:
    async def bad(request: web.Request) -> web.StreamResponse:
        if status is None:
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError
        return web.json_response({"error": {"message": "no"}}, status=status)

    async def good(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, ODD_STREAM) if stream else web.json_response(whole_answer())

    async with (
        scripted(bad) as first,
        scripted(good) as second,
        running_gateway(tmp_path / "data", at(tmp_path / "rows", first=first.url, second=second.url)) as gateway,
    ):
        answer = await gateway.post("/chat", {**SAY, "stream": stream})
        assert answer.status == 200
        row = await gateway.last_row()
        assert (row.provider, row.outcome) == ("second", "completed")
        assert row.charge_nano_usd == 5 * 2 * TOKEN_NANO_USD  # at the second's price, within the hold for both
        assert (len(first.bodies), len(second.bodies)) == (1, 1)
        await gateway.check_books()
        assert (await gateway.post("/chat", {**SAY, "stream": stream})).status == 200
        assert (len(first.bodies), len(second.bodies)) == (1, 2), "an offer that failed is put last for a while"


@pytest.mark.both_ways
@pytest.mark.parametrize("status", [400, 422])
async def test_a_request_that_a_provider_finds_bad_is_not_carried_to_the_next(tmp_path: Path, status: int) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no such tool"}}, status=status)

    async def never(request: web.Request) -> web.StreamResponse:
        raise AssertionError("not to be called")

    async with (
        scripted(refuse) as first,
        scripted(never) as second,
        running_gateway(tmp_path / "data", at(tmp_path / "rows", first=first.url, second=second.url)) as gateway,
    ):
        answer = await gateway.post("/chat", SAY)
        assert (answer.status, answer.json) == (status, {"error": {"message": "no such tool"}})
        assert second.bodies == []
        await gateway.check_books()


@pytest.mark.both_ways
async def test_after_the_first_byte_there_is_no_other_try(tmp_path: Path) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = await stream_of(request, ODD_STREAM[:100])
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    async def never(request: web.Request) -> web.StreamResponse:
        raise AssertionError("not to be called")

    async with (
        scripted(broken) as first,
        scripted(never) as second,
        running_gateway(tmp_path / "data", at(tmp_path / "rows", first=first.url, second=second.url)) as gateway,
    ):
        answer = await gateway.post("/chat", {**SAY, "stream": True})
        assert answer.status == 200
        assert answer.body.startswith(ODD_STREAM[:100])
        assert b'"code":"upstream_broken"' in answer.body
        assert second.bodies == []
        assert (await gateway.last_row()).outcome == "upstream_broken"
        await gateway.check_books()


async def test_a_picture_that_may_have_been_made_is_not_made_again(gateway: Gateway) -> None:
    gateway.fault("hangup")
    answer = await gateway.post("/image", image())
    assert answer.status == 502
    assert len(gateway.upstream_calls()) == 1
    row = await gateway.last_row()
    assert (row.outcome, row.charge_nano_usd) == ("upstream_broken", 0)
    assert row.cost_nano_usd > 0
    await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b'{"choices":null}', b'{"choices":[]}', b'{"choices":[{"message":{"content":"Hel"}', b"{Hello}"],
)
async def test_a_whole_answer_in_which_there_is_none_costs_nothing(tmp_path: Path, body: bytes) -> None:
    """Whoever asked could not read it either. Another provider may answer."""
    asked = 0

    async def script(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(body=body, content_type="application/json")

    async def good(request: web.Request) -> web.StreamResponse:
        return web.json_response(whole_answer())

    async with scripted(script) as first, scripted(good) as second:
        async with running_gateway(tmp_path / "alone", at(tmp_path / "rows", one=first.url)) as gateway:
            answer = await gateway.post("/chat", SAY)
            row = await gateway.last_row()
            assert (answer.status, row.outcome, row.charge_nano_usd) == (502, "upstream_broken", 0)
            await gateway.check_books()
        assert asked == 1
        settings = at(tmp_path / "more", first=first.url, second=second.url)
        async with running_gateway(tmp_path / "two", settings) as gateway:
            answer = await gateway.post("/chat", SAY)
            row = await gateway.last_row()
            assert (answer.status, row.outcome, row.provider) == (200, "completed", "second")
            await gateway.check_books()


@pytest.mark.both_ways
async def test_an_answer_over_the_bound_is_refused(tmp_path: Path) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        return web.json_response(whole_answer("x" * 200_000))

    async with scripted(script) as upstream:
        settings = with_more(at(tmp_path / "rows", one=upstream.url), upstream={"max_answer_bytes": 100_000})
        async with running_gateway(tmp_path / "data", settings) as gateway:
            answer = await gateway.post("/chat", SAY)
            assert (answer.status, (await gateway.last_row()).outcome) == (502, "upstream_broken")
            await gateway.check_books()


@pytest.mark.both_ways
async def test_a_large_conversation_arrives_whole(tmp_path: Path) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        return web.json_response(whole_answer(prompt_tokens=1000))

    async with (
        scripted(script) as upstream,
        running_gateway(tmp_path / "data", at(tmp_path / "rows", one=upstream.url)) as gateway,
    ):
        body: dict[str, Any] = {**SAY, "messages": [{"role": "user", "content": "é" * 1_500_000}]}
        answer = await gateway.call(
            "POST", "/chat", data=io.BytesIO(orjson.dumps(body)), headers={"Content-Type": "application/json"}
        )
        assert answer.status == 200
        assert upstream.bodies[0]["messages"] == body["messages"]
        await gateway.check_books()
