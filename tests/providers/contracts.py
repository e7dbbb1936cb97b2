"""Holds a request that a dialect built to the schema that the provider publishes. See ``tests/specs/README.md``."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from bitmesh_proxy.dialects.base import UpstreamRequest

SPECS = Path(__file__).parent.parent / "specs"

#: Published schemas without combinations, which can be closed at every level and not only at the top.
OPEN_IN_DEPTH = {"gemini", "runware"}


def violations(provider: str, request: UpstreamRequest) -> list[str]:
    """Everything in which a request breaks the provider's schema; empty when it keeps it."""
    found = [*_body_violations(provider, request), *_query_violations(provider, request)]
    assert not (request.body is not None and request.form is not None), "a body or a form, not both"
    return found


def sent_json(request: UpstreamRequest) -> Any:
    """The JSON body of a request."""
    assert request.body is not None
    return orjson.loads(request.body)


def sent_form(request: UpstreamRequest) -> dict[str, list[bytes]]:
    """The fields of a form, each with its values in order."""
    assert request.form is not None
    fields: dict[str, list[bytes]] = {}
    for part in request.form:
        fields.setdefault(part.name, []).append(part.value)
    return fields


@functools.cache
def _spec(provider: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((SPECS / f"{provider}.json").read_text(encoding="utf-8"))
    _allow_files_for_links(spec, spec)
    if provider in OPEN_IN_DEPTH:
        _close(spec)
    return spec


def _close(node: Any) -> None:
    """Let no object of a schema have members that it does not name."""
    if isinstance(node, dict) and isinstance(node.get("properties"), dict) and node.get("type") == "object":
        node.setdefault("additionalProperties", False)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _close(child)


def _allow_files_for_links(node: Any, spec: dict[str, Any]) -> None:
    """Let any of "one of a link and a file" do: a validator takes both for strings, and both at once for a mistake."""
    if isinstance(node, dict):
        options = [_resolve(option, spec) for option in node.get("oneOf", ())]
        if any(option.get("format") == "binary" for option in options):
            node["anyOf"] = node.pop("oneOf")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _allow_files_for_links(child, spec)


def _resolve(schema: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = spec["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _operation(provider: str, request: UpstreamRequest) -> dict[str, Any]:
    for key, operation in _spec(provider)["requests"].items():
        method, _, template = key.partition(" ")
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if method == request.method and re.fullmatch(pattern, request.path):
            found: dict[str, Any] = operation
            return found
    raise AssertionError(f"{provider} publishes no {request.method} {request.path}")


@functools.cache
def _validator(provider: str, schema: str) -> Draft202012Validator:
    document = DRAFT202012.create_resource(_spec(provider))
    registry = Registry().with_resource("urn:spec", document)
    text = schema.replace('"$ref": "#/', '"$ref": "urn:spec#/')
    return Draft202012Validator(json.loads(text), registry=registry)


def _errors(provider: str, schema: dict[str, Any], value: Any) -> Iterator[str]:
    for error in _validator(provider, json.dumps(schema)).iter_errors(value):
        yield f"{error.json_path}: {error.message[:300]}"


def _body_violations(provider: str, request: UpstreamRequest) -> Iterator[str]:
    operation = _operation(provider, request)
    if request.form is not None:
        schema = operation["multipart/form-data"]
        yield from _errors(provider, _strict(schema), _read_form(provider, request, schema))
    elif request.body is not None:
        yield from _errors(provider, _strict(operation["application/json"]), orjson.loads(request.body))
    elif any("/" in name for name in operation):
        yield "a body is missing"


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") == "array":
        return schema
    return {"allOf": [schema], "unevaluatedProperties": False}


def _query_violations(provider: str, request: UpstreamRequest) -> Iterator[str]:
    published = {field["name"]: field for field in _operation(provider, request).get("query", ())}
    sent = dict(request.query)
    for name in sent.keys() - published.keys():
        yield f"?{name}: not published"
    for name, field in published.items():
        if name in sent:
            candidates = [sent[name], *_as_json(sent[name])]
            if all(list(_errors(provider, field["schema"], value)) for value in candidates):
                yield f"?{name}: {sent[name]!r} is not of its schema"
        elif field["required"]:
            yield f"?{name}: required"


def _read_form(provider: str, request: UpstreamRequest, schema: dict[str, Any]) -> dict[str, Any]:
    """The form as the object it stands for: ``name[]`` and repeated names are lists, numbers are numbers."""
    properties = _resolve(schema, _spec(provider)).get("properties", {})
    result: dict[str, Any] = {}
    for part in request.form or ():
        name = part.name.removesuffix("[]")
        value: Any = "(bytes)" if part.filename is not None else part.value.decode()
        if part.filename is None and not part.name.endswith("[]"):
            fitting = [
                candidate
                for candidate in (value, *_as_json(value))
                if not list(_errors(provider, properties.get(name, {}), candidate))
            ]
            value = fitting[0] if fitting else value
        if part.name.endswith("[]"):
            result.setdefault(name, []).append(value)
        else:
            assert name not in result, f"{name} is sent twice"
            result[name] = value
    return result


def _as_json(text: str) -> Iterator[Any]:
    try:
        yield json.loads(text)
    except json.JSONDecodeError:
        return
