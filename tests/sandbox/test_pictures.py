"""Pictures are real files of the size asked for."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image

from bitmesh_proxy.sandbox.pictures import INSET_SIDE, Picture, PictureFormat, make_thumbnail, picture_size

FOX = Picture(prompt="a red fox", width=96, height=64, seed=7)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("form", "name", "media_type"),
    [("png", "PNG", "image/png"), ("jpeg", "JPEG", "image/jpeg"), ("webp", "WEBP", "image/webp")],
)
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (96, 64)])
def test_a_real_file_of_any_size(form: PictureFormat, name: str, media_type: str, size: tuple[int, int]) -> None:
    recipe = replace(FOX, width=size[0], height=size[1], format=form)
    image = opened(recipe.render())
    assert (image.format, image.size) == (name, size)
    assert recipe.media_type == media_type == Image.MIME[name]


def test_the_same_recipe_gives_the_same_bytes() -> None:
    assert FOX.render() == replace(FOX).render()
    assert len({FOX.render(), replace(FOX, seed=8).render(), replace(FOX, prompt="a red box").render()}) == 3


def test_the_file_says_where_it_is_from() -> None:
    assert opened(FOX.render()).info["Software"] == "bitmesh-proxy sandbox"
    assert opened(replace(FOX, format="jpeg").render()).info["comment"] == b"bitmesh-proxy sandbox"


def test_the_mark_is_drawn_across_the_middle() -> None:
    """The same picture twice, once with text all over the caption: the mark's letters brighten the middle in both."""
    wide = replace(FOX, width=400, height=200, prompt="")
    image = opened(wide.render()).convert("L")
    rows = [sum(image.crop((0, y, 400, y + 1)).tobytes()) for y in (40, 100, 160)]
    assert rows[1] > rows[0]
    assert rows[1] > rows[2]


def test_a_long_prompt_and_any_script_are_drawn() -> None:
    for prompt in ("word " * 2000, "日本語のプロンプト", "x" * 5000, "\n\t\0"):
        assert opened(replace(FOX, prompt=prompt).render()).size == (96, 64)


def test_a_clear_background_is_clear_at_the_corners_only() -> None:
    image = opened(replace(FOX, is_transparent=True).render())
    alpha = image.getchannel("A")
    assert max(alpha.crop((0, 0, 2, 2)).tobytes()) < 16
    assert min(alpha.crop((47, 31, 49, 33)).tobytes()) > 240
    assert opened(replace(FOX, is_transparent=True, format="jpeg").render()).mode == "RGB"


def test_a_partial_picture_is_blurred() -> None:
    def contrast(recipe: Picture) -> int:
        band = opened(recipe.render()).convert("L").crop((0, 70, 200, 100)).tobytes()
        return max(band) - min(band)

    sharp = replace(FOX, width=200, height=200)
    assert contrast(replace(sharp, detail=0.1)) < contrast(sharp)


def test_an_edit_shows_its_source() -> None:
    red = io.BytesIO()
    Image.new("RGB", (40, 40), (255, 0, 0)).save(red, "PNG")
    image = opened(replace(FOX, prompt="", width=200, height=100, source=make_thumbnail(red.getvalue())).render())
    pixel = image.getpixel((84, 34))  # inside the inset, off the mark's letters
    assert isinstance(pixel, tuple)
    assert pixel[0] > 200
    assert max(pixel[1:]) < 120


def test_a_thumbnail_is_small() -> None:
    big = replace(FOX, width=2 * INSET_SIDE, height=INSET_SIDE).render()
    assert opened(make_thumbnail(big)).size == (INSET_SIDE, INSET_SIDE // 2)
    assert picture_size(big) == (2 * INSET_SIDE, INSET_SIDE)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", FOX.render()[:100]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a picture"):
        make_thumbnail(data)
