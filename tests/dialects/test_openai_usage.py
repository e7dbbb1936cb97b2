"""Usage objects of every kind, and how they are found in bytes."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.dialects.openai_usage import (
    find_all_usages,
    find_id,
    find_usage,
    is_token_count,
    parse_usage,
    parse_usage_with_cost,
    read_whole_usage,
)

PLAIN = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (PLAIN, Usage(input_tokens=3, output_tokens=2)),
        ({"input_tokens": 3, "output_tokens": 2}, Usage(input_tokens=3, output_tokens=2)),
        ({"promptTokens": 3, "completionTokens": 2}, Usage(input_tokens=3, output_tokens=2)),
        (
            {**PLAIN, "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 2, "image_tokens": None}},
            Usage(input_tokens=3, cached_input_tokens=1, cache_write_tokens=2, output_tokens=2),
        ),
        ({**PLAIN, "prompt_cache_hit_tokens": 1}, Usage(input_tokens=3, cached_input_tokens=1, output_tokens=2)),
        ({**PLAIN, "prompt_tokens_details": None}, Usage(input_tokens=3, output_tokens=2)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        ({"prompt_tokens": 3.0, "completion_tokens": "2"}, Usage(input_tokens=3)),
        ({"prompt_tokens": -3, "completion_tokens": True}, Usage()),
        ({}, None),
        ({"seconds": 4}, None),
        ({**PLAIN, "cost": 0.28}, Usage(input_tokens=3, output_tokens=2)),  # no member of this protocol
        ({"cost": 0.28}, None),
        (None, None),
        ([PLAIN], None),
    ],
)
def test_kinds_of_usage(raw: Any, usage: Usage | None) -> None:
    assert parse_usage(raw) == usage


_ODD: list[Any] = [None, 0, 1, -1, True, 2.0, 2.5, "3", 2**40, 2**40 + 1, 2**64 - 1, {}]
_COUNTS: st.SearchStrategy[Any] = st.sampled_from(_ODD) | st.integers(0, 9)


@given(st.dictionaries(st.sampled_from([*PLAIN, "cached_tokens", "cost"]), _COUNTS))
def test_the_common_three_are_read_as_among_others(raw: dict[str, Any]) -> None:
    assert parse_usage(raw) == parse_usage({**raw, "other": None})


_DETAILS: st.SearchStrategy[Any] = st.none() | st.dictionaries(
    st.sampled_from(["cached_tokens", "reasoning_tokens", "audio_tokens", "image_tokens"]), _COUNTS
)


@given(
    st.dictionaries(st.sampled_from([*PLAIN, "prompt_cache_hit_tokens"]), _COUNTS),
    st.dictionaries(st.sampled_from(["prompt_tokens_details", "completion_tokens_details"]), _DETAILS),
    st.sampled_from([b"}\n\n", b',"x":1}\n\n', b'}\r\n\r\n{"x":{}}\n', b"}"]),
    st.booleans(),
)
def test_in_an_event_the_same_is_found(
    figures: dict[str, Any], details: dict[str, Any], end: bytes, spaced: bool
) -> None:
    """Plain figures are read by one typed pass, and there is no telling."""
    raw = {**figures, **details}
    data = json.dumps(raw).encode() if spaced else orjson.dumps(raw)
    for before in (b'data: {"choices":[],"usage":', b'{"usage": '):
        assert find_usage(before + data + end) == parse_usage(raw)


@pytest.mark.parametrize("spaces", ["", " ", "\n\t"])
def test_the_last_usage_in_bytes_is_found(spaces: str) -> None:
    first = orjson.dumps({"usage": PLAIN})
    last = b'{"id":"x","usage"' + spaces.encode() + b":" + spaces.encode() + b'{"prompt_tokens":9}, "end":1'
    assert find_usage(first + b"\n" + last + b'\n{"usage":null}') == Usage(input_tokens=9)
    assert len(list(find_all_usages(first + last))) == 2


@given(st.text())
def test_text_is_never_taken_for_usage(text: str) -> None:
    hostile = text + '"usage":{"prompt_tokens":9}' + text
    assert find_usage(orjson.dumps({"content": hostile})) is None
    assert find_id(orjson.dumps({"content": '"id":"x"' + text})) is None


@given(st.binary(), st.binary())
def test_no_bytes_make_it_fail(before: bytes, after: bytes) -> None:
    find_usage(before + b'"usage":{' + after)
    find_id(before + b'"id"' + after)
    read_whole_usage(before + after)


def test_deep_nesting_is_no_usage() -> None:
    assert find_usage(b'"usage":' + b'{"a":' * 10_000) is None


@pytest.mark.parametrize("length", [10, 50_000])
def test_short_and_long_answers_are_read_alike(length: int) -> None:
    body = orjson.dumps({"id": "chatcmpl-1", "choices": [{"message": {"content": "x" * length}}], "usage": PLAIN})
    assert read_whole_usage(body) == (Usage(input_tokens=3, output_tokens=2), "chatcmpl-1")
    without = orjson.dumps({"id": "chatcmpl-1", "choices": [{"message": {"content": "x" * length}}]})
    assert read_whole_usage(without) == (None, "chatcmpl-1")
    zero = without[:-1] + b',"usage":{"prompt_tokens":0,"completion_tokens":0}}'
    assert read_whole_usage(zero) == (None, "chatcmpl-1")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"7", b'{"id":7}'])
def test_what_is_no_answer_has_no_usage(body: bytes) -> None:
    assert read_whole_usage(body) == (None, None)


@pytest.mark.parametrize("length", [10, 50_000])
@pytest.mark.parametrize("spoilt", [b'"\\ud83d"', b'"\xff"', b"NaN", b"1e999", b"[" * 1100 + b"]" * 1100])
def test_figures_count_although_something_else_cannot_be_read(spoilt: bytes, length: int) -> None:
    body = b'{"id":"c-1","text":"%b","odd":%b,"usage":%b}' % (b"x" * length, spoilt, orjson.dumps(PLAIN))
    assert read_whole_usage(body) == (Usage(input_tokens=3, output_tokens=2), "c-1")


def test_an_answer_that_is_an_error_has_used_nothing() -> None:
    assert read_whole_usage(b'{"error":{"message":"no"}}') == (Usage(), None)


@given(st.text() | st.text("abc-_09"), st.booleans())
def test_an_id_is_found_as_it_was_meant(request_id: str, is_spaced: bool) -> None:
    separators = (", ", ": ") if is_spaced else (",", ":")
    for is_ascii in (True, False):
        for members in ({"object": "x", "id": request_id}, {"id": request_id, "object": "x"}, {"id": request_id}):
            text = json.dumps(members, ensure_ascii=is_ascii, separators=separators)
            assert find_id(text.encode()) == request_id
            assert find_id(b"data: " + text.encode()) == request_id


@pytest.mark.parametrize("text", [b'{"id":"a\nb"}', b'{"id":"a', b'{"id":1}', b'{"id":"a\\"', b'{"id":"'])
def test_what_is_no_string_is_no_id(text: bytes) -> None:
    assert find_id(text) is None


def test_a_million_of_the_largest_counts_can_be_summed_by_the_books() -> None:
    usage = parse_usage({"prompt_tokens": 2**64 - 1, "completion_tokens": 1e300})
    assert usage is not None
    assert usage.input_tokens == usage.output_tokens
    assert 10**12 < usage.input_tokens < 2**63 // 10**6


NO_COSTS: list[Any] = [-0.1, None, True, "free", [1], {}, 1e300]
FEE = {**PLAIN, "cost": 0.0001, "is_byok": True}


@pytest.mark.parametrize(
    ("raw", "cost_nano_usd"),
    [
        ({**PLAIN, "cost": 0.0012, "cost_details": {"upstream_inference_cost": 7}, "is_byok": False}, 1_200_000),
        ({**PLAIN, "cost": 1.4e-9}, 2),
        ({**PLAIN, "cost": 0}, 0),
        ({**PLAIN, "cost": "0.5"}, 500_000_000),
        ({**FEE, "cost_details": {"upstream_inference_cost": 0.002}}, 2_100_000),
        ({**FEE, "cost_details": {"upstream_inference_cost": None}}, None),
        (FEE, None),
        (PLAIN, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "cost": 1}, None),
        *(({**PLAIN, "cost": odd}, None) for odd in NO_COSTS),
    ],
)
def test_what_a_call_cost_by_the_providers_own_word(raw: dict[str, Any], cost_nano_usd: int | None) -> None:
    plain = parse_usage(raw)
    assert plain is not None
    usage = parse_usage_with_cost(raw)
    assert usage == replace(plain, reported_cost_nano_usd=cost_nano_usd)
    text = orjson.dumps({"id": "c-1", "usage": raw})
    assert find_usage(b"data: " + text + b"\n\n", parse_usage_with_cost) == usage
    assert find_usage(b"data: " + text + b"\n\n") == plain
    for whole in (text, text.replace(b"c-1", b"c" * 50_000)):
        found = read_whole_usage(whole, parse_usage_with_cost)[0]
        assert found == (usage if usage != Usage() else None)


def test_a_cost_that_is_no_number_is_none() -> None:
    for odd in (b"NaN", b"1e999", b"-Infinity"):
        body = b'{"usage":{"prompt_tokens":3,"completion_tokens":2,"cost":%b}}' % odd
        assert read_whole_usage(body, parse_usage_with_cost)[0] == Usage(input_tokens=3, output_tokens=2)


def test_what_is_a_count() -> None:
    assert all(map(is_token_count, (0, 5, 5.0, 10**30)))
    assert not any(map(is_token_count, (None, "5", True, -1, 1.5, float("nan"), float("inf"), [5], {})))
