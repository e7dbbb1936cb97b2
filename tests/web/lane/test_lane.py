"""What the lane takes, and what it remembers of heads: no two that differ are ever taken for one another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader

from bitmesh_proxy import keys
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.errors import RateLimited, TooManyConcurrent
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.web.lane.lane import (
    KNOWN_BYTES,
    MAX_BODY_BYTES,
    MAX_COMING_BYTES,
    MAX_ENDINGS,
    MAX_KNOWN_BYTES,
    MAX_KNOWN_HEAD_BYTES,
    Lane,
    Visitor,
    left_of,
)
from bitmesh_proxy.web.lane.protocol import LaneProtocol
from bitmesh_proxy.web.route import Route
from tests.auth.bitmesh_clients import authorization
from tests.journeys.gateway import Gateway, bearer, chat, running_gateway

Headers = Sequence[tuple[str, str]]
TOKEN = "a-token"
PLAIN: Headers = (("Host", "ai.example"), ("Content-Type", "application/json"), ("Authorization", f"Bearer {TOKEN}"))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path / "data") as running:
        yield running


def messages_of(data: bytes) -> list[tuple[RawRequestMessage, StreamReader]]:
    """What the parser of a new connection makes of this. Raises HttpProcessingError."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False)
    return list(parser.feed_data(data)[0])


def parsed(data: bytes) -> tuple[RawRequestMessage, StreamReader]:
    """A request as the connection's parser gives it. Raises HttpProcessingError."""
    ((message, payload),) = messages_of(data)
    return message, payload


def request(
    headers: Headers = PLAIN,
    *,
    line: str = "POST /chat HTTP/1.1",
    body: bytes = b"{}",
    length: str | None = None,
    name: str = "Content-Length",
) -> bytes:
    """A request as bytes."""
    lines = [line, *(f"{name}: {value}" for name, value in headers)]
    lines.insert(1 + len(headers) // 2, f"{name}: {len(body) if length is None else length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + body


def taken(
    lane: Lane, headers: Headers = PLAIN, *, peer: str | None = "192.0.2.1", **more: Any
) -> tuple[Route, Visitor, bytes] | None:
    """Does the lane take this?"""
    entry = lane.takes(*parsed(request(headers, **more)), peer)
    return None if entry is None else (entry.route, entry.visitor, entry.token_digest)


def learnt(lane: Lane, data: bytes, peer: str | None = "192.0.2.1") -> bool:
    """As a connection does, whose parser stands between two messages. Is it taken?"""
    messages = messages_of(data)
    if len(messages) != 1:
        return False
    message, payload = messages[0]
    entry = lane.takes(message, payload, peer)
    if entry is not None and left_of(message, data) == 0:
        lane.remember(entry, message, data, payload.total_bytes, peer=peer)
    return entry is not None


async def test_a_plain_call(gateway: Gateway) -> None:
    found = taken(Lane(gateway.app))
    assert found is not None
    route, visitor, digest = found
    assert (route.method, route.path, route.name) == ("POST", "/chat", "chat")
    assert visitor == Visitor("192.0.2.1", "http://ai.example")
    assert digest == token_digest(TOKEN)


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
    assert taken(lane, body=b"{", length="2") is not None, "the rest is on its way"
    assert taken(lane, body=b"{", length=str(MAX_COMING_BYTES)) is not None
    assert taken(lane, body=b"{", length=str(MAX_COMING_BYTES + 1)) is None, "it may take its time"
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


def as_parsed(lane: Lane, data: bytes, peer: str | None) -> tuple[Route, Visitor, bytes, bytes] | None:
    """One whole request and nothing else, which the lane takes, by the parser's word."""
    try:
        messages = messages_of(data)
    except HttpProcessingError:
        return None
    if len(messages) != 1 or left_of(messages[0][0], data) != 0:
        return None
    message, payload = messages[0]
    entry = lane.takes(message, payload, peer)
    return None if entry is None else (entry.route, entry.visitor, entry.token_digest, payload.read_nowait())


def as_recalled(lane: Lane, data: bytes, peer: str | None) -> tuple[Route, Visitor, bytes, bytes] | None:
    """The same, by the lane's memory."""
    recalled = lane.recall(data, peer)
    if recalled is None:
        return None
    entry, body = recalled
    return entry.route, entry.visitor, entry.token_digest, body


def damaged(chance: Random, data: bytes) -> bytes:
    """Something else, which may look like it."""
    at_byte, other = chance.randrange(len(data)), chance.randrange(len(data))
    kind = chance.randrange(8)
    if kind == 0:
        return data[:at_byte]
    if kind == 1:
        return data + data[:other]
    if kind == 2:
        return data[:at_byte] + bytes([chance.choice(b"\r\n \0:9X")]) + data[at_byte:]
    if kind == 3:
        return data[:at_byte] + bytes([chance.choice(b"\r\n \0:9X")]) + data[at_byte + 1 :]
    if kind == 4:
        return data.replace(b"\r\n", b"\n", chance.choice([-1, 1, 2]))
    if kind == 5:
        return chance.choice([b"\r\n", b"\r\n\r\n", b"\n", b" "]) + data
    if kind == 6:
        return data.replace(b"\r\n\r\n", b"\r\n" + data[at_byte:other] + b"\r\n\r\n", 1)
    return data[other:] + data[:other]


async def test_what_is_remembered_is_what_the_parser_says(gateway: Gateway) -> None:
    """A lane that remembers many heads, of several callers, says what one says that has seen none, or nothing."""
    chance = Random(4)
    old, fresh = Lane(gateway.app), Lane(gateway.app)
    heads, peers = [some_headers(chance) for _ in range(300)], ["192.0.2.1", "127.0.0.1", "", None]
    names = ["Content-Length"] * 6 + ["content-length", "CONTENT-Length", "X-Content-Length"]
    recalled_count = 0
    for _ in range(5):
        for headers in heads:
            peer, name = chance.choice(peers), chance.choice(names)
            body = bytes(chance.choices(b"{}\r\n x", k=chance.choice([1, 2, 9, 10, 99, 150, 1000])))
            data = request(headers, body=body, name=name)
            if chance.random() < 0.3:
                data = damaged(chance, data)
            recalled = as_recalled(old, data, peer)
            if recalled is not None:
                assert recalled == as_parsed(fresh, data, peer), data
                recalled_count += 1
            with suppress(HttpProcessingError):
                learnt(old, data, peer)
    assert recalled_count > 200


@pytest.mark.parametrize("headers", [PLAIN, PLAIN[::-1]])
async def test_a_head_is_recalled_with_other_bodies(gateway: Gateway, headers: Headers) -> None:
    lane = Lane(gateway.app)
    assert learnt(lane, request(headers, body=b"{}"))
    expected = taken(lane, headers)
    assert expected is not None
    sizes = (
        1,
        2,
        8,
        9,
        10,
        11,
        98,
        99,
        100,
        101,
        999,
        1000,
        99_999,
        100_000,
        MAX_BODY_BYTES,
        *range(12, 12 + MAX_ENDINGS),
    )
    for body in (b"{}", b"[]", b"\r\n\r\n", *(b"x" * size for size in sizes), b"{}"):
        assert as_recalled(lane, request(headers, body=body), "192.0.2.1") == (*expected, body)
    assert all(len(around.endings) <= MAX_ENDINGS for around in lane._around.values())


NOT_RECALLED = {
    "no body": request(body=b""),
    "a large body": request(body=b"x" * (MAX_BODY_BYTES + 1)),
    "less": request(body=b"{}")[:-1],
    "more": request(body=b"{}") + b"\r\n",
    "two": request(body=b"{}") * 2,
    "the head alone": request(body=b"{}")[:-2],
    "another line": request(line="POST /v1/chat HTTP/1.1"),
    "an older version": request(line="POST /chat HTTP/1.0"),
    "a token of another kind": request((*PLAIN[:2], ("Authorization", "bearer another"))),
    "one line more": request((*PLAIN, ("Expect", "100-continue"))),
    "zeros in front": request(length="002"),
    "a sign": request(length="+2"),
    "a blank": request(length="2 "),
    "a tenth": request(body=b"x" * 20, length="2"),
    "ten times": request(body=b"{}", length="20"),
    "no length": request(length=""),
    "another token, and more": request(replaced("Authorization", "Bearer another"), body=b"{}") + b"x",
    "another token, and less": request(replaced("Authorization", "Bearer anothe"), body=b"{}")[:-1],
    "a token of two lines": request(replaced("Authorization", "Bearer a\r\nb: c")),
    "a blank in a token": request(replaced("Authorization", "Bearer a-toke ")),
    "a length of line ends": request(length="\n\n"),
    "an empty line in front": b"\r\n" + request(),
    "other line ends": request().replace(b"\r\n", b"\n"),
    "nothing": b"",
    "no head": b"{}",
}


async def test_nothing_else_is_recalled(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    assert learnt(lane, request())
    assert lane.recall(request(), "192.0.2.1") is not None
    for name, data in NOT_RECALLED.items():
        assert lane.recall(data, "192.0.2.1") is None, name
    for peer in ("192.0.2.2", "", None):
        assert lane.recall(request(), peer) is None, peer


async def test_a_length_that_stands_elsewhere_too_is_not_taken_for_the_bodys(gateway: Gateway) -> None:
    """Two callers whose tokens are numbers, and happen to be the lengths of their bodies."""
    lane = Lane(gateway.app)

    def by_number(number: int) -> bytes:
        return request((PLAIN[0], ("X-Api-Key", f"{number}"), PLAIN[1], ("X-B", "c")), body=b"x" * number)

    for number in (5, 7):
        data = by_number(number)
        assert data.index(b"X-Api-Key") < data.index(b"Content-Length")
        assert learnt(lane, data)
        assert lane.recall(data, "192.0.2.1") is None
    assert (lane._known, lane._around) == ({}, {})


AUTHORIZATIONS = (
    *("Bearer another", "Bearer x", f"Bearer {'x' * 512}", f"Bearer {'x' * 513}", "Bearer ", "Bearer", "Bearer a b"),
    *("Bearer  two-blanks", "bearer lower", "Bearer a,b", 'Bearer a"b', "Bearer \udcff", "Basic eA==", TOKEN),
    *('OAuth oauth_consumer_key="k"', "Bearer a:", "Bearer a: 2", "Bearer 2", "Bearer a\x00b", "Bearer a\rb"),
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
    (("Proxy-Authorization", "Bearer first"),),
    (("X-A", "Authorization: Bearer x"),),
    (("X-Length", "2"),),
)


@pytest.mark.parametrize("beside", BESIDE_THE_TOKEN)
async def test_another_token_in_a_head_that_was_seen_before(gateway: Gateway, beside: Headers) -> None:
    """What is known of the rest of a head makes no credential good, and hides none that contradicts it."""
    for first in ((*PLAIN, *beside), (*beside, *PLAIN), (PLAIN[2], *PLAIN[:2], *beside)):
        for is_reversed in (False, True):
            old, fresh = Lane(gateway.app), Lane(gateway.app)
            for credential in (f"Bearer {TOKEN}", *AUTHORIZATIONS, *AUTHORIZATIONS):
                headers = [
                    (name, credential if (name, value) == ("Authorization", f"Bearer {TOKEN}") else value)
                    for name, value in first
                ]
                data = request(headers[::-1] if is_reversed else headers)
                assert as_recalled(old, data, "127.0.0.1") in (None, as_parsed(fresh, data, "127.0.0.1")), data
                with suppress(HttpProcessingError):
                    learnt(old, data, "127.0.0.1")


async def test_of_many_tokens_one_head_is_learnt(gateway: Gateway) -> None:
    lane, forgotten = Lane(gateway.app), 0
    for headers in (PLAIN, PLAIN[::-1]):
        assert learnt(lane, request(headers))
        for number in range(2 * MAX_KNOWN_BYTES // (KNOWN_BYTES + 150)):
            changed = [(name, f"Bearer token-{number}" if name == "Authorization" else each) for name, each in headers]
            for _ in ("first", "again"):
                found = as_recalled(lane, request(changed, body=b"x" * (1 + number % 11)), "192.0.2.1")
                if found is None:  # everything was forgotten
                    forgotten += 1
                    assert learnt(lane, request(headers))
                else:
                    assert found[2] == token_digest(f"token-{number}")
            assert lane._known_bytes <= MAX_KNOWN_BYTES
    assert 2 <= forgotten <= 5
    assert 1 <= len(lane._around) <= 2
    assert "token-" not in repr(list(lane._around))


@pytest.mark.parametrize("headers", [PLAIN, PLAIN[::-1]])
async def test_an_entry_is_kept_once_its_token_comes_again(gateway: Gateway, headers: Headers) -> None:
    lane = Lane(gateway.app)
    assert learnt(lane, request(headers))
    (around,) = lane._around.values()
    assert list(around.entries) == [TOKEN.encode()]
    changed = [(name, "Bearer another" if name == "Authorization" else each) for name, each in headers]
    first, second, third = [lane.recall(request(changed), "192.0.2.1") for _ in range(3)]
    assert first is not None
    assert second is not None
    assert third is not None
    assert list(around.entries) == [TOKEN.encode(), b"another"]
    assert first[0] is not second[0]
    assert second[0] is third[0]


async def test_callers_who_take_turns_have_their_entries(gateway: Gateway) -> None:
    """With heads of different kinds, one of which comes last each time."""
    lane = Lane(gateway.app)
    kinds = [(*PLAIN, ("User-Agent", name)) for name in "xyz"] + [PLAIN, PLAIN[::-1]]
    for headers in kinds:
        assert learnt(lane, request(headers))
    changed = [[(name, each.replace(TOKEN, "another")) for name, each in headers] for headers in kinds]
    rounds = [[lane.recall(request(headers), "192.0.2.1") for headers in (*kinds, *changed)] for _ in range(4)]
    for turn in zip(*rounds, strict=True):
        entries = [recalled[0] for recalled in turn if recalled is not None]
        assert len(entries) == 4
        assert entries[2] is entries[3]
    digests = [token_digest(TOKEN)] * len(kinds) + [token_digest("another")] * len(kinds)
    assert [recalled and recalled[0].token_digest for recalled in rounds[0]] == digests


async def test_few_tokens_are_taken_for_others(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    assert learnt(lane, request())
    (around,) = lane._around.values()
    for number in range(10_000):
        assert lane._newcomer(around, b"%d" % number) is not None
    # In most places there is another's mark by now, and one of 256 of those is the same.
    assert 5 < len(around.entries) < 120
    for number in range(9_990, 10_000):
        lane._newcomer(around, b"%d" % number)
    assert sum(b"%d" % number in around.entries for number in range(9_990, 10_000)) >= 9


async def test_the_peer_counts_as_much_as_what_it_says(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    told = (*PLAIN, ("X-Forwarded-For", "203.0.113.7"))
    near, far = taken(lane, told, peer="127.0.0.1"), taken(lane, told, peer="198.51.100.1")
    assert near is not None
    assert far is not None
    assert (near[1].address, far[1].address) == ("203.0.113.7", "198.51.100.1")
    for peer in ("127.0.0.1", "198.51.100.1"):
        assert learnt(lane, request(told), peer)
    for peer, found in (("127.0.0.1", near), ("198.51.100.1", far)):
        assert as_recalled(lane, request(told), peer) == (*found, b"{}")


async def test_so_much_is_remembered_and_no_head_that_is_large(gateway: Gateway) -> None:
    """Nobody has shown a key yet: what is kept must not grow with what anybody sends."""
    lane = Lane(gateway.app)
    assert learnt(lane, request((*PLAIN, ("X-A", "x" * MAX_KNOWN_HEAD_BYTES))))
    assert (lane._known, lane._around) == ({}, {})
    padding = "x" * (MAX_KNOWN_HEAD_BYTES - 300)
    most = forgotten = before_bytes = 0
    for number in range(MAX_KNOWN_BYTES // MAX_KNOWN_HEAD_BYTES):
        data = request((*PLAIN, ("X-A", f"{padding}{number}")))
        assert learnt(lane, data)
        assert lane.recall(data, "192.0.2.1") is not None
        kept = sum(len(before) + len(behind) + KNOWN_BYTES for _, before, behind in lane._known)
        kept += sum(len(b"".join(parts)) + KNOWN_BYTES for _, _, *parts in lane._around)
        most, forgotten, before_bytes = max(most, kept), forgotten + (kept < before_bytes), kept
        assert kept <= lane._known_bytes <= MAX_KNOWN_BYTES
    assert most > MAX_KNOWN_BYTES * 0.9
    assert forgotten >= 1


async def test_a_signed_head_is_not_remembered(gateway: Gateway) -> None:
    """No two requests have the same."""
    lane = Lane(gateway.app)
    header, _ = authorization("POST", "http://ai.example/chat", key="k", secret="s", timestamp_s=1_700_000_000)
    data = request((*PLAIN[:2], ("Authorization", header)))
    assert learnt(lane, data)
    assert (lane._known, lane._around) == ({}, {})


# ---------------------------------------------------------------- where the parser stands

PROBE = b"GET /probe HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
LAST = (*PLAIN, ("Connection", "close"))
UPGRADE = (*PLAIN, ("Connection", "upgrade"), ("Upgrade", "websocket"))


def some_messages(chance: Random) -> bytes:
    """A few, good and bad, one behind the other."""
    kinds = [PROBE, CHUNKED, request(LAST), request(UPGRADE), b"\r\n", b"no HTTP\r\n\r\n"]
    data = b""
    for _ in range(chance.randint(1, 3)):
        body = bytes(chance.choices(b"{}\r\n x", k=chance.randint(1, 40)))
        message = chance.choice(kinds) if chance.random() < 0.25 else request(body=body)
        data += damaged(chance, message) if chance.random() < 0.1 else message
    return data


async def test_where_the_connection_says_that_its_parser_is_between_two_messages_it_is(gateway: Gateway) -> None:
    """Whatever has come, in whatever pieces: then a request is read as if it were the first."""
    server = gateway.runner.server
    assert server is not None
    chance, between_count = Random(8), 0
    for _ in range(1500):
        connection = server()
        assert isinstance(connection, LaneProtocol)
        data = some_messages(chance)
        cuts = sorted(chance.choices(range(len(data) + 1), k=chance.choice([0, 0, 1, 1, 3])))
        for start, end in pairwise([0, *cuts, len(data)]):
            connection._read(data[start:end])
        if connection._left_bytes == 0:
            between_count += 1
            queued = len(connection._messages)
            connection._read(PROBE)
            paths = [getattr(message, "path", None) for message, _ in list(connection._messages)[queued:]]
            assert paths == ["/probe"], data
            assert all(payload.is_eof() for _, payload in connection._messages), data
    assert between_count > 100


# ---------------------------------------------------------------- who may go on


async def test_limits_are_those_of_the_plain_way(tmp_path: Path) -> None:
    limits = {"address_per_minute": 2, "address_burst": 2, "key_per_minute": 1, "key_burst": 1, "key_max_concurrent": 1}
    async with running_gateway(tmp_path, {"limits": {**limits, "endpoint_per_minute": {"chat": 7}}}) as gateway:
        lane = Lane(gateway.app)
        data = request(replaced("Authorization", f"Bearer {gateway.key.token}"))
        entry = lane.takes(*parsed(data), "127.0.0.1")
        assert entry is not None
        address = entry.address_bucket
        assert address is not None
        caller = lane.authenticator.by_token_digest(entry.token_digest)
        assert caller.key_id == gateway.key.id
        key, endpoint = lane.buckets_of(entry, caller)
        assert lane.buckets_of(entry, caller)[0].limit is key.limit
        assert address.take() >= 0
        assert (await gateway.get("/test")).status == 200  # from the same address, with the same key
        assert (address.take(), key.take()) == (-1, -1)
        for bucket in (address, key):
            with pytest.raises(RateLimited):
                bucket.limit.admit(bucket.identifier)
        assert endpoint.take() == 60_000_000
        with pytest.raises(RateLimited, match="with this API key"):
            lane.admit_newcomer(entry, caller)
        assert (entry.caller, entry.max_concurrent) == (caller, 1)
        assert entry.buckets is None
        lane.slots.take(caller.key_id, entry.max_concurrent)
        with pytest.raises(TooManyConcurrent):
            lane.slots.take(caller.key_id, entry.max_concurrent)
        lane.slots.give_back(caller.key_id)
        assert gateway.app[keys.CONCURRENCY_LIMIT].running(caller.key_id) == 0


@pytest.mark.parametrize("limits", [{}, {"key_per_minute": 5}, {"key_per_minute": 5, "key_burst": 2}])
async def test_whoever_comes_first_is_admitted_like_whoever_comes_again(
    tmp_path: Path, limits: dict[str, object]
) -> None:
    of_chat = {"endpoint_per_minute": {"chat": 4}} if limits else {}
    async with running_gateway(tmp_path, {"limits": {**limits, **of_chat}}) as gateway:
        lane = Lane(gateway.app)
        data = request(replaced("Authorization", f"Bearer {gateway.key.token}"))
        entry = lane.takes(*parsed(data), "127.0.0.1")
        assert entry is not None
        caller = lane.authenticator.by_token_digest(entry.token_digest)
        first = lane.admit_newcomer(entry, caller)
        again = [(bucket.limit, bucket.take()) for bucket in lane.buckets_of(entry, caller)]
        assert [each[0] for each in first if isinstance(each, tuple)] == [limit for limit, _ in again]
        assert len(first) == len(again) == (2 if limits else 0)
        assert all(limit.token < missing <= 2 * limit.token for limit, missing in again)


async def test_what_was_looked_up_of_a_key_is_not_used_when_the_key_changes(tmp_path: Path) -> None:
    """With heads that are remembered, on one connection."""
    limits = {"key_per_minute": 0, "key_max_concurrent": 0}
    async with running_gateway(tmp_path, {"limits": limits}) as gateway:
        assert (await gateway.post("/chat", chat())).status == 200
        assert "RateLimit-Limit" not in (await gateway.post("/chat", chat())).headers
        await gateway.app[keys.DATABASE].write(
            lambda connection: connection.execute("UPDATE keys SET rate_per_minute = 2")
        )
        answers = [await gateway.post("/chat", chat()) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]


async def test_who_is_remembered_is_refused_once_the_key_is_switched_off(tmp_path: Path) -> None:
    """In another process, as far as the gateway can tell."""
    async with running_gateway(tmp_path) as gateway:
        elsewhere = await Database.open(gateway.app[keys.DATABASE].path, busy_timeout_s=5.0, max_pending_writes=10)
        try:
            for _ in range(3):
                assert [(await gateway.post("/chat", chat())).status for _ in range(2)] == [200, 200]
                await KeyStore(elsewhere).disable(gateway.key.id)
                assert [(await gateway.post("/chat", chat())).status for _ in range(2)] == [401, 401]
                await KeyStore(elsewhere).enable(gateway.key.id)
        finally:
            await elsewhere.close()


async def test_who_is_remembered_is_refused_once_the_time_is_over(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        over_s = time.time() + 0.5
        key, statuses = await gateway.new_key(expires_at_s=over_s), [0]
        while statuses[-1] != 401:
            asked_s = time.time()
            statuses.append((await gateway.post("/chat", chat(), headers=bearer(key))).status)
            assert statuses[-1] == 401 or asked_s < over_s
        assert time.time() >= over_s - 0.001  # kept in milliseconds
        assert set(statuses[1:-1]) <= {200}
