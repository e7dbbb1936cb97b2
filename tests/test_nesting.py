"""Depths are counted without going down."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bitmesh_proxy.nesting import MAX_WRITTEN_DEPTH, is_deeper, may_be_deeper, parsed_is_deeper


def nested(depth: int) -> Any:
    """So many lists and objects in each other."""
    value: Any = 1
    for number in range(depth):
        value = [value, 2] if number % 2 else {"a": value, "b": 2}
    return value


@pytest.mark.parametrize("depth", [0, 1, 2, 64, MAX_WRITTEN_DEPTH])
def test_a_value_is_as_deep_as_it_is(depth: int) -> None:
    value = nested(depth)
    assert not is_deeper(value, depth)
    assert is_deeper(value, depth - 1) or depth == 0
    assert not may_be_deeper(orjson.dumps(value), depth)
    assert may_be_deeper(orjson.dumps(nested(depth + 1)), depth)
    assert not parsed_is_deeper(value, orjson.dumps(value), depth)
    assert parsed_is_deeper(nested(depth + 1), orjson.dumps(nested(depth + 1)), depth)


def test_what_is_no_deeper_than_may_be_written_is_written_inside_of_other_things() -> None:
    assert orjson.loads(orjson.dumps([[[[[[[[nested(MAX_WRITTEN_DEPTH)]]]]]]]]))
    assert is_deeper(nested(100_000), MAX_WRITTEN_DEPTH)
