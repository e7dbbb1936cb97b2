"""Laravel's validation, as far as the Bitmesh documents need it: the same rules, order, wording and shape of errors.

``compile_rules`` reads rules in Laravel's own notation (``"required|string|min:1"``) once, at import; ``Rules.check``
applies them to one body. What Laravel does and this does too (sources: laravel/framework, ``Validator.php``,
``Concerns/ValidatesAttributes.php``, ``Concerns/FormatsMessages.php``, and ``lang/en/validation.php`` with the wording
of version 10 and later; read 2026-11):

- All failing fields come at once, each with its messages in the order of its rules. A failed *implicit* rule
  (``required``, ``required_with``) ends its field; ``bail`` ends it at the first failure of any rule.
- A field that is missing, or ``null`` and ``nullable``, meets implicit rules only.
- Strings are trimmed and empty ones are ``null``: TrimStrings and ConvertEmptyStringsToNull are on by default.
- ``a.*.b`` stands for every element; such fields come after the plain ones and keep their raw name in messages, while
  plain names are written with spaces for underscores.
- Sizes: a number where the field has a numeric rule and the value is numeric, else the elements of an array, else the
  characters of the value as text. The wording goes by the rule, not by the value.
- ``integer`` takes what FILTER_VALIDATE_INT takes of the value as text: 5, 5.0, "5", " 5 ", "+5"; not "5.0", "05".

Where this is stricter, because the providers are: ``integer`` refuses booleans (PHP reads ``true`` as 1), ``array``
wants a JSON list (PHP has one type for both), ``numeric`` wants a finite number. An array with more elements than
``MAX_ELEMENTS`` fails as a whole, so that no body keeps the validation busy for seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from bitmesh_proxy.endpoints.laravel_rules import Rule, compile_rule, spaced, trim
from bitmesh_proxy.errors import ValidationFailed

MAX_ELEMENTS: Final = 10_000
#: Nobody reads more; further failing fields are left out.
MAX_FAILING_FIELDS: Final = 1_000


class _Missing:
    """The field is not in the body (``null`` is)."""


_MISSING: Final = _Missing()


class _Field(msgspec.Struct, frozen=True, kw_only=True):
    """A name with its rules. ``path`` holds the name's parts, ``is_needed``: a rule of it looks at what is missing."""

    path: tuple[str, ...]
    rules: tuple[Rule, ...]
    is_plain: bool
    is_needed: bool
    is_nullable: bool
    bails: bool
    coerce: Callable[[Any], Any] | None


class Rules:
    """Compiled rules. Immutable; made by ``compile_rules``."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Sequence[_Field]) -> None:
        self._fields = sorted(fields, key=lambda field: not field.is_plain)

    def check(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all named fields that are there and not ``null``, coerced, by name (``messages.0.role``).

        Raises ValidationFailed with every failing field.
        """
        check = _Check(body)
        for field in self._fields:
            root = field.path[0]
            if field.is_plain:
                if root in body or field.is_needed:  # else: most optional fields of most bodies
                    check.value(field, root, value=body.get(root, _MISSING), parent=body)
            elif root in body and root not in check.errors:  # the elements of an array that failed add nothing
                check.elements(field)
        if check.errors:
            raise ValidationFailed(check.errors)
        return check.values


def compile_rules(fields: Mapping[str, str | Sequence[str | Rule]]) -> Rules:
    """Read rules: names to ``"required|string|max:5"``, or to a list of such words and rules of one's own.

    Raises ValueError for a rule that is not known here.
    """
    return Rules([_compile_field(name, rules) for name, rules in fields.items()])


def _compile_field(name: str, rules: str | Sequence[str | Rule]) -> _Field:
    words = rules.split("|") if isinstance(rules, str) else list(rules)
    names = {word.partition(":")[0] for word in words if isinstance(word, str)}
    numeric = bool(names & {"integer", "numeric"})
    kind = "numeric" if numeric else "array" if "array" in names else "string"
    compiled = tuple(
        word if isinstance(word, Rule) else compile_rule(word, kind)
        for word in words
        if word not in ("nullable", "bail")
    )
    path = tuple(name.split("."))
    return _Field(
        path=path,
        rules=compiled,
        is_plain=len(path) == 1,
        is_needed=len(path) == 1 and any(rule.is_implicit for rule in compiled),
        is_nullable="nullable" in names,
        bails="bail" in names,
        coerce=next((rule.coerce for rule in compiled if rule.coerce is not None), None),
    )


class _Check:
    """One body under way: what passed, and what did not."""

    __slots__ = ("_body", "errors", "values")

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self.values: dict[str, Any] = {}
        self.errors: dict[str, list[str]] = {}

    def elements(self, field: _Field) -> None:
        for count, (name, value, parent) in enumerate(_descend(self._body, field.path, depth=0, name="")):
            if count == MAX_ELEMENTS:
                root = field.path[0]
                self.errors[root] = [f"The {spaced(root)} field must not have more than {MAX_ELEMENTS} items."]
                return
            self.value(field, name, value=value, parent=parent)

    def value(self, field: _Field, name: str, *, value: Any, parent: Any) -> None:
        if isinstance(value, str):
            value = trim(value) or None
        if messages := _apply(field, value, parent=parent, body=self._body):
            if len(self.errors) < MAX_FAILING_FIELDS:
                shown = spaced(name) if field.is_plain else name
                self.errors[name] = [message.replace(":attribute", shown) for message in messages]
        elif value is not _MISSING and value is not None:
            self.values[name] = value if field.coerce is None else field.coerce(value)


def _descend(node: Any, path: tuple[str, ...], *, depth: int, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Every field that ``path`` stands for from ``depth`` on: its name, its value, and what holds it."""
    part = path[depth]
    children: Iterator[tuple[str, Any]]
    if part != "*":
        value = node.get(part, _MISSING) if isinstance(node, dict) else _MISSING
        children = iter([(part, value)])
    elif isinstance(node, list):
        children = ((str(index), element) for index, element in enumerate(node))
    else:
        return  # the rule of the array itself has its say
    for key, value in children:
        child = f"{name}.{key}" if name else key
        if depth + 1 == len(path):
            yield child, value, node
        else:
            yield from _descend(value, path, depth=depth + 1, name=child)


def _apply(field: _Field, value: Any, *, parent: Any, body: Mapping[str, Any]) -> list[str]:
    """The messages of the rules that the value does not pass."""
    only_implicit = value is _MISSING or (value is None and field.is_nullable)
    if value is _MISSING:
        value = None
    messages = []
    for rule in field.rules:
        if (only_implicit and not rule.is_implicit) or rule.passes(value, parent, body):
            continue
        messages.append(rule.message)
        if rule.is_implicit or field.bails:
            break
    return messages
