"""The meter sees the same in a stream however it is cut, and is not taken in by the model's own words."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.dialects.openai_chat_meter import OpenAIChatMeter
from tests.dialects.cuts import cut_at, sample, ways_to_cut


def metered(chunks: list[bytes]) -> OpenAIChatMeter:
    meter = OpenAIChatMeter()
    for chunk in chunks:
        meter.feed(chunk)
    return meter


def event(text: str, **more: object) -> bytes:
    chunk = {"id": "c1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def test_openais_stream_cut_anywhere() -> None:
    stream = sample("openai/chat_stream.sse")
    text = rb"The \"usage\": {} of" + " a café, \\\\ then [DONE]".encode()
    for chunks in ways_to_cut(stream):
        meter = metered(chunks)
        assert meter.usage == Usage(input_tokens=31, cached_input_tokens=16, output_tokens=17, reasoning_tokens=5)
        assert meter.output_characters == len(text)
        assert meter.is_complete
        assert meter.error is None
        assert meter.provider_request_id == "chatcmpl-CkT9w2"


def test_togethers_stream_with_carriage_returns() -> None:
    stream = sample("together/chat_stream.sse").replace(b"\n", b"\r\n")
    for chunks in ways_to_cut(stream):
        meter = metered(chunks)
        assert meter.usage == Usage(input_tokens=12, cached_input_tokens=4, output_tokens=9)
        assert meter.is_complete
        assert meter.provider_request_id == "oWcQx2k-2kFHot-9a1b2c3d"


def test_reasoning_counts_once_though_it_comes_under_two_names() -> None:
    for chunks in ways_to_cut(sample("compatible/chat_stream_spaced.sse")):
        meter = metered(chunks)
        assert meter.output_characters == len("Hm. ") + len(r"Gr\u00fc\u00dfe")
        assert meter.usage == Usage(input_tokens=3, output_tokens=2)
        assert meter.is_complete  # by its finish reason: this server sends no [DONE]


def test_an_error_in_the_stream_is_told_without_the_secret_in_it() -> None:
    for chunks in ways_to_cut(sample("together/chat_stream_failed.sse")):
        meter = metered(chunks)
        assert meter.error is not None
        assert meter.error.startswith("The engine stopped.")
        assert "sk-live" not in meter.error
        assert not meter.is_complete
        assert meter.usage is None


def test_a_stream_that_was_cut_is_not_complete_but_its_text_is_measured() -> None:
    stream = sample("openai/chat_stream.sse")
    meter = metered([stream[: stream.index(b" a caf")]])
    assert not meter.is_complete
    assert meter.usage is None
    assert meter.output_characters == len(r"The \"usage\": {} of")


@pytest.mark.parametrize(
    "text", ['"usage":{"prompt_tokens":9,"completion_tokens":9}', "data: [DONE]\n\n", '{"error":{"message":"no"}}']
)
def test_a_model_cannot_write_its_own_bill(text: str) -> None:
    meter = metered([event(text), event("")])
    assert meter.usage is None
    assert not meter.is_complete
    assert meter.error is None


def test_a_null_error_is_none() -> None:
    assert metered([event("a", error=None)]).error is None


def test_usage_after_a_picture_of_a_megabyte_is_found() -> None:
    picture = event("x" * 1_000_000, usage={"prompt_tokens": 1, "completion_tokens": 2})
    for size in (1000, 65536, len(picture)):
        meter = metered([picture[i : i + size] for i in range(0, len(picture), size)])
        assert meter.usage == Usage(input_tokens=1, output_tokens=2)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b": hello\n\n"])
def test_whatever_a_stream_begins_with(mark: bytes) -> None:
    stream = mark + event("abc") + event("de") + event("", usage={"prompt_tokens": 1, "completion_tokens": 2})
    for at in range(len(stream)):
        for chunks in ([stream[:at], stream[at:]], [stream[:at], stream[at : at + 1], stream[at + 1 :]]):
            meter = metered([chunk for chunk in chunks if chunk])
            assert meter.output_characters == 5
            assert meter.provider_request_id == "c1"
            assert meter.usage == Usage(input_tokens=1, output_tokens=2)


def test_memory_is_bounded() -> None:
    meter = OpenAIChatMeter()
    for _ in range(2000):
        meter.feed(b"x" * 1000)
    assert meter._cutter is not None
    held = len(meter._cutter._buffer) + sum(len(chunk) for chunk in meter._recent)
    assert held <= 64 * 1024 + 1000
    for _ in range(100):
        meter.feed(event("y" * 10_000))
    assert sum(len(chunk) for chunk in meter._recent) <= 5 * 4096


@given(st.lists(st.text(), max_size=8), st.lists(st.integers(0, 2**14), max_size=8))
def test_the_measure_is_the_texts_length_in_json_whatever_it_is(texts: list[str], places: list[int]) -> None:
    stream = b"".join(event(text) for text in texts)
    expected = sum(len(orjson.dumps(text)) - 2 for text in texts)
    assert metered(cut_at(stream, places)).output_characters == expected


@pytest.mark.parametrize("dumps", [orjson.dumps, lambda value: json.dumps(value).encode()])
def test_what_tools_are_given_is_measured(dumps: Callable[[Any], bytes]) -> None:
    calls = [{"index": 0, "custom": {"name": "patch", "input": "12345"}}, {"index": 1, "function": {"arguments": "67"}}]
    deltas = [{"content": None, "tool_calls": [call]} for call in calls]
    stream = [b"data: " + dumps({"id": "c1", "choices": [{"delta": delta}]}) + b"\n\n" for delta in deltas]
    assert metered(stream).output_characters == 7
    assert metered([b"".join(stream)]).output_characters == 7
    assert metered(stream[:1] * 20).output_characters == 100


class WithoutShortcut(OpenAIChatMeter):
    """Looks at every chunk in full."""

    def feed(self, data: bytes) -> None:
        self._look(data)


def seen(meter: OpenAIChatMeter) -> tuple[object, ...]:
    return meter.output_characters, meter.usage, meter.error, meter.is_complete, meter.provider_request_id


_WORDS = ["a", "", "Hello ", '"', "\\", '\\"', "\n\n", "é", ":", '"content":"x', "reasoning_content"]
_TORN = [
    b'{"content":"x\n\n',
    b'data: {"id":"c1","choices":[{"delta":{"content":"\n\n',
    b'"content":"\\"a"}\n\n',
    b'"',
    b": note\n\n",
    b"data: [DONE]\n\n",
    b"\\\n\n",
]


def stream_of(chance: random.Random) -> list[bytes]:
    """Events of one server, nearly all of the same shape, some of them torn or malformed."""
    frame = chance.choice([b"data: %b\n\n", b"data: %b\n\n", b"data: %b\r\n\r\n", b"event: x\ndata:%b\n\n"])
    names = ["content"] * 4 + chance.choices(["reasoning_content", "reasoning", "arguments", "input", "role"], k=2)
    is_spaced = chance.random() < 0.3
    # Like most streams: each event is the one before it, but for its text.
    is_steady = chance.random() < 0.5
    usage_chance = chance.choice([0, 0, 0.05, 1])
    events: list[bytes] = []
    for _ in range(chance.randrange(chance.choice([9, 30]))):
        deltas = [
            {name: chance.choice(_WORDS) for name in chance.sample(names, chance.choice([1, 1, 1, 2]))}
            for _ in range(chance.choice([1, 1, 1, 2]))
        ]
        if is_steady and chance.random() < 0.97:
            deltas = [{"content": chance.choice([" word", *_WORDS])}]
        chunk: dict[str, object] = {"id": "c1"}
        chunk["choices"] = [{"delta": delta, "finish_reason": None} for delta in deltas]
        if chance.random() < usage_chance:
            chunk["usage"] = chance.choice([None, {"prompt_tokens": 3, "completion_tokens": len(events) % 4}])
        events.append(frame % (json.dumps(chunk).encode() if is_spaced else orjson.dumps(chunk)))
    if chance.random() < 0.3:
        events.insert(chance.randrange(len(events) + 1), chance.choice(_TORN))
    return events


@pytest.mark.parametrize("is_cut", [False, True])
def test_common_chunks_count_as_if_looked_at_in_full(is_cut: bool) -> None:
    for seed in range(600):
        chance = random.Random(seed)
        chunks = stream_of(chance)
        if is_cut:
            chunks = cut_at(b"".join(chunks), [chance.randrange(800) for _ in range(3)])
        short, full = OpenAIChatMeter(), WithoutShortcut()
        for chunk in chunks:
            short.feed(chunk)
            full.feed(chunk)
            if chance.random() < 0.2:  # not after each: a few at a time are looked through
                assert seen(short) == seen(full), (seed, chunks)
        assert seen(short) == seen(full), (seed, chunks)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", 0),
        (b" word", 5),
        (b"\\n", 2),  # an escape within
        (b"\\\\", 2),  # one at the end, which leaves the quote behind it a quote
        (b'\\"', 2),
        (b'a\\"},\\"b', 8),
        (b'a","content":"b', 2),  # two texts
        (b'","reasoning":"abc', 3),
        (b'"},"finish_reason":null}]}\n\ndata: {"id":"c1","choices":[{"delta":{"content":"b', 1),
    ],
)
def test_a_chunk_like_the_ones_before_it_but_for_its_text(text: bytes, expected: int) -> None:
    beginning, end = b'data: {"id":"c1","choices":[{"delta":{"content":"', b'"},"finish_reason":null}]}\n\n'
    chunks = [beginning + b"Hello" + end] * 20
    assert metered(chunks).output_characters == 100
    for at in (7, 15):
        with_other = [*chunks[:at], beginning + text + end, *chunks[at + 1 :]]
        assert metered(with_other).output_characters == 95 + expected
    for others in ([beginning + text], [text + end, end], [beginning, text + end]):
        full = WithoutShortcut()
        for chunk in (*chunks, *others, *chunks):
            full.feed(chunk)
        assert seen(metered([*chunks, *others, *chunks])) == seen(full)
