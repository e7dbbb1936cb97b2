"""Holds responses and events to the published schema, ``tests/specs/openresponses.json``, by JSON Schema's rules."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

SPEC = Path(__file__).parent.parent.parent / "specs" / "openresponses.json"


@functools.cache
def _spec() -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(SPEC.read_text(encoding="utf-8"))
    return spec


@functools.cache
def _validator(schema: str) -> Draft202012Validator:
    registry = Registry().with_resource("urn:spec", DRAFT202012.create_resource(_spec()))
    return Draft202012Validator({"$ref": f"urn:spec#/components/schemas/{schema}"}, registry=registry)


@functools.cache
def event_schemas() -> dict[str, str]:
    """The type of each event that the standard knows → its schema's name."""
    content = _spec()["paths"]["/responses"]["post"]["responses"]["200"]["content"]["text/event-stream"]
    names = [option["$ref"].rsplit("/", 1)[1] for option in content["schema"]["oneOf"]]
    schemas = _spec()["components"]["schemas"]
    return {schemas[name]["properties"]["type"]["enum"][0]: name for name in names}


def violations(schema: str, value: Any) -> list[str]:
    """Where a value breaks a schema; empty when it keeps it."""
    return [f"{error.json_path}: {error.message[:300]}" for error in _validator(schema).iter_errors(value)]


def check_response(response: Any) -> None:
    """A whole response keeps the schema."""
    assert violations("ResponseResource", response) == []


def check_event(event: Any) -> None:
    """An event of the standard's keeps its schema; any other is an error."""
    assert event["type"] in event_schemas(), f"the standard has no event {event['type']}"
    assert violations(event_schemas()[event["type"]], event) == [], event["type"]
