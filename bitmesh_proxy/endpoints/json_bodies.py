"""The JSON object that a body is: bounded in depth and in number of values. Pure; bytes in, a dict out.

What JSON leaves open: of a name that stands twice in an object the last value counts; NaN and infinities are no JSON;
an integer beyond 64 bits becomes a float; a byte order mark in front is overlooked.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from bitmesh_proxy.counting import occur_more_often
from bitmesh_proxy.errors import InvalidRequest
from bitmesh_proxy.nesting import parsed_is_deeper

#: Commas and opening brackets, those inside strings included. Thirty megabytes of prose stay below it; a body made of
#: empty lists, which takes a hundred times its size in memory and a second to parse, does not.
MAX_VALUES: Final = 2_000_000

_BOM: Final = b"\xef\xbb\xbf"


def parse_object(raw: bytes, *, max_depth: int) -> dict[str, Any]:
    """The JSON object that ``raw`` is. Raises InvalidRequest, with the position where there is one."""
    # Fewer bytes cannot hold as many values, so that they need not be counted.
    if len(raw) > MAX_VALUES and occur_more_often(raw, (b"{", b"[", b","), MAX_VALUES):
        raise InvalidRequest(f"The request body holds more than {MAX_VALUES} values.")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        value = _load_odd(raw)
    if not isinstance(value, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    if parsed_is_deeper(value, raw, max_depth):
        raise InvalidRequest(f"The request body is nested more than {max_depth} levels deep.")
    return value


def _load_odd(raw: bytes) -> Any:
    """What stands behind a byte order mark. Raises InvalidRequest for nothing, and for what is no JSON."""
    raw = raw.removeprefix(_BOM)
    if not raw.strip():
        raise InvalidRequest("The request body is empty; a JSON object was expected.")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise _malformed(raw, exc) from None  # the exception holds the body, which must not reach a log


def _malformed(raw: bytes, exc: orjson.JSONDecodeError) -> InvalidRequest:
    try:
        raw.decode()
    except UnicodeDecodeError as bad:
        return InvalidRequest(f"The request body is not valid UTF-8: byte {bad.start}.")
    return InvalidRequest(f"The request body is not valid JSON: {exc.msg} (line {exc.lineno}, column {exc.colno}).")
