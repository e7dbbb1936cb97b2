"""Pictures that a caller sends along."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from bitmesh_proxy.sandbox.inputs import decode_data_uri, read_size, read_thumbnail
from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.plays import Refused

PNG = Picture(prompt="x", width=20, height=10).render()
ENCODED = base64.b64encode(PNG).decode()


@pytest.mark.parametrize("source", [PNG, f"data:image/png;base64,{ENCODED}", f"data:;base64,{ENCODED}", ENCODED])
async def test_bytes_data_uris_and_bare_base64_are_read(source: str | bytes) -> None:
    thumbnail = await read_thumbnail(source, param="image")
    assert thumbnail is not None
    with Image.open(io.BytesIO(thumbnail)) as image:
        assert image.size == (20, 10)
    assert await read_size(source, param="image") == (20, 10)


@pytest.mark.parametrize("address", ["https://example.org/a.png", "http://example.org/a.png"])
async def test_web_addresses_are_never_fetched(address: str) -> None:
    assert await read_thumbnail(address, param="image") is None
    assert await read_size(address, param="image") is None


@pytest.mark.parametrize(
    "source", [b"", b"text", "data:image/png;base64,AAAA", "data:image/png;base64,!", "file:///etc"]
)
async def test_what_is_no_picture_is_refused(source: str | bytes) -> None:
    with pytest.raises(Refused) as refused:
        await read_thumbnail(source, param="mask")
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_image", "mask")
    with pytest.raises(Refused):
        await read_size(source, param="mask")


def test_a_data_uri_with_parameters() -> None:
    assert decode_data_uri("data:text/plain;charset=utf-8;base64,aGk=", param="x") == b"hi"
