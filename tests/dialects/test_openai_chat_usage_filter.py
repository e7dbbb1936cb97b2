"""The chunk with the usage is taken out, wherever the stream is cut; everything else passes as it came."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from bitmesh_proxy.dialects.openai_chat_usage_filter import MAX_HELD_BYTES, UsageChunkFilter

CHUNK = b'data: {"choices":[{"delta":{"content":"\\"choices\\":[]"}}],"usage":null}'
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":9}}'
SPACED = b'data: {"choices": [ ] , "usage" : {"prompt_tokens":9}}'
FILTERED_PROMPT = b'data: {"choices":[],"prompt_filter_results":[]}'
DONE = b"data: [DONE]"


def stream_of(*events: bytes, end: bytes = b"\n\n") -> bytes:
    return b"".join(event + end for event in events)


def filtered(data: bytes, cuts: list[int]) -> bytes:
    taken = UsageChunkFilter()
    edges = [0, *cuts, len(data)]
    passed = [taken.feed(data[start:end]) for start, end in pairwise(edges)]
    return b"".join(passed) + taken.close()


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("usage", [USAGE, SPACED])
def test_only_the_usage_chunk_goes_at_every_cut(end: bytes, usage: bytes) -> None:
    data = stream_of(b": comment", CHUNK, FILTERED_PROMPT, CHUNK, usage, DONE, end=end)
    wanted = stream_of(b": comment", CHUNK, FILTERED_PROMPT, CHUNK, DONE, end=end)
    assert filtered(data, []) == wanted
    assert filtered(data, list(range(1, len(data)))) == wanted
    for cut in range(len(data)):
        assert filtered(data, [cut]) == wanted


def test_whole_events_pass_at_once_and_untouched() -> None:
    taken = UsageChunkFilter()
    data = stream_of(CHUNK, CHUNK)
    assert taken.feed(data) is data
    assert taken.feed(stream_of(CHUNK) + USAGE[:20]) == stream_of(CHUNK)
    assert taken.feed(USAGE[20:] + b"\n\n" + DONE) == b""
    assert taken.close() == DONE


def test_a_stream_that_ends_without_its_blank_line_loses_the_chunk_too() -> None:
    assert filtered(stream_of(CHUNK) + USAGE, []) == stream_of(CHUNK)


def test_a_long_event_does_not_wait_for_its_end() -> None:
    long = b'data: {"choices":[],"usage":"' + b"x" * (3 * MAX_HELD_BYTES) + b'"}'
    taken = UsageChunkFilter()
    passed = taken.feed(long[: 2 * MAX_HELD_BYTES])
    assert len(passed) > 2 * MAX_HELD_BYTES - 4
    generator = random.Random(5)
    data = stream_of(long, CHUNK, USAGE, CHUNK)
    for _ in range(20):
        cuts = sorted(generator.sample(range(1, len(data)), 12))
        got = filtered(data, cuts)
        # However it is cut, no more than the chunk itself is missing, and the long event passes if it could not wait.
        assert got in (stream_of(long, CHUNK, CHUNK), stream_of(CHUNK, CHUNK))
