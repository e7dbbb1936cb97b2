"""Pictures that a caller sends along: as a file of a form or as a data URI. Web addresses are never fetched."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from typing import TypeVar

from bitmesh_proxy.sandbox.pictures import make_thumbnail, picture_size
from bitmesh_proxy.sandbox.plays import Refused

Seen = TypeVar("Seen")

DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.-]+)*;base64,", re.ASCII)


async def read_thumbnail(source: str | bytes, *, param: str) -> bytes | None:
    """A small PNG of the picture, or None for one behind a web address. Raises Refused (400) for what is no picture."""
    return await _look(source, make_thumbnail, param)


async def read_size(source: str | bytes, *, param: str) -> tuple[int, int] | None:
    """Width and height, or None behind a web address. Raises Refused (400) for what is no picture."""
    return await _look(source, picture_size, param)


async def _look(source: str | bytes, look: Callable[[bytes], Seen], param: str) -> Seen | None:
    if isinstance(source, str):
        if source.startswith(("http://", "https://")):
            return None
        source = decode_data_uri(source, param=param)
    try:
        return await asyncio.to_thread(look, source)
    except ValueError as error:
        raise Refused(400, f"Invalid image: {error}", code="invalid_image", param=param) from error


def decode_data_uri(text: str, *, param: str) -> bytes:
    """The bytes of ``data:image/png;base64,…``, or of bare base64. Raises Refused (400)."""
    match = DATA_URI.match(text)
    try:
        return base64.b64decode(text[match.end() :] if match else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, "Expected an https address or base64 data", code="invalid_image", param=param) from error
