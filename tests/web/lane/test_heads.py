"""What is asked of heads that are to be remembered."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from bitmesh_proxy.web.lane.heads import around_length, has_one_credential
from bitmesh_proxy.web.lane.protocol import LaneProtocol
from tests.journeys.gateway import Gateway
from tests.web.lane.raw_requests import PLAIN, damaged, request


def test_a_head_is_parted_around_the_length_of_its_body() -> None:
    head = b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nAccept: */*\r\n\r\n"
    parted = b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length", b"Accept: */*\r\n\r\n"
    assert around_length(head, 12) == parted
    assert around_length(head.lower(), 12) == (parted[0].lower(), parted[1].lower())


@pytest.mark.parametrize(
    "head",
    [
        b"POST /chat HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nContent-Length: 13\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nContent-Length:12\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nContent-Length: 012\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nX-Turn: 12\r\nContent-Length: 12\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nX-Content-Length: 12\r\n\r\n",
    ],
)
def test_nothing_is_told_of_a_length_that_stands_otherwise(head: bytes) -> None:
    assert around_length(head, 12) is None


@pytest.mark.parametrize(
    ("headers", "has_one"),
    [
        ([("authorization", "Bearer a")], True),
        ([("Host", "a"), ("Authorization", "Bearer a"), ("Accept", "*/*")], True),
        ([], False),
        ([("X-Api-Key", "a")], False),
        ([("Authorization", "Bearer a"), ("x-api-key", "a")], False),
        ([("Authorization", "Bearer a"), ("authorization", "Bearer a")], False),
    ],
)
def test_one_header_alone_says_who_calls(headers: list[tuple[str, str]], has_one: bool) -> None:
    assert has_one_credential(CIMultiDictProxy(CIMultiDict(headers))) == has_one


#: What may stand between two requests that are remembered.
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
