"""The body of ``POST /v1/responses``: JSON, or a form as the JSON that it stands for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.http_exceptions import HttpProcessingError

from bitmesh_proxy import keys
from bitmesh_proxy.context import Surface
from bitmesh_proxy.endpoints.responses.form_body import FormFile, body_of_form
from bitmesh_proxy.endpoints.responses.request import Vocabulary, vocabulary_of, vocabulary_of_start
from bitmesh_proxy.errors import InvalidRequest
from bitmesh_proxy.media.sniff import SNIFF_BYTES, sniff
from bitmesh_proxy.settings import Uploads
from bitmesh_proxy.web.bodies import check_encoding
from bitmesh_proxy.web.call_bodies import read_files
from bitmesh_proxy.web.multipart import Form
from bitmesh_proxy.web.received import receive, receive_raw

URL_ENCODED = "application/x-www-form-urlencoded"
MAX_FORM_FIELDS = 200
THREAD_BYTES = 256 * 1024
#: So much of a body is looked at, for so long, where a request is refused before its body is read.
START_BYTES = 64 * 1024
START_TIMEOUT_S = 1.0


async def read_request_body(request: web.Request) -> dict[str, Any]:
    """The body as an object. Raises UnsupportedMediaType, InvalidRequest, BodyTooLarge and their kin."""
    state, settings = request[keys.STATE], request.app[keys.SETTINGS]
    if state.received is None:
        if request.content_type == URL_ENCODED:
            check_encoding(request)
            state.received = await receive_raw(request, settings.http)
        else:
            state.received = await receive(request, settings.http)
    received = state.received
    if received.form is not None:
        received.hold_files()
        try:
            return await _of_form(received.form, settings.uploads, max_depth=settings.http.max_json_depth)
        finally:
            await received.close()
    if request.content_type == URL_ENCODED:
        return await asyncio.to_thread(_of_pairs, received.raw, max_depth=settings.http.max_json_depth)
    return await received.json_object(settings.http.max_json_depth)


async def surface_of_unread(request: web.Request) -> Surface:
    """In whose words a request is that is refused before its body is read, by what that begins with. Never raises."""
    received = request[keys.STATE].received
    if received is None:
        vocabulary = vocabulary_of_start(await _start_of(request))
    elif received.form is not None:
        vocabulary = vocabulary_of(dict(received.form.fields))
    else:
        vocabulary = vocabulary_of_start(received.raw[:START_BYTES])
    return Surface.UNIFIED if vocabulary is Vocabulary.UNIFIED else Surface.OPEN_RESPONSES


async def _start_of(request: web.Request) -> bytes:
    """The first bytes of the body, which nobody else is going to read."""
    start = bytearray()
    with suppress(TimeoutError, ClientPayloadError, ConnectionError, HttpProcessingError):
        async with asyncio.timeout(START_TIMEOUT_S):
            while len(start) < START_BYTES and (chunk := await request.content.readany()):
                start += chunk
    return bytes(start[:START_BYTES])


def _of_pairs(raw: bytes, *, max_depth: int) -> dict[str, Any]:
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS, errors="strict")
    except ValueError as exc:
        raise InvalidRequest("The form cannot be read.") from exc
    return body_of_form(pairs, max_depth=max_depth)


async def _of_form(form: Form, limits: Uploads, *, max_depth: int) -> dict[str, Any]:
    max_bytes = max(limits.max_image_bytes, limits.max_audio_bytes)
    files = [
        FormFile(name=file.name, filename=file.filename, data=data, media_type=sniff(data[:SNIFF_BYTES]))
        for file, data in await read_files(form, limits, max_bytes=max_bytes)
    ]
    if sum(len(file.data) for file in files) > THREAD_BYTES:
        return await asyncio.to_thread(body_of_form, form.fields, files, max_depth=max_depth)
    return body_of_form(form.fields, files, max_depth=max_depth)
