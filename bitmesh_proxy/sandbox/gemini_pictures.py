"""Sizes of Google's pictures and clips: an aspect ratio and a class of resolution.

Source: the tables in the documentation of the Gemini API's image models, Imagen and Veo, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitmesh_proxy.sandbox.plays import Refused

Size = tuple[int, int]

#: Gemini 2.5 Flash Image, which knows one class of resolution.
FLASH_SIZES: Mapping[str, Size] = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}
#: Gemini 3 in the class 1K; the other classes are multiples.
PRO_SIZES: Mapping[str, Size] = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
}
#: Gemini 3.1 Flash Image has very long ones too.
LONG_SIZES: Mapping[str, Size] = {"1:4": (512, 2064), "4:1": (2064, 512), "1:8": (352, 2928), "8:1": (2928, 352)}
IMAGEN_SIZES: Mapping[str, Size] = {
    "1:1": (1024, 1024),
    "3:4": (896, 1280),
    "4:3": (1280, 896),
    "9:16": (768, 1408),
    "16:9": (1408, 768),
}
SCALES: Mapping[str, float] = {"512": 0.5, "1K": 1.0, "2K": 2.0, "4K": 4.0}
#: Output tokens of a picture: of the older model, and of the newer ones by class.
FLASH_TOKENS = 1290
TOKENS: Mapping[str, int] = {"512": 747, "1K": 1120, "2K": 1680, "4K": 2520}
CLIP_LINES: Mapping[str, int] = {"720p": 720, "1080p": 1080, "4k": 2160}


def picture_size(model: str, ratio: str, resolution: str | None) -> Size:
    """Width and height of a Gemini image model's picture. Raises Refused (400) for what the model does not make."""
    is_old = model.startswith("gemini-2")
    is_31_flash = model.startswith("gemini-3.1-flash-image")
    sizes = FLASH_SIZES if is_old else {**PRO_SIZES, **LONG_SIZES} if is_31_flash else PRO_SIZES
    if ratio not in sizes:
        known = ", ".join(f"'{name}'" for name in sizes)
        raise Refused(400, f"aspect_ratio must be one of {known}.", param="generation_config.image_config.aspect_ratio")
    classes = ("1K",) if is_old or "lite" in model else ("512", "1K", "2K", "4K") if is_31_flash else ("1K", "2K", "4K")
    if resolution is not None and (is_old or resolution not in classes):
        message = f"image_size {resolution} is not supported by this model."
        raise Refused(400, message, param="generation_config.image_config.image_size")
    width, height = sizes[ratio]
    scale = SCALES[resolution or "1K"]
    return round(width * scale), round(height * scale)


def nearest_ratio(model: str, size: Size) -> str:
    """The aspect ratio that comes nearest to a picture that is to be edited."""
    sizes = FLASH_SIZES if model.startswith("gemini-2") else PRO_SIZES
    shape = size[0] / size[1]
    return min(sizes, key=lambda name: abs(sizes[name][0] / sizes[name][1] / shape - 1))


def picture_tokens(model: str, resolution: str | None) -> int:
    return FLASH_TOKENS if model.startswith("gemini-2") else TOKENS[resolution or "1K"]


def clip_size(ratio: str, resolution: str) -> Size:
    """Width and height of a clip."""
    lines = CLIP_LINES[resolution]
    return (lines, lines * 16 // 9) if ratio == "9:16" else (lines * 16 // 9, lines)
