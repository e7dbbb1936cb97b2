"""What a provider's published request schema refuses.

The schemas are packaged in ``schemas/<provider>.json``, each with its source, version and date. They are compiled once,
when the sandbox starts. A schema is closed to unknown fields where the provider's is; ``is_strict`` closes all of them
at the top, for tests of what is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jsonschema import ValidationError

ViolationKind = Literal["missing", "type", "value", "unknown"]
KINDS: Mapping[str, ViolationKind] = {
    "required": "missing",
    "type": "type",
    "additionalProperties": "unknown",
    "unevaluatedProperties": "unknown",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Why a body is refused. ``field`` is written ``messages[0].role``; for a missing field it is that field."""

    kind: ViolationKind
    field: str
    message: str


Checker = Callable[[Any], Violation | None]


@cache
def load_document(provider: str) -> dict[str, Any]:
    """The packaged file of a provider. Raises FileNotFoundError."""
    text = resources.files("bitmesh_proxy.sandbox").joinpath("schemas", f"{provider}.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@cache
def load_checker(provider: str, operation: str, is_strict: bool = False) -> Checker:
    """A function that finds the most telling violation of a body, or None. Raises KeyError for an unknown operation."""
    if operation not in load_document(provider)["operations"]:
        raise KeyError(f"{provider} has no request schema {operation!r}")
    return _make_checker(provider, f"operations/{operation}", is_strict)


@cache
def load_part_checker(provider: str, component: str, is_strict: bool = False) -> Checker:
    """The same for a part of a body that is checked by itself, by the name of its component schema."""
    if component not in load_document(provider)["components"]["schemas"]:
        raise KeyError(f"{provider} has no component {component!r}")
    return _make_checker(provider, f"components/schemas/{component}", is_strict)


def _make_checker(provider: str, place: str, is_strict: bool) -> Checker:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    name = f"urn:sandbox:{provider}"
    resource = DRAFT202012.create_resource(load_document(provider))
    registry: Registry[Any] = Registry().with_resource(name, resource)
    schema: dict[str, Any] = {"$ref": f"{name}#/{place}"}
    if is_strict:
        schema["unevaluatedProperties"] = False
    validator = Draft202012Validator(schema, registry=registry)

    def check(body: Any) -> Violation | None:
        error = best_match(validator.iter_errors(body))
        return None if error is None else _violation(error)

    return check


def _violation(error: ValidationError) -> Violation:
    kind = KINDS.get(str(error.validator), "value")
    field = _written(error.absolute_path)
    if kind == "missing":
        required: Any = error.validator_value
        present: Any = error.instance
        absent = next((name for name in required if name not in present), "")
        field = f"{field}.{absent}" if field else str(absent)
    elif kind == "unknown":
        # The message lists the fields in quotes: "… ('size' was unexpected)".
        named = error.message.partition("('")[2].partition("'")[0]
        field = f"{field}.{named}" if field and named else named or field
    return Violation(kind=kind, field=field, message=_shortened(error.message))


def _written(path: Any) -> str:
    """``["messages", 0, "role"]`` → ``messages[0].role``."""
    written = ""
    for step in path:
        written += f"[{step}]" if isinstance(step, int) else f".{step}" if written else str(step)
    return written


def _shortened(message: str, most: int = 300) -> str:
    return message if len(message) <= most else f"{message[: most // 2]} … {message[-most // 2 :]}"


def coerce_form(provider: str, operation: str, form: Mapping[str, list[str]]) -> dict[str, Any]:
    """A form's texts as the types that the schema names: ``{"n": ["2"]}`` → ``{"n": 2}``.

    A text that does not read as the type stays a text, so that the check refuses it.
    """
    document = load_document(provider)
    properties = _resolved(document, document["operations"][operation]).get("properties", {})
    coerced: dict[str, Any] = {}
    for name, texts in form.items():
        types, item_types = _types(document, properties.get(name, {}))
        values = [_coerced(text, types | item_types) for text in texts]
        coerced[name] = values if "array" in types and (len(values) > 1 or "string" not in types) else values[-1]
    return coerced


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _types(document: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The types that a schema allows, and those of its items where it allows an array."""
    schema = _resolved(document, schema)
    named = schema.get("type", [])
    types = {named} if isinstance(named, str) else set(named)
    item_types: set[str] = set()
    for word in ("anyOf", "oneOf", "allOf"):
        for choice in schema.get(word, ()):
            its_types, its_item_types = _types(document, choice)
            types |= its_types
            item_types |= its_item_types
    if isinstance(items := schema.get("items"), Mapping):
        item_types |= _types(document, items)[0]
    return types, item_types


def _coerced(text: str, types: set[str]) -> Any:
    if "boolean" in types and text in ("true", "false"):
        return text == "true"
    for name, read in (("integer", int), ("number", float)):
        if name in types:
            try:
                return read(text)
            except ValueError:
                continue
    if "object" in types and text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
