"""Fields of a JSON body, read one at a time, with the path that an error names (``input[0].content[1].image_url``).

``null`` is the same as absent. Every method raises InvalidRequest with ``param`` for a wrong type or range; the
``required_`` ones raise MissingParameter too.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any, NoReturn

import msgspec

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.errors import InvalidRequest, MissingParameter

#: The longest text that the specification lets a caller send in one place.
MAX_TEXT_CHARACTERS = 10_485_760


class Fields(msgspec.Struct, frozen=True):
    """An object of the body. ``path`` is where it stands, empty for the body itself."""

    values: JsonObject
    path: str = ""

    def param(self, name: str) -> str:
        """The full name of a field."""
        return f"{self.path}.{name}" if self.path else name

    def fail(self, name: str, message: str) -> NoReturn:
        """Raise InvalidRequest about a field."""
        raise InvalidRequest(message, param=self.param(name) if name else self.path)

    def has(self, name: str) -> bool:
        """Is the field there, and not null?"""
        return self.values.get(name) is not None

    def lacks(self, names: frozenset[str]) -> bool:
        """Is none of these fields there, not even as null? Then nothing needs to be read of them."""
        return names.isdisjoint(self.values)

    def string(
        self,
        name: str,
        *,
        max_characters: int = MAX_TEXT_CHARACTERS,
        min_characters: int = 0,
        pattern: re.Pattern[str] | None = None,
    ) -> str | None:
        """A string, or None."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.fail(name, f"'{self.param(name)}' must be a string.")
        if not min_characters <= len(value) <= max_characters:
            bounds = f"{min_characters} to {max_characters}" if min_characters else f"at most {max_characters}"
            self.fail(name, f"'{self.param(name)}' must have {bounds} characters.")
        if pattern is not None and not pattern.fullmatch(value):
            self.fail(name, f"'{self.param(name)}' must match {pattern.pattern}.")
        return value

    def required_string(
        self,
        name: str,
        *,
        max_characters: int = MAX_TEXT_CHARACTERS,
        min_characters: int = 0,
        pattern: re.Pattern[str] | None = None,
    ) -> str:
        """A string that has to be there."""
        value = self.string(name, max_characters=max_characters, min_characters=min_characters, pattern=pattern)
        if value is None:
            raise self.missing(name)
        return value

    def choice(self, name: str, words: Container[str]) -> str | None:
        """One of some words, or None."""
        value = self.string(name)
        if value is not None and value not in words:
            listed = ", ".join(sorted(words)) if isinstance(words, frozenset | tuple) else str(words)
            self.fail(name, f"'{self.param(name)}' must be one of: {listed}.")
        return value

    def integer(self, name: str, *, low: int, high: int = 2**53) -> int | None:
        """A whole number, or None. ``5.0`` is one."""
        value = self.values.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            bounds = f"of at least {low}" if high == 2**53 else f"from {low} to {high}"
            self.fail(name, f"'{self.param(name)}' must be an integer {bounds}.")
        return value

    def number(self, name: str, *, low: float, high: float) -> int | float | None:
        """A number, as it was written, or None."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            self.fail(name, f"'{self.param(name)}' must be a number from {low:g} to {high:g}.")
        return value

    def boolean(self, name: str) -> bool | None:
        """A boolean, or None."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            self.fail(name, f"'{self.param(name)}' must be a boolean.")
        return value

    def object(self, name: str) -> Fields | None:
        """An object, or None."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.fail(name, f"'{self.param(name)}' must be an object.")
        return Fields(value, self.param(name))

    def list_of(self, name: str, *, max_items: int) -> list[Any] | None:
        """A list, or None."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.fail(name, f"'{self.param(name)}' must be a list.")
        if len(value) > max_items:
            self.fail(name, f"'{self.param(name)}' may have at most {max_items} entries.")
        return value

    def objects(self, name: str, *, max_items: int) -> list[Fields] | None:
        """A list of objects, or None."""
        values = self.list_of(name, max_items=max_items)
        if values is None:
            return None
        for index, value in enumerate(values):
            if not isinstance(value, Mapping):
                self.fail(f"{name}[{index}]", f"'{self.param(name)}[{index}]' must be an object.")
        return [Fields(value, f"{self.param(name)}[{index}]") for index, value in enumerate(values)]

    def missing(self, name: str) -> MissingParameter:
        """The error for a field that has to be there."""
        return MissingParameter(f"Missing required parameter: '{self.param(name)}'.", param=self.param(name))
