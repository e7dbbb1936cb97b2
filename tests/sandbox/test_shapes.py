"""What the shaper makes fits the schema; jsonschema is the judge."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bitmesh_proxy.sandbox.plays import Refused
from bitmesh_proxy.sandbox.shapes import FORMATS, MAX_CHARACTERS, MAX_VALUES, Shaper

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["name", "children", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}}, "required": ["city"]},
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 7}}},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "multipleOf": 7, "minimum": 20},
    {"type": "integer", "maximum": -5},
    {"type": "number", "minimum": 0.25, "maximum": 0.5},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "multipleOf": 0.5, "minimum": 3.1},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null"]},
    {"const": {"fixed": [1, 2]}},
    {"type": "string", "minLength": 30, "maxLength": 40},
    {"type": "string", "maxLength": 3},
    {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3},
    {"type": "array", "items": {"type": "string"}, "maxItems": 1},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False, "minItems": 2},
    {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"oneOf": [{"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}, {"type": "string"}]},
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ]
    },
    {"properties": {"implied": {"items": {"minimum": 3}}}},
    {"type": "object", "properties": {"a": {"default": "d", "type": "string"}}, "required": ["a"]},
    {"type": "object"},
    {"definitions": {"a/b": {"type": "integer"}}, "$ref": "#/definitions/a~1b"},
    TREE,
    {},
    True,
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_the_value_fits_its_schema(schema: Any) -> None:
    validator = Draft202012Validator(schema)
    for seed in range(20):
        value = Shaper(schema, words="a red fox in the snow", rng=random.Random(seed)).value()
        validator.validate(json.loads(json.dumps(value)))


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_formats(form: str) -> None:
    schema = {"type": "string", "format": form}
    value = Shaper(schema, words="no", rng=random.Random(1)).value()
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def test_the_first_free_text_is_the_callers_words() -> None:
    schema = {
        "type": "object",
        "properties": {"q": {"type": "string"}, "r": {"type": "string"}},
        "required": ["q", "r"],
    }
    value = Shaper(schema, words="weather in Rome", rng=random.Random(1)).value()
    assert value["q"] == "weather in Rome"
    assert value["r"] != "weather in Rome"


def test_required_fields_without_a_description_are_filled() -> None:
    assert Shaper({"type": "object", "required": ["x"]}, words="w", rng=random.Random(1)).value() == {"x": "w"}


def test_a_schema_that_multiplies_itself_is_given_up() -> None:
    names = [f"child_{number}" for number in range(50)]
    schema = {"type": "object", "properties": {name: {"$ref": "#"} for name in names}, "required": names}
    value = Shaper(schema, words="w", rng=random.Random(1)).value()
    assert json.dumps(value).count("child_") < 3 * MAX_VALUES


def test_a_schema_that_only_refers_to_itself_comes_to_an_end() -> None:
    assert Shaper({"$ref": "#"}, words="w", rng=random.Random(1)).value() is None


@pytest.mark.parametrize("schema", [{"type": "array", "minItems": 1e300}, {"type": "string", "minLength": 10**18}])
def test_a_schema_that_wants_too_much_gets_less(schema: Any) -> None:
    value = Shaper(schema, words="w", rng=random.Random(1)).value()
    assert 0 < len(value) <= max(MAX_VALUES, MAX_CHARACTERS + 10)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": []},
        {"type": "integer", "minimum": "1"},
        {"type": "integer", "minimum": 1, "multipleOf": 1e-320},
        {"type": "object", "properties": 5},
        {"type": "array", "minItems": "many"},
        {"anyOf": {"type": "string"}},
        {"enum": {"a": 1}},
        {"type": "string", "maxLength": {}},
    ],
    ids=json.dumps,
)
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(Refused, match="Invalid JSON schema") as refused:
        Shaper(schema, words="w", rng=random.Random(1)).value()
    assert refused.value.status == 400
