"""Callers' media in the forms that providers want them."""

from __future__ import annotations

import base64

import pytest

from bitmesh_proxy.calls import Media
from bitmesh_proxy.dialects.media_inputs import (
    base64_of,
    bytes_of,
    file_part,
    is_remote,
    link_of,
    media_type_of,
    text_part,
)
from bitmesh_proxy.errors import InvalidRequest
from bitmesh_proxy.media.sniff import EXTENSIONS
from bitmesh_proxy.settings import Uploads

LINK = Media(kind="image", url="https://x.test/a.png")
URI = Media(kind="image", url="data:image/webp;base64,aGk=")
DATA = Media(kind="image", data=b"hi", media_type="image/jpeg", name="secret plans.jpg")


def test_links_and_bytes() -> None:
    assert [is_remote(media) for media in (LINK, URI, DATA)] == [True, False, False]
    assert [link_of(media) for media in (LINK, URI, DATA)] == [LINK.url, URI.url, "data:image/jpeg;base64,aGk="]
    assert bytes_of(URI, param="image") == bytes_of(DATA, param="image") == b"hi"
    assert base64_of(URI, param="image") == base64_of(DATA, param="image") == "aGk="


@pytest.mark.parametrize(
    "url",
    ["https://x.test/a.png", "data:image/png,hi", "data:image/png;base64,%%", "data:image/png;base64,aGäk", "data:"],
)
def test_what_has_no_bytes_names_the_field(url: str) -> None:
    for function in (bytes_of, base64_of):
        with pytest.raises(InvalidRequest) as caught:
            function(Media(kind="image", url=url), param="input_image")
        assert caught.value.param == "input_image"


def test_a_data_uri_is_one_in_capitals_too() -> None:
    shouted = Media(kind="image", url="DATA:image/webp;BASE64,aGk=")
    assert not is_remote(shouted)
    assert bytes_of(shouted, param="image") == b"hi"
    assert media_type_of(shouted) == "image/webp"


def test_a_data_uri_that_holds_no_base64_is_not_called_a_link() -> None:
    with pytest.raises(InvalidRequest, match="data URI"):
        bytes_of(Media(kind="image", url="data:image/png,hi"), param="image")


def test_types_are_sniffed_or_declared_or_usual() -> None:
    assert media_type_of(DATA) == "image/jpeg"
    assert media_type_of(URI) == "image/webp"
    assert media_type_of(LINK) == "image/png"
    assert media_type_of(Media(kind="audio", data=b"")) == "audio/mpeg"
    assert media_type_of(Media(kind="file", data=b"")) == "application/octet-stream"


def test_a_file_in_a_form_has_a_name_of_ours() -> None:
    part = file_part("image", DATA, param="image")
    assert (part.name, part.filename, part.media_type, part.value) == ("image", "image.jpg", "image/jpeg", b"hi")
    assert file_part("f", Media(kind="file", data=b"x"), param="f").filename == "file.bin"


@pytest.mark.parametrize("media_type", sorted(EXTENSIONS.keys() & {*Uploads().image_types, *Uploads().audio_types}))
def test_a_file_of_a_type_that_is_taken_is_named_after_it(media_type: str) -> None:
    part = file_part("file", Media(kind="audio", data=b"x", media_type=media_type), param="file")
    assert part.filename == f"audio.{EXTENSIONS[media_type]}"


def test_plain_fields_are_written_as_json_has_them() -> None:
    assert [text_part("x", value).value for value in (True, False, 3, 0.5, "é", {"a": [1]}, [None])] == [
        b"true",
        b"false",
        b"3",
        b"0.5",
        "é".encode(),
        b'{"a":[1]}',
        b"[null]",
    ]


@pytest.mark.parametrize("size_bytes", [0, 1, 2, 3, 786_431, 786_432, 786_433, 2_000_000])
def test_large_pictures_are_decoded_whole(size_bytes: int) -> None:
    """A slice of text is 786,432 bytes of a picture."""
    data = bytes(range(256)) * (size_bytes // 256 + 1)
    uri = "data:image/png;base64," + base64.b64encode(data[:size_bytes]).decode()
    assert bytes_of(Media(kind="image", url=uri), param="image") == data[:size_bytes]


def test_padding_in_the_middle_is_no_base64() -> None:
    payload = "A" * (1024 * 1024 - 4) + "AA==" + "AAAA"
    with pytest.raises(InvalidRequest):
        bytes_of(Media(kind="image", url="data:image/png;base64," + payload), param="image")
