"""Bodies come out whole wherever they are cut, and what is malformed is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.upstream.framing import (
    MAX_SIZE_LINE_BYTES,
    MAX_TRAILER_BYTES,
    ChunkedBody,
    Framing,
    FramingError,
    NoBody,
    SizedBody,
    UntilClosed,
)


def fed(framing: Framing, data: bytes, cuts: list[int]) -> bytes:
    """Feed ``data`` cut at these places, until the end of the body."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges) if a < b]
    body = b""
    while pieces and not framing.is_done:
        body += framing.feed(pieces.pop(0))[0]
    framing.rest += b"".join(pieces)
    return body


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    sizes=st.sampled_from(["{:x}", "{:X}", "{:04x}", "{:x};name=value", "{:x} ", '{:x};a="b;c"']),
    trailers=st.sampled_from([b"", b"X-A: 1\r\n", b"X-A: 1\r\nX-B: 2\r\n"]),
    rest=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]),
    cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=8),
)
def test_chunks_come_out_wherever_they_are_cut(
    chunks: list[bytes], sizes: str, trailers: bytes, rest: bytes, cuts: list[int]
) -> None:
    data = b"".join(sizes.format(len(chunk)).encode() + b"\r\n" + chunk + b"\r\n" for chunk in chunks)
    framing = ChunkedBody()
    assert fed(framing, data + b"0\r\n" + trailers + b"\r\n" + rest, cuts) == b"".join(chunks)
    assert framing.is_done
    assert framing.ends_here()
    assert framing.rest == rest


@pytest.mark.parametrize("position", range(len(b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n")))
def test_every_single_cut_gives_the_same(position: int) -> None:
    data = b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
    framing = ChunkedBody()
    assert fed(framing, data, [position]) == b"abc0123456789abcdef"
    assert framing.is_done


@pytest.mark.parametrize(
    "data",
    [
        b"-1\r\nx\r\n",
        b"+1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b"1_0\r\n0123456789abcdef\r\n",
        b" 1\r\nx\r\n",
        b"\r\nx\r\n",
        b";a=b\r\nx\r\n",
        b"g\r\nx\r\n",
        b"1" * 16 + b"\r\n",
        b"1\r\nxy\r\n0\r\n\r\n",
        b"2\r\nx\r\n0\r\n\r\n",
        b"1\r\nx\n0\r\n\r\n",
        b"1;" + b"a" * MAX_SIZE_LINE_BYTES,
        b"0\r\nX: " + b"a" * MAX_TRAILER_BYTES,
        b"0\r\n" + b"X: aaaaaaaaaaaaaaaa\r\n" * (MAX_TRAILER_BYTES // 16),
    ],
)
@pytest.mark.parametrize("is_dripped", [False, True])
def test_malformed_chunks_are_refused(data: bytes, is_dripped: bool) -> None:
    with pytest.raises(FramingError):
        fed(ChunkedBody(), data, list(range(len(data))) if is_dripped else [])


def test_an_end_within_a_chunk_is_none() -> None:
    framing = ChunkedBody()
    assert framing.feed(b"5\r\nabc") == (b"abc", None)
    assert not framing.ends_here()
    assert framing.feed(b"de\r\n") == (b"de", None)
    assert not framing.ends_here()


@given(body=st.binary(max_size=60), rest=st.binary(max_size=10), cuts=st.lists(st.integers(min_value=0, max_value=80)))
def test_a_sized_body_ends_where_it_says(body: bytes, rest: bytes, cuts: list[int]) -> None:
    framing = SizedBody(len(body))
    assert framing.is_done == (not body)
    assert fed(framing, body + rest, cuts) == body
    assert framing.is_done
    assert framing.rest == rest


def test_a_sized_body_that_breaks_off_is_not_whole() -> None:
    framing = SizedBody(3)
    framing.feed(b"ab")
    assert not framing.ends_here()


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    framing = UntilClosed()
    assert framing.feed(b"ab") == (b"ab", None)
    assert not framing.is_done
    assert framing.ends_here()
    assert framing.is_done


def test_where_there_is_no_body_everything_is_rest() -> None:
    framing = NoBody()
    assert framing.is_done
    assert framing.ends_here()
    assert framing.feed(b"x") == (b"", None)
    assert framing.rest == b"x"
