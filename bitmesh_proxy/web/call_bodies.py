"""The body of a call as its endpoint reads it: JSON, or a form as the JSON object that it stands for.

A form's files are read into memory here, because providers want them whole; what is too large is refused before that.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.calls import JsonObject, Media
from bitmesh_proxy.endpoints.openai_fields import Fields, body_of_form
from bitmesh_proxy.errors import BodyTooLarge, InvalidRequest
from bitmesh_proxy.settings import Uploads
from bitmesh_proxy.web.multipart import Form, UploadedFile
from bitmesh_proxy.web.received import Received, receive

FileKind = Literal["image", "audio"]
#: How much of a name that a caller has made up an error says.
MAX_PARAM_CHARACTERS = 64


async def received_of(request: web.Request) -> Received:
    """The request's body, read by authentication or now. The authentication middleware closes it."""
    state = request[keys.STATE]
    if state.received is None:
        state.received = await receive(request, request.app[keys.SETTINGS].http)
    return state.received


async def read_call_body(
    request: web.Request, *, fields: Fields | None = None, files: FileKind = "image"
) -> JsonObject:
    """The body as an object. Without ``fields`` a form is refused.

    ``files`` is what files of a form are taken for. Raises UnsupportedMediaType, InvalidRequest, BodyTooLarge.
    """
    received = await received_of(request)
    settings = request.app[keys.SETTINGS]
    if received.form is None or fields is None:
        return await received.json_object(settings.http.max_json_depth)
    received.hold_files()
    return await _form_object(received.form, fields, files, settings.uploads)


async def digest_of(request: web.Request) -> bytes:
    """What makes two bodies the same, for idempotency: the raw bytes, or every part of a form (boundaries vary)."""
    received = await received_of(request)
    if received.form is None:
        return received.raw
    digest = hashlib.sha256()
    for name, value in received.form.fields:
        digest.update(f"{len(name)}:{name}{len(value)}:{value}".encode())
    for each in received.form.files:
        digest.update(f"{len(each.name)}:{each.name}{each.size_bytes}:".encode())
        async for block in each.chunks():
            digest.update(block)
    return digest.digest()


async def read_files(form: Form, limits: Uploads, *, max_bytes: int) -> list[tuple[UploadedFile, bytes]]:
    """The files of a form with what is in them, each of ``max_bytes`` at most.

    Raises InvalidRequest for too many files, or an empty one, and BodyTooLarge.
    """
    most = limits.max_images + 1  # and a mask
    if len(form.files) > most:
        message = f"Too many files: {len(form.files)}, and at most {most} are taken."
        raise InvalidRequest(message, param=_param_of(form.files[most]))
    return [(file, await _read(file, max_bytes)) for file in form.files]


async def _read(file: UploadedFile, max_bytes: int) -> bytes:
    param = _param_of(file)
    if file.size_bytes > max_bytes:
        raise BodyTooLarge(f"'{param}' has {file.size_bytes} bytes; at most {max_bytes} are taken.", param=param)
    if not file.size_bytes:
        raise InvalidRequest(f"Invalid '{param}': the file is empty.", param=param)
    return await file.read()


def _param_of(file: UploadedFile) -> str:
    return file.name.removesuffix("[]")[:MAX_PARAM_CHARACTERS]


async def _form_object(form: Form, fields: Fields, kind: FileKind, limits: Uploads) -> JsonObject:
    max_bytes = limits.max_image_bytes if kind == "image" else limits.max_audio_bytes
    files = [
        (file.name, Media(kind=kind, data=data, name=file.filename))
        for file, data in await read_files(form, limits, max_bytes=max_bytes)
    ]
    return body_of_form(form.fields, files, fields)
