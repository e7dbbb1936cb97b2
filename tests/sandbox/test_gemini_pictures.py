"""Sizes of pictures and clips."""

from __future__ import annotations

import pytest

from bitmesh_proxy.sandbox.gemini_pictures import (
    PRO_SIZES,
    clip_size,
    nearest_ratio,
    picture_size,
    picture_tokens,
)
from bitmesh_proxy.sandbox.plays import Refused


@pytest.mark.parametrize(
    ("model", "ratio", "resolution", "size"),
    [
        ("gemini-2.5-flash-image", "16:9", None, (1344, 768)),
        ("gemini-3-pro-image", "16:9", "4K", (5504, 3072)),
        ("gemini-3-pro-image", "21:9", "2K", (3168, 1344)),
        ("gemini-3.1-flash-image", "1:1", "512", (512, 512)),
        ("gemini-3.1-flash-image", "8:1", None, (2928, 352)),
    ],
)
def test_a_size(model: str, ratio: str, resolution: str | None, size: tuple[int, int]) -> None:
    assert picture_size(model, ratio, resolution) == size


@pytest.mark.parametrize(
    ("model", "ratio", "resolution"),
    [
        ("gemini-2.5-flash-image", "8:1", None),
        ("gemini-2.5-flash-image", "1:1", "1K"),
        ("gemini-3-pro-image", "1:1", "512"),
        ("gemini-3.1-flash-lite-image", "1:1", "2K"),
        ("gemini-3-pro-image", "7:5", "1K"),
    ],
)
def test_a_size_that_the_model_does_not_make_is_refused(model: str, ratio: str, resolution: str | None) -> None:
    with pytest.raises(Refused):
        picture_size(model, ratio, resolution)


def test_an_edited_picture_keeps_its_shape() -> None:
    for name, size in PRO_SIZES.items():
        assert nearest_ratio("gemini-3-pro-image", size) == name
    assert picture_tokens("gemini-2.5-flash-image", None) == 1290
    assert picture_tokens("gemini-3-pro-image", "4K") > picture_tokens("gemini-3-pro-image", None)


def test_clips_lie_or_stand() -> None:
    assert [clip_size("16:9", name) for name in ("720p", "1080p", "4k")] == [(1280, 720), (1920, 1080), (3840, 2160)]
    assert clip_size("9:16", "720p") == (720, 1280)
