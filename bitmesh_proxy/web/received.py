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
from bitmesh_proxy.web.body_room import FREE_BYTES, ROOM_KEY, Hold, parsed_bytes
from bitmesh_proxy.web.multipart import Form, read_form


class Received(msgspec.Struct, kw_only=True):
    """``raw`` for anything but a form (empty without a body), ``form`` for multipart, whose files ``close`` removes.
    ``hold``: the memory that it takes, until ``let_go``."""

    raw: bytes = b""
    form: Form | None = None
    hold: Hold = msgspec.field(default_factory=Hold)

    async def json_object(self, max_depth: int) -> dict[str, Any]:
        """The JSON object in ``raw``. Raises InvalidRequest; UnsupportedMediaType for a form; Unavailable."""
        if self.form is not None:
            raise UnsupportedMediaType("This endpoint takes application/json.")
        if len(self.raw) > FREE_BYTES:
            self.hold.take(parsed_bytes(self.raw))
        return await parse_json_object(self.raw, max_depth=max_depth)

    def hold_files(self) -> None:
        """A form's files are going to be read into memory, and to be sent on. Raises Unavailable."""
        size_bytes = 0 if self.form is None else sum(each.size_bytes for each in self.form.files)
        if size_bytes > FREE_BYTES:
            self.hold.take(2 * size_bytes)

    def let_go(self) -> None:
        """The request is over. May be called twice."""
        self.hold.release()

    async def close(self) -> None:
        """Remove what was spooled to disk. May be called twice."""
        if self.form is not None:
            await self.form.close()


async def receive(request: web.Request, http: Http) -> Received:
    """Read the body within the limits of the settings.

    Raises GatewayError for what is too large, too slow or unreadable, or finds no room.
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
        return Received(form=form, hold=Hold(request.app.get(ROOM_KEY)))
    check_json_type(request)
    return await receive_raw(request, http)


async def receive_raw(request: web.Request, http: Http) -> Received:
    """The same for a body of which only the bytes are wanted, whatever they are."""
    hold = Hold(request.app.get(ROOM_KEY))
    try:
        raw = await read_body(request, max_bytes=http.max_body_bytes, timeout_s=http.body_timeout_s, hold=hold)
    except BaseException:
        hold.release()
        raise
    return Received(raw=raw, hold=hold)
