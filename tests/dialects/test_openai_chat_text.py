"""The short look at a chunk against the long one: whatever the short one gives, the long one gives too."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmesh_proxy.calls import Event, ReasoningDelta, Started, TextDelta
from bitmesh_proxy.dialects.openai_chat_reader import OpenAIChatReader
from bitmesh_proxy.dialects.openai_chat_text import only_text
from bitmesh_proxy.errors import UpstreamBroken

FIRST = b'data: {"id":"r","model":"m","choices":[]}\n\n'


def told(data: bytes, *, after: bytes = b"") -> list[Event] | str:
    """The events of a chunk: after another one, or (the long look) as a stream's first, without its beginning."""
    reader = OpenAIChatReader()
    try:
        if after:
            reader.feed(after)
        events = reader.feed(b"data: " + data + b"\n\n")
        return [event for event in events if not isinstance(event, Started)]
    except UpstreamBroken as error:
        return error.message


def chunk(delta: Any, *, beside: dict[str, Any] | None = None, **choice: Any) -> bytes:
    return orjson.dumps({"id": "r", "choices": [{"index": 0, "delta": delta, **choice}], **(beside or {})})


@pytest.mark.parametrize(
    "data",
    [
        chunk({"content": "a"}),
        chunk({"content": "\\ né \u2028", "role": "assistant", "tool_calls": [], "refusal": None}),
        chunk({"content": "a", "reasoning": "", "channel": {"x": [1]}}, finish_reason=None, logprobs=None),
        chunk({"content": "a"}, index=None, finish_reason="", stop=7, beside={"usage": None, "error": None}),
    ],
)
def test_text_alone_is_given(data: bytes) -> None:
    found = only_text(data)
    assert isinstance(found, TextDelta)
    assert told(data) == told(data, after=FIRST) == [found]


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "a", "content": None},
        {"reasoning": "a", "reasoning_content": "", "content": "", "role": "assistant"},
        {"reasoning": "a", "reasoning_content": "a"},
    ],
)
def test_reasoning_alone_is_given(delta: dict[str, Any]) -> None:
    data = chunk(delta)
    assert only_text(data) == ReasoningDelta(text="a")
    assert told(data) == told(data, after=FIRST) == [ReasoningDelta(text="a")]


@pytest.mark.parametrize(
    "data",
    [
        b"[DONE]",
        b"{",
        b"\xff",
        b"[" * 5000,
        b'{"choices":[]}',
        b'{"choices":[{"index":0}]}',
        chunk({"content": 5}),
        chunk({"content": [{"text": "a"}]}),
        chunk({"content": "a"}, index=1),
        chunk({"content": "a"}, finish_reason="stop"),
        chunk({"content": "a"}, logprobs={"content": [{"token": "a", "logprob": 0}]}),
        chunk({"content": "a"}, usage={"prompt_tokens": 1, "completion_tokens": 1}),
        chunk({"content": "a"}, beside={"usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
        chunk({"content": "a"}, beside={"error": {"message": "m"}}),
        *(
            chunk({"content": "a", name: value})
            for name, value in [
                ("reasoning", "b"),
                ("reasoning_content", "b"),
                ("reasoning_details", [{"text": "b"}]),
                ("refusal", "b"),
                ("tool_calls", [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]),
                ("function_call", {}),
                ("audio", {"transcript": "b"}),
                ("annotations", [{"start_index": 0, "end_index": 1}]),
                ("images", [{"image_url": "https://h.test/a"}]),
            ]
        ),
    ],
)
def test_anything_else_is_left_to_the_long_look(data: bytes) -> None:
    assert only_text(data) is None


#: Whatever a member might be, right or wrong, empty or not.
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, False, True, 0, 1, -1, 0.0, "", "a", [], ["a"], {}, [{}], [{"text": "a", "index": 0}], [{"function": {}}]]
    + [{name: 1} for name in ("name", "transcript", "message", "prompt_tokens")]
)
DELTA_NAMES = (
    *("content", "role", "refusal", "reasoning", "reasoning_content", "reasoning_details", "tool_calls"),
    *("function_call", "audio", "annotations", "images", "unheard_of"),
)
DELTAS = st.builds(
    lambda content, others: {"content": content, **others},
    st.one_of(st.text(max_size=4), VALUES),
    st.dictionaries(st.sampled_from(DELTA_NAMES), VALUES, max_size=2),
)
CHOICES = st.builds(
    lambda delta, others: {"delta": delta, **others},
    st.one_of(DELTAS, DELTAS, VALUES),
    st.dictionaries(st.sampled_from(["index", "message", "finish_reason", "logprobs", "usage"]), VALUES, max_size=2),
)
CHUNKS = st.builds(
    lambda choices, others: {"choices": choices, **others},
    st.one_of(st.lists(CHOICES, min_size=1, max_size=1), st.lists(CHOICES, max_size=2), VALUES),
    st.dictionaries(st.sampled_from(["error", "usage", "unheard_of"]), VALUES, max_size=2),
)


@settings(deadline=None)
@given(CHUNKS)
def test_both_looks_see_the_same(made: dict[str, Any]) -> None:
    data = orjson.dumps({"id": "r", **made})
    assert told(data, after=FIRST) == told(data)
    if (found := only_text(data)) is not None:
        assert told(data) == [found]
