"""Bytes in, a JSON object out: what is one, and how deep and how large it may be."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.endpoints.json_bodies import MAX_VALUES, parse_object
from bitmesh_proxy.errors import InvalidRequest

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(alphabet='ab{[]}",\\é', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    """How many objects and lists stand in each other."""
    if isinstance(value, dict | list):
        return 1 + max((depth_of(each) for each in (value.values() if isinstance(value, dict) else value)), default=0)
    return 0


@given(st.dictionaries(st.text(max_size=3), _JSON, max_size=4), st.integers(1, 6))
def test_every_object_is_read_if_it_is_no_deeper_than_it_may_be(value: dict[str, Any], max_depth: int) -> None:
    raw = orjson.dumps(value)
    if depth_of(value) > max_depth:
        with pytest.raises(InvalidRequest, match=f"more than {max_depth} levels"):
            parse_object(raw, max_depth=max_depth)
    else:
        assert parse_object(raw, max_depth=max_depth) == value


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "is empty; a JSON object was expected"),
        (b" \r\n\t", "is empty; a JSON object was expected"),
        (b"\xef\xbb\xbf ", "is empty; a JSON object was expected"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"a": 1', r"is not valid JSON: .+ \(line 1, column 8\)"),
        (b'{"a": NaN}', "is not valid JSON"),
        (b'{"a": "\xff"}', "is not valid UTF-8: byte 7"),
        (b"\xff", "is not valid UTF-8: byte 0"),
    ],
)
def test_what_is_no_object_is_said_where(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse_object(raw, max_depth=8)


def test_a_byte_order_mark_is_overlooked_and_the_last_of_two_equal_names_counts() -> None:
    assert parse_object(b'\xef\xbb\xbf{"a": 1, "a": 2}', max_depth=8) == {"a": 2}


def test_values_are_counted_before_they_are_made() -> None:
    just = b'{"a":[' + b"1," * (MAX_VALUES - 2) + b"1]}"
    assert len(parse_object(just, max_depth=8)["a"]) == MAX_VALUES - 1
    with pytest.raises(InvalidRequest, match=f"more than {MAX_VALUES} values"):
        parse_object(just.replace(b"[1,", b"[1,1,", 1), max_depth=8)
