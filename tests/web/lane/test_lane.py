"""What the lane takes, and what it remembers of heads: no two that differ are ever taken for one another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader

from bitmesh_proxy import keys
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.errors import AuthenticationFailed, RateLimited, TooManyConcurrent
from bitmesh_proxy.web.lane.lane import MAX_BODY_BYTES, MAX_KNOWN, MAX_KNOWN_HEAD_BYTES, Lane, Visitor
from bitmesh_proxy.web.route import Route
from tests.journeys.gateway import Gateway, running_gateway

Headers = Sequence[tuple[str, str]]
TOKEN = "a-token"
PLAIN: Headers = (("Host", "ai.example"), ("Content-Type", "application/json"), ("Authorization", f"Bearer {TOKEN}"))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path / "data") as running:
        yield running


def parsed(data: bytes) -> tuple[RawRequestMessage, StreamReader]:
    """A request as the connection's parser gives it. Raises HttpProcessingError."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False)
    messages, _, _ = parser.feed_data(data)
    ((message, payload),) = messages
    return message, payload


def taken(
    lane: Lane,
    headers: Headers = PLAIN,
    *,
    line: str = "POST /chat HTTP/1.1",
    body: bytes = b"{}",
    length: str | None = None,
    peer: str | None = "192.0.2.1",
) -> tuple[Route, Visitor] | None:
    """Does the lane take this?"""
    lines = [line, *(f"{name}: {value}" for name, value in headers)]
    lines.insert(1 + len(headers) // 2, f"Content-Length: {len(body) if length is None else length}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    return lane.takes(*parsed(head.encode("utf-8", "surrogateescape") + body), peer)


async def test_a_plain_call(gateway: Gateway) -> None:
    found = taken(Lane(gateway.app))
    assert found is not None
    route, visitor = found
    assert (route.method, route.path, route.name) == ("POST", "/chat", "chat")
    assert visitor == Visitor("192.0.2.1", "http://ai.example", token_digest(TOKEN))


MORE_HEADERS: tuple[Headers, ...] = (
    (("User-Agent", "x"), ("Accept", "*/*"), ("Accept-Encoding", "gzip"), ("Connection", "keep-alive")),
    (("X-A", "x" * 3000),),
    (("X-Forwarded-For", "203.0.113.7"),),
    (("Content-Lengths", "7"), ("XContent-Length", "7")),
)


async def test_more_headers_do_not_matter(gateway: Gateway) -> None:
    expected = taken(Lane(gateway.app))
    for more in MORE_HEADERS:
        assert taken(Lane(gateway.app), (*PLAIN, *more)) == expected


def replaced(name: str, value: str | None) -> Headers:
    return [each for each in PLAIN if each[0] != name] + ([] if value is None else [(name, value)])


NOT_TAKEN: dict[str, Headers] = {
    "a page's": (*PLAIN, ("Origin", "https://a.example")),
    "under a key": (*PLAIN, ("idempotency-key", "k")),
    "packed": (*PLAIN, ("Content-Encoding", "gzip")),
    "expects": (*PLAIN, ("Expect", "100-continue")),
    "last": (*PLAIN, ("Connection", "close")),
    "an upgrade": (*PLAIN, ("Connection", "upgrade"), ("Upgrade", "websocket")),
    "no type": replaced("Content-Type", None),
    "text": replaced("Content-Type", "text/plain"),
    "a form": replaced("Content-Type", "multipart/form-data; boundary=x"),
    "like JSON": replaced("Content-Type", "application/json-patch+json"),
    "another alphabet": replaced("Content-Type", "application/json; charset=latin-1"),
    "no credential": replaced("Authorization", None),
    "signed": replaced("Authorization", 'OAuth oauth_consumer_key="x"'),
    "basic": replaced("Authorization", "Basic eDp5"),
    "no token": replaced("Authorization", "Bearer"),
    "a token of bytes": replaced("Authorization", "Bearer \udcff\udcfe"),
    "two tokens": (*PLAIN, ("Authorization", "Bearer another")),
    "two kinds of token": (*PLAIN, ("X-Api-Key", "another")),
}


async def test_what_the_plain_way_is_for(gateway: Gateway) -> None:
    for name, headers in NOT_TAKEN.items():
        lane = Lane(gateway.app)
        assert taken(lane, headers) is None, name
        assert taken(lane) is not None
        assert taken(lane, headers) is None, name


OTHER_LINES = (
    "GET /chat HTTP/1.1",
    "PUT /chat HTTP/1.1",
    "POST /chat HTTP/1.0",
    "POST /image HTTP/1.1",
    "POST /chat/ HTTP/1.1",
    "POST /chat?a=b HTTP/1.1",
    "POST /%63hat HTTP/1.1",
    "POST http://x/chat HTTP/1.1",
    "POST //chat HTTP/1.1",
)


async def test_other_places_and_methods(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    assert [line for line in OTHER_LINES if taken(lane, line=line) is not None] == []


async def test_bodies(gateway: Gateway, tmp_path: Path) -> None:
    lane = Lane(gateway.app)
    assert taken(lane, body=b"") is None
    assert taken(lane, body=b"x" * MAX_BODY_BYTES) is not None
    assert taken(lane, body=b"x" * (MAX_BODY_BYTES + 1)) is None
    assert taken(lane, body=b"{", length="2") is None, "it has not come whole"
    async with running_gateway(tmp_path / "less", {"http": {"max_body_bytes": 10}}) as less:
        assert taken(Lane(less.app), body=b"x" * 10) is not None
        assert taken(Lane(less.app), body=b"x" * 11) is None


async def test_a_body_in_chunks_is_not_taken(gateway: Gateway) -> None:
    head = "POST /chat HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in PLAIN)
    data = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    assert Lane(gateway.app).takes(*parsed(data), "192.0.2.1") is None


# ---------------------------------------------------------------- what is remembered

ALPHABET = "ab,:;= \udcff"
NAMES = ("Host", "X-A", "x-a", *("Authorization", "authorization", "X-Api-Key", "Content-Type") * 2)
NAMES_OF_PROXIES = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")
NAMES_OF_OTHERS = ("Origin", "Expect", "Content-Encoding", "Idempotency-Key")
VALUES = (
    *("ai.example", "b.example:8080", "", "x y", "https", "[::1]", "203.0.113.7", "10.0.0.1, 203.0.113.8"),
    *("Bearer a-token", "Bearer another", "a-token", 'OAuth oauth_consumer_key="k"'),
    *("application/json", "text/plain"),
)


def some_headers(chance: Random) -> Headers:
    """Plain ones, changed here and there."""
    headers = list(PLAIN)
    for _ in range(chance.randrange(4)):
        kind, at = chance.random(), chance.randrange(len(headers)) if headers else 0
        if kind < 0.3 or not headers:
            headers.insert(
                at, (chance.choice(chance.choice([NAMES, NAMES_OF_PROXIES, NAMES_OF_OTHERS])), chance.choice(VALUES))
            )
        elif kind < 0.5:
            headers[at] = (headers[at][0], chance.choice(VALUES))
        elif kind < 0.7:
            name, value = headers[at]
            cut = chance.randrange(len(value) + 1)
            headers[at] = (name, (value[:cut] + chance.choice(ALPHABET) + value[cut:]).strip(" "))
        elif kind < 0.85:
            headers[at] = (headers[at][0].swapcase(), headers[at][1])
        else:
            headers.pop(at)
    return headers


async def test_what_was_seen_before_changes_nothing(gateway: Gateway) -> None:
    """A lane that remembers many heads, of several callers, says what one says that has seen none."""
    chance = Random(4)
    old, heads = Lane(gateway.app), [some_headers(chance) for _ in range(600)]
    seen = 0
    for _ in range(2):
        for headers in heads:
            peer, body = chance.choice(["192.0.2.1", "127.0.0.1", "", None]), b"x" * chance.randint(1, 200)
            try:
                expected = taken(Lane(gateway.app), headers, peer=peer, body=body)
            except HttpProcessingError:
                continue
            assert taken(old, headers, peer=peer, body=body) == expected
            seen += expected is not None
    assert seen > 200


AUTHORIZATIONS = (
    *("Bearer another", "Bearer x", f"Bearer {'x' * 512}", f"Bearer {'x' * 513}", "Bearer ", "Bearer", "Bearer a b"),
    *("Bearer  two-blanks", "bearer lower", "Bearer a,b", 'Bearer a"b', "Bearer \udcff", "Basic eA==", TOKEN),
    'OAuth oauth_consumer_key="k"',
)
BESIDE_THE_TOKEN: tuple[Headers, ...] = (
    (),
    (("User-Agent", "x"), ("X-Forwarded-For", "203.0.113.7")),
    (("X-Api-Key", TOKEN),),
    (("X-Api-Key", "another"),),
    (("Authorization", f"Bearer {TOKEN}"),),
    (("authorization", "Bearer another"),),
    (("Cache-Control", "none"), ("X-Requested-X", "y")),
    (("Origin", "https://x.example"),),
)


@pytest.mark.parametrize("beside", BESIDE_THE_TOKEN)
async def test_another_token_in_a_head_that_was_seen_before(gateway: Gateway, beside: Headers) -> None:
    """What is known of the rest of a head makes no credential good, and hides none that contradicts it."""
    old = Lane(gateway.app)
    for first in ((*PLAIN, *beside), (*beside, *PLAIN)):
        for authorization in (f"Bearer {TOKEN}", *AUTHORIZATIONS, *AUTHORIZATIONS):
            headers = [
                (name, authorization if (name, value) == ("Authorization", f"Bearer {TOKEN}") else value)
                for name, value in first
            ]
            for each in (headers, headers[::-1]):
                assert taken(old, each, peer="127.0.0.1") == taken(Lane(gateway.app), each, peer="127.0.0.1")


async def test_of_many_tokens_one_head_is_learnt(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    for number in range(2 * MAX_KNOWN):
        found = taken(lane, replaced("Authorization", f"Bearer token-{number}"))
        assert found is not None
        assert found[1].token_digest == token_digest(f"token-{number}")
        assert len(lane._known) <= MAX_KNOWN
    assert len(lane._around) == 1
    assert "token-" not in repr(lane._around)


async def test_the_peer_counts_as_much_as_what_it_says(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    told = (*PLAIN, ("X-Forwarded-For", "203.0.113.7"))
    for _ in range(2):
        near, far = taken(lane, told, peer="127.0.0.1"), taken(lane, told, peer="198.51.100.1")
        assert near is not None
        assert far is not None
        assert (near[1].address, far[1].address) == ("203.0.113.7", "198.51.100.1")


async def test_so_many_heads_are_remembered_and_none_that_is_large(gateway: Gateway) -> None:
    """Nobody has shown a key yet: what is kept must not grow with what anybody sends."""
    lane = Lane(gateway.app)
    large = (*PLAIN, ("X-A", "x" * MAX_KNOWN_HEAD_BYTES))
    assert taken(lane, large) is not None
    assert lane._known == lane._around == {}
    for number in range(MAX_KNOWN + 10):
        assert taken(lane, (*PLAIN, ("X-A", f"{number}"))) is not None
        assert len(lane._known) <= MAX_KNOWN
        assert len(lane._around) <= MAX_KNOWN
    assert 0 < len(lane._known) <= 10
    assert 0 < len(lane._around) <= 10
    assert sum(len(name) + len(value) for _, raw in lane._known for name, value in raw) < 10 * MAX_KNOWN_HEAD_BYTES


# ---------------------------------------------------------------- who may go on


async def test_who_has_a_token_may_go_on(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    visitor = Visitor("192.0.2.1", "http://x", token_digest(gateway.key.token))
    assert lane.authenticate(visitor).key_id == gateway.key.id
    with pytest.raises(AuthenticationFailed):
        lane.authenticate(Visitor("192.0.2.1", "http://x", token_digest("another")))


async def test_limits_are_those_of_the_plain_way(tmp_path: Path) -> None:
    limits = {"address_per_minute": 2, "address_burst": 2, "key_per_minute": 1, "key_burst": 1, "key_max_concurrent": 1}
    async with running_gateway(tmp_path, {"limits": limits}) as gateway:
        lane = Lane(gateway.app)
        found = taken(lane, replaced("Authorization", f"Bearer {gateway.key.token}"), peer="127.0.0.1")
        assert found is not None
        route, visitor = found
        caller = lane.authenticate(visitor)
        assert lane.admit_address(visitor) is not None
        assert (await gateway.get("/test")).status == 200  # from the same address, with the same key
        with pytest.raises(RateLimited):
            lane.admit_address(visitor)
        with pytest.raises(RateLimited):
            lane.admit_key(caller, route)
        slot = lane.take_slot(caller)
        with pytest.raises(TooManyConcurrent):
            lane.take_slot(caller)
        slot.__exit__(None, None, None)
        assert gateway.app[keys.CONCURRENCY_LIMIT].running(caller.key_id) == 0
