"""Values that fit a JSON schema: arguments for tools, and structured answers.

Understands what providers accept in such schemas: types, enum, const, default, local ``$ref``, anyOf, oneOf, allOf,
bounds, lengths, formats, required, items, prefixItems. ``pattern`` is not solved. The first text that a schema leaves
free gets the caller's own words, so that one sees in the answer what was asked. What is no schema is refused, wherever
that shows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from bitmesh_proxy.sandbox.plays import Refused

#: Deeper, optional parts are left out.
MAX_DEPTH = 4
#: A schema that multiplies itself without end is given up for null.
MAX_VALUES = 2_000
#: So long is a text at most, whatever the schema wants.
MAX_CHARACTERS = 2_000
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "juniper")
FORMATS: Mapping[str, str] = {
    "date": "2026-11-21",
    "date-time": "2026-11-21T10:15:00Z",
    "time": "10:15:00Z",
    "duration": "PT10M",
    "email": "sandbox@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.org/sandbox",
    "url": "https://example.org/sandbox",
    "uuid": "7b1f3c52-6f0e-4d5a-9c7e-2a9d1c4b8e60",
}

Schema = Any  # a JSON schema: an object, or true or false


class Shaper:
    """Makes one value for one schema. ``words`` is put into the first free text."""

    def __init__(self, root: Schema, *, words: str, rng: random.Random) -> None:
        self._root = root
        self._words = words or "sandbox"
        self._rng = rng
        self._values_left = MAX_VALUES

    def value(self) -> Any:
        """Raises Refused."""
        try:
            return self._value(self._root, 0)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise Refused(400, "Invalid JSON schema.", code="invalid_json_schema") from error

    def _value(self, schema: Schema, depth: int) -> Any:
        self._values_left -= 1
        if not isinstance(schema, Mapping):
            return self._text({})
        schema = self._flat(schema, depth)
        if "const" in schema:
            return schema["const"]
        if choices := schema.get("enum"):
            return self._rng.choice(choices)
        if "default" in schema:
            return schema["default"]
        match self._type(schema, depth):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case _:
                return self._text(schema)

    def _flat(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """With references followed, allOf joined, and one branch of anyOf or oneOf taken."""
        if depth > 4 * MAX_DEPTH or self._values_left < 0:
            return {"type": "null"}
        if isinstance(reference := schema.get("$ref"), str):
            return self._flat({**self._found(reference), **_without(schema, "$ref")}, depth + 1)
        for word in ("anyOf", "oneOf"):
            if branches := schema.get(word):
                # Deep inside a schema that refers to itself, null is the way out.
                null = next((b for b in branches if isinstance(b, Mapping) and b.get("type") == "null"), None)
                taken = null if null is not None and depth > MAX_DEPTH else branches[0]
                return self._flat(_joined(_without(schema, word), taken), depth + 1)
        if parts := schema.get("allOf"):
            whole = _without(schema, "allOf")
            for part in parts:
                whole = _joined(whole, self._flat(part, depth + 1) if isinstance(part, Mapping) else {})
            return whole
        return schema

    def _found(self, reference: str) -> Mapping[str, Any]:
        target: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            target = target.get(step) if isinstance(target, Mapping) else None
        return target if isinstance(target, Mapping) else {}

    def _type(self, schema: Mapping[str, Any], depth: int) -> str:
        named = schema.get("type")
        if isinstance(named, list):
            return "null" if depth > MAX_DEPTH and "null" in named else str(named[0])
        if isinstance(named, str):
            return named
        for keyword, implied in (("properties", "object"), ("items", "array"), ("minimum", "number")):
            if keyword in schema:
                return implied
        return "string"

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required")
        names = list(properties) if required is None and depth < MAX_DEPTH else list(required or ())
        return {name: self._value(properties.get(name, {}), depth + 1) for name in names}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = [self._value(item, depth + 1) for item in schema.get("prefixItems", ())]
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(least, 2)))
        count = max(least, min(most, max(0, 2 - depth // 2)))
        count = min(count, len(first) + max(0, self._values_left))
        items = schema.get("items", {})
        if items is False:
            return first
        values = first + [self._value(items, depth + 1) for _ in range(count - len(first))]
        return _distinct(values) if schema.get("uniqueItems") else values

    def _integer(self, schema: Mapping[str, Any]) -> int:
        low, high = _bounds(schema, step=1)
        low, high = math.ceil(low), math.floor(high)
        if multiple := schema.get("multipleOf"):
            return int(math.ceil(low / multiple) * multiple)
        return self._rng.randint(low, max(low, high))

    def _number(self, schema: Mapping[str, Any]) -> float:
        low, high = _bounds(schema, step=0.125)
        if multiple := schema.get("multipleOf"):
            return float(math.ceil(low / multiple) * multiple)
        return min(high, max(low, round((low + high) / 2, 3)))

    def _text(self, schema: Mapping[str, Any]) -> str:
        if (formatted := FORMATS.get(str(schema.get("format")))) is not None:
            return formatted
        if self._words:
            text, self._words = self._words, ""
        else:
            text = self._rng.choice(WORDS)
        least, most = min(int(schema.get("minLength", 0)), MAX_CHARACTERS), schema.get("maxLength")
        while len(text) < least:
            text += " " + self._rng.choice(WORDS)
        return text if most is None else text[: int(most)]


def _without(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}


def _joined(one: Mapping[str, Any], other: Schema) -> dict[str, Any]:
    if not isinstance(other, Mapping):
        return dict(one)
    joined = {**one, **other}
    if "properties" in one and "properties" in other:
        joined["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        joined["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    return joined


def _bounds(schema: Mapping[str, Any], *, step: float) -> tuple[float, float]:
    low = schema.get("minimum")
    if (above := schema.get("exclusiveMinimum")) is not None:
        low = above + step
    high = schema.get("maximum")
    if (below := schema.get("exclusiveMaximum")) is not None:
        high = below - step
    if low is None:
        low = 1 if high is None or high >= 1 else high - 10
    return low, low + 10 if high is None else high


def _distinct(values: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept
