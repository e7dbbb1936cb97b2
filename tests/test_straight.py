"""Straight calls, in every state and with everything that may happen there: one end, one settlement, all given back."""

from __future__ import annotations

import asyncio
import gc
import socket
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.calls import Basis
from bitmesh_proxy.context import RequestContext, Surface
from bitmesh_proxy.endpoints import bitmesh, openai_chat
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.errors import (
    CallerLeft,
    InsufficientBalance,
    ProviderRefused,
    Unavailable,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
)
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.pipeline import Incoming, cost_headers, cost_lines
from bitmesh_proxy.straight import StraightCall, StraightLine
from bitmesh_proxy.upstream.outcomes import Outcomes
from tests.closed_port import closed_port
from tests.journeys.gateway import Gateway, eventually, running_gateway
from tests.journeys.scripted import MODEL, TOKEN_NANO_USD, at, whole_answer
from tests.upstream.scripted_provider import Exchange, Provider, Script, answering, provider

WHOLE = orjson.dumps(whole_answer())
#: More than is parsed on the event loop.
LARGE = orjson.dumps(whole_answer("x" * 300_000))
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
TOKEN = b'data: {"id":"c-1","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
DONE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\ndata: [DONE]\n\n'
REFUSAL = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"


def json_answer(body: bytes) -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


JSON = json_answer(WHOLE)
CHUNKED_EVENTS = EVENTS[:-2] + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    len(TOKEN + DONE),
    TOKEN + DONE,
)


@dataclass(slots=True)
class Written:
    """A caller who notes what he gets, and is gone when he ``is_gone``."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_started: bool = False
    is_finished: bool = False
    is_aborted: bool = False
    is_gone: bool = False
    on_push: Callable[[], None] = lambda: None
    chunks_out: int = 0

    def send_now(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.start_now(status, headers)
        self.finish_now(body)

    def send_json_now(self, headers: Mapping[str, str], lines: str, body: bytes) -> None:
        further = dict(line.split(": ", 1) for line in lines.split("\r\n")[:-1])
        self.send_now(200, {"Content-Type": "application/json", **headers, **further}, body)

    def start_now(self, status: int, headers: Mapping[str, str]) -> None:
        self._check()
        self.is_started, self.status, self.headers = True, status, dict(headers)

    def push(self, data: bytes, framed: bytes | None = None) -> None:
        self._check()
        self.body += data
        self.on_push()

    def begin_now(self, headers: Mapping[str, str], data: bytes, framed: bytes | None) -> ChunksOut:
        self.start_now(200, headers)
        self.push(data, framed)
        return ChunksOut(self)

    def finish_now(self, tail: bytes = b"") -> None:
        self._check()
        self.body += tail
        self.is_finished = True

    def abort(self) -> None:
        self.is_aborted = True

    # The same for coroutines.

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_now(status, headers, body)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.start_now(status, headers)

    async def write(self, data: bytes) -> None:
        self.push(data)

    def write_now(self, data: bytes) -> None:
        self.push(data)

    async def finish(self) -> None:
        self.finish_now()

    def _check(self) -> None:
        if self.is_gone:
            raise CallerLeft


@dataclass(slots=True)
class ChunksOut:
    """Where chunks go past ``push``."""

    reply: Written

    def is_closing(self) -> bool:
        return self.reply.is_gone

    def write(self, data: bytes) -> None:
        assert not self.reply.is_gone
        size, _, rest = data.partition(b"\r\n")
        assert rest.endswith(b"\r\n")
        assert int(size, 16) == len(rest) - 2
        self.reply.chunks_out += 1
        self.reply.push(rest[:-2])


@dataclass(slots=True, kw_only=True)
class Stage:
    """A gateway's line, without a way in: calls are made by hand."""

    gateway: Gateway
    line: StraightLine
    providers: list[Provider]
    database: Path
    ends: list[Exception | None] = field(default_factory=list)
    number: int = 0

    def call(
        self, reply: Written | None = None, *, endpoint: Endpoint = bitmesh.CHAT, **more: Any
    ) -> tuple[StraightCall, Written]:
        """A call that has not begun."""
        self.number += 1
        reply = reply or Written()
        line = self.line
        caller = self.gateway.app[keys.AUTHENTICATOR].by_token_digest(token_digest(self.gateway.key.token))
        context = RequestContext(
            request_id=f"req_{self.number}",
            address="127.0.0.1",
            public_base_url="http://gateway",
            received_at_s=1.0,
            started_s=line.clock(),
            surface=Surface.BITMESH,
        )
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], **more}
        plan = line.chats.plan(line.chats.parse(orjson.dumps(body), endpoint, caller), endpoint, caller)
        assert plan is not None
        incoming = Incoming(context=context, caller=caller, body={})
        call = line.call(plan, incoming, endpoint=endpoint, reply=reply, on_ended=self.ends.append)
        return call, reply

    async def asked(self, at_provider: int = 0, count: int = 1) -> Exchange:
        """Wait until a provider has been asked so often."""
        connections = self.providers[at_provider].connections
        await eventually(lambda: sum(len(each.heads) for each in connections) >= count, "the provider is asked")
        return connections[-1]

    async def ended(self) -> Exception | None:
        """Wait for the end of the only call."""
        await eventually(lambda: bool(self.ends), "the call has ended")
        (end,) = self.ends
        return end

    async def row(self) -> tuple[str, str | None, int | None]:
        """State, outcome and status of the last row, once it is closed; the books are right."""
        row = await self.gateway.last_row()
        await self.gateway.check_books()
        return row.state, row.outcome, row.http_status

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody can write meanwhile."""
        intruder = sqlite3.connect(self.database, isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            intruder.execute("ROLLBACK")
            intruder.close()


@asynccontextmanager
async def stage(tmp_path: Path, *scripts: Script | None, credit_usd: str = "10", **tables: Any) -> AsyncIterator[Stage]:
    """A line in front of providers, in this order of preference; None is one that cannot be reached."""
    async with AsyncExitStack() as stack:
        nobody = stack.enter_context(closed_port())
        providers, urls = [], {}
        for name, script in zip(("first", "second"), scripts, strict=False):
            there_is = await stack.enter_async_context(provider(script or silent))
            port = there_is.port if script is not None else nobody
            urls[name] = f"http://127.0.0.1:{port}/v1"
            providers.append(there_is)
        settings = {**at(tmp_path / "rows", **urls), **tables}
        gateway = await stack.enter_async_context(running_gateway(tmp_path / "data", settings, credit_usd=credit_usd))
        there = Stage(
            gateway=gateway,
            line=gateway.app[keys.STRAIGHT],
            providers=providers,
            database=tmp_path / "data" / "bitmesh-proxy.db",
        )
        yield there
        await asyncio.sleep(0)
        assert len(there.ends) == there.number, "each call has ended once"


async def turns_until(is_so: Callable[[], bool]) -> None:
    """Until something holds, and not a turn of the event loop longer."""
    for _ in range(100_000):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


async def silent(exchange: Exchange) -> None:
    """Hears a request, and says nothing."""
    await exchange.request()
    await exchange.reader.read()


def once(*pieces: bytes) -> Script:
    """Answers, and ends the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(*pieces)

    return script


def streaming(*pieces: bytes) -> Script:
    """Begins, and then says nothing more."""

    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(EVENTS, *pieces)
        await exchange.reader.read()

    return script


async def test_a_whole_answer(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(JSON)) as there:
        call, reply = there.call()
        call.begin()
        assert await there.ended() is None
        assert (reply.status, reply.body, reply.is_finished) == (200, WHOLE, True)
        assert reply.headers["X-Bitmesh-Cost"] == "0.000005"
        assert await there.row() == ("settled", "completed", 200)


@pytest.mark.parametrize("bill", [None, Bill(), Bill(charge_nano_usd=NanoUsd(8550), basis=Basis.ESTIMATED)])
def test_what_it_cost_is_said_in_lines_as_in_headers(bill: Bill | None) -> None:
    headers = cost_headers(bill, "openai")
    assert cost_lines(bill, "openai") == "".join(f"{name}: {value}\r\n" for name, value in headers.items())


@pytest.mark.parametrize("endpoint", [bitmesh.CHAT, openai_chat.COMPLETIONS])
async def test_a_stream(tmp_path: Path, endpoint: Endpoint) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(EVENTS + TOKEN, TOKEN, DONE)

    async with stage(tmp_path, script) as there:
        call, reply = there.call(stream=True, endpoint=endpoint, stream_options={"include_usage": True})
        call.begin()
        assert await there.ended() is None
        assert reply.is_finished
        assert reply.body.startswith(TOKEN + TOKEN + DONE)
        assert (b": X-Bitmesh-Cost: 0.000005\n" in reply.body) is endpoint.comments_cost
        assert await there.row() == ("settled", "completed", 200)


async def test_what_has_accrued_is_the_same_at_a_glance(tmp_path: Path) -> None:
    """A plain call's plan has a tariff and never reads the conversation; it notes what any other would."""

    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(EVENTS + TOKEN, TOKEN)
        await exchange.request()

    async with stage(tmp_path, script) as there:
        call, reply = there.call(stream=True)
        line, caller = there.line, call.incoming.caller
        raw = orjson.dumps(
            {"model": MODEL, "messages": [{"role": "user", "content": "Hello, w\u00f6rld"}] * 3, "stream": True}
        )
        plan = line.chats.glance(raw, bitmesh.CHAT, caller)
        assert plan is not None
        assert plan.tariff is not None
        call.plan = plan
        call.begin()
        await eventually(lambda: reply.body.count(TOKEN) == 2, "the chunks are there")
        at_a_glance = call._accrued()
        assert at_a_glance is not None
        assert at_a_glance.charge_nano_usd > 0
        assert at_a_glance == line.outcomes.accrued(plan.call, call.reservation, call._full_progress())
        call.caller_left()
        assert await there.row() == ("settled", "caller_left", 499)


# ---------------------------------------------------------------- the caller leaves


async def test_leaving_while_the_row_is_opened(tmp_path: Path) -> None:
    async with stage(tmp_path, silent) as there:
        call, reply = there.call()
        with there.locked():
            call.begin()
            await asyncio.sleep(0.05)
            call.caller_left()
            assert [type(each) for each in there.ends] == [CallerLeft]
        assert await there.row() == ("released", "caller_left", 499)
        assert there.providers[0].connections == []
        assert not reply.is_started


async def test_leaving_before_anything_has_happened_at_all(tmp_path: Path) -> None:
    async with stage(tmp_path, silent) as there:
        call, _ = there.call()
        call.begin()
        call.caller_left()
        call.caller_left()
        assert await there.row() == ("released", "caller_left", 499)


async def test_leaving_while_connecting(tmp_path: Path) -> None:
    async with stage(tmp_path, silent) as there:
        call, _ = there.call()
        call.begin()
        await turns_until(lambda: call.reservation.is_open)
        call.caller_left()
        assert isinstance(await there.ended(), CallerLeft)
        assert await there.row() == ("released", "caller_left", 499)
        assert (await there.gateway.last_row()).cost_nano_usd == 0, "nothing had been sent"


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_while_the_head_is_waited_for(tmp_path: Path, stream: bool) -> None:
    async with stage(tmp_path, silent) as there:
        call, reply = there.call(stream=stream)
        call.begin()
        await there.asked()
        call.caller_left()
        assert isinstance(await there.ended(), CallerLeft)
        await asyncio.wait_for(there.providers[0].is_left.wait(), 5)
        assert (await there.row())[1:] == ("caller_left", 499)
        assert not reply.is_started


async def test_leaving_in_mid_stream(tmp_path: Path) -> None:
    async with stage(tmp_path, streaming(TOKEN)) as there:
        call, reply = there.call(stream=True)
        call.begin()
        await eventually(lambda: reply.body == TOKEN, "the stream has begun")
        call.caller_left()
        assert isinstance(await there.ended(), CallerLeft)
        await asyncio.wait_for(there.providers[0].is_left.wait(), 5)
        assert await there.row() == ("settled", "caller_left", 499)
        assert not reply.is_finished


async def test_leaving_is_found_out_by_writing(tmp_path: Path) -> None:
    """The transport is closing already, and nobody has said so yet."""
    async with stage(tmp_path, streaming(TOKEN, TOKEN)) as there:
        reply = Written()

        def leave() -> None:
            reply.is_gone = True

        reply.on_push = leave
        call, _ = there.call(reply, stream=True)
        call.begin()
        assert isinstance(await there.ended(), CallerLeft)
        assert await there.row() == ("settled", "caller_left", 499)


def in_chunks(reply: Written) -> Script:
    """Three tokens in a chunk each, when the one before it has come to the caller, and the end."""

    said = 0

    def has_come() -> bool:
        return reply.body.count(TOKEN) == said or reply.is_gone

    async def script(exchange: Exchange) -> None:
        nonlocal said
        await exchange.request()
        await exchange.say(EVENTS[:-2] + b"Transfer-Encoding: chunked\r\n\r\n")
        while said < 3:
            said += 1
            await exchange.say(b"%x\r\n%b\r\n" % (len(TOKEN), TOKEN))
            await eventually(has_come, "it has come")
        await exchange.say(b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE))

    return script


@pytest.mark.parametrize("endpoint", [bitmesh.CHAT, openai_chat.COMPLETIONS])
async def test_chunks_go_out_as_they_are(tmp_path: Path, endpoint: Endpoint) -> None:
    reply = Written()
    async with stage(tmp_path, in_chunks(reply)) as there:
        call, _ = there.call(reply, stream=True, endpoint=endpoint)
        call.begin()
        assert await there.ended() is None
        assert reply.body.startswith(TOKEN * 3)
        assert reply.body.count(b"data: [DONE]") == 1
        # Not the first, which goes out with the head, nor the last; and none where usage that was not asked for is left
        # out.
        assert reply.chunks_out == (2 if endpoint is bitmesh.CHAT else 0)
        assert await there.row() == ("settled", "completed", 200)


async def test_leaving_is_found_out_by_an_outlet_that_closes(tmp_path: Path) -> None:
    reply = Written()

    def leave() -> None:
        reply.is_gone = reply.body == TOKEN * 2

    reply.on_push = leave
    async with stage(tmp_path, in_chunks(reply)) as there:
        call, _ = there.call(reply, stream=True)
        call.begin()
        assert isinstance(await there.ended(), CallerLeft)
        assert reply.body == TOKEN * 2
        assert await there.row() == ("settled", "caller_left", 499)


async def test_leaving_from_within_a_write(tmp_path: Path) -> None:
    """A transport that fails may say so while it is being written to."""
    async with stage(tmp_path, streaming(TOKEN, TOKEN)) as there:
        reply = Written()
        call, _ = there.call(reply, stream=True)
        reply.on_push = call.caller_left
        call.begin()
        assert isinstance(await there.ended(), CallerLeft)
        assert await there.row() == ("settled", "caller_left", 499)
        assert reply.body == TOKEN


async def test_leaving_while_the_call_is_settled(tmp_path: Path) -> None:
    """All is delivered and all is charged; only the last bytes are not sent."""
    may_answer = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await may_answer.wait()
        await exchange.say(JSON)
        await exchange.reader.read()

    async with stage(tmp_path, script) as there:
        call, reply = there.call()
        call.begin()
        await there.asked()
        with there.locked():
            may_answer.set()
            await eventually(lambda: call.reservation.bill is not None, "it is being settled")
            call.caller_left()
            assert isinstance(await there.ended(), CallerLeft)
        assert await there.row() == ("settled", "completed", 200)
        assert not reply.is_started


async def test_leaving_after_the_end_does_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(JSON)) as there:
        call, _ = there.call()
        call.begin()
        assert await there.ended() is None
        call.caller_left()
        assert await there.row() == ("settled", "completed", 200)


async def test_leaving_while_another_offer_is_tried(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(REFUSAL), silent) as there:
        call, _ = there.call()
        call.begin()
        await there.asked(1)
        call.caller_left()
        assert isinstance(await there.ended(), CallerLeft)
        await asyncio.wait_for(there.providers[1].is_left.wait(), 5)
        assert (await there.row())[1:] == ("caller_left", 499)


async def test_leaving_at_the_moment_when_another_offer_is_about_to_be_tried(tmp_path: Path) -> None:
    """The task for it is there and has not taken its first step."""
    async with stage(tmp_path, silent, silent) as there:
        call, _ = there.call()
        call.begin()
        await there.asked()
        call.on_error(UpstreamBroken("It broke off."))
        assert there.ends == []
        call.caller_left()
        assert isinstance(await there.ended(), CallerLeft)
        assert (await there.row())[1:] == ("caller_left", 499)
        assert there.providers[1].connections == []


async def test_leaving_while_another_offer_is_tried_as_the_first_cannot_be_reached(tmp_path: Path) -> None:
    async with stage(tmp_path, None, silent) as there:
        call, _ = there.call()
        call.begin()
        await there.asked(1)
        call.caller_left()
        assert isinstance(await there.ended(), CallerLeft)
        await asyncio.wait_for(there.providers[1].is_left.wait(), 5)
        assert (await there.row())[1:] == ("caller_left", 499)


async def test_leaving_while_a_large_answer_is_read_in_a_thread(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(json_answer(LARGE))) as there:
        call, reply = there.call()
        call.begin()
        await turns_until(lambda: call._task is not None and call._size_bytes > 0)
        call.caller_left()
        assert isinstance(await there.ended(), CallerLeft)
        assert (await there.row())[1:] == ("caller_left", 499)
        assert not reply.is_started


# ---------------------------------------------------------------- the provider fails


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("script", "word", "status"),
    [
        (once(), "upstream_broken", 502),
        (once(b"no HTTP\r\n\r\n"), "upstream_broken", 502),
        (once(JSON.replace(b'{"id"', b'("id"')), "upstream_broken", 502),
        (once(JSON[:-1]), "upstream_broken", 502),
        (once(EVENTS.replace(b"event-stream", b"html"), b"<html>"), "upstream_broken", 502),
        (once(JSON.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")), "upstream_broken", 502),
        (once(EVENTS.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"), TOKEN), "upstream_broken", 502),
        (once(REFUSAL), "provider_error", 503),
        (once(b"HTTP/1.1 429 No\r\nContent-Length: 9\r\n\r\nno"), "provider_error", 429),
        (once(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 70_000), "provider_error", 500),
        (None, "upstream_unreachable", 502),
    ],
)
async def test_what_fails_before_the_answer_is_an_error_to_be_said(
    tmp_path: Path, script: Script | None, word: str, status: int, stream: bool
) -> None:
    async with stage(tmp_path, script) as there:
        call, reply = there.call(stream=stream)
        call.begin()
        error = await there.ended()
        assert isinstance(error, UpstreamError)
        assert (error.code, error.status) == (word, status)
        assert (await there.row())[1:] == (word, status)
        assert not reply.is_started


async def test_silence_before_the_head(tmp_path: Path) -> None:
    async with stage(tmp_path, silent, upstream={"first_byte_timeout_s": 0.1}) as there:
        call, _ = there.call()
        call.begin()
        assert isinstance(await there.ended(), UpstreamTimeout)
        assert (await there.row())[1:] == ("upstream_timeout", 504)


@pytest.mark.parametrize(
    ("pieces", "word"),
    [
        ([TOKEN], "upstream_broken"),
        ([TOKEN, b"data: [DO"], "upstream_broken"),
        ([TOKEN, b'data: {"error":{"message":"no"}}\n\n'], "provider_error"),
        ([TOKEN, DONE], "completed"),
    ],
)
async def test_how_a_stream_ends(tmp_path: Path, pieces: list[bytes], word: str) -> None:
    async with stage(tmp_path, once(EVENTS, *pieces)) as there:
        call, reply = there.call(stream=True)
        call.begin()
        assert await there.ended() is None
        assert reply.is_finished
        assert reply.body.startswith(b"".join(pieces))
        assert (b'"code":"upstream_broken"' in reply.body) is (word == "upstream_broken")
        assert await there.row() == ("settled", word, 502 if word == "upstream_broken" else 200)


async def test_an_error_that_comes_first_is_no_stream(tmp_path: Path) -> None:
    async with stage(tmp_path, once(EVENTS, b'data: {"error":{"message":"no"}}\n\n')) as there:
        call, reply = there.call(stream=True)
        call.begin()
        assert isinstance(await there.ended(), ProviderRefused)
        assert await there.row() == ("released", "provider_error", 502)
        assert not reply.is_started


@pytest.mark.parametrize("script", [None, once(REFUSAL), once(), once(JSON[:-5]), once(EVENTS)])
@pytest.mark.parametrize("stream", [True, False])
async def test_another_offer_is_tried(tmp_path: Path, script: Script | None, stream: bool) -> None:
    good = once(EVENTS, TOKEN + DONE) if stream else once(JSON)
    async with stage(tmp_path, script, good) as there:
        call, reply = there.call(stream=stream)
        call.begin()
        assert await there.ended() is None
        assert (reply.status, reply.is_finished) == (200, True)
        assert await there.row() == ("settled", "completed", 200)
        row = await there.gateway.last_row()
        assert (row.provider, row.charge_nano_usd) == ("second", 5 * 2 * TOKEN_NANO_USD)
        assert reply.headers.get("X-Bitmesh-Provider") == (None if stream else "second")


async def test_the_others_fail_too(tmp_path: Path) -> None:
    async with stage(tmp_path, once(REFUSAL), once()) as there:
        call, reply = there.call()
        call.begin()
        assert isinstance(await there.ended(), UpstreamBroken)
        assert (await there.row())[1:] == ("upstream_broken", 502)
        assert not reply.is_started


async def test_a_large_answer_is_read_in_a_thread(tmp_path: Path) -> None:
    async with stage(tmp_path, once(json_answer(LARGE))) as there:
        call, reply = there.call()
        call.begin()
        assert await there.ended() is None
        assert reply.body == LARGE
        assert await there.row() == ("settled", "completed", 200)


async def test_a_large_answer_that_is_none(tmp_path: Path) -> None:
    async with stage(tmp_path, once(json_answer(LARGE + b"x")), once(JSON)) as there:
        call, reply = there.call()
        call.begin()
        assert await there.ended() is None
        assert reply.body == WHOLE
        assert (await there.gateway.last_row()).provider == "second"


async def test_more_than_is_taken(tmp_path: Path) -> None:
    async with stage(tmp_path, once(json_answer(LARGE)), upstream={"max_answer_bytes": 100_000}) as there:
        call, _ = there.call()
        call.begin()
        assert isinstance(await there.ended(), UpstreamBroken)
        assert (await there.row())[1:] == ("upstream_broken", 502)


# ---------------------------------------------------------------- the books fail


async def test_without_money_nobody_is_asked(tmp_path: Path) -> None:
    async with stage(tmp_path, silent, credit_usd="0") as there:
        call, reply = there.call()
        call.begin()
        assert isinstance(await there.ended(), InsufficientBalance)
        assert await there.gateway.books.rows() == []
        assert there.providers[0].connections == []
        assert not reply.is_started


async def test_a_row_that_cannot_be_opened(tmp_path: Path) -> None:
    async with stage(tmp_path, silent, data={"dir": str(tmp_path / "data"), "busy_timeout_s": 0.1}) as there:
        call, _ = there.call()
        with there.locked():
            call.begin()
            assert isinstance(await there.ended(), Unavailable)
        assert there.providers[0].connections == []
        assert await there.gateway.books.rows() == []


async def test_a_settlement_that_has_to_wait(tmp_path: Path) -> None:
    """The answer waits for it for a while, and then goes out; the row follows."""
    may_answer = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.request()
        await may_answer.wait()
        await exchange.say(JSON)

    async with stage(tmp_path, script, data={"dir": str(tmp_path / "data"), "busy_timeout_s": 0.1}) as there:
        call, reply = there.call()
        call.begin()
        await there.asked()
        with there.locked():
            may_answer.set()
            assert await there.ended() is None
            assert reply.is_finished
            assert (await there.gateway.books.rows())[0].state == "open"
        assert await there.row() == ("settled", "completed", 200)


# ---------------------------------------------------------------- faults of ours


class Fault(Exception):
    """Something that nobody has thought of."""


@dataclass(slots=True, kw_only=True)
class Faulty(Written):
    """A caller whose end of the line has a fault at one place."""

    place: str

    def _check(self) -> None:
        frame = sys._getframe(1)
        if self.place == frame.f_code.co_name:
            raise Fault


@pytest.mark.parametrize(
    ("place", "stream"),
    [("start_now", True), ("push", True), ("finish_now", True), ("start_now", False), ("finish_now", False)],
)
async def test_a_fault_while_answering_ends_the_call(tmp_path: Path, place: str, stream: bool) -> None:
    script = once(EVENTS, TOKEN, TOKEN, DONE) if stream else once(JSON)
    async with stage(tmp_path, script) as there:
        call, reply = there.call(Faulty(place=place), stream=stream)
        call.begin()
        assert isinstance(await there.ended(), Fault)
        row = await there.gateway.last_row()
        is_settled_before = place == "finish_now" or not stream
        assert row.outcome == ("completed" if is_settled_before else "internal_error")
        await there.gateway.check_books()
        assert not reply.is_finished


class FaultyOutcomes(Outcomes):
    """Cannot work out what a call came to."""

    def of(self, *arguments: Any, **more: Any) -> Any:
        raise Fault


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        (once(), False),
        (once(REFUSAL), True),
        (once(json_answer(b"x")), False),
        (once(EVENTS, TOKEN, DONE), True),
        (once(EVENTS, TOKEN), True),
        (None, False),
    ],
)
async def test_a_fault_in_the_reckoning_ends_the_call(tmp_path: Path, script: Script | None, stream: bool) -> None:
    """Whatever the provider does. Nobody is charged, and nobody waits forever."""
    async with stage(tmp_path, script) as there:
        there.line = with_outcomes(there.gateway, FaultyOutcomes(there.gateway.settings.billing, markup_nano=10**9))
        call, _ = there.call(stream=stream)
        call.begin()
        assert isinstance(await there.ended(), Fault)


async def test_a_fault_in_the_reckoning_of_a_caller_who_leaves(tmp_path: Path) -> None:
    async with stage(tmp_path, silent, silent) as there:
        there.line = with_outcomes(there.gateway, FaultyOutcomes(there.gateway.settings.billing, markup_nano=10**9))
        call, _ = there.call()
        call.begin()
        await there.asked()
        with pytest.raises(Fault):
            call.caller_left()
        assert isinstance(await there.ended(), CallerLeft)
        assert (await there.gateway.last_row()).outcome == "internal_error"


def with_outcomes(gateway: Gateway, outcomes: Outcomes) -> StraightLine:
    """The gateway's line with other outcomes."""
    line = gateway.app[keys.STRAIGHT]
    return StraightLine(
        chats=line.chats,
        books=line.books,
        upstream=line.upstream,
        outcomes=outcomes,
        pipeline=line.pipeline,
        render_stream_error=line.render_stream_error,
        max_answer_bytes=line.max_answer_bytes,
    )


# ---------------------------------------------------------------- slowness, and what is left behind


async def test_a_caller_who_reads_slowly_holds_the_provider(tmp_path: Path) -> None:
    """What has been read may still be written; then nothing comes until he has caught up."""
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        exchange.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        await exchange.request()
        await exchange.say(EVENTS)
        for _ in range(400):
            await exchange.say(TOKEN.replace(b"Hello", b"x" * 16_000))
            sent += 1
        await exchange.say(DONE)

    async with stage(tmp_path, script) as there:
        reply = Written()
        call, _ = there.call(reply, stream=True)
        reply.on_push = call.pause
        call.begin()
        await eventually(lambda: bool(reply.body), "the stream has begun")
        had, seen = len(reply.body), -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.05)
        assert len(reply.body) == had
        assert sent < 400
        reply.on_push = lambda: None
        call.resume()
        assert await there.ended() is None
        assert reply.body.count(b"data: {") >= 401
        assert (await there.row())[1] == "completed"


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        (answering(JSON), False),
        (answering(CHUNKED_EVENTS), True),
        (answering(REFUSAL), False),
        (answering(json_answer(b"x")), False),
        (answering(json_answer(LARGE)), False),
        (once(EVENTS, TOKEN), True),
        (once(), False),
    ],
)
async def test_no_circles_are_left_behind(tmp_path: Path, script: Script, stream: bool) -> None:
    """Memory is given back when a call ends, not when the collector comes round."""
    async with stage(tmp_path, script, upstream={"unhealthy_s": 1e-9}) as there:

        async def calls(count: int) -> None:
            for _ in range(count):
                call, _ = there.call(stream=stream)
                call.begin()
                del call
                await eventually(lambda: len(there.ends) == there.number, "the call has ended")
            there.ends[:] = [None] * len(there.ends)  # errors know the frames they came through

        await calls(3)
        gc.collect()
        gc.disable()
        try:
            await calls(20)
            kinds = unreachable()
        finally:
            gc.enable()
        assert not {name: count for name, count in kinds.items() if name in OURS}, kinds


#: What a call is made of. (What waits for it here, and plays the provider, leaves things of its own.)
OURS = {"StraightCall", "StraightPlan", "Reservation", "Progress", "Written", "AnswerHead", "Incoming", "Outcome"}


def unreachable() -> Counter[str]:
    """What only the collector could find, by kind."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return Counter(type(each).__name__ for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
