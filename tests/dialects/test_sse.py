"""Server-sent events: every cut of a stream gives the same events, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.dialects.sse import EventCutter, Overflow, SseParser
from bitmesh_proxy.errors import UpstreamBroken
from tests.dialects.cuts import cut_at, ways_to_cut

MIXED = (
    b"\xef\xbb\xbf: welcome\n\n"
    b'event: message_start\ndata: {"a":1}\n\n'
    b"data:no space\n\n"
    b"data:  two spaces, one is content\n\n"
    b": ping\n\n"
    b"id: 7\nretry: 100\ndata: first\ndata: second\ndata\n\n"
    b"event: only a name\n\n"
    b"data:\n\n"
    b"event: ping\ndata: \n\n"
    b"data: \n\n"
    b"data: \xc3\xa9t\xc3\xa9 \xf0\x9f\x8e\xb6\n\n\n\n"
    b"data: [DONE]\n\n"
)
EXPECTED = [
    b'{"a":1}',
    b"no space",
    b" two spaces, one is content",
    b"first\nsecond\n",
    "été 🎶".encode(),
    b"[DONE]",
]


def parse(chunks: list[bytes]) -> list[bytes]:
    parser = SseParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.close()


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_every_place_to_cut_gives_the_same_events(line_end: bytes) -> None:
    stream = MIXED.replace(b"\n", line_end)
    for chunks in ways_to_cut(stream):
        assert parse(chunks) == EXPECTED


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_the_limit_is_the_same_on_the_short_way_and_the_long(end: bytes) -> None:
    for size in (13, 14, 15):
        for before in (b"", b": a comment" + end):
            stream = before + b"data: " + b"x" * (size - 6) + end
            if size <= 14:
                assert list(SseParser(14).feed(stream)) == [b"x" * (size - 6)]
            else:
                with pytest.raises(UpstreamBroken):
                    SseParser(14).feed(stream)


@given(st.lists(st.integers(0, 2**16)), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_set_of_cuts_gives_the_same_events(places: list[int], line_end: bytes) -> None:
    assert parse(cut_at(MIXED.replace(b"\n", line_end), places)) == EXPECTED


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "delta"]), st.text(st.characters(codec="utf-8", exclude_characters="\r\n")))
    ),
    st.lists(st.integers(0, 2**16)),
)
def test_what_was_written_is_read(events: list[tuple[str, str]], places: list[int]) -> None:
    stream = b"".join(
        (f"event: {name}\n" if name else "").encode() + b"data: " + data.encode() + b"\n\n" for name, data in events
    )
    assert parse(cut_at(stream, places)) == [data.encode() for _, data in events if data]


def test_an_event_is_handed_out_with_its_last_byte() -> None:
    parser = SseParser()
    assert not parser.feed(b"data: a\n")
    assert list(parser.feed(b"\n")) == [b"a"]
    # With CR alone the LF that might follow must not be waited for.
    assert list(parser.feed(b"data: b\r\r")) == [b"b"]
    assert list(parser.feed(b"\ndata: c\r\n\r\n")) == [b"c"]


def test_a_last_event_without_its_blank_line_counts() -> None:
    parser = SseParser()
    assert list(parser.feed(b"data: a\n\ndata: [DONE]\n")) == [b"a"]
    assert parser.close() == [b"[DONE]"]
    assert parser.close() == []


def test_a_stream_that_is_only_part_of_a_mark_is_no_event() -> None:
    parser = SseParser()
    assert not parser.feed(b"\xef\xbb")
    assert parser.close() == []


def test_an_event_over_the_limit_is_refused_however_it_arrives() -> None:
    too_long = b"data: " + b"x" * 200 + b"\n\n"
    with pytest.raises(UpstreamBroken):
        SseParser(100).feed(too_long)
    parser = SseParser(100)
    for i in range(100):
        assert not parser.feed(too_long[i : i + 1])
    with pytest.raises(UpstreamBroken):
        parser.feed(too_long[100:101])
    assert len(SseParser(300).feed(too_long)) == 1


def test_many_short_events_may_pass_the_limit_together() -> None:
    assert len(SseParser(100).feed(b"data: short\n\n" * 1000)) == 1000


def test_a_cutter_that_keeps_ends_holds_no_more_than_its_limit() -> None:
    cutter = EventCutter(64, overflow=Overflow.KEEP_END)
    for _ in range(1000):
        assert cutter.cut(b"0123456789") == b""
    whole = cutter.cut(b'"usage":{}\n\ndata: next')
    assert len(whole) <= 64 + len(b'"usage":{}\n\n') + 10
    assert whole.endswith(b'"usage":{}\n\n')
    assert cutter.cut(b"\n\n") == b"data: next\n\n"


def test_a_whole_chunk_is_not_copied() -> None:
    chunk = b"data: a\n\ndata: b\n\n"
    cutter = EventCutter()
    cutter.cut(b"data: first\n\n")
    assert cutter.cut(chunk) is chunk
