"""``GET`` and ``HEAD /imgrslt/{id}``, public. With ``outflow.py`` all of this room that knows aiohttp's server.

- 404 ``Resource not found`` for an id that was not handed out, or whose bytes are gone; 500 ``Error fetching image``
  for everything else that stops an answer before its first byte. Both texts are the API document's.
- After the first byte a break is a broken connection, never a clean end.
- Whatever the bytes are, a browser does not run them: types from ``sniff.EXTENSIONS`` only, ``nosniff``, and a policy
  that allows nothing.
- A caller who takes nothing for ``stall_timeout_s`` is cut off.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web

from bitmesh_proxy.errors import GatewayError, NotFound
from bitmesh_proxy.media.delivery import Delivery
from bitmesh_proxy.media.fetch_errors import FetchError
from bitmesh_proxy.media.outflow import Outflow
from bitmesh_proxy.media.ranges import Part, RangeNotSatisfiable, is_unchanged, requested_part
from bitmesh_proxy.media.results import MediaResults

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SAFETY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    # The pictures are made to be shown on other people's pages.
    "Cross-Origin-Resource-Policy": "cross-origin",
}


#: ``struct linger``: linger for 0 seconds, which makes a close a reset (socket(7)).
_RESET_AT_ONCE = struct.pack("ii", 1, 0)


def make_handler(results: MediaResults, *, stall_timeout_s: float = 60.0) -> Handler:
    """The handler of ``/imgrslt/{id}``, for GET and HEAD."""

    async def imgrslt(request: web.Request) -> web.StreamResponse:
        try:
            return await answer_result(request, results, request.match_info["id"], stall_timeout_s=stall_timeout_s)
        except NotFound:
            return web.Response(status=404, text="Resource not found", headers=_SAFETY_HEADERS)
        except (FetchError, GatewayError) as exc:
            logger.warning("a result cannot be fetched: %s: %s", type(exc).__name__, exc)
            return web.Response(status=500, text="Error fetching image", headers=_SAFETY_HEADERS)

    return imgrslt


async def answer_result(
    request: web.Request, results: MediaResults, media_id: str, *, stall_timeout_s: float
) -> web.StreamResponse:
    """The bytes under an id, or the part that was asked for.

    Raises NotFound when there is no such id or its bytes are gone, FetchError and GatewayError when they cannot be had.
    """
    record = await results.lookup(media_id)
    async with results.open(record) as delivery:
        return await _answer(request, delivery, media_id=media_id, results=results, stall_timeout_s=stall_timeout_s)


async def _answer(
    request: web.Request, delivery: Delivery, *, media_id: str, results: MediaResults, stall_timeout_s: float
) -> web.StreamResponse:
    tag = _tag(media_id, delivery)
    headers = _headers(delivery, tag, keep_s=results.keep_s)
    if is_unchanged(request.headers.get("If-None-Match"), tag):
        return web.Response(status=304, headers=headers)
    part: Part | None = None
    if delivery.length_bytes is not None and request.method == "GET":
        try:
            part = requested_part(
                request.headers.get("Range"),
                request.headers.get("If-Range"),
                total_bytes=delivery.length_bytes,
                tag=tag,
            )
        except RangeNotSatisfiable:
            headers["Content-Range"] = f"bytes */{delivery.length_bytes}"
            del headers["Cache-Control"]
            return web.Response(status=416, headers=headers)
    response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
    response.content_type = delivery.media_type
    if part is not None:
        response.headers["Content-Range"] = part.content_range
        response.content_length = part.end - part.start
    else:
        response.content_length = delivery.length_bytes
    if request.method == "HEAD":
        await response.prepare(request)
    else:
        await _send(request, response, delivery, part=part, stall_timeout_s=stall_timeout_s)
    return response


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    delivery: Delivery,
    *,
    part: Part | None,
    stall_timeout_s: float,
) -> None:
    """The answer. Whatever goes wrong from here on ends in a connection that the caller sees broken."""
    out = Outflow(request, response, stall_timeout_s=stall_timeout_s)
    try:
        await out.prepare()
        with out.flowing():
            if part is None:
                await delivery.pour(out.write_now)
            else:
                await delivery.pour(out.write_now, part.start, part.end)
        await out.finish()
    except ConnectionError:
        logger.info("the caller of a result has left")
    except TimeoutError:
        logger.info("the caller of a result takes nothing any more")
        _break_off(request)
    except (FetchError, OSError) as exc:
        logger.warning("a result broke off: %s: %s", type(exc).__name__, exc)
        _break_off(request)


def _break_off(request: web.Request) -> None:
    """Reset the connection. A mere close would look like a clean end to whoever reads a body without a length."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
    transport.abort()


def _tag(media_id: str, delivery: Delivery) -> str | None:
    """A tag only where the bytes are ours: then the id and their number are theirs for ever."""
    if not delivery.is_kept or delivery.length_bytes is None:
        return None
    return f'"{media_id}-{delivery.length_bytes:x}"'


def _headers(delivery: Delivery, tag: str | None, *, keep_s: float) -> dict[str, str]:
    headers = dict(_SAFETY_HEADERS)
    headers["Accept-Ranges"] = "none" if delivery.length_bytes is None else "bytes"
    if tag is None:
        headers["Cache-Control"] = "no-cache"
    else:
        headers["ETag"] = tag
        headers["Cache-Control"] = f"public, max-age={int(max(0.0, keep_s - delivery.age_s))}, immutable"
    return headers
