"""Bytes on the wire: whole answers and streams, and what directives do to them."""

from __future__ import annotations

import json

import aiohttp
import pytest

from bitmesh_proxy.sandbox.faults import Directives, Fault
from bitmesh_proxy.sandbox.replies import Event, cut, render_event
from tests.sandbox.callers import Caller, read_events

URL = "/openai/v1/chat/completions"


def question(directives: str, *, stream: bool) -> dict[str, object]:
    text = f"hello [[sandbox: tokens=20 {directives}]]"
    return {"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]}


async def read_pieces(caller: Caller, directives: str, *, stream: bool) -> list[bytes]:
    """What came before the connection broke, as it came."""
    pieces: list[bytes] = []

    async def read(response: aiohttp.ClientResponse) -> None:
        async for piece in response.content.iter_any():
            pieces.append(piece)  # noqa: PERF401 (what came before the break is wanted)

    async with caller.session.post(caller.sandbox.url + URL, json=question(directives, stream=stream)) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await read(response)
    return pieces


def test_a_bodys_pieces() -> None:
    assert list(cut(b"")) == []
    assert [len(piece) for piece in cut(bytes(16))] == [2] * 8
    assert b"".join(cut(bytes(range(100)))) == bytes(range(100))
    assert max(len(piece) for piece in cut(bytes(1_000_000))) == 16 * 1024


@pytest.mark.parametrize(
    ("directives", "written"),
    [
        (Directives(), b"event: x\ndata: {}\n\n"),
        (Directives(crlf=True), b"event: x\r\ndata: {}\r\n\r\n"),
        (Directives(comments=True), b": still here\nevent: x\ndata: {}\n\n"),
    ],
)
def test_an_event_as_it_is_written(directives: Directives, written: bytes) -> None:
    assert render_event(Event(data=b"{}", name="x"), directives) == written


@pytest.mark.parametrize("directives", ["drip", "split=7", "stall_after=1:0.01"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_spoilt_pace_changes_no_byte(caller: Caller, directives: str, stream: bool) -> None:
    answer = await caller.post(URL, question(directives, stream=stream))
    if stream:
        text = "".join(
            event["choices"][0]["delta"].get("content", "") for event in answer.json_events if event["choices"]
        )
        assert answer.events[-1] == b"[DONE]"
    else:
        text = answer.json["choices"][0]["message"]["content"]
        assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert text.startswith("You said “hello”")


async def test_a_dripping_stream_comes_in_many_reads(caller: Caller) -> None:
    async with caller.session.post(caller.sandbox.url + URL, json=question("drip", stream=True)) as response:
        pieces = [piece async for piece in response.content.iter_any()]
    assert len(pieces) > 100
    assert read_events(b"".join(pieces))[-1] == b"[DONE]"


async def test_a_stream_breaks_after_so_many_events(caller: Caller) -> None:
    pieces = await read_pieces(caller, "break_after=5", stream=True)
    assert len(read_events(b"".join(pieces))) == 5
    assert not caller.sandbox.requests[-1].cancelled


async def test_a_whole_answer_breaks_too(caller: Caller) -> None:
    whole = await caller.post(URL, question("", stream=False))
    pieces = await read_pieces(caller, "break_after=3", stream=False)
    assert 0 < sum(map(len, pieces)) < len(whole.body)


async def test_a_break_at_once_leaves_the_head(caller: Caller) -> None:
    assert await read_pieces(caller, "break_after=0", stream=True) == []


async def test_an_error_in_the_stream_is_its_last_word(caller: Caller) -> None:
    answer = await caller.post(URL, question("error_in_stream", stream=True))
    assert len(answer.events) == 4
    assert json.loads(answer.events[-1])["error"]["type"] == "server_error"


async def test_an_error_comes_even_when_the_stream_is_shorter(caller: Caller) -> None:
    answer = await caller.post(URL, question("error_in_stream=9999", stream=True))
    assert "error" in json.loads(answer.events[-1])


async def test_no_end_mark(caller: Caller) -> None:
    answer = await caller.post(URL, question("no_done", stream=True))
    assert b"[DONE]" not in answer.body
    assert answer.json_events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_comments_and_line_ends(caller: Caller) -> None:
    answer = await caller.post(URL, question("comments crlf", stream=True))
    assert answer.body.startswith(b": still here\r\ndata: {")
    assert len(read_events(answer.body.replace(b"\r\n", b"\n"))) == 20 + 2 + 1


async def test_garbage_is_half_of_the_answer(caller: Caller) -> None:
    answer = await caller.post(URL, question("garbage", stream=False))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)


async def test_a_pending_fault_breaks_a_file_off(caller: Caller) -> None:
    body = {"model": "m", "prompt": "x", "width": 64, "height": 64}
    url = (await caller.post("/together/v1/images/generations", body)).json["data"][0]["url"]
    caller.sandbox.faults.add(Fault(directives=Directives(break_after=2), path="/together/files/*"))
    with pytest.raises(aiohttp.ClientError):
        await caller.get(url)
    assert (await caller.get(url)).status == 200
