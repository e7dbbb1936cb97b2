"""What is asked of heads that are to be remembered."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from bitmesh_proxy.web.lane.heads import around_length, has_one_credential


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
