"""Answers out of the lane are, to the byte, those that aiohttp would write; and nobody writes to who has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy import keys
from bitmesh_proxy.context import RequestContext
from bitmesh_proxy.errors import CallerLeft, InternalError
from bitmesh_proxy.limits.base import Limit, Passed, Snapshot, memory_buckets, per_minute, snapshots_of
from bitmesh_proxy.upstream.reply import STREAM_HEADERS
from bitmesh_proxy.web.lane.reply import LaneReply, head_bytes
from bitmesh_proxy.web.middlewares import add_common_headers

REQUEST_ID = "req_000000000000000000000001"
SNAPSHOT = Snapshot(limit=600, remaining=599, reset_s=1.5, window_s=60, burst=120, policy="key")
#: One of ten tokens is missing.
COUNTED = (Limit(memory_buckets(), per_minute(10), policy="endpoint", who="here"), 60_000_000)


@dataclass(slots=True)
class Wire:
    """A caller's transport in memory."""

    written: list[bytes] = field(default_factory=list)
    is_gone: bool = False
    is_aborted: bool = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.is_gone

    def abort(self) -> None:
        self.is_aborted = True


@dataclass(slots=True)
class Line:
    """A connection in memory."""

    transport: Wire | None = field(default_factory=Wire)
    writing_paused: bool = False
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    is_lost: bool = False

    async def drained(self) -> None:
        await self.may_go_on.wait()
        if self.is_lost:
            raise ConnectionResetError

    @property
    def wire(self) -> Wire:
        assert self.transport is not None
        return self.transport

    @property
    def data(self) -> bytes:
        return b"".join(self.wire.written)


def a_reply() -> tuple[LaneReply, Line]:
    line = Line()
    return LaneReply(line, REQUEST_ID, (SNAPSHOT,)), line


# ---------------------------------------------------------------- as aiohttp writes


@asynccontextmanager
async def written_by_aiohttp(
    status: int, headers: Mapping[str, str], pieces: Sequence[bytes], passed: Sequence[Passed]
) -> AsyncIterator[bytes]:
    """What aiohttp writes for an answer; more than one piece is a stream."""

    async def handle(request: web.Request) -> web.StreamResponse:
        context = RequestContext(
            request_id=REQUEST_ID, address="", public_base_url="", received_at_s=0.0, started_s=0.0
        )
        request[keys.STATE] = keys.RequestState(context=context)
        request[keys.STATE].snapshots = [*snapshots_of(passed)]
        if len(pieces) == 1:
            return web.Response(status=status, headers=headers, body=pieces[0])
        response = web.StreamResponse(status=status, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    app = web.Application()
    app.router.add_post("/", handle)
    app.on_response_prepare.append(add_common_headers)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        data = await reader.readuntil(b"\r\n\r\n")
        if len(pieces) == 1:
            data += await reader.readexactly(len(pieces[0]))
        else:
            data += await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        yield data
    finally:
        await runner.cleanup()


JSON_HEADERS = {"Content-Type": "application/json"}
REFUSAL = {"RateLimit-Limit": "5", "RateLimit-Remaining": "0", "RateLimit-Reset": "7", "Retry-After": "7"}


def without_date(data: bytes) -> list[bytes]:
    """The lines, as the clock may have moved on."""
    return [line for line in data.split(b"\r\n") if not line.startswith(b"Date: ")]


@pytest.mark.parametrize("status", [200, 400, 401, 402, 404, 409, 413, 422, 429, 499, 500, 502, 503, 504, 529, 599])
async def test_a_whole_answer(status: int) -> None:
    reply, line = a_reply()
    reply.send_now(status, JSON_HEADERS, b"{}")
    async with written_by_aiohttp(status, JSON_HEADERS, [b"{}"], (SNAPSHOT,)) as expected:
        assert without_date(line.data) == without_date(expected)


@pytest.mark.parametrize(
    ("headers", "passed"),
    [
        (JSON_HEADERS, ()),
        (JSON_HEADERS, (COUNTED,)),
        (JSON_HEADERS, (COUNTED, SNAPSHOT)),
        ({**REFUSAL, **JSON_HEADERS}, (COUNTED,)),
        (
            JSON_HEADERS,
            (SNAPSHOT, Snapshot(limit=10, remaining=0, reset_s=60.0, window_s=60, burst=10, policy="endpoint")),
        ),
        ({**REFUSAL, **JSON_HEADERS}, (SNAPSHOT,)),
        ({**REFUSAL, **JSON_HEADERS}, ()),
        ({**JSON_HEADERS, "X-Request-Id": REQUEST_ID}, (SNAPSHOT,)),
        ({**JSON_HEADERS, "X-Bitmesh-Sandbox": "1", "X-Bitmesh-Provider": "\u00fc", "Allow": "POST"}, (SNAPSHOT,)),
        ({"Content-Type": "text/plain; charset=utf-8", "WWW-Authenticate": 'Bearer realm="x"'}, (SNAPSHOT,)),
    ],
)
async def test_headers(headers: Mapping[str, str], passed: Sequence[Passed]) -> None:
    line = Line()
    LaneReply(line, REQUEST_ID, passed).send_now(429, headers, b"no")
    async with written_by_aiohttp(429, headers, [b"no"], passed) as expected:
        assert without_date(line.data) == without_date(expected)


@pytest.mark.parametrize("headers", [{}, {"X-Bitmesh-Sandbox": "1"}])
@pytest.mark.parametrize("further", [{}, {"X-Bitmesh-Provider": "openai", "X-Bitmesh-Cost": "0.1"}])
@pytest.mark.parametrize("passed", [(), (COUNTED,), (COUNTED, SNAPSHOT)])
async def test_an_answer_of_json(
    headers: Mapping[str, str], further: Mapping[str, str], passed: Sequence[Passed]
) -> None:
    line, other = Line(), Line()
    reply = LaneReply(line, REQUEST_ID, passed)
    reply.send_json_now(headers, "".join(f"{name}: {value}\r\n" for name, value in further.items()), b"{}")
    LaneReply(other, REQUEST_ID, passed).send_now(200, {**JSON_HEADERS, **headers, **further}, b"{}")
    assert without_date(line.data) == without_date(other.data)
    assert reply.is_started
    assert reply.status == 200


async def test_a_stream() -> None:
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    pieces = [b"data: 1\n\n", b"data: 2\n\n", b"x" * 5000]
    reply, line = a_reply()
    reply.start_now(200, headers)
    for piece in pieces:
        reply.push(piece)
    reply.finish_now()
    async with written_by_aiohttp(200, headers, pieces, (SNAPSHOT,)) as expected:
        assert without_date(line.data) == without_date(expected)
    head, *rest = line.wire.written
    assert head.endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n"), "the head goes with the first bytes"
    assert len(rest) == 3


@pytest.mark.parametrize("more", [None, {}, {"X-Bitmesh-Sandbox": "1"}])
@pytest.mark.parametrize("framed", [None, b"9\r\ndata: 1\n\n\r\n"])
async def test_a_stream_begun_in_one_piece(more: dict[str, str] | None, framed: bytes | None) -> None:
    headers = STREAM_HEADERS if more is None else {**STREAM_HEADERS, **more}
    pieces = [b"data: 1\n\n", b"data: 2\n\n"]
    line = Line()
    reply = LaneReply(line, REQUEST_ID, (COUNTED, SNAPSHOT))
    outlet = reply.begin_now(headers, pieces[0], framed)
    assert len(line.wire.written) == 1
    outlet.write(b"9\r\ndata: 2\n\n\r\n")
    assert (reply.is_started, reply.status) == (True, 499)
    reply.finish_now()
    assert reply.status == 200
    async with written_by_aiohttp(200, headers, pieces, (COUNTED, SNAPSHOT)) as expected:
        assert without_date(line.data) == without_date(expected)


@given(value=st.text(max_size=8), name=st.sampled_from(["X-A", "Retry-After", "X-Request-Id"]))
def test_no_header_can_make_another_one(value: str, name: str) -> None:
    """Whatever a provider or a setting has put there."""
    try:
        head = head_bytes(200, {name: value}, 0, "r", ())
    except (InternalError, UnicodeEncodeError):
        return
    names = [line.partition(b":")[0] for line in head[:-4].split(b"\r\n")[1:]]
    expected = [name.encode(), b"Content-Length", b"Date", b"Server"]
    assert names == (expected if name == "X-Request-Id" else [*expected, b"X-Request-Id"])
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\n") == head.count(b"\r") == len(names) + 2


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\n", "\r", "a\0b"])
def test_a_header_with_a_line_end_is_refused(value: str) -> None:
    with pytest.raises(InternalError):
        head_bytes(200, {"X-A": value}, 0, "r", ())


# ---------------------------------------------------------------- how far it has come


async def test_the_status_is_that_of_what_has_gone_out_whole() -> None:
    reply, _ = a_reply()
    assert (reply.is_started, reply.status) == (False, 499)
    await reply.start(200, {})
    assert (reply.is_started, reply.status) == (True, 499)
    await reply.write(b"x")
    assert reply.status == 499
    await reply.finish()
    assert reply.status == 200
    whole, _ = a_reply()
    await whole.send(404, {}, b"")
    assert (whole.is_started, whole.status) == (True, 404)


async def test_last_bytes_go_out_together() -> None:
    reply, line = a_reply()
    reply.start_now(200, {})
    reply.finish_now(b"tail")
    assert len(line.wire.written) == 1
    assert line.data.endswith(b"\r\n\r\n4\r\ntail\r\n0\r\n\r\n")


async def test_what_came_in_whole_chunks_goes_out_in_them() -> None:
    reply, line = a_reply()
    reply.start_now(200, {})
    reply.push(b"ab", b"1\r\na\r\n1\r\nb\r\n")
    reply.push(b"cd", b"2\r\ncd\r\n")
    assert line.data.endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n2\r\ncd\r\n")


async def test_nothing_written_is_no_end() -> None:
    """An empty chunk would end the body."""
    reply, line = a_reply()
    reply.start_now(200, {})
    await reply.write(b"")
    assert reply.write_now(b"") is None
    assert line.wire.written == []


Do = Any
WRITING: dict[str, Do] = {
    "send": lambda reply: reply.send_now(200, {}, b""),
    "send JSON": lambda reply: reply.send_json_now({}, "", b""),
    "begin": lambda reply: reply.begin_now(STREAM_HEADERS, b"x", None),
    "push": lambda reply: reply.push(b"x"),
    "write": lambda reply: reply.write_now(b"x"),
    "finish": lambda reply: reply.finish_now(),
}


@pytest.mark.parametrize("how", WRITING)
@pytest.mark.parametrize("is_lost", [True, False])
async def test_who_has_gone_is_not_written_to(how: str, is_lost: bool) -> None:
    reply, line = a_reply()
    if how not in ("send", "send JSON", "begin"):
        reply.start_now(200, {})
    wire = line.wire
    if is_lost:
        line.transport = None
    else:
        wire.is_gone = True
    with pytest.raises(CallerLeft):
        WRITING[how](reply)
    assert wire.written == []
    assert reply.status == 499
    reply.abort()
    assert wire.is_aborted is not is_lost


async def test_who_reads_slowly_is_waited_for() -> None:
    reply, line = a_reply()
    reply.start_now(200, {})
    assert reply.write_now(b"a") is None
    line.writing_paused = True
    waiting = asyncio.ensure_future(reply.write(b"b"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert line.data.endswith(b"1\r\nb\r\n"), "it is written, and then waited for"
    line.may_go_on.set()
    await waiting


async def test_who_leaves_while_he_is_waited_for_has_left() -> None:
    reply, line = a_reply()
    reply.start_now(200, {})
    line.writing_paused = line.is_lost = True
    line.may_go_on.set()
    with pytest.raises(CallerLeft):
        await reply.write(b"a")
