"""Single rules of Laravel's validation: what passes, and the sentence for what does not. See ``laravel`` for the whole.

A rule looks at one value. PHP's way of looking at values (what is numeric, how a scalar reads as text, what is blank)
is here, in functions of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

# Str::trim: PHP's \s with /u, the byte order mark, the zero-width space, the left-to-right mark, and trim()'s own set.
BLANKS: Final = (
    " \t\n\v\f\r\0\x85\xa0\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff\u200b\u200e"
)
#: A numeric string is short; one of megabytes would be read for a second.
_MAX_NUMERIC_CHARACTERS: Final = 400
_INTEGER: Final = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,18})")
_NUMERIC: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INT64: Final = range(-(2**63), 2**63)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of one field.

    ``passes`` gets the value (trimmed; ``None`` where missing), the object or list that holds it, and the whole body.
    ``message`` may hold ``:attribute``. ``coerce`` makes of a value that passed what the program works with.
    """

    name: str
    passes: Callable[[Any, Any, Mapping[str, Any]], bool]
    message: str
    is_implicit: bool = False
    coerce: Callable[[Any], Any] | None = None


def compile_rule(word: str, kind: str) -> Rule:
    """A rule from Laravel's notation; ``kind`` (``numeric``, ``array``, ``string``) decides how sizes are worded.

    Raises ValueError for a rule that is not known here.
    """
    name, _, parameter = word.partition(":")
    if name in _SIMPLE:
        return _SIMPLE[name]
    if name in ("min", "max", "between"):
        return _size_rule(name, parameter, kind)
    if name == "in":
        allowed = frozenset(parameter.split(","))
        return Rule(
            name=name,
            passes=lambda value, *_: not isinstance(value, list | dict) and _text(value) in allowed,
            message="The selected :attribute is invalid.",
        )
    if name == "regex":
        pattern = re.compile(parameter)
        return Rule(
            name=name,
            passes=lambda value, *_: (
                (isinstance(value, str) or is_numeric(value)) and pattern.search(_text(value)) is not None
            ),
            message="The :attribute field format is invalid.",
        )
    if name == "required_with":
        return Rule(
            name=name,
            passes=lambda value, _, body: is_filled(value) or not is_filled(body.get(parameter)),
            message=f"The :attribute field is required when {spaced(parameter)} is present.",
            is_implicit=True,
        )
    raise ValueError(f"no such rule: {word!r}")


def _size_rule(name: str, parameter: str, kind: str) -> Rule:
    low, _, high = parameter.partition(",")
    least = _number(low) if name != "max" else -math.inf
    most = _number(high if name == "between" else low) if name != "min" else math.inf
    words = {
        ("between", "numeric"): f"must be between {low} and {high}",
        ("between", "string"): f"must be between {low} and {high} characters",
        ("between", "array"): f"must have between {low} and {high} items",
        ("min", "numeric"): f"must be at least {low}",
        ("min", "string"): f"must be at least {low} characters",
        ("min", "array"): f"must have at least {low} items",
        ("max", "numeric"): f"must not be greater than {low}",
        ("max", "string"): f"must not be greater than {low} characters",
        ("max", "array"): f"must not have more than {low} items",
    }
    return Rule(
        name=name,
        passes=lambda value, *_: least <= _size(value, kind) <= most,
        message=f"The :attribute field {words[name, kind]}.",
    )


def trim(text: str) -> str:
    """The text as TrimStrings leaves it."""
    return text.strip(BLANKS)


def is_filled(value: Any) -> bool:
    """Laravel's ``required``: neither ``null``, nor an empty string, nor an empty list or object."""
    if isinstance(value, str):
        return bool(trim(value))
    return value is not None and value != [] and value != {}


def is_numeric(value: Any) -> bool:
    """PHP's ``is_numeric``, finite only: a number, or a string that is one. A boolean is none."""
    if isinstance(value, str):
        text = trim(value)
        if len(text) > _MAX_NUMERIC_CHARACTERS or _NUMERIC.fullmatch(text) is None:
            return False
        return math.isfinite(float(text))
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: Any) -> bool:
    """Laravel's ``integer`` without the booleans; see the module's docstring."""
    if type(value) is int:
        return value in _INT64
    if isinstance(value, bool | list | dict):
        return False
    text = _text(value)
    return _INTEGER.fullmatch(text) is not None and int(text) in _INT64


def _is_boolean(value: Any) -> bool:
    """``true``, ``false``, 1, 0, "1", "0", compared strictly: 1.0 is none of them."""
    return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)) or value in ("0", "1")


def _text(value: Any) -> str:
    """A scalar as PHP writes it: floats with 14 digits and no ``.0``, ``true`` as 1, ``false`` as nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return "1" if value else ""
    if isinstance(value, float):
        return f"{value:.14G}"
    return str(value)


def _size(value: Any, kind: str) -> float:
    if kind == "numeric" and is_numeric(value):
        return _number(value)
    if isinstance(value, list | dict):
        return len(value)
    return len(_text(value))


def _number(value: Any) -> int | float:
    if type(value) is int:
        return value
    return int(_text(value)) if is_integer(value) else float(value)


def spaced(name: str) -> str:
    """A field's name as messages show it."""
    return name.replace("_", " ")


_SIMPLE: Final[Mapping[str, Rule]] = {
    rule.name: rule
    for rule in (
        Rule(
            name="required",
            passes=lambda value, *_: is_filled(value),
            message="The :attribute field is required.",
            is_implicit=True,
        ),
        Rule(
            name="prohibited",
            passes=lambda value, *_: not is_filled(value),
            message="The :attribute field is prohibited.",
        ),
        Rule(
            name="string",
            passes=lambda value, *_: isinstance(value, str),
            message="The :attribute field must be a string.",
        ),
        Rule(
            name="integer",
            passes=lambda value, *_: is_integer(value),
            message="The :attribute field must be an integer.",
            coerce=_number,
        ),
        Rule(
            name="numeric",
            passes=lambda value, *_: is_numeric(value),
            message="The :attribute field must be a number.",
            coerce=lambda value: _number(value) if isinstance(value, str) else value,
        ),
        Rule(
            name="boolean",
            passes=lambda value, *_: _is_boolean(value),
            message="The :attribute field must be true or false.",
            coerce=lambda value: value in (True, "1"),
        ),
        Rule(
            name="array",
            passes=lambda value, *_: isinstance(value, list),
            message="The :attribute field must be an array.",
        ),
    )
}
