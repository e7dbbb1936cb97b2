"""Fields of requests in OpenAI's manner: what is allowed in each, and reading them from JSON and from forms alike.

A table of ``Field`` says for each name what is expected and whether a value is that; the same table turns the texts of
a form into the values that JSON would have had, so that one parser serves both. ``null`` is the same as nothing.
Every refusal names the field in ``param`` and has a stable ``code``: ``missing_required_parameter`` or
``invalid_value``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from bitmesh_proxy.calls import JsonObject, Media
from bitmesh_proxy.context import Caller
from bitmesh_proxy.errors import InvalidRequest, MissingParameter

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?([eE][+-]?[0-9]{1,2})?")
_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})[xX×*]([1-9][0-9]{0,4})")
_BOOLEANS: Final[Mapping[str, bool]] = {"true": True, "false": False, "1": True, "0": False}


def _as_it_is(text: str) -> Any:
    return text


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """``expected`` completes "expected …"; ``read_text`` reads a form's text, and gives it back where it cannot."""

    expected: str
    is_valid: Callable[[Any], bool]
    read_text: Callable[[str], Any] = _as_it_is


Fields = Mapping[str, Field]


def is_integer(value: object) -> bool:
    """An integer of JSON; ``true`` is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A finite number of JSON; ``true`` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def integer(lowest: int | None = None, highest: int | None = None) -> Field:
    """An integer within bounds, both included."""
    return Field(
        expected="an integer" + _bounds(lowest, highest),
        is_valid=lambda value: is_integer(value) and _within(value, lowest, highest),
        read_text=lambda said: int(bare) if _INTEGER.fullmatch(bare := said.strip()) else said,
    )


def number(lowest: float | None = None, highest: float | None = None) -> Field:
    """A number within bounds, both included."""
    return Field(
        expected="a number" + _bounds(lowest, highest),
        is_valid=lambda value: is_number(value) and _within(value, lowest, highest),
        read_text=_read_number,
    )


def text(max_characters: int | None = None, *, min_characters: int = 0) -> Field:
    """A string of bounded length."""
    at_least = "a non-empty string" if min_characters else "a string"
    return Field(
        expected=at_least + (f" of at most {max_characters} characters" if max_characters is not None else ""),
        is_valid=lambda value: (
            isinstance(value, str)
            and len(value) >= min_characters
            and (max_characters is None or len(value) <= max_characters)
        ),
    )


def boolean() -> Field:
    """``true`` or ``false``."""
    return Field(
        expected="a boolean",
        is_valid=lambda value: isinstance(value, bool),
        read_text=lambda said: _BOOLEANS.get(said.strip().lower(), said),
    )


def one_of(*words: str) -> Field:
    """One of some words."""
    return Field(
        expected="one of " + ", ".join(f"'{word}'" for word in words),
        is_valid=lambda value: isinstance(value, str) and value in words,
    )


def list_of(words: Sequence[str] | None = None) -> Field:
    """A list of strings, or of some words only."""
    known = "" if words is None else " from " + ", ".join(f"'{word}'" for word in words)
    return Field(
        expected=f"a list of strings{known}",
        is_valid=lambda value: (
            isinstance(value, list)
            and all(isinstance(each, str) and (words is None or each in words) for each in value)
        ),
    )


def check_fields(body: JsonObject, fields: Fields) -> None:
    """Raises InvalidRequest naming the first field, in the order of the table, that is not as expected."""
    for name, field in fields.items():
        value = body.get(name)
        if value is not None and not field.is_valid(value):
            raise InvalidRequest(f"Invalid '{name}': expected {field.expected}.", param=name)


def required(body: JsonObject, name: str) -> Any:
    """The value of a field. Raises MissingParameter."""
    value = body.get(name)
    if value is None:
        raise MissingParameter(f"Missing required parameter: '{name}'.", param=name)
    return value


def model_of(body: JsonObject, caller: Caller, *, default: str | None = None) -> str:
    """The model's name. A key that is bound to a model may leave it out; whether another name is that model's too,
    routing knows. Raises InvalidRequest."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequest("Invalid 'model': expected a string.", param="model")
    if not model and caller.bound_model is not None:
        return caller.bound_model
    if not model and default is not None:
        return default
    if not model:
        raise MissingParameter("Missing required parameter: 'model'.", param="model")
    return model


def others(body: JsonObject, without: Iterable[str]) -> dict[str, Any]:
    """Every other field as it came; ``null`` and files say nothing here."""
    taken = frozenset(without)
    return {
        name: value
        for name, value in body.items()
        if name not in taken and value is not None and not _holds_files(value)
    }


def size_of(body: JsonObject) -> tuple[int | None, int | None]:
    """Width and height in pixels of ``"1024x768"``; nothing for ``"auto"`` and nothing. Raises InvalidRequest."""
    size = body.get("size")
    if size is None or size == "auto":
        return None, None
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        raise InvalidRequest("Invalid 'size': expected 'auto' or WIDTHxHEIGHT such as '1024x1024'.", param="size")
    return int(match[1]), int(match[2])


def body_of_form(
    texts: Sequence[tuple[str, str]], files: Sequence[tuple[str, Media]], fields: Fields
) -> dict[str, Any]:
    """A form as the JSON object that it stands for.

    ``name[]`` makes a list, and so does a plain name that comes more than once; files are ``Media`` in the same places.
    Empty texts are what browsers send for nothing, and say nothing.
    """
    body: dict[str, Any] = {}
    lists: set[str] = set()
    for name, said in texts:
        if said == "":
            continue
        plain = name.removesuffix("[]")
        field = fields.get(plain)
        _put(body, name, said if field is None else field.read_text(said), lists)
    for name, media in files:
        _put(body, name, media, lists)
    return body


def media_of(value: object, *, param: str, kind: str = "image") -> Media:
    """A picture as callers name it: a file of a form, a link or data URI, or an object with ``image_url`` or ``url``.

    Raises InvalidRequest.
    """
    if isinstance(value, Media):
        return value
    if isinstance(value, dict):
        if value.get("file_id") is not None:
            raise InvalidRequest(
                f"Invalid '{param}': file ids are not known here; send the file, a link or a data URI.", param=param
            )
        return media_of(value.get("image_url", value.get("url")), param=param, kind=kind)
    if isinstance(value, str) and value[:8].lower().startswith(("https://", "http://", "data:")):
        return Media(kind="image", url=value)
    raise InvalidRequest(f"Invalid '{param}': expected an {kind}: a file, an http(s) link or a data URI.", param=param)


def _put(body: dict[str, Any], name: str, value: Any, lists: set[str]) -> None:
    plain = name.removesuffix("[]")
    if plain not in body:
        body[plain] = [value] if plain != name else value
        if plain != name:
            lists.add(plain)
    elif plain in lists:
        body[plain].append(value)
    else:
        body[plain] = [body[plain], value]
        lists.add(plain)


def _holds_files(value: object) -> bool:
    return isinstance(value, Media) or (isinstance(value, list) and any(isinstance(each, Media) for each in value))


def _read_number(said: str) -> Any:
    bare = said.strip()  # of more than ``int`` and ``float`` would pass over
    if _INTEGER.fullmatch(bare):
        return int(bare)
    return float(bare) if _NUMBER.fullmatch(bare) else said


def _within(value: float, lowest: float | None, highest: float | None) -> bool:
    return (lowest is None or value >= lowest) and (highest is None or value <= highest)


def _bounds(lowest: float | None, highest: float | None) -> str:
    if lowest is not None and highest is not None:
        return f" from {lowest} to {highest}"
    if lowest is not None:
        return f" of at least {lowest}"
    return "" if highest is None else f" of at most {highest}"
