"""Providers' JSON, read with suspicion: whatever is not there, or not of the right type, is as if it were empty."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar

import orjson

from bitmesh_proxy.dialects.provider_errors import refused_within_success
from bitmesh_proxy.errors import UpstreamBroken
from bitmesh_proxy.nesting import MAX_WRITTEN_DEPTH, parsed_is_deeper

T = TypeVar("T")

#: No sound or clip is longer (31 years). ``"1e999999"`` has eight letters, and a million digits as a whole number.
_MOST_SECONDS: Final = 10**9


def read_object(body: bytes) -> dict[str, Any]:
    """A whole answer that has to be a JSON object. Raises UpstreamBroken for anything else."""
    return _object(body, "The provider's answer is")


def read_event(data: bytes) -> dict[str, Any]:
    """The same of an event of a stream."""
    return _object(data, "The provider sent an event that is")


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise UpstreamBroken(f"{what} not JSON.") from exc
    if not isinstance(value, dict):
        raise UpstreamBroken(f"{what} not an object.")
    if parsed_is_deeper(value, data, MAX_WRITTEN_DEPTH):
        raise UpstreamBroken(f"{what} nested more than {MAX_WRITTEN_DEPTH} levels deep.")
    return value


def read_success(body: bytes, *needed: str, may_be_empty: bool = False) -> dict[str, Any]:
    """As ``read_object``, for an answer with a status of success that has to hold one of the ``needed`` members.

    ``may_be_empty``: it is enough that one is there (of silence the transcript is an empty text).
    Raises ProviderRefused when it holds an error instead, UpstreamBroken when it holds neither.
    """
    answer = read_object(body)
    if any(answer.get(name) for name in needed):
        return answer
    if answer.get("error") or answer.get("errors"):
        raise refused_within_success(answer)
    if may_be_empty and any(answer.get(name) is not None for name in needed):
        return answer
    raise UpstreamBroken(f"The provider's answer holds no {' or '.join(needed)}.")


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list; of anything else none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def those_readable(items: Iterable[dict[str, Any]], read: Callable[[dict[str, Any]], T]) -> tuple[T, ...]:
    """What ``read`` makes of each, without those that it cannot read: of several pictures one may be missing, and the
    others are made and paid. Raises UpstreamBroken where there are items and none can be read."""
    found: list[T] = []
    problem: UpstreamBroken | None = None
    for item in items:
        try:
            found.append(read(item))
        except UpstreamBroken as exc:
            problem = problem or exc
    if problem is not None and not found:
        raise problem
    return tuple(found)


def child(value: object, *path: str) -> dict[str, Any]:
    """The object at the end of a path of names; an empty one where the path breaks off."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def string(value: object) -> str:
    """A string; of anything else the empty one."""
    return value if isinstance(value, str) else ""


def link(value: object) -> str | None:
    """An absolute web address; ``None`` for anything else."""
    return value if isinstance(value, str) and value.startswith(("https://", "http://")) else None


def milliseconds(seconds: object) -> int | None:
    """A length in seconds, as a number or as a string of one; ``None`` for anything that is no length."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | str):
        return None
    try:
        length = Decimal(str(seconds))
    except (InvalidOperation, ValueError):
        return None
    return int(length * 1000) if length.is_finite() and 0 <= length <= _MOST_SECONDS else None


def from_base64(value: str) -> bytes:
    """Bytes that came as base64, or as a data URI of it. Raises UpstreamBroken when they are neither."""
    if value.startswith("data:"):
        head, _, value = value.partition(",")
        if not head.endswith(";base64"):
            raise UpstreamBroken("The provider sent a data URI that is not base64.")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as exc:  # letters beyond ASCII
        raise UpstreamBroken("The provider sent something that is not base64.") from exc
