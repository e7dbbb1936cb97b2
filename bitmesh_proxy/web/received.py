"""The body of a request, read once: by authentication if a payload signature covers it, else by the endpoint."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from bitmesh_proxy.errors import UnsupportedMediaType
from bitmesh_proxy.settings import Http
from bitmesh_proxy.web.bodies import check_encoding, check_json_type, parse_json_object, read_body
from bitmesh_proxy.web.multipart import Form, read_form


class Received(msgspec.Struct, kw_only=True):
    """``raw`` for anything but a form (empty without a body), ``form`` for multipart, whose files ``close`` removes."""

    raw: bytes = b""
    form: Form | None = None

    async def json_object(self, max_depth: int) -> dict[str, Any]:
        """The JSON object in ``raw``. Raises InvalidRequest; UnsupportedMediaType for a form."""
        if self.form is not None:
            raise UnsupportedMediaType("This endpoint takes application/json.")
        return await parse_json_object(self.raw, max_depth=max_depth)

    async def close(self) -> None:
        """Remove what was spooled to disk. May be called twice."""
        if self.form is not None:
            await self.form.close()


async def receive(request: web.Request, http: Http) -> Received:
    """Read the body within the limits of the settings.

    Raises GatewayError for what is too large, too slow or unreadable.
    """
    if request.method in ("GET", "HEAD", "DELETE") and not request.body_exists:
        return Received()
    if request.content_type == "multipart/form-data":
        check_encoding(request)
        form = await read_form(
            request,
            max_bytes=http.max_upload_bytes,
            timeout_s=http.body_timeout_s,
            spool_dir=Path(tempfile.gettempdir()),
        )
        return Received(form=form)
    check_json_type(request)
    return Received(raw=await read_body(request, max_bytes=http.max_body_bytes, timeout_s=http.body_timeout_s))
