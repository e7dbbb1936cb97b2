"""JSON bodies in: bounded in size, time, depth and number of values; everything else is refused before it costs much.

``read_body`` takes the bytes (a payload signature is made over them), ``parse_json_object`` makes an object of them.
What an object is: ``endpoints/json_bodies.py``.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.http_exceptions import HttpProcessingError

from bitmesh_proxy.endpoints.json_bodies import parse_object
from bitmesh_proxy.errors import (
    BodyTimeout,
    BodyTooLarge,
    CallerLeft,
    InvalidRequest,
    UnsupportedMediaType,
)
from bitmesh_proxy.upstream.off_loop import in_thread_if_large
from bitmesh_proxy.web.body_room import FREE_BYTES, Hold

_UTF8: Final = frozenset(("", "utf-8", "utf8", "us-ascii", "ascii"))


def check_json_type(request: web.Request) -> None:
    """Is this a body that we read as JSON? A missing content type counts as JSON. Raises UnsupportedMediaType."""
    check_encoding(request)
    declared = request.headers.get("Content-Type", "").strip()
    if not declared:
        return
    media_type = request.content_type.lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(
            "The Content-Type must be application/json, or multipart/form-data where an endpoint takes files."
        )
    if (request.charset or "").lower() not in _UTF8:
        raise UnsupportedMediaType("The body must be UTF-8.")


def check_encoding(request: web.Request) -> None:
    """A compressed body could be a bomb, and nobody sends one. Raises UnsupportedMediaType."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("The body must not be compressed (Content-Encoding).")


async def read_body(request: web.Request, *, max_bytes: int, timeout_s: float, hold: Hold | None = None) -> bytes:
    """The bytes of the body, up to ``max_bytes``, within ``timeout_s`` from now on.

    A length that is declared too large is refused before a byte is read; a body without one is counted as it comes. A
    large body takes room with ``hold`` as it comes, not as it is announced, which the caller gives back. Raises
    Unavailable where there is none.
    """
    hold = hold or Hold()
    declared = request.content_length
    if declared is not None and declared > max_bytes:
        raise too_large(max_bytes)
    if request.content.is_eof():  # it came with the head, as most do: nothing to wait for, so no clock is set
        return _at_once(request, max_bytes)
    parts: list[bytes] = []
    received = taken = 0
    try:
        async with asyncio.timeout(timeout_s):
            while chunk := await request.content.readany():
                received += len(chunk)
                if received > max_bytes:
                    raise too_large(max_bytes)
                parts.append(chunk)
                if received > FREE_BYTES:
                    hold.take(received - taken)
                    taken = received
    except TimeoutError as exc:
        raise too_slow(timeout_s) from exc
    except (ClientPayloadError, ConnectionError) as exc:
        raise CallerLeft from exc
    except HttpProcessingError as exc:
        raise InvalidRequest("The body's transfer encoding is malformed.") from exc
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _at_once(request: web.Request, max_bytes: int) -> bytes:
    """A body that is there. Raises as ``read_body``."""
    try:
        body = request.content.read_nowait()
    except (ClientPayloadError, ConnectionError) as exc:
        raise CallerLeft from exc
    except HttpProcessingError as exc:
        raise InvalidRequest("The body's transfer encoding is malformed.") from exc
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    return body


def too_large(max_bytes: int) -> BodyTooLarge:
    """The error for a body over its limit. The connection is closed: the rest of the body is not worth reading."""
    return BodyTooLarge(f"The request body is larger than {max_bytes} bytes.", headers={"Connection": "close"})


def too_slow(timeout_s: float) -> BodyTimeout:
    """The error for a body that does not come."""
    return BodyTimeout(
        f"The request body did not arrive within {timeout_s:g} seconds.", headers={"Connection": "close"}
    )


async def parse_json_object(raw: bytes, *, max_depth: int) -> dict[str, Any]:
    """The JSON object that ``raw`` is. Raises InvalidRequest, with the position where there is one.

    A large one is parsed in a thread: the loop then waits for the parser alone, not for the walk after it.
    """
    return await in_thread_if_large(partial(parse_object, max_depth=max_depth), raw)
