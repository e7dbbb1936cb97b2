"""Reading what a request brings: JSON or multipart, within the size that the options allow."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from aiohttp.multipart import BodyPartReader

from bitmesh_proxy.sandbox.plays import Refused, Upload

#: Larger JSON is parsed in a thread.
THREAD_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """``json`` is any JSON value, or None for a form. ``texts`` and ``files`` are a form's parts, ``[]`` cut off."""

    json: Any = None
    is_form: bool = False
    texts: Mapping[str, list[str]] = field(default_factory=dict)
    files: Mapping[str, tuple[Upload, ...]] = field(default_factory=dict)
    size_bytes: int = 0

    def summary(self) -> Any:
        """For the record: JSON as it is, a form with its files described."""
        if not self.is_form:
            return self.json
        parts: dict[str, Any] = {name: values if len(values) > 1 else values[0] for name, values in self.texts.items()}
        for name, uploads in self.files.items():
            parts[name] = [
                {"filename": upload.name, "content_type": upload.media_type, "size": len(upload.data)}
                for upload in uploads
            ]
        return parts


async def read_body(request: web.Request, *, max_bytes: int, is_list: bool = False) -> Body:
    """Raises Refused: 400 for what does not parse, 413 for what is too large, 415 for another type.

    ``is_list``: the JSON is to be an array instead of an object.
    """
    if request.content_type == "multipart/form-data":
        return await _read_form(request, max_bytes)
    if request.content_type not in ("application/json", "application/octet-stream"):
        raise Refused(415, f"Unsupported content type: {request.content_type}", code="unsupported_content_type")
    try:
        data = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Refused(413, f"The body is larger than {max_bytes} bytes", code="request_too_large") from error
    try:
        parsed = await asyncio.to_thread(orjson.loads, data) if len(data) > THREAD_BYTES else orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"We could not parse the JSON body of your request: {error}", code="invalid_json") from error
    if not isinstance(parsed, list if is_list else dict):
        raise Refused(400, f"The JSON body must be an {'array' if is_list else 'object'}", code="invalid_json")
    return Body(json=parsed, size_bytes=len(data))


async def _read_form(request: web.Request, max_bytes: int) -> Body:
    texts: defaultdict[str, list[str]] = defaultdict(list)
    files: defaultdict[str, list[Upload]] = defaultdict(list)
    size = 0
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise Refused(400, "A part of the form has no name", code="invalid_form")
            data = bytearray()
            while piece := await part.read_chunk(64 * 1024):
                data += piece
                size += len(piece)
                if size > max_bytes:
                    raise Refused(413, f"The body is larger than {max_bytes} bytes", code="request_too_large")
            name = part.name.removesuffix("[]")
            if part.filename is None:
                texts[name].append(data.decode("utf-8"))
            else:
                media_type = part.headers.get("Content-Type", "application/octet-stream")
                files[name].append(Upload(name=part.filename, media_type=media_type, data=bytes(data)))
    except (ValueError, AssertionError) as error:  # UnicodeDecodeError is a ValueError; no boundary is an assertion
        raise Refused(400, f"We could not parse the form: {error}", code="invalid_form") from error
    return Body(
        is_form=True,
        texts=dict(texts),
        files={name: tuple(uploads) for name, uploads in files.items()},
        size_bytes=size,
    )
