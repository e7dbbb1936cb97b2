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
        piece, framed = framing.feed(pieces.pop(0))
        body += piece
        if framed is not None:  # then whoever gets it makes the same of it, and waits for more
            again = ChunkedBody()
            assert piece
            assert again.feed(framed) == (piece, framed)
            assert not again.is_done
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
        b"1;" + b"a" * MAX_SIZE_LINE_BYTES + b"\r\nx\r\n",
        b"1\r\nx\r\nzz\r\n\r\n",
        b"1\r\nx\r\n\r\n\r\n",
        b"1\r\n0\r\n\r\n",
        b"1\r\nx\r\n1\r\n0\r\n\r\n",
        b"0\r\nX: " + b"a" * MAX_TRAILER_BYTES,
        b"0\r\n" + b"X: aaaaaaaaaaaaaaaa\r\n" * (MAX_TRAILER_BYTES // 16),
    ],
)
@pytest.mark.parametrize("is_dripped", [False, True])
def test_malformed_chunks_are_refused(data: bytes, is_dripped: bool) -> None:
    ChunkedBody().feed(b"1\r\nx\r\n0001\r\nx\r\n")  # so that this size has been seen
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


def test_whole_chunks_are_given_in_their_framing_however_many() -> None:
    framing = ChunkedBody()
    one, padded, two = b"5\r\nhello\r\n", b"0005\r\nhello\r\n", b"1\r\na\r\nB\r\n0123456789a\r\n"
    assert framing.feed(one) == (b"hello", one)
    assert framing.feed(padded) == (b"hello", padded)
    assert framing.feed(two) == (b"a0123456789a", two)
    assert framing.feed(two + one) == (b"a0123456789ahello", two + one)
    assert framing.feed(b"5;a=b\r\nhello\r\n") == (b"hello", None)
    assert framing.feed(two + b"3\r\nab") == (b"a0123456789aab", None)
    assert framing.feed(b"c\r\n" + one) == (b"chello", None)
    assert framing.feed(one + b"0\r\n\r\n") == (b"hello", None)


_TRICKY = [b"a", b"0\r\n\r\n", b"\r\n0\r\n\r\n", b"x\r\n", b"1\r\na\r\n0", b"\r\n"]


@given(
    chunks=st.lists(st.sampled_from(_TRICKY), max_size=4), is_last=st.booleans(), behind=st.sampled_from([b"", b"0"])
)
def test_one_read_of_all_gives_what_its_bytes_one_by_one_do(chunks: list[bytes], is_last: bool, behind: bytes) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    data += b"0\r\n\r\n" + behind if is_last else b""
    for _ in range(2):  # the second time, the sizes have been seen
        at_once, one_by_one = ChunkedBody(), ChunkedBody()
        assert fed(at_once, data, []) == fed(one_by_one, data, list(range(len(data)))) == b"".join(chunks)
        assert at_once.is_done == one_by_one.is_done == is_last
        assert at_once.rest == one_by_one.rest == (behind if is_last else b"")


@pytest.mark.parametrize("size", [1, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097, 65535, 65536])
def test_one_chunk_is_known_by_its_length_at_every_number_of_digits(size: int) -> None:
    body = b"\r\n" * (size // 2) + b"x" * (size % 2)
    for digits in (b"%x", b"%X", b"%05x"):
        framing = ChunkedBody()
        data = digits % size + b"\r\n" + body + b"\r\n"
        assert framing.feed(data) == (body, data)
        for wrong in (size - 1, size + 1):
            if wrong:
                with pytest.raises(FramingError):
                    fed(ChunkedBody(), digits % wrong + b"\r\n" + body.replace(b"\r", b"x") + b"\r\nx0", [])
