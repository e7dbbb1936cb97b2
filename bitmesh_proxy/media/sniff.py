"""What bytes are, by their first few, and which Content-Type they are served with. Pure.

The bytes decide, not the provider's header: an object store often says ``binary/octet-stream``, and a header may lie.
Only types in ``EXTENSIONS`` are ever served. Whatever a browser would run (HTML, XML, SVG, scripts) is not among them,
whether it was declared or found.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

#: As many first bytes as ``sniff`` makes use of.
SNIFF_BYTES = 512

#: Every type that is served, with the ending of its file.
EXTENSIONS: Mapping[str, str] = MappingProxyType(
    {
        "image/png": "png",
        "image/jpeg": "jpg",
        "image/webp": "webp",
        "image/gif": "gif",
        "image/avif": "avif",
        "image/bmp": "bmp",
        "image/heic": "heic",
        "image/tiff": "tiff",
        "image/jxl": "jxl",
        "video/mp4": "mp4",
        "video/quicktime": "mov",
        "video/webm": "webm",
        "video/x-matroska": "mkv",
        "audio/wav": "wav",
        "audio/mpeg": "mp3",
        "audio/flac": "flac",
        "audio/ogg": "ogg",
        "audio/mp4": "m4a",
        "audio/aac": "aac",
        "application/pdf": "pdf",
        "application/octet-stream": "bin",
    }
)
#: Other names that are met for the same types.
_SYNONYMS = MappingProxyType(
    {
        "image/jpg": "image/jpeg",
        "image/x-png": "image/png",
        "image/x-ms-bmp": "image/bmp",
        "image/heif": "image/heic",
        "video/x-m4v": "video/mp4",
        "audio/x-wav": "audio/wav",
        "audio/wave": "audio/wav",
        "audio/vnd.wave": "audio/wav",
        "audio/mp3": "audio/mpeg",
        "audio/x-flac": "audio/flac",
        "audio/opus": "audio/ogg",
        "audio/x-m4a": "audio/mp4",
        "audio/m4a": "audio/mp4",
        "audio/aacp": "audio/aac",
    }
)
_PREFIXES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\xff\x0a", "image/jxl"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"%PDF-", "application/pdf"),
)
_RIFF_FORMS = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heic",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<svg", b"<?xml", b"<!--")
#: What a body is called when neither it nor its header says anything. The API document promises image/png.
_DEFAULTS: Mapping[str, str] = {"image": "image/png", "video": "video/mp4", "audio": "audio/mpeg"}


def sniff(head: bytes) -> str | None:
    """The type of a file that begins with ``head`` (up to SNIFF_BYTES of it), or None if it is none that we know."""
    for prefix, media_type in _PREFIXES:
        if head.startswith(prefix):
            return media_type
    if head.startswith(b"RIFF"):
        return _RIFF_FORMS.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _sniff_brands(head)
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free") and len(head) >= 12:
        return "video/quicktime"  # from before files began with their brand
    if head.startswith(b"BM") and len(head) >= 26 and head[6:10] == bytes(4):
        return "image/bmp"
    return _sniff_mpeg_audio(head)


def served_type(head: bytes, declared: str | None, *, kind: Literal["image", "video", "audio"]) -> str | None:
    """The Content-Type under which a body that begins with ``head`` is served; None if it may not be served at all.

    ``declared`` is the provider's word (lower case, without parameters). ``kind`` is what was expected; it only decides
    where neither bytes nor header do.
    """
    found = sniff(head)
    if found is not None:
        return found
    if is_markup(head):
        return None
    if declared is None:
        return _DEFAULTS[kind]
    declared = _SYNONYMS.get(declared, declared)
    return declared if declared in EXTENSIONS else None


def is_markup(head: bytes) -> bool:
    """Does it begin like HTML, XML or SVG?"""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:16].lower()
    return start.startswith(_MARKUP)


def _sniff_brands(head: bytes) -> str | None:
    """ISO base media files: the major brand decides, then the compatible ones, else it is an MP4."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
    if brands[0] in _BRANDS:
        # mif1 says "some picture in a HEIF container"; what it is coded with stands further on.
        return "image/avif" if brands[0] == b"mif1" and b"avif" in brands else _BRANDS[brands[0]]
    return "image/avif" if b"avif" in brands else "video/mp4"


def _sniff_mpeg_audio(head: bytes) -> str | None:
    """A bare MPEG audio frame: eleven bits of sync, then fields of which some values are forbidden."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:  # ADTS: the layer bits are always 0
        return "audio/aac" if head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13 else None
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return "audio/mpeg" if version != 1 and bitrate not in (0, 15) and rate != 3 else None
