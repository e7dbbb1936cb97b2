"""The bytes decide what they are called; nothing that a browser would run gets through."""

from __future__ import annotations

import io
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bitmesh_proxy.media.sniff import EXTENSIONS, SNIFF_BYTES, served_type, sniff


def _picture(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(buffer, name)
    return buffer.getvalue()


def _sound() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(bytes(160))
    return buffer.getvalue()


def _ftyp(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return (len(body) + 4).to_bytes(4, "big") + body + b"\0\0\0\x08free"


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_made_by_a_real_encoder(name: str) -> None:
    assert sniff(_picture(name)[:SNIFF_BYTES]) == f"image/{name.lower()}"


def test_a_sound_made_by_a_real_encoder() -> None:
    assert sniff(_sound()) == "audio/wav"


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (_ftyp(b"isom", b"isom", b"iso2", b"avc1", b"mp41"), "video/mp4"),
        (_ftyp(b"mp42"), "video/mp4"),
        (_ftyp(b"qt  ", b"qt  "), "video/quicktime"),
        (b"\0\0\x10\0moov\0\0\0\x6cmvhd", "video/quicktime"),
        (_ftyp(b"M4A ", b"isom"), "audio/mp4"),
        (_ftyp(b"avif", b"mif1", b"miaf"), "image/avif"),
        (_ftyp(b"mif1", b"avif"), "image/avif"),
        (_ftyp(b"mif1", b"heic"), "image/heic"),
        (_ftyp(b"heic", b"mif1"), "image/heic"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm", "video/webm"),
        (b"\x1aE\xdf\xa3\xa3B\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x88matroska", "video/x-matroska"),
        (b"ID3\x04\0\0\0\0\0\0", "audio/mpeg"),
        (b"\xff\xfb\x90\x64" + bytes(20), "audio/mpeg"),
        (b"\xff\xf3\x44\xc4" + bytes(20), "audio/mpeg"),
        (b"\xff\xf1\x50\x80" + bytes(20), "audio/aac"),
        (b"fLaC\0\0\0\x22", "audio/flac"),
        (b"OggS\0\x02" + bytes(20), "audio/ogg"),
        (b"%PDF-1.7\n", "application/pdf"),
        (b"\xff\x0a\xfa\x1f", "image/jxl"),
    ],
)
def test_other_kinds_by_their_published_first_bytes(head: bytes, media_type: str) -> None:
    assert sniff(head) == media_type


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x89PN",
        b"RIFF\0\0\0\0AVI ",
        b"RIFF",
        b"BMW is a car maker of Munich",
        b"\xff\xff\xff\xff",
        b"hello world",
    ],
)
def test_what_is_not_known(head: bytes) -> None:
    assert sniff(head) is None


MARKUP = [
    b"<!DOCTYPE html><html>",
    b"  \r\n<HTML>",
    b"\xef\xbb\xbf<html>",
    b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>',
    b"<svg onload=alert(1)>",
    b"<!-- x --><script>",
    b"<script>alert(1)</script>",
]


@pytest.mark.parametrize("head", MARKUP)
@pytest.mark.parametrize("declared", [None, "image/png", "video/mp4", "application/octet-stream"])
def test_markup_is_never_served_whatever_it_calls_itself(head: bytes, declared: str | None) -> None:
    assert served_type(head, declared, kind="image") is None


@pytest.mark.parametrize(
    "declared", ["text/html", "image/svg+xml", "text/plain", "application/json", "image/x-unheard-of"]
)
def test_unknown_bytes_of_an_unknown_type_are_not_served(declared: str) -> None:
    assert served_type(b"\x01\x02\x03\x04", declared, kind="image") is None


def test_the_bytes_win_over_the_header() -> None:
    assert served_type(_picture("JPEG"), "image/png", kind="image") == "image/jpeg"
    assert served_type(_picture("PNG"), None, kind="video") == "image/png"


@pytest.mark.parametrize(
    ("declared", "served"),
    [
        ("image/jpg", "image/jpeg"),
        ("audio/x-wav", "audio/wav"),
        ("audio/mp3", "audio/mpeg"),
        ("video/mp4", "video/mp4"),
    ],
)
def test_unknown_bytes_keep_a_declared_type_that_is_harmless(declared: str, served: str) -> None:
    assert served_type(b"\x01\x02\x03\x04", declared, kind="image") == served


@pytest.mark.parametrize(("kind", "served"), [("image", "image/png"), ("video", "video/mp4")])
def test_without_any_word_it_is_what_the_api_document_says(kind: str, served: str) -> None:
    assert kind in ("image", "video")
    assert served_type(b"\x01\x02\x03\x04", None, kind="image" if kind == "image" else "video") == served


@given(st.binary(max_size=80), st.one_of(st.none(), st.text(max_size=20)))
def test_nothing_is_ever_served_but_what_is_in_the_table(head: bytes, declared: str | None) -> None:
    served = served_type(head, declared, kind="image")
    assert served is None or served in EXTENSIONS


def test_the_table_is_harmless_and_its_endings_are_distinct() -> None:
    assert len(set(EXTENSIONS.values())) == len(EXTENSIONS)
    assert not [name for name in EXTENSIONS if name.startswith("text/") or "xml" in name or "script" in name]
