"""PHP's and Laravel's view of single values, by the documents of both."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.endpoints.laravel_rules import compile_rule, is_filled, is_integer, is_numeric, trim


@pytest.mark.parametrize("value", [5, -5, 0, 5.0, -0.0, 1e3, "5", "+5", "-5", "-0", "0", 2**63 - 1, -(2**63)])
def test_integer_takes_what_the_php_filter_takes(value: Any) -> None:
    assert is_integer(value)


@pytest.mark.parametrize(
    "value",
    [
        5.5,
        "5.0",
        "05",
        "1e3",
        "0x1A",
        "",
        "five",
        "5 6",
        None,
        True,
        False,
        [],
        [5],
        {},
        2**63,
        -(2**63) - 1,
        1e19,
        1e300,
        "9223372036854775808",
        "9" * 5000,
        "٥",  # a digit of another script
    ],
)
def test_integer_refuses_the_rest(value: Any) -> None:
    assert not is_integer(value)


@pytest.mark.parametrize("value", [1, -1.5, "1", "+1.5", ".5", "5.", "1e5", "-1E-5", " 7 "])
def test_numeric_takes_numbers_and_numeric_strings(value: Any) -> None:
    assert is_numeric(value)


@pytest.mark.parametrize(
    "value", [True, None, "", ".", "1e", "0x1", "1,5", "1 2", "nan", "inf", "1e999", float("inf"), "1" * 500, [], {}]
)
def test_numeric_refuses_the_rest(value: Any) -> None:
    assert not is_numeric(value)


@pytest.mark.parametrize("value", [0, 0.0, False, "0", [0], {"a": None}, "x"])
def test_filled(value: Any) -> None:
    assert is_filled(value)


@pytest.mark.parametrize("value", [None, "", "   ", "\t\n\0", "\u00a0\u2003\u3000", "\ufeff\u200b", [], {}])
def test_not_filled(value: Any) -> None:
    assert not is_filled(value)


def test_trim_keeps_what_stands_between() -> None:
    assert trim("\ufeff  a \n b\u00a0\u200b") == "a \n b"


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        (True, True),
        (False, True),
        (1, True),
        (0, True),
        ("1", True),
        ("0", True),
        (1.0, False),
        (2, False),
        ("true", False),
        ("yes", False),
        ([], False),
        ({}, False),
    ],
)
def test_boolean_compares_strictly(value: Any, passes: bool) -> None:
    assert compile_rule("boolean", "string").passes(value, None, {}) is passes


@pytest.mark.parametrize(
    ("value", "coerced"), [(True, True), (1, True), ("1", True), (False, False), (0, False), ("0", False)]
)
def test_booleans_are_coerced(value: Any, coerced: bool) -> None:
    coerce = compile_rule("boolean", "string").coerce
    assert coerce is not None
    assert coerce(value) is coerced


@pytest.mark.parametrize(
    ("rule", "kind", "message"),
    [
        ("min:1", "numeric", "The :attribute field must be at least 1."),
        ("min:1", "string", "The :attribute field must be at least 1 characters."),
        ("min:1", "array", "The :attribute field must have at least 1 items."),
        ("max:9", "numeric", "The :attribute field must not be greater than 9."),
        ("max:9", "string", "The :attribute field must not be greater than 9 characters."),
        ("max:9", "array", "The :attribute field must not have more than 9 items."),
        ("between:-2,2.5", "numeric", "The :attribute field must be between -2 and 2.5."),
        ("between:1,2", "string", "The :attribute field must be between 1 and 2 characters."),
        ("between:1,2", "array", "The :attribute field must have between 1 and 2 items."),
        ("in:a,b", "string", "The selected :attribute is invalid."),
        ("regex:^a$", "string", "The :attribute field format is invalid."),
        ("required_with:frame_images", "string", "The :attribute field is required when frame images is present."),
        ("prohibited", "string", "The :attribute field is prohibited."),
        ("array", "array", "The :attribute field must be an array."),
    ],
)
def test_sentences_are_laravels(rule: str, kind: str, message: str) -> None:
    assert compile_rule(rule, kind).message == message


@pytest.mark.parametrize(
    ("rule", "kind", "value", "passes"),
    [
        ("min:1", "numeric", "3", True),
        ("min:1", "numeric", "0", False),
        ("min:3", "numeric", "abc", True),  # not numeric: three characters
        ("min:4", "numeric", "abc", False),
        ("min:1", "numeric", False, False),  # PHP writes false as nothing
        ("min:1", "numeric", True, True),
        ("min:2", "numeric", [1, 2], True),
        ("min:2", "string", 12, True),
        ("max:2", "string", "äöü", False),
        ("max:3", "string", "äöü", True),
        ("max:1", "string", "👍", True),
        ("between:0,2", "numeric", 2.0000001, False),
        ("between:0,2", "numeric", 2, True),
        ("in:1,2", "string", 1, True),
        ("in:1,2", "string", 1.0, True),
        ("in:a", "string", ["a"], False),
        ("regex:^1", "string", 12, True),
        ("regex:^a", "string", ["a"], False),
        ("array", "array", {"a": 1}, False),
        ("array", "array", [], True),
    ],
)
def test_sizes_and_sets(rule: str, kind: str, value: Any, passes: bool) -> None:
    assert compile_rule(rule, kind).passes(value, None, {}) is passes


def test_an_unknown_rule_stops_the_start() -> None:
    with pytest.raises(ValueError, match="no such rule: 'uuid'"):
        compile_rule("uuid", "string")
