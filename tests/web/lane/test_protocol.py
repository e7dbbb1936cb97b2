"""Connections with a lane: each request is answered once, in its order, whichever way it goes, as without a lane."""

from __future__ import annotations

import asyncio
import inspect
import socket
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from bitmesh_proxy import keys
from bitmesh_proxy.web.lane import protocol
from bitmesh_proxy.web.lane.protocol import BODY_PATIENCE_S, LaneProtocol
from bitmesh_proxy.web.lane.server import LaneServer
from tests.journeys.gateway import eventually, until
from tests.journeys.scripted import at
from tests.upstream.scripted_provider import Exchange
from tests.web.lane.callers import (
    LAST,
    PASSING,
    STREAM_HEAD,
    TOKEN,
    WHOLE,
    Caller,
    RawAnswer,
    Room,
    asked,
    begin_and_stall,
    chunk,
    json_answer,
    room,
    say,
)
from tests.web.private_names import private_names_of

# ---------------------------------------------------------------- what is leant on

#: Private names of aiohttp's that ``protocol.py`` uses, and where they are.
OF_THE_CONNECTION = {
    "_buffer_paused",
    "_close",
    "_drain_helper",
    "_force_close",
    "_handler_waiter",
    "_keepalive",
    "_keepalive_handle",
    "_keepalive_timeout",
    "_loop",
    "_manager",
    "_messages",
    "_msg_queue_resume_size",
    "_next_keepalive_close_time",
    "_parser",
    "_paused",
    "_reading_paused",
    "_request_count",
    "_request_in_progress",
    "_resume_reading_if_drained",
    "_task_handler",
    "_tcp_keepalive",
    "_waiter",
    "_buffer",
}


def test_all_private_names_of_aiohttp_that_are_used_are_listed() -> None:
    own = {
        *LaneProtocol.__slots__,
        *(name for name, each in vars(LaneProtocol).items() if inspect.isfunction(each)),
    }
    assert private_names_of(protocol) - own == OF_THE_CONNECTION


async def test_they_are_there() -> None:
    """As slots, methods or attributes; the queue and the body are what they are taken for."""
    assert hasattr(StreamReader, "_buffer") or "_buffer" in StreamReader.__slots__
    for name in OF_THE_CONNECTION - {"_buffer"}:
        assert hasattr(RequestHandler, name), name
    assert {"method", "path", "version", "raw_headers", "should_close", "upgrade"} <= set(dir(RawRequestMessage))


def test_none_of_its_own_names_is_aiohttps() -> None:
    assert not [name for name in LaneProtocol.__slots__ if hasattr(RequestHandler, name)]


async def test_a_connection_is_set_up_as_aiohttps(tmp_path: Path) -> None:
    """But for the handler's task, which begins with the first request that is not for the lane."""
    async with room(tmp_path, echo) as there, there.caller() as caller:
        server = there.gateway.runner.server
        assert server is not None
        await eventually(lambda: bool(server.connections), "the caller is connected")
        (connection,) = server.connections
        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert isinstance(connection, LaneProtocol)
        assert connection.watched_s < inf
        has_begun = []
        for _ in range(2):
            assert (await caller.ask()).status == 200
            has_begun.append(connection._task_handler is not None)
            assert (await caller.ask(b"", method="GET", path="/test")).status == 200
            has_begun.append(connection._task_handler is not None)
        assert has_begun == [False, True, True, True]
        assert there.plain == ["/test"] * 2


@pytest.mark.parametrize("way", [True, False])
@pytest.mark.parametrize("kind", ["silent", "chat", "other"])
async def test_idle_connections_do_not_keep_the_gateway_from_ending(tmp_path: Path, way: bool, kind: str) -> None:
    async with room(tmp_path, echo, {"http": {"lane": way}}) as there, there.caller() as caller:
        server = there.gateway.runner.server
        assert server is not None
        await eventually(lambda: bool(server.connections), "the caller is connected")
        if kind == "chat":
            assert (await caller.ask()).status == 200
        elif kind == "other":
            assert (await caller.ask(b"", method="GET", path="/test")).status == 200
        await asyncio.wait_for(there.gateway.runner.cleanup(), 5)
        assert await caller.is_closed_by_gateway()
        assert server.connections == []


# ---------------------------------------------------------------- one after the other


async def echo(exchange: Exchange) -> None:
    """Answers with the text it was asked with."""
    while True:
        _, body = await exchange.request()
        asked_for = orjson.loads(body)
        text = asked_for["messages"][0]["content"]
        if asked_for.get("stream"):
            await exchange.say(STREAM_HEAD + chunk(TOKEN) + chunk(LAST) + chunk(b""))
        else:
            await exchange.say(json_answer(WHOLE.replace(b"Hello", str(text).encode())))


def text_of(answer: RawAnswer) -> str:
    return str(answer.json["choices"][0]["message"]["content"])


@pytest.mark.parametrize("path", ["/chat", "/v1/chat", "/v1/chat/completions", "/v1/openai/chat/completions"])
async def test_the_first_request_of_a_connection_is_taken_and_so_are_the_next(tmp_path: Path, path: str) -> None:
    async with room(tmp_path, echo) as there, there.caller() as caller:
        for number in range(3):
            assert text_of(await caller.ask(say(f"{number}"), path=path)) == f"{number}"
        assert there.plain == []
        await there.gateway.check_books()


#: C: a chat that the lane takes, P: one that it does not take, T: something else.
PIPELINES = ["CC", "CT", "TC", "CTC", "PC", "CP", "CPCTPC", "TTCC", "CCCCCCCC"]


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("is_in_one", [True, False])
async def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path, pipeline: str, is_in_one: bool) -> None:
    async with room(tmp_path, echo) as there, there.caller() as caller:
        requests = []
        for number, kind in enumerate(pipeline):
            if kind == "T":
                requests.append(caller.request(b"", method="GET", path="/test"))
            else:
                more = {"Origin": "https://a.example"} if kind == "P" else {}
                requests.append(caller.request(say(f"{number}"), headers=more))
        if is_in_one:
            caller.send(b"".join(requests))
        else:
            for request in requests:
                caller.send(request)
                await asyncio.sleep(0)
        for number, kind in enumerate(pipeline):
            answer = await caller.answer()
            assert answer.status == 200
            assert answer.json == {"message": "you are the man"} if kind == "T" else text_of(answer) == f"{number}"
        # What stands behind a plain one is there when that is over, and aiohttp's handler takes it along.
        first = next((at_place for at_place, kind in enumerate(pipeline) if kind != "C"), len(pipeline))
        assert len(pipeline.replace("C", "")) <= len(there.plain) <= len(pipeline) - first
        assert there.under_way == 0
        await there.gateway.check_books()


async def test_a_chat_right_behind_something_else_comes_to_the_lane(tmp_path: Path) -> None:
    """A caller who is quick: the next request is there before aiohttp's handler has gone to sleep."""
    async with room(tmp_path, echo) as there, there.caller() as caller:
        for number in range(5):
            assert (await caller.ask(b"", method="GET", path="/test")).status == 200
            assert text_of(await caller.ask(say(f"{number}"))) == f"{number}"
        assert there.plain == ["/test"] * 5


async def test_more_than_the_queue_takes(tmp_path: Path) -> None:
    """aiohttp reads so many requests ahead and no more; the rest waits in the socket, and follows."""
    count = 150
    async with room(tmp_path, echo) as there, there.caller() as caller:
        requests = [
            caller.request(b"", method="GET", path="/test") if number % 7 == 3 else caller.request(say(f"{number}"))
            for number in range(count)
        ]
        caller.send(b"".join(requests))
        for number in range(count):
            answer = await caller.answer()
            if number % 7 == 3:
                assert answer.json == {"message": "you are the man"}
            else:
                assert text_of(answer) == f"{number}"
        await there.gateway.check_books()


@pytest.mark.parametrize("headers", [{}, {"Origin": "https://a.example"}])
async def test_a_long_pipeline_is_answered_in_its_order(tmp_path: Path, headers: dict[str, str]) -> None:
    """Also where more of it comes at the moment when aiohttp's handler has taken a request out of a full queue, and has
    not begun to serve it yet."""
    async with room(tmp_path, echo) as there:
        for size in (30, 1500, 3000, 6000):
            async with there.caller() as caller:
                texts = [f"{number} ".ljust(size, "x") for number in range(100)]
                caller.send(b"".join(caller.request(say(text), headers=headers) for text in texts))
                assert [text_of(await caller.answer()) for _ in texts] == texts


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_a_request_in_any_packets(tmp_path: Path, size: int) -> None:
    async with room(tmp_path, echo) as there, there.caller() as caller:
        request = caller.request(say("bit by bit"))
        for at_byte in range(0, len(request), size):
            caller.send(request[at_byte : at_byte + size])
            await asyncio.sleep(0)
        assert text_of(await caller.answer()) == "bit by bit"
        assert there.under_way == 0


async def test_a_body_behind_its_head_and_the_next_request_behind_it(tmp_path: Path) -> None:
    async with room(tmp_path, echo) as there, there.caller() as caller:
        first, second = caller.request(say("first")), caller.request(say("second"))
        cut = first.index(b"\r\n\r\n") + 10
        caller.send(first[:cut])
        await asyncio.sleep(0.01)
        caller.send(first[cut:] + second[:50])
        assert text_of(await caller.answer()) == "first"
        caller.send(second[50:])
        assert text_of(await caller.answer()) == "second"
        await there.gateway.check_books()


async def in_packets(caller: Caller, *packets: bytes) -> None:
    """Each comes by itself."""
    for packet in packets:
        caller.send(packet)
        await asyncio.sleep(0.01)


async def test_a_body_in_packets_of_its_own_comes_to_the_lane(tmp_path: Path) -> None:
    async with room(tmp_path, echo) as there, there.caller() as caller:
        for number in range(4):
            head, end, body = caller.request(say(f"call {number}")).partition(b"\r\n\r\n")
            middle = len(body) // 2
            packets = [head + end, body] if number % 2 else [head + end, body[:middle], body[middle:]]
            await in_packets(caller, *packets)
            assert text_of(await caller.answer()) == f"call {number}"
        assert there.plain == []
        await there.gateway.check_books()


async def test_what_stands_behind_such_a_body_is_served_after_it(tmp_path: Path) -> None:
    async with room(tmp_path, echo) as there, there.caller() as caller:
        head, end, body = caller.request(say("first")).partition(b"\r\n\r\n")
        other = caller.request(b"", method="GET", path="/test")
        await in_packets(caller, head + end, body + other + caller.request(say("last")))
        assert text_of(await caller.answer()) == "first"
        assert (await caller.answer()).json == {"message": "you are the man"}
        assert text_of(await caller.answer()) == "last"
        assert there.plain == ["/test", "/chat"], "whoever is awake takes the next one, too"


@pytest.mark.parametrize("has_begun", [False, True], ids=["", "aiohttp's handler has begun"])
async def test_a_body_that_takes_its_time_is_aiohttps(tmp_path: Path, has_begun: bool) -> None:
    async with room(tmp_path, echo) as there, there.caller() as caller:
        if has_begun:
            await caller.ask(b"", method="GET", path="/test")
        head, end, body = caller.request(say("late")).partition(b"\r\n\r\n")
        await in_packets(caller, head + end + body[:5])
        await asyncio.sleep(BODY_PATIENCE_S + 0.1)
        await in_packets(caller, body[5:])
        assert text_of(await caller.answer()) == "late"
        assert text_of(await caller.ask(say("next"))) == "next"
        assert there.plain == ["/test"] * has_begun + ["/chat"]
        await there.gateway.check_books()


@pytest.mark.parametrize("way", [True, False])
@pytest.mark.parametrize("how", ["reset", "half"])
async def test_leaving_before_the_body_has_come(tmp_path: Path, way: bool, how: str) -> None:
    async with room(tmp_path, echo, {"http": {"lane": way}}) as there, there.caller() as caller:
        await in_packets(caller, caller.request()[:-5])
        server = there.gateway.runner.server
        assert server is not None
        if how == "reset":
            caller.leave()
        else:
            caller.writer.write_eof()
            assert await caller.is_closed_by_gateway()
        await eventually(lambda: not server.connections, "the connection is forgotten")
        assert there.under_way == 0
        assert await there.gateway.books.rows() == []


async def test_a_body_that_has_not_come_holds_up_no_stopping(tmp_path: Path) -> None:
    """When it stops, aiohttp reads no further, so that it could not come any more."""
    async with room(tmp_path, echo, {"http": {"shutdown_timeout_s": 60}}) as there, there.caller() as caller:
        await in_packets(caller, caller.request()[:-5])
        stopping = asyncio.create_task(there.gateway.runner.cleanup())
        assert await caller.is_closed_by_gateway()
        await asyncio.wait_for(stopping, 5)


async def test_five_hundred_refusals_in_a_row(tmp_path: Path) -> None:
    """None of them nests in the one before it."""
    async with room(tmp_path, echo) as there, there.caller() as caller:
        refused = caller.request(headers={"Authorization": "Bearer unknown"})
        caller.send(refused * 500 + caller.request(say("at last")))
        for _ in range(500):
            answer = await caller.answer()
            assert (answer.status, answer.json) == (401, {"error": "Unknown API key."})
        assert text_of(await caller.answer()) == "at last"
        assert there.plain == []
        assert there.under_way == 0


async def test_who_sends_and_does_not_read_gets_no_more_answers_written(tmp_path: Path) -> None:
    """What refuses costs next to nothing, so that only the caller's reading bounds what lies in our memory."""
    async with room(tmp_path, echo) as there, there.caller(receive_bytes=4096) as caller:
        count = 2000
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
        connection = await connection_of(there)
        caller.send(caller.request(headers={"Authorization": "Bearer unknown"}) * count)
        await eventually(lambda: connection.writing_paused, "the gateway notices")
        assert connection.transport is not None
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert connection.transport.get_write_buffer_size() < 128 * 1024
        assert there.under_way == 0
        caller.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport that reads
        for _ in range(count):
            assert (await caller.answer()).status == 401


# ---------------------------------------------------------------- as without a lane


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Room, Room]]:
    """The same, with a lane and without."""
    async with AsyncExitStack() as stack:
        rooms = [
            await stack.enter_async_context(room(tmp_path / f"{way}", echo, {"http": {"lane": way}}))
            for way in (True, False)
        ]
        yield rooms[0], rooms[1]


CHAT = orjson.dumps(say())
ODD_REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "last": {"headers": {"Connection": "close"}},
    "old": {"version": "1.0"},
    "old, to be kept": {"version": "1.0", "headers": {"Connection": "keep-alive"}},
    "old stream": {"version": "1.0", "body": say(stream=True)},
    "expects": {"headers": {"Expect": "100-continue"}},
    "expects the unheard of": {"headers": {"Expect": "a miracle"}},
    "chunked": {
        "body": chunk(CHAT[:9]) + chunk(CHAT[9:]) + chunk(b""),
        "headers": {"Content-Length": None, "Transfer-Encoding": "chunked"},
    },
    "two framings": {"extra": b"Transfer-Encoding: chunked\r\n"},
    "two lengths": {"extra": b"Content-Length: 5\r\n"},
    "the same length twice": {"extra": b"Content-Length: %d\r\n" % len(CHAT)},
    "a length that is none": {"headers": {"Content-Length": "1e2"}},
    "a length with a sign": {"headers": {"Content-Length": f"+{len(CHAT)}"}},
    "no length": {"headers": {"Content-Length": None}, "body": b""},
    "nothing": {"body": b""},
    "a page's": {"headers": {"Origin": "https://a.example"}},
    "under a key": {"headers": {"Idempotency-Key": "k"}},
    "under no key": {"headers": {"Idempotency-Key": " " * 3}},
    "signed": {"headers": {"Authorization": 'OAuth oauth_consumer_key="x"'}},
    "other header": {"headers": {"Authorization": None, "X-Api-Key": "unknown"}},
    "two tokens": {"headers": {"X-Api-Key": "unknown"}},
    "no token": {"headers": {"Authorization": None}},
    "no such token": {"headers": {"Authorization": "Bearer nobody"}},
    "token twice": {"extra": b"Authorization: Bearer nobody\r\n"},
    "token over two lines": {"headers": {"Authorization": "Bearer"}, "extra": b" nobody\r\n"},
    "token of bytes": {"headers": {"Authorization": None}, "extra": b"Authorization: Bearer \xfc\xff\r\n"},
    "a form": {"headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    "parts": {"headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    "text": {"headers": {"Content-Type": "text/plain"}},
    "no type": {"headers": {"Content-Type": None}},
    "a type in capitals": {"headers": {"Content-Type": "Application/JSON; Charset=UTF-8"}},
    "another alphabet": {"headers": {"Content-Type": "application/json; charset=utf-16"}},
    "two types": {"extra": b"Content-Type: text/plain\r\n"},
    "packed": {"headers": {"Content-Encoding": "gzip"}},
    "not packed": {"headers": {"Content-Encoding": "identity"}},
    "an upgrade": {"headers": {"Connection": "Upgrade", "Upgrade": "websocket"}},
    "no host": {"headers": {"Host": None}},
    "two hosts": {"extra": b"Host: other.example\r\n"},
    "a proxy's": {"headers": {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Host": "ai.example.org"}},
    "a large head": {"headers": {"X-Large": "x" * 8000}},
    "too large a head": {"headers": {"X-Large": "x" * 20_000}},
    "too many lines": {"extra": b"X-A: b\r\n" * 200},
    "no header": {"extra": b"no header at all\r\n"},
    "a folded header": {"extra": b"X-A: b\r\n c\r\n"},
    "a header of bytes": {"extra": b"X-A: \xff\xfe\r\n"},
    "a space before the colon": {"extra": b"X-A : b\r\n"},
    "a bare line end": {"extra": b"X-A: b\nX-B: c\r\n"},
    "another method": {"method": "PUT"},
    "an unheard of method": {"method": "BREW"},
    "lower case": {"method": "post"},
    "a query": {"path": "/chat?x=y"},
    "a slash more": {"path": "/chat/"},
    "escaped": {"path": "/%63hat"},
    "an address": {"path": "http://127.0.0.1/chat"},
    "no such place": {"path": "/chats"},
    "another version": {"version": "2.0"},
    "no JSON": {"body": b"{"},
    "no object": {"body": b"[]"},
    "not UTF-8": {"body": b'{"model": "\xff"}'},
    "fields": {"body": {"model": 1, "messages": "x"}},
    "no such model": {"body": {**say(), "model": "nobody/nothing"}},
    "a picture": {
        "body": {
            **say(),
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]}
            ],
        }
    },
    "a large body": {"body": say("x" * 300_000)},
    "a stream of nothing": {"body": say(stream=True)},
}


#: Those behind which nothing more is read, or whose answers may come before they are read.
ENDS_CONNECTIONS = {
    *("last", "old", "old, to be kept", "old stream", "expects the unheard of", "two framings", "two lengths"),
    *("the same length twice", "a length that is none", "a length with a sign", "an upgrade", "no host", "two hosts"),
    *("too large a head", "too many lines", "no header", "a folded header", "a header of bytes", "lower case"),
    *("a space before the colon", "a bare line end", "an unheard of method", "another version", "two types"),
    *("token twice", "token over two lines", "packed", "not packed", "a large head", "a large body", "parts"),
    *("no length", "another method"),
}


async def seen_by(caller: Caller, request: bytes) -> list[Any]:
    """Everything that comes back for a request and for one more behind it, and how the connection ends."""
    caller.send(request)
    seen: list[Any] = []
    try:
        seen.append(compared(await caller.answer()))
        while seen[-1].status == 100:
            seen.append(compared(await caller.answer()))
        for _ in range(10):
            await asyncio.sleep(0)
        if not caller.reader.at_eof():
            caller.send(caller.request(b"", method="GET", path="/test"))
            seen.append(compared(await asyncio.wait_for(caller.answer(), 1.0)))
    except (EOFError, TimeoutError) as exc:
        seen.append(type(exc))
    return [*seen, caller.reader.at_eof()]


def compared(answer: RawAnswer) -> RawAnswer:
    """An answer without what no two have in common."""
    return replace(answer, headers=tuple(each for each in answer.headers if each[0].lower() not in PASSING))


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
async def test_odd_requests_are_answered_alike(pair: tuple[Room, Room], path: str) -> None:
    """To the byte, and what comes behind them too; many in one test, as they need the same two gateways."""
    for name, odd in ODD_REQUESTS.items():
        seen = []
        for there in pair:
            async with there.caller() as caller:
                seen.append(await seen_by(caller, caller.request(**{"path": path, **odd})))
            await eventually(lambda there=there: there.under_way == 0, name)  # type: ignore[misc]  # of this turn
            assert there.slots == 0, name
        assert seen[0] == seen[1], name
        assert isinstance(seen[0][0], RawAnswer), name
    for there in pair:
        await there.gateway.check_books()
    rows = [
        [(row.outcome, row.http_status, row.charge_nano_usd, row.address) for row in await there.gateway.books.rows()]
        for there in pair
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) > 10


@pytest.mark.parametrize("is_in_one", [True, False])
async def test_after_a_bad_request_the_connection_ends_as_without_a_lane(
    pair: tuple[Room, Room], is_in_one: bool
) -> None:
    seen = []
    garbage = b"\x16\x03\x01 no HTTP at all\r\n\r\n"
    for there in pair:
        async with there.caller() as caller:
            caller.send(caller.request() + (garbage if is_in_one else b""))
            if not is_in_one:
                for _ in range(3):
                    await asyncio.sleep(0)
                caller.send(garbage)
            seen.append([compared(await caller.answer()) for _ in range(1 if is_in_one else 2)])
            assert await caller.is_closed_by_gateway()
    assert seen[0] == seen[1]
    assert seen[0][-1].status == 400


# ---------------------------------------------------------------- heads that are remembered


async def test_a_head_that_was_read_before_is_not_read_again(tmp_path: Path) -> None:
    """On whatever connection, whatever has come on it, and with whatever body."""
    async with room(tmp_path, echo) as there:
        server = there.gateway.runner.server
        assert isinstance(server, LaneServer)
        known = server._lane.heads._known
        async with there.caller() as caller:
            assert text_of(await caller.ask(say("x"))) == "x"
        (remembered, entry), *_ = known.items()
        known[remembered] = server._lane.entry_of(
            entry.route, msgspec.structs.replace(entry.visitor, address="192.0.2.77"), entry.token_digest
        )

        async def is_recalled(caller: Caller, text: str) -> bool:
            assert text_of(await caller.ask(say(text))) == text
            return (await there.gateway.last_row()).address == "192.0.2.77"

        async with there.caller() as caller:
            await eventually(lambda: bool(server.connections), "the caller is connected")
            (connection,) = server.connections
            assert isinstance(connection, LaneProtocol)
            assert await is_recalled(caller, "a longer text than the other")
            assert (await caller.ask(b"", method="GET", path="/test")).status == 200
            await eventually(lambda: connection._waiter is not None, "aiohttp's handler waits")
            assert await is_recalled(caller, "after something else")
            assert (await caller.ask(say("y"), headers={"Origin": "https://a.example"})).status == 200
            await eventually(lambda: connection._waiter is not None, "aiohttp's handler waits")
            assert await is_recalled(caller, "after another way")
            request = caller.request(say("z"))
            caller.send(request[:-7])
            await eventually(lambda: connection._left_bytes == 7, "all but seven bytes have come")
            caller.send(request[-7:])
            assert text_of(await caller.answer()) == "z"
            await eventually(lambda: connection._waiter is not None, "aiohttp's handler waits")
            assert await is_recalled(caller, "after one in two pieces")
            caller.send(caller.request(say("1")) + caller.request(say("2")))
            assert [text_of(await caller.answer()) for _ in range(2)] == ["1", "2"]
            assert not await is_recalled(caller, "now nobody knows where the parser stands")


async def test_any_sequence_is_answered_alike(pair: tuple[Room, Room]) -> None:
    """Requests that repeat each other, and odd ones, in whatever pieces, one after the other or several at once."""
    chance = Random(11)
    odd = [each for name, each in ODD_REQUESTS.items() if name not in ENDS_CONNECTIONS]
    for _ in range(25):
        plan: list[tuple[list[dict[str, Any]], int, int]] = []
        for _ in range(chance.randint(2, 5)):
            count = chance.choice([1, 1, 1, 2, 3])
            batch = [
                chance.choice(odd) if chance.random() < 0.2 else {"body": say("x" * chance.choice([1, 1, 5, 60]))}
                for _ in range(count)
            ]
            plan.append((batch, chance.randrange(1 << 30), chance.choice([0, 0, 0, 1, 2])))
        seen: list[list[Any]] = []
        for there in pair:
            async with there.caller() as caller:
                seen.append([each async for each in answers_to(caller, plan)])
        assert seen[0] == seen[1]
    for there in pair:
        await eventually(lambda there=there: there.under_way == 0, "all is over")  # type: ignore[misc]  # of this turn
        await there.gateway.check_books()


async def answers_to(
    caller: Caller, plan: Sequence[tuple[Sequence[dict[str, Any]], int, int]]
) -> AsyncIterator[RawAnswer]:
    """The answers to batches of requests, each sent at once or cut at some places."""
    for batch, seed, cuts in plan:
        data = b"".join(caller.request(**each) for each in batch)
        places = sorted(Random(seed).choices(range(len(data)), k=cuts))
        for start, end in pairwise([0, *places, len(data)]):
            caller.send(data[start:end])
            await asyncio.sleep(0)
        for _ in batch:
            answer = await caller.answer()
            while answer.status == 100:
                answer = await caller.answer()
            yield compared(answer)


# ---------------------------------------------------------------- time, and who leaves


async def slow_then_whole(exchange: Exchange) -> None:
    while True:
        await exchange.request()
        await asyncio.sleep(0.6)
        await exchange.say(json_answer())


@pytest.mark.parametrize("way", [True, False])
async def test_an_idle_connection_is_closed_and_one_at_work_is_not(tmp_path: Path, way: bool) -> None:
    changes = {"http": {"keepalive_timeout_s": 0.2, "lane": way}}
    async with room(tmp_path, slow_then_whole, changes) as there, there.caller() as caller:
        assert (await caller.ask()).status == 200
        assert await caller.is_closed_by_gateway()
        async with there.caller() as second:
            assert await second.is_closed_by_gateway()
        assert (there.plain == []) is way


async def assert_left(there: Room) -> None:
    await eventually(lambda: there.under_way == 0, "the call has ended")
    assert there.slots == 0
    row = await there.gateway.last_row()
    assert (row.outcome, row.http_status) == ("caller_left", 499)
    await there.gateway.check_books()


@contextmanager
def locked(database: Path) -> Any:
    """Nobody else can write meanwhile."""
    intruder = sqlite3.connect(database, isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        intruder.execute("ROLLBACK")
        intruder.close()


async def stall(exchange: Exchange) -> None:
    await exchange.request()
    await exchange.reader.read()


@pytest.mark.parametrize("way", [True, False])
@pytest.mark.parametrize("how", ["reset", "half"])
async def test_leaving_while_the_head_is_waited_for(tmp_path: Path, way: bool, how: str) -> None:
    async with room(tmp_path, stall, {"http": {"lane": way}}) as there, there.caller() as caller:
        caller.send(caller.request())
        await asked(there)
        assert there.under_way == 1
        if how == "reset":
            caller.leave()
        else:  # who says that no more will come is taken for one who leaves: a proxy that lost its caller says no more
            caller.writer.write_eof()
            assert await caller.is_closed_by_gateway()
        await asyncio.wait_for(there.provider.is_left.wait(), 5)
        await assert_left(there)


@pytest.mark.parametrize("way", [True, False])
async def test_leaving_in_mid_stream(tmp_path: Path, way: bool) -> None:
    async with room(tmp_path, begin_and_stall, {"http": {"lane": way}}) as there, there.caller() as caller:
        caller.send(caller.request(say(stream=True)))
        await caller.reader.readuntil(b"\n\n")
        caller.leave()
        await asyncio.wait_for(there.provider.is_left.wait(), 5)
        await assert_left(there)
        assert (await there.gateway.last_row()).charge_nano_usd > 0


@pytest.mark.parametrize("way", [True, False])
async def test_leaving_while_the_row_is_opened(tmp_path: Path, way: bool) -> None:
    async with room(tmp_path, stall, {"http": {"lane": way}}) as there, there.caller() as caller:
        with locked(tmp_path / "data" / "bitmesh-proxy.db"):
            caller.send(caller.request())
            await eventually(lambda: there.under_way == 1, "the call has begun")
            caller.leave()
            await eventually(lambda: there.under_way == 0, "the call has ended")
        await assert_left(there)
        assert there.provider.connections == []
        assert (await there.gateway.last_row()).state == "released"


@pytest.mark.parametrize("way", [True, False])
async def test_leaving_while_connecting(tmp_path: Path, way: bool) -> None:
    """A listening socket whose queue is full takes no connection."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        changes = {**at(tmp_path / "deaf", one=f"http://127.0.0.1:{port}/v1"), "http": {"lane": way}}
        async with room(tmp_path, stall, changes) as there, there.caller() as caller:
            caller.send(caller.request())

            async def has_begun() -> bool:
                return bool(await there.gateway.books.rows())

            await until(has_begun, "the call is in the books")
            await asyncio.sleep(0.05)
            assert there.under_way == 1
            caller.leave()
            await assert_left(there)
            assert (await there.gateway.last_row()).cost_nano_usd == 0
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("way", [True, False])
async def test_leaving_while_the_call_is_settled(tmp_path: Path, way: bool) -> None:
    """The provider has done its part, so the row says that the call was completed; only the caller does not hear it."""
    database = tmp_path / "data" / "bitmesh-proxy.db"
    may_end = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await may_end.wait()
        await exchange.say(json_answer())
        await exchange.reader.read()

    async with room(tmp_path, script, {"http": {"lane": way}}) as there, there.caller() as caller:
        caller.send(caller.request())
        await asked(there)
        with locked(database):
            may_end.set()
            connection = there.provider.connections[0]
            pool = there.gateway.app[keys.UPSTREAM]
            await eventually(lambda: bool(next(iter(pool._connections.pools.values())).idle), "it has answered")  # type: ignore[union-attr]
            caller.leave()
            await eventually(lambda: there.under_way == 0, "the call has ended")
        row = await there.gateway.last_row()
        assert (row.state, row.outcome, row.http_status) == ("settled", "completed", 200)
        assert there.slots == 0
        assert not connection.writer.is_closing()
        await there.gateway.check_books()


# ---------------------------------------------------------------- slow readers


@pytest.mark.parametrize("way", [True, False])
async def test_a_slow_reader_makes_the_provider_wait(tmp_path: Path, way: bool) -> None:
    """Nothing is collected in between, and nothing is lost."""
    event = TOKEN.replace(b"Hello", b"x" * 16_000)
    count, sent = 400, 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        exchange.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        await exchange.request()
        await exchange.say(STREAM_HEAD)
        for _ in range(count):
            await exchange.say(chunk(event))
            sent += 1
        await exchange.say(chunk(LAST) + chunk(b""))
        await exchange.reader.read()

    async with (
        room(tmp_path, script, {"http": {"lane": way}}) as there,
        there.caller(receive_bytes=16_384) as caller,
    ):
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
        connection = await connection_of(there)
        caller.send(caller.request(say(stream=True)))
        await eventually(lambda: connection.writing_paused, "the caller is too slow")
        seen = -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.1)
        assert sent < count
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 1024 * 1024
        caller.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport that reads
        answer = await caller.answer()
        assert answer.is_whole
        assert answer.body.startswith(event * count + LAST)
        assert (await there.gateway.last_row()).outcome == "completed"


async def connection_of(there: Room) -> RequestHandler:
    """The gateway's end of the only connection, which the system keeps little for."""
    server = there.gateway.runner.server
    assert server is not None
    await eventually(lambda: bool(server.connections), "the caller is connected")
    (connection,) = server.connections
    assert isinstance(connection, RequestHandler)
    assert connection.transport is not None
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    return connection
