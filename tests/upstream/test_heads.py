"""Heads of all connections go through one parser, and none leaves a trace in the next."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from bitmesh_proxy.upstream.framing import ChunkedBody, Framing, FramingError, NoBody, SizedBody, UntilClosed
from bitmesh_proxy.upstream.heads import MAX_KEPT, MAX_KEPT_BYTES, HeadReader

#: What a head says, the framing of its body, and whether the connection ends with the answer.
HEADS: dict[bytes, tuple[type[Framing] | None, bool]] = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n": (SizedBody, False),
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n": (SizedBody, True),
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n": (SizedBody, True),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n": (ChunkedBody, False),
    b"HTTP/1.1 200 OK\r\n\r\n": (UntilClosed, False),
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n": (NoBody, False),
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n": (NoBody, False),
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n": (None, False),
}
REFUSED = [
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-A\r\n\r\n",
]


async def reader() -> HeadReader:
    return HeadReader(asyncio.get_running_loop())


async def test_a_head_says_how_its_body_ends() -> None:
    heads = await reader()
    for data, (framing, should_close) in HEADS.items():
        head, found = heads.read(data, is_head_only=False)
        assert (type(found) if found is not None else None) is framing, data
        assert head.code == int(data[9:12])
        if framing is not UntilClosed:  # which ends the connection in any case
            assert head.should_close is should_close, data


async def test_no_head_spoils_the_next() -> None:
    for first, second, third in permutations([*HEADS, *REFUSED], 3):
        heads = await reader()
        for data in (first, second, third):
            if data in REFUSED:
                with pytest.raises(FramingError):
                    heads.read(data, is_head_only=False)
            else:
                head, framing = heads.read(data, is_head_only=False)
                assert head.code == int(data[9:12])
                assert (type(framing) if framing is not None else None) is HEADS[data][0]


async def test_an_answer_to_head_has_no_body() -> None:
    head, framing = (await reader()).read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", is_head_only=True)
    assert isinstance(framing, NoBody)
    assert head.headers["content-length"] == "5"


@pytest.mark.parametrize(
    ("line", "media_type"),
    [
        (b"", ""),
        (b"Content-Type: Text/Event-Stream; charset=utf-8\r\n", "text/event-stream"),
        (b"content-type:application/json\r\n", "application/json"),
    ],
)
async def test_the_media_type_is_plain(line: bytes, media_type: str) -> None:
    head, _ = (await reader()).read(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n", is_head_only=False)
    assert head.media_type == media_type


async def test_whether_a_body_is_coded() -> None:
    heads = await reader()
    for line, expected in (
        (b"", False),
        (b"content-encoding: Identity\r\n", False),
        (b"Content-encoding: br\r\n", True),
        (b"Content-Encoding: aws-chunked\r\n", False),
    ):
        head, _ = heads.read(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n", is_head_only=False)
        assert head.is_coded is expected


async def test_half_a_head_is_none() -> None:
    with pytest.raises(FramingError):
        (await reader()).read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", is_head_only=False)


async def test_what_is_kept_of_a_head_is_what_was_read() -> None:
    heads = await reader()
    for data in HEADS:
        head, framing = heads.read(data, is_head_only=False)
        if framing is None:
            assert data not in heads.kept  # others of them may follow
            continue
        kept, make_framing = heads.kept[data]
        assert kept is head
        first, second = make_framing(), make_framing()
        assert type(first) is type(second) is type(framing)
        assert first is not second
        assert head.length_bytes == (5 if isinstance(framing, SizedBody) else None)


async def test_what_is_kept_is_bounded_and_nothing_else_than_heads_of_answers_that_may_have_a_body() -> None:
    heads = await reader()
    sized = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    heads.read(sized, is_head_only=True)
    heads.read(b"HTTP/1.1 200 OK\r\nX-Id: " + b"x" * MAX_KEPT_BYTES + b"\r\n\r\n", is_head_only=False)
    for data in REFUSED:
        with pytest.raises(FramingError):
            heads.read(data, is_head_only=False)
    assert not heads.kept
    for number in range(2 * MAX_KEPT + 1):
        heads.read(sized.replace(b"OK", b"%d" % number), is_head_only=False)
        assert len(heads.kept) <= MAX_KEPT
