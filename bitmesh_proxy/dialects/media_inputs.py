"""Callers' pictures, clips and sounds as providers want them: a link, a data URI, or a part of a form."""

from __future__ import annotations

import base64
import binascii
from typing import Final

import orjson

from bitmesh_proxy.calls import Media
from bitmesh_proxy.dialects.base import FormPart
from bitmesh_proxy.errors import InvalidRequest

_ENDINGS: Final = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "image/heic": "heic",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "audio/aac": "aac",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/mp4": "m4a",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/webm": "webm",
    "video/webm": "webm",
}
#: A multiple of four.
_SLICE_CHARACTERS: Final = 1024 * 1024
_DEFAULT_TYPES: Final = {"image": "image/png", "video": "video/mp4", "audio": "audio/mpeg"}


def is_remote(media: Media) -> bool:
    """Is it only a link, which somebody has to fetch?"""
    return media.data is None and media.url is not None and not _is_data_uri(media.url)


def _is_data_uri(url: str) -> bool:
    """A scheme may be written in capitals too."""
    return url[:5].lower() == "data:"


def media_type_of(media: Media) -> str:
    """Its type: as sniffed, else as its data URI says, else the usual one of its kind."""
    if media.media_type:
        return media.media_type
    if media.url is not None and _is_data_uri(media.url):
        declared = media.url[5:].partition(",")[0].partition(";")[0]
        if "/" in declared:
            return declared
    return _DEFAULT_TYPES.get(media.kind, "application/octet-stream")


def link_of(media: Media) -> str:
    """A link to it: its own address or data URI, or a data URI made of its bytes."""
    if media.data is not None:
        return f"data:{media_type_of(media)};base64,{base64.b64encode(media.data).decode()}"
    assert media.url is not None, "media is a link or bytes"
    return media.url


def bytes_of(media: Media, *, param: str) -> bytes:
    """Its bytes. Raises InvalidRequest, naming ``param``, for a data URI that cannot be read or a bare link.

    A dialect that needs bytes says so (``takes_image_urls = False``); links are fetched before it is asked.
    """
    if media.data is not None:
        return media.data
    head, _, payload = (media.url or "").partition(",")
    if not _is_data_uri(head):
        raise InvalidRequest("This model takes the bytes of a picture (base64), not a link to it.", param=param)
    if not head.lower().endswith(";base64"):
        raise InvalidRequest("A data URI must hold base64: data:image/png;base64,…", param=param)
    try:
        return _decoded(payload)
    except ValueError as exc:  # binascii.Error is one; letters beyond ASCII are a plain one
        raise InvalidRequest("The data URI is not valid base64.", param=param) from exc


def _decoded(payload: str) -> bytes:
    """Base64 to bytes, a slice at a time: in a thread, a picture in one piece would keep the event loop from running
    all the same, because decoding does not let go of the interpreter. Raises ValueError."""
    pieces = []
    for start in range(0, len(payload), _SLICE_CHARACTERS):
        piece = base64.b64decode(payload[start : start + _SLICE_CHARACTERS], validate=True)
        if start + _SLICE_CHARACTERS < len(payload) and len(piece) != _SLICE_CHARACTERS // 4 * 3:
            raise binascii.Error("padding before the end")
        pieces.append(piece)
    return b"".join(pieces)


def base64_of(media: Media, *, param: str) -> str:
    """Its bytes as base64, without a data URI around them. Raises InvalidRequest as ``bytes_of`` does."""
    if media.data is None and not is_remote(media):
        bytes_of(media, param=param)  # checks it
        return (media.url or "").partition(",")[2]
    return base64.b64encode(bytes_of(media, param=param)).decode()


def file_part(name: str, media: Media, *, param: str) -> FormPart:
    """It as a file in a form. A file's own name is not passed on: it may say things about the caller."""
    media_type = media_type_of(media)
    return FormPart(
        name=name,
        value=bytes_of(media, param=param),
        filename=f"{media.kind}.{_ENDINGS.get(media_type, 'bin')}",
        media_type=media_type,
    )


def text_part(name: str, value: object) -> FormPart:
    """A plain field of a form. Booleans, lists and objects are written as JSON has them."""
    is_json = isinstance(value, bool | list | dict)
    return FormPart(name=name, value=orjson.dumps(value) if is_json else str(value).encode())
