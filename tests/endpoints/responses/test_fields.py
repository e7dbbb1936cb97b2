from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.errors import InvalidRequest, MissingParameter

Read = Callable[[Fields], Any]

READERS: dict[str, tuple[Read, list[Any], list[Any]]] = {
    "string": (lambda f: f.string("x", max_characters=3), ["", "abc"], [1, True, [], {}, "abcd"]),
    "short": (lambda f: f.string("x", min_characters=1), ["a"], [""]),
    "pattern": (lambda f: f.string("x", pattern=re.compile("[ab]+")), ["ab"], ["c", "ab\n"]),
    "choice": (lambda f: f.choice("x", ("a", "b")), ["a"], ["c", 1]),
    "integer": (lambda f: f.integer("x", low=1, high=5), [1, 5, 5.0], [0, 6, 1.5, "1", True, float("inf")]),
    "number": (lambda f: f.number("x", low=0, high=2), [0, 1.5, 2], [-0.1, 2.1, "1", True, float("nan")]),
    "boolean": (lambda f: f.boolean("x"), [True, False], [0, "true"]),
    "object": (lambda f: f.object("x"), [{}], [[], "a"]),
    "list": (lambda f: f.list_of("x", max_items=2), [[], [1, 2]], [{}, [1, 2, 3]]),
    "objects": (lambda f: f.objects("x", max_items=2), [[], [{}]], [[1], ["a"], [{}, {}, {}]]),
}


@pytest.mark.parametrize("name", READERS)
def test_good_values_are_given_and_bad_ones_named(name: str) -> None:
    read, good, bad = READERS[name]
    for value in good:
        assert read(Fields({"x": value})) is not None
    for value in bad:
        with pytest.raises(InvalidRequest) as raised:
            read(Fields({"x": value}, "at[0]"))
        assert (raised.value.param or "").startswith("at[0].x")
        assert raised.value.code == "invalid_value"


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("values", [{}, {"x": None}])
def test_null_is_the_same_as_absent(name: str, values: dict[str, Any]) -> None:
    assert READERS[name][0](Fields(values)) is None


def test_what_must_be_there_is_missed_by_name() -> None:
    with pytest.raises(MissingParameter) as raised:
        Fields({}, "input[2]").required_string("role")
    assert (raised.value.param, raised.value.code) == ("input[2].role", "missing_required_parameter")


def test_whole_floats_become_integers() -> None:
    assert Fields({"x": 5.0}).integer("x", low=1) == 5
    assert isinstance(Fields({"x": 5.0}).integer("x", low=1), int)
