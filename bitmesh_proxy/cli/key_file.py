"""Keys of another installation as a file tells of them: CSV with a line of names, or one JSON object a line.

Every fault is named with its line, and none by what stands there: in a file whose columns have slipped, that may be a
secret.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import click
import orjson

from bitmesh_proxy.auth.secrets import CONSUMER_KEY
from bitmesh_proxy.cli.key_limits import COUNT, MODEL, check_expiry
from bitmesh_proxy.cli.moments import AHEAD, BUDGET
from bitmesh_proxy.cli.options import NAME
from bitmesh_proxy.discreet import Discreet

LEAST_SECRET_CHARACTERS: Final = 8
MOST_SECRET_CHARACTERS: Final = 512
_DELIMITERS: Final = ",;\t"
_BLANKS: Final = re.compile(r"\s+")


class ForeignKey(Discreet, frozen=True, kw_only=True):
    """A key that is to be taken over. ``place``: its line. ``account`` is an id or a name. ``limits`` are fields of
    ``KeySpec``."""

    unshown: ClassVar[frozenset[str]] = frozenset({"consumer_secret"})

    place: str
    consumer_key: str
    consumer_secret: str
    account: str | None = None
    limits: Mapping[str, Any]


class Faults(Exception):
    """Sentences about keys and their lines."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


def fault_at(place: str, fault: str) -> str:
    """The sentence about a fault."""
    return f"{place}: {fault}" if place else fault


class _Field(NamedTuple):
    """``spec_field``: of KeySpec. ``expected`` goes on from "want"."""

    spec_field: str
    convert: Callable[[Any], Any]
    expected: str


def _typed(kind: click.ParamType) -> Callable[[Any], Any]:  # type: ignore[type-arg]  # generic since click 8.5 only
    # Of text: some types take other values for what they themselves have made.
    return lambda value: kind.convert(_text(value), None, None)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("no text")
    return str(value)


def _models(value: Any) -> tuple[str, ...]:
    names = _BLANKS.split(value.strip()) if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("no names")
    return tuple(MODEL.convert(name, None, None) for name in names)


def _moment(value: Any) -> float:
    expires_at_s: float = AHEAD.convert(_text(value), None, None)
    check_expiry(expires_at_s)
    return expires_at_s


_FIELDS: Final[Mapping[str, _Field]] = {
    "name": _Field("name", _typed(NAME), "a name of at most 200 characters"),
    "bound_model": _Field("bound_model", _typed(MODEL), "the name of a model"),
    "allowed_models": _Field("allowed_models", _models, "names of models (in CSV with blanks between them)"),
    "rate_per_minute": _Field("rate_per_minute", _typed(COUNT), "a whole number, 0 for no limit"),
    "max_concurrent": _Field("max_concurrent", _typed(COUNT), "a whole number, 0 for no limit"),
    "budget_day": _Field("budget_day_nano_usd", _typed(BUDGET), "US dollars such as 1.50"),
    "budget_month": _Field("budget_month_nano_usd", _typed(BUDGET), "US dollars such as 1.50"),
    "expires": _Field("expires_at_s", _moment, "a date that is not over (2026-12-31), or 30d, 12h"),
}
_REQUIRED: Final = ("consumer_key", "consumer_secret")
_NAMES: Final = (*_REQUIRED, "account", *_FIELDS)


def read_keys(content: bytes) -> list[ForeignKey]:
    """All keys of a file. Raises Faults."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise Faults([f"line {content[: exc.start].count(10) + 1}: not UTF-8"]) from None
    rows = _json_rows(text) if text.lstrip().startswith("{") else _csv_rows(text)
    keys: list[ForeignKey] = []
    faults: list[str] = []
    places: dict[str, str] = {}
    for line, row in rows:
        place = f"line {line}"
        if isinstance(row, str):
            faults.append(fault_at(place, row))
            continue
        try:
            key = foreign_key(row, place=place)
        except Faults as exc:
            faults += exc.sentences
            continue
        first = places.setdefault(key.consumer_key, place)
        if first != place:
            faults.append(fault_at(place, f"the consumer key {key.consumer_key} stands on {first} already"))
        keys.append(key)
    if not keys and not faults:
        faults.append("there are no keys in it")
    if faults:
        raise Faults(faults)
    return keys


def foreign_key(row: Mapping[str, Any], *, place: str = "") -> ForeignKey:
    """The key of one row; None says nothing. Raises Faults."""
    faults = [f"'{name}' is no field of a key, want {', '.join(_NAMES)}" for name in row if name not in _NAMES]
    said = {name: value for name, value in row.items() if value is not None}
    faults += [f"{name} is missing" for name in _REQUIRED if name not in said]
    consumer_key, secret, account = (said.get(name) for name in (*_REQUIRED, "account"))
    if consumer_key is not None and not (isinstance(consumer_key, str) and CONSUMER_KEY.fullmatch(consumer_key)):
        faults.append("consumer_key: want at most 128 letters, digits, dots, dashes and underscores")
    if secret is not None and (why := _why_no_secret(secret)):
        faults.append(f"consumer_secret: {why}")
    if account is not None and not isinstance(account, str):
        faults.append("account: want an id or a name")
    limits: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        if name in said:
            try:
                limits[field.spec_field] = field.convert(said[name])
            except (click.BadParameter, ValueError):
                faults.append(f"{name}: want {field.expected}")
    if faults:
        raise Faults([fault_at(place, fault) for fault in faults])
    assert isinstance(consumer_key, str)
    assert isinstance(secret, str)
    return ForeignKey(place=place, consumer_key=consumer_key, consumer_secret=secret, account=account, limits=limits)


def _why_no_secret(secret: object) -> str | None:
    if not isinstance(secret, str):
        return "want a text"
    if not LEAST_SECRET_CHARACTERS <= len(secret) <= MOST_SECRET_CHARACTERS:
        return f"want {LEAST_SECRET_CHARACTERS} to {MOST_SECRET_CHARACTERS} characters"
    if secret != secret.strip() or not secret.isprintable():
        return "want no blanks at its ends, and nothing that cannot be printed"
    return None


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    for line, said in enumerate(text.split("\n"), start=1):
        if said.strip():
            try:
                row = orjson.loads(said)
            except orjson.JSONDecodeError:
                row = None
            yield line, row if isinstance(row, dict) else "want one JSON object a line"


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Empty cells say nothing. The line of a row is its last."""
    head_line = text.lstrip().partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    head: list[str] = []
    try:
        for cells in reader:
            row = [cell.strip() for cell in cells]
            if not any(row):
                continue
            if not head:
                head = row
                if (why := _why_no_head(head)) is not None:
                    yield reader.line_num, why
                    return
            elif len(row) != len(head):
                yield reader.line_num, f"want {len(head)} cells, as many as the first line has, not {len(row)}"
            else:
                yield reader.line_num, {name: cell for name, cell in zip(head, row, strict=True) if cell}
    except csv.Error:
        yield reader.line_num, "a cell does not end as it should: want quotation marks around it, and doubled in it"


def _why_no_head(head: Sequence[str]) -> str | None:
    unknown = [str(place) for place, name in enumerate(head, start=1) if name not in _NAMES]
    if not unknown and len(set(head)) == len(head) and set(_REQUIRED) <= set(head):
        return None
    known = f"want names of columns, each once: {', '.join(_REQUIRED)}, and any of {', '.join(_NAMES[2:])}"
    return known + (f" (of column {', '.join(unknown)} there is none such)" if unknown else "")
