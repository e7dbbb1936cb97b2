"""One call on the lane: however it ends, its place is given back, it is counted once, and its connection is told."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from bitmesh_proxy import keys
from bitmesh_proxy.auth.bearer import OAuthCredential, credentials_of
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.errors import GatewayError, InvalidRequest
from bitmesh_proxy.web.lane.call import LaneCall
from bitmesh_proxy.web.lane.entry import Visitor
from bitmesh_proxy.web.lane.lane import Lane
from bitmesh_proxy.web.lane.reply import LaneReply
from bitmesh_proxy.web.route import PLAIN_CALLS_KEY, Route
from tests.auth.bitmesh_clients import authorization, payload_signature
from tests.journeys.gateway import Gateway, chat, eventually, running_gateway

#: Its provider speaks another language, so that the answer has to be translated.
TRANSLATED = "anthropic/claude-sonnet-5-5"


@dataclass(slots=True, eq=False)
class Line:
    """A caller's connection in memory, which knows what its calls said at their ends."""

    data: bytes = b""
    is_aborted: bool = False
    is_lost: bool = False
    writing_paused: bool = False
    ends: list[bool] = field(default_factory=list)

    @property
    def transport(self) -> Line | None:
        return None if self.is_lost else self

    def write(self, data: bytes) -> None:
        self.data += data

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    async def drained(self) -> None:
        """It is never slow."""

    def call_ended(self, *, is_reusable: bool) -> None:
        self.ends.append(is_reusable)

    @property
    def status(self) -> int:
        return int(self.data.split(b" ")[1])

    @property
    def body(self) -> Any:
        return orjson.loads(self.data.partition(b"\r\n\r\n")[2])


@dataclass(slots=True)
class Desk:
    """Makes calls at a gateway."""

    gateway: Gateway
    lane: Lane
    path: str = "/chat"

    @property
    def route(self) -> Route:
        return self.gateway.app[PLAIN_CALLS_KEY][self.path]

    def begin(
        self,
        body: dict[str, Any] | bytes | None = None,
        *,
        visitor: Visitor | None = None,
        token: str | None = None,
        route: Route | None = None,
    ) -> tuple[LaneCall, Line]:
        """A call that has begun: a signed ``visitor``'s, or of a token (the gateway's key's)."""
        line = Line()
        digest = b"" if visitor else token_digest(self.gateway.key.token if token is None else token)
        visitor = visitor or Visitor("127.0.0.1", self.gateway.url)
        entry = self.lane.entry_of(route or self.route, visitor, digest)
        context = self.lane.context_of(entry)
        call = LaneCall(self.lane, line, entry, context, LaneReply(line, context.request_id))
        body = chat() if body is None else body
        call.begin(body if isinstance(body, bytes) else orjson.dumps(body))
        return call, line

    def assert_over(self, line: Line, *, status: int, is_reusable: bool) -> None:
        """Everything has been given back, once."""
        assert line.ends == [is_reusable]
        metrics = self.gateway.app[keys.METRICS]
        assert metrics.under_way == 0
        assert metrics._requests["chat", status] == 1
        assert sum(metrics._requests.values()) == 1
        assert self.gateway.app[keys.CONCURRENCY_LIMIT].running(self.gateway.key.id) == 0


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with running_gateway(tmp_path, credit_usd="0.01") as gateway:
        yield Desk(gateway, Lane(gateway.app))
        await gateway.check_books()


async def ended(line: Line) -> None:
    await eventually(lambda: bool(line.ends), "the call has ended")


@pytest.mark.parametrize("model", ["openai/gpt-oss-120b", TRANSLATED])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_is_answered(desk: Desk, model: str, stream: bool) -> None:
    call, line = desk.begin({**chat(stream=stream), "model": model})
    assert desk.gateway.app[keys.METRICS].under_way == 1
    assert desk.gateway.app[keys.CONCURRENCY_LIMIT].running(desk.gateway.key.id) == 1
    assert (call.straight is None) is (model == TRANSLATED)
    await ended(line)
    desk.assert_over(line, status=200, is_reusable=True)
    assert line.data.endswith(b"0\r\n\r\n") is stream
    assert call.straight is None
    assert call.task is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 2000, 400),
        ({"model": "openai/gpt-oss-120b"}, 422),
        ({**chat(), "model": "nobody/nothing"}, 404),
        ({**chat(), "max_tokens": 100_000}, 402),
    ],
)
async def test_a_call_that_is_refused(desk: Desk, body: dict[str, Any] | bytes, status: int) -> None:
    _, line = desk.begin(body)
    await ended(line)
    desk.assert_over(line, status=status, is_reusable=True)
    assert line.status == status
    assert "error" in line.body


async def test_a_call_without_a_key(desk: Desk) -> None:
    _, line = desk.begin(token="nobody's")
    desk.assert_over(line, status=401, is_reusable=True)
    assert line.body == {"error": "Unknown API key."}


@pytest.mark.parametrize("limit", ["address_burst", "key_burst", "key_max_concurrent"])
async def test_a_call_over_a_limit(tmp_path: Path, limit: str) -> None:
    rates = {"address_per_minute": 1, "key_per_minute": 1, "key_max_concurrent": 9, "address_burst": 9, "key_burst": 9}
    async with running_gateway(tmp_path, {"limits": {**rates, limit: 1}}) as gateway:
        gateway.fault("stall=60")
        desk = Desk(gateway, Lane(gateway.app))
        first, line_of_first = desk.begin()
        _, line = desk.begin()
        assert line.ends == [True]
        assert line.status == 429
        assert b"Retry-After: " in line.data
        assert gateway.app[keys.METRICS].under_way == 1
        assert gateway.app[keys.CONCURRENCY_LIMIT].running(gateway.key.id) == 1
        first.caller_left()
        assert line_of_first.ends == [False]
        assert gateway.app[keys.METRICS].under_way == 0
        assert gateway.app[keys.CONCURRENCY_LIMIT].running(gateway.key.id) == 0
        await gateway.last_row()


# ---------------------------------------------------------------- who leaves


@pytest.mark.parametrize("model", ["openai/gpt-oss-120b", TRANSLATED])
@pytest.mark.parametrize("is_asked", [True, False])
async def test_a_caller_who_leaves(desk: Desk, model: str, is_asked: bool) -> None:
    """At once, when not a single step has been taken, or while the provider thinks."""
    desk.gateway.fault("stall=60")
    call, line = desk.begin({**chat(), "model": model})
    if is_asked:
        await eventually(lambda: bool(desk.gateway.upstream_calls()), "the provider is asked")
    line.is_lost = True
    call.caller_left()
    await ended(line)
    desk.assert_over(line, status=499, is_reusable=False)
    if is_asked or model != TRANSLATED:
        assert (await desk.gateway.last_row()).outcome == "caller_left"


# ---------------------------------------------------------------- signed calls


def signed(desk: Desk, body: bytes, *, nonce: str | None = None, secret: str | None = None) -> Visitor:
    """A visitor who has signed ``body``."""
    key = desk.gateway.key
    header, signature = authorization(
        "POST",
        desk.gateway.url + desk.path,
        key=key.consumer_key,
        secret=secret or key.consumer_secret,
        timestamp_s=int(time.time()),
        nonce=nonce or secrets.token_hex(8),
    )
    credential = credentials_of({"Authorization": header})
    assert isinstance(credential, OAuthCredential)
    return Visitor(
        "127.0.0.1",
        desk.gateway.url,
        signed=credential,
        payload_signature=payload_signature(body, key=key.consumer_key, signature=signature),
    )


async def test_a_signed_call(desk: Desk) -> None:
    body = orjson.dumps(chat())
    call, line = desk.begin(body, visitor=signed(desk, body))
    await ended(line)
    desk.assert_over(line, status=200, is_reusable=True)
    assert call.task is None


async def test_a_signature_is_good_once(desk: Desk) -> None:
    body = orjson.dumps(chat())
    visitor = signed(desk, body)
    lines = [desk.begin(body, visitor=visitor)[1] for _ in range(3)]
    for line in lines:
        await ended(line)
    assert sorted(line.status for line in lines) == [200, 401, 401]
    assert len(desk.gateway.upstream_calls()) == 1


@pytest.mark.parametrize("fault", ["secret", "body"])
async def test_a_wrong_signature(desk: Desk, fault: str) -> None:
    body = orjson.dumps(chat())
    visitor = signed(desk, body, secret="another" if fault == "secret" else None)
    _, line = desk.begin(body if fault == "secret" else body + b" ", visitor=visitor)
    await ended(line)
    desk.assert_over(line, status=401, is_reusable=True)
    assert desk.gateway.upstream_calls() == []


@pytest.mark.parametrize("turns", range(4))
async def test_leaving_while_a_signature_is_looked_at(desk: Desk, turns: int) -> None:
    """Up to the moment when the nonce has been burnt and nobody has heard of it yet."""
    body = orjson.dumps(chat())
    call, line = desk.begin(body, visitor=signed(desk, body))
    for _ in range(turns):
        await asyncio.sleep(0)
    line.is_lost = True
    call.caller_left()
    await ended(line)
    desk.assert_over(line, status=499, is_reusable=False)


async def test_the_call_of_one_who_left_before_its_nonce_was_burnt_is_over_at_once(desk: Desk) -> None:
    """And what is heard of the nonce later begins nothing; the signature has been used all the same."""
    body = orjson.dumps(chat())
    await ended(desk.begin(body, visitor=signed(desk, body))[1])  # the first of all has old nonces swept away
    visitor = signed(desk, body)
    call, line = desk.begin(body, visitor=visitor)
    line.is_lost = True
    call.caller_left()
    call.caller_left()
    assert line.ends == [False]
    _, again = desk.begin(body, visitor=visitor)
    await ended(again)
    assert (again.ends, again.status) == ([True], 401)
    assert desk.gateway.app[keys.METRICS].under_way == 0
    assert len(await desk.gateway.books.rows()) == 1


async def test_a_connection_that_is_gone_when_the_nonce_is_burnt(desk: Desk) -> None:
    """Nobody has said so to the call; it must not begin all the same."""
    body = orjson.dumps(chat())
    _, line = desk.begin(body, visitor=signed(desk, body))
    line.is_lost = True
    await ended(line)
    desk.assert_over(line, status=499, is_reusable=False)
    assert await desk.gateway.books.rows() == []


# ---------------------------------------------------------------- faults of ours


def parsing(desk: Desk, error: Exception) -> Route:
    """The route, with an endpoint that fails so."""

    def parse(*_arguments: object) -> Any:
        raise error

    route = desk.route
    assert route.plain_call is not None
    return Route(
        method=route.method,
        path=route.path,
        handler=route.handler,
        name=route.name,
        surface=route.surface,
        plain_call=replace(route.plain_call, parse=parse, takes_plain_chats=False),
    )


async def test_a_fault_is_500_and_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    _, line = desk.begin(route=parsing(desk, ValueError("secret words")))
    desk.assert_over(line, status=500, is_reusable=True)
    assert line.body == {"error": "Internal server error"}
    assert [record.message for record in caplog.records] == ["a request failed"]


async def test_an_error_that_cannot_be_said_ends_the_connection(desk: Desk) -> None:
    """Another answer on it would be taken for the one that is missing."""
    error = InvalidRequest("no", headers={"X-A": "a\r\nSet-Cookie: b"})
    with pytest.raises(GatewayError):
        desk.begin(route=parsing(desk, error))
    metrics = desk.gateway.app[keys.METRICS]
    assert metrics.under_way == 0
    assert metrics._requests["chat", 499] == 1
    assert desk.gateway.app[keys.CONCURRENCY_LIMIT].running(desk.gateway.key.id) == 0


async def test_an_error_after_the_beginning_cuts_the_connection(desk: Desk) -> None:
    desk.gateway.fault("tokens=5 stall_after=2:60")
    call, line = desk.begin(chat(stream=True))
    await eventually(lambda: b"data: " in line.data, "the stream has begun")
    assert call.straight is not None
    call.straight.on_error(ValueError("a fault"))
    desk.assert_over(line, status=499, is_reusable=False)
    assert line.is_aborted
    assert (await desk.gateway.last_row()).outcome == "internal_error"


async def test_the_line_in_the_log_is_the_plain_ways(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bitmesh_proxy.access")
    seen = []
    for lane in (True, False):
        async with running_gateway(
            tmp_path / f"{lane}", {"http": {"lane": lane}, "logging": {"access_log": True}}
        ) as gateway:
            logging.getLogger("bitmesh_proxy.access").disabled = False
            caplog.clear()
            assert (await gateway.post("/chat", chat())).status == 200
            assert (await gateway.post("/v1/chat/completions", {})).status == 400
            assert (await gateway.post("/chat", {}, headers={"Authorization": "Bearer nobody"})).status == 401
            lines = [record for record in caplog.records if record.name == "bitmesh_proxy.access"]
            names = ("levelname", "message", "address", "code")
            seen.append([tuple(getattr(line, name) for name in names) for line in lines])
            assert [vars(line)["key_id"] for line in lines] == [gateway.key.id, gateway.key.id, None]
            assert all(vars(line)["duration_ms"] >= 0 and vars(line)["request_id"] for line in lines)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 3


# ---------------------------------------------------------------- what is left behind

#: What a call is made of.
OURS = {"LaneCall", "LaneReply", "StraightCall", "StraightPlan", "Reservation", "Progress", "RequestContext", "Visitor"}


@pytest.mark.parametrize(
    "kind", ["whole", "stream", "bad body", "no key", "no money", "refused", "signed", "signed badly"]
)
async def test_no_circles_are_left_behind(desk: Desk, kind: str) -> None:
    """Memory is given back when a call ends, not when the collector comes round."""

    async def calls(count: int) -> None:
        for _ in range(count):
            if kind == "refused":
                desk.gateway.fault("status=400")
            line = beginning(desk, kind)()
            await ended(line)

    await ended(desk.begin()[1])  # the books know the model's name from now on
    await calls(3)
    gc.collect()
    gc.disable()
    try:
        await calls(20)
        left = unreachable()
    finally:
        gc.enable()
    assert {name: count for name, count in left.items() if name in OURS} == {}


def beginning(desk: Desk, kind: str) -> Callable[[], Line]:
    """Begins a call of a kind."""
    body = orjson.dumps(
        {
            "stream": chat(stream=True),
            "bad body": {"model": 1},
            "no money": {**chat(), "max_tokens": 100_000},
        }.get(kind, chat())
    )
    visitor = None
    if kind.startswith("signed"):
        visitor = signed(desk, body, secret="another" if kind == "signed badly" else None)
    return lambda: desk.begin(body, visitor=visitor, token="nobody's" if kind == "no key" else None)[1]


def unreachable() -> Counter[str]:
    """What only the collector could find, by kind."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return Counter(type(each).__name__ for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
