"""Result files over HTTP: Content-Length, ETag, HEAD and single byte ranges (RFC 9110, section 14), as a CDN serves
them.

``huge`` pads a file behind its end with zeros (inside a ``free`` box for MP4), which decoders skip; the padding is
never held in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from aiohttp import web

from bitmesh_proxy.sandbox.plays import Ask, Refused
from bitmesh_proxy.sandbox.replies import MAX_PIECE_BYTES, Wire, cut
from bitmesh_proxy.sandbox.studio import Recipe

RANGE = re.compile(r"bytes=(\d*)-(\d*)")
ZEROS = bytes(MAX_PIECE_BYTES)
WIDE_BOX_BYTES = 16
#: An answer with the file inside (base64) is built in memory.
MAX_WHOLE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """Bytes, and zeros behind them."""

    head: bytes
    zeros: int = 0

    @property
    def size(self) -> int:
        return len(self.head) + self.zeros

    def whole(self) -> bytes:
        """All of it in memory. Raises Refused (400) for more than MAX_WHOLE_BYTES."""
        if self.size > MAX_WHOLE_BYTES:
            raise Refused(400, f"the sandbox holds at most {MAX_WHOLE_BYTES} bytes in an answer", code="too_huge")
        return self.head + bytes(self.zeros)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from ``start`` to before ``end``."""
        if start < len(self.head):
            yield from cut(self.head[start:end])
        left = end - max(start, len(self.head))
        while left > 0:
            yield ZEROS[: min(left, MAX_PIECE_BYTES)]
            left -= MAX_PIECE_BYTES


def pad(data: bytes, media_type: str, size: int | None) -> Padded:
    """The file as ``size`` bytes, or as it is when that is not larger."""
    missing = (size or 0) - len(data)
    if missing <= 0:
        return Padded(head=data)
    if media_type == "video/mp4" and missing >= WIDE_BOX_BYTES:
        box = (1).to_bytes(4) + b"free" + missing.to_bytes(8)
        return Padded(head=data + box, zeros=missing - len(box))
    return Padded(head=data, zeros=missing)


async def serve_shelved(ask: Ask) -> web.StreamResponse:
    """``…/files/{id}.{extension}``: 404 for what is not there, and 403 after its time, as object stores answer it."""
    found = ask.stage.shelf.find(ask.request.match_info["id"])
    if found is None or ask.request.match_info["extension"] != found.recipe.extension:
        return web.Response(status=404, text="Not Found")
    if ask.stage.clock() >= found.expires_at:
        expired = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
        return web.Response(status=403, text=expired, content_type="application/xml")
    return await send_recipe(ask, found.recipe, size=found.huge)


async def send_recipe(ask: Ask, recipe: Recipe, *, size: int | None = None) -> web.StreamResponse:
    """The file that a recipe makes, whole or the range asked for. ``size`` is what ``huge`` said when it was made."""
    data = await ask.stage.studio.render(recipe)
    content = pad(data, recipe.media_type, size)
    tag = f'"{sha256(data).hexdigest()[:32]}"'
    headers = {"Content-Type": recipe.media_type, "Accept-Ranges": "bytes", "ETag": tag}
    start, end, status = 0, content.size, 200
    if (asked := ask.request.headers.get("Range")) is not None and _range_applies(ask.request, tag):
        try:
            found = find_range(asked, content.size)
        except RangeNotSatisfiable:
            headers["Content-Range"] = f"bytes */{content.size}"
            return web.Response(status=416, headers=headers)
        if found is not None:
            start, end = found
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size}"
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = end - start
    await response.prepare(ask.request)
    if ask.request.method == "HEAD":
        return response
    wire = Wire(ask.request, response, ask.directives)
    for piece in content.pieces(start, end):
        await wire.send(piece)
    return await wire.end()


def _range_applies(request: web.Request, tag: str) -> bool:
    return request.headers.get("If-Range", tag) == tag


class RangeNotSatisfiable(Exception):
    """The range begins behind the end."""


def find_range(asked: str, size: int) -> tuple[int, int] | None:
    """``bytes=2-5`` → (2, 6), first and behind the last. None for what is not one byte range: the whole is sent.

    Raises RangeNotSatisfiable.
    """
    match = RANGE.fullmatch(asked.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    elif last and int(last) < int(first):
        return None
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= size:
        raise RangeNotSatisfiable
    return start, end
