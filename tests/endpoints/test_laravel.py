"""The whole of a validation: which fields fail, with which sentences, in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.endpoints.laravel import MAX_ELEMENTS, MAX_FAILING_FIELDS, compile_rules
from bitmesh_proxy.endpoints.laravel_rules import Rule, trim
from bitmesh_proxy.errors import ValidationFailed

RULES = compile_rules(
    {
        "items": "required|array|min:1",
        "items.*.role": "required|string|in:a,b",
        "items.*.parts.*.type": "required|string",
        "max_tokens": "nullable|integer|min:1",
        "name": "required|string|min:2|max:5",
        "number_of": "integer|min:1",
        "ratio": "nullable|numeric|between:0,2",
        "code": "nullable|bail|integer|min:100",
    }
)

GOOD: dict[str, Any] = {"items": [{"role": "a"}], "name": "anna"}


def errors_of(body: dict[str, Any]) -> dict[str, list[str]]:
    with pytest.raises(ValidationFailed) as caught:
        RULES.check(body)
    return {name: list(messages) for name, messages in caught.value.fields.items()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, {"name": ["The name field is required."]}),
        ({"name": ""}, {"name": ["The name field is required."]}),
        ({"name": " \n"}, {"name": ["The name field is required."]}),
        ({"name": []}, {"name": ["The name field is required."]}),
        ({"name": 7}, {"name": ["The name field must be a string.", "The name field must be at least 2 characters."]}),
        ({"name": "annabel"}, {"name": ["The name field must not be greater than 5 characters."]}),
        ({"items": []}, {"items": ["The items field is required."]}),
        ({"items": "ab"}, {"items": ["The items field must be an array."]}),
        ({"items": {"0": {"role": "a"}}}, {"items": ["The items field must be an array."]}),
        ({"items": ["x", {"role": "a"}, None]}, {
            "items.0.role": ["The items.0.role field is required."],
            "items.2.role": ["The items.2.role field is required."],
        }),
        ({"items": [{"role": 5}]}, {
            "items.0.role": ["The items.0.role field must be a string.", "The selected items.0.role is invalid."],
        }),
        ({"items": [{"role": "a", "parts": [{"type": "t"}, {}, 3]}]}, {
            "items.0.parts.1.type": ["The items.0.parts.1.type field is required."],
            "items.0.parts.2.type": ["The items.0.parts.2.type field is required."],
        }),
        ({"max_tokens": 0}, {"max_tokens": ["The max tokens field must be at least 1."]}),
        ({"max_tokens": 1.5}, {"max_tokens": ["The max tokens field must be an integer."]}),
        ({"max_tokens": False}, {
            "max_tokens": ["The max tokens field must be an integer.", "The max tokens field must be at least 1."],
        }),
        ({"number_of": None}, {
            "number_of": ["The number of field must be an integer.", "The number of field must be at least 1."],
        }),
        ({"ratio": "abc"}, {
            "ratio": ["The ratio field must be a number.", "The ratio field must be between 0 and 2."],
        }),
        ({"ratio": "ab"}, {"ratio": ["The ratio field must be a number."]}),
        ({"ratio": True}, {"ratio": ["The ratio field must be a number."]}),
        ({"code": "x"}, {"code": ["The code field must be an integer."]}),
        ({"code": 9}, {"code": ["The code field must be at least 100."]}),
    ],
)  # fmt: skip
def test_what_fails_and_how_it_is_said(change: dict[str, Any], expected: dict[str, list[str]]) -> None:
    assert errors_of({**GOOD, **change}) == expected


def test_all_failing_fields_come_at_once_plain_ones_first() -> None:
    errors = errors_of({"items": [{}, {"role": "c"}], "max_tokens": "x", "ratio": 3})
    assert list(errors) == ["max_tokens", "name", "ratio", "items.0.role", "items.1.role"]


def test_a_failed_required_ends_its_field_and_nothing_else() -> None:
    assert errors_of({"name": "x"}) == {
        "items": ["The items field is required."],
        "name": ["The name field must be at least 2 characters."],
    }


def test_values_come_back_trimmed_and_coerced_and_null_is_absent() -> None:
    body = {
        "items": [{"role": " b "}],
        "name": " anna ",
        "max_tokens": " 5 ",
        "ratio": "1.50",
        "code": None,
        "number_of": 7.0,
        "unnamed": 1,
    }
    values = RULES.check(body)
    assert values.pop("items") is body["items"]
    assert values == {"items.0.role": "b", "name": "anna", "max_tokens": 5, "ratio": 1.5, "number_of": 7}
    assert type(values["number_of"]) is int


def test_an_integer_is_what_php_writes() -> None:
    """Fourteen digits: a float that close to a whole number is that number."""
    assert RULES.check({**GOOD, "max_tokens": 4.999999999999999})["max_tokens"] == 5
    assert errors_of({**GOOD, "max_tokens": 4.9999999999}) == {
        "max_tokens": ["The max tokens field must be an integer."]
    }


def test_numbers_sent_as_numbers_stay_what_they_are() -> None:
    assert type(RULES.check({**GOOD, "ratio": 1})["ratio"]) is int
    assert type(RULES.check({**GOOD, "ratio": 1.0})["ratio"]) is float


def test_required_with_looks_at_the_other_field() -> None:
    rules = compile_rules({"frames": "nullable|array", "frames.*.at": "required_with:frames|string"})
    assert rules.check({"frames": []}) == {"frames": []}
    assert rules.check({"frames": None}) == {}
    with pytest.raises(ValidationFailed) as caught:
        rules.check({"frames": [{"at": ""}]})
    assert caught.value.fields == {"frames.0.at": ["The frames.0.at field is required when frames is present."]}


def test_a_rule_of_ones_own_sees_what_holds_the_value() -> None:
    sibling = Rule(
        name="own",
        passes=lambda value, parent, body: (value, parent["b"], body["c"]) == (1, 2, 3),
        message=":attribute?",
    )
    rules = compile_rules({"list.*.a": (sibling,)})
    assert rules.check({"list": [{"a": 1, "b": 2}], "c": 3}) == {"list.0.a": 1}
    with pytest.raises(ValidationFailed) as caught:
        rules.check({"list": [{"a": 1, "b": 9}], "c": 3})
    assert caught.value.fields == {"list.0.a": ["list.0.a?"]}


def test_an_endless_array_fails_as_a_whole() -> None:
    assert errors_of({**GOOD, "items": [{"role": "a"}] * (MAX_ELEMENTS + 1)}) == {
        "items": [f"The items field must not have more than {MAX_ELEMENTS} items."]
    }
    assert RULES.check({**GOOD, "items": [{"role": "a"}] * MAX_ELEMENTS})


def test_errors_are_bounded() -> None:
    assert len(errors_of({**GOOD, "items": [0] * MAX_ELEMENTS})) == MAX_FAILING_FIELDS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "parts", "type"]), inner),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("items", "max_tokens", "name", "number_of", "ratio", "code"), JSON)
    )
)
def test_any_json_either_passes_or_fails_with_sentences(body: dict[str, Any]) -> None:
    try:
        values = RULES.check(body)
    except ValidationFailed as failed:
        failures = failed.fields
    else:
        failures = {}
        assert isinstance(values["name"], str)
        assert isinstance(values.get("max_tokens", 1), int)
        assert all(trim(item["role"]) in ("a", "b") for item in values["items"])
    assert all(messages and all(message.endswith(".") for message in messages) for messages in failures.values())
