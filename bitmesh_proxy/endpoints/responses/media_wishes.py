"""What a request to ``/v1/responses`` asks of a picture, clip or sound: how many, how large, how long, in which form.

Fields of other interfaces that say the same are understood too: ``n``, ``width`` and ``height``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, cast

import msgspec

from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.errors import InvalidRequest

MediaFormat = Literal["url", "b64_json", "b64_ephemeral"]

MAX_COUNT: Final = 100
_FORMATS: Final = ("url", "b64_json", "b64_ephemeral")
_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")

#: What is read here. Few requests have any of it.
MEDIA_FIELDS: Final = frozenset(
    ("max_items", "n", "size", "width", "height", "quality", "seconds", "response_format", "mask")
)


class MediaWishes(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks of a picture, clip or sound. ``seconds`` is a decimal string; ``size`` in pixels."""

    count: int | None = None
    size: tuple[int, int] | None = None
    quality: str | None = None
    seconds: str | None = None
    response_format: MediaFormat | None = None
    mask: str | None = None


NO_WISHES: Final = MediaWishes()


def read_media_wishes(fields: Fields) -> MediaWishes:
    """Read them. Raises InvalidRequest with ``param`` for the first field that is wrong."""
    if fields.lacks(MEDIA_FIELDS):
        return NO_WISHES
    wanted = fields.values.get("response_format")
    count = fields.integer("max_items", low=1, high=MAX_COUNT)
    return MediaWishes(
        count=fields.integer("n", low=1, high=MAX_COUNT) if count is None else count,
        size=_read_size(fields),
        quality=fields.string("quality", min_characters=1, max_characters=32),
        seconds=_read_seconds(fields),
        response_format=None
        if isinstance(wanted, Mapping)
        else cast(MediaFormat | None, fields.choice("response_format", _FORMATS)),
        mask=_read_mask(fields),
    )


def _read_mask(fields: Fields) -> str | None:
    mask = fields.string("mask")
    if mask is not None and not mask[:8].lower().startswith(("https://", "http://", "data:")):
        fields.fail("mask", "'mask' must be an http(s) URL or a data URI.")
    return mask


def _read_size(fields: Fields) -> tuple[int, int] | None:
    size = fields.string("size", max_characters=32)
    if size is None:
        return _read_sides(fields)
    if size == "auto":
        return None
    match = _SIZE.fullmatch(size)
    if match is None:
        fields.fail("size", "'size' must be WIDTHxHEIGHT in pixels, such as 1024x1024, or auto.")
    return int(match[1]), int(match[2])


def _read_sides(fields: Fields) -> tuple[int, int] | None:
    """``width`` and ``height``, as other interfaces have them: both or neither."""
    width, height = fields.integer("width", low=1, high=99_999), fields.integer("height", low=1, high=99_999)
    if width is None or height is None:
        if width is not None or height is not None:
            raise fields.missing("height" if height is None else "width")
        return None
    return width, height


def _read_seconds(fields: Fields) -> str | None:
    """A length as a number or as a string that is one; plain decimal digits, at most three behind the point."""
    value = fields.values.get("seconds")
    if value is None or value == "auto":
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 16:
            raise InvalidOperation
        seconds = Decimal(str(value))
        if not seconds.is_finite() or not 0 < seconds <= 86_400 or seconds != round(seconds, 3):
            raise InvalidOperation
    except InvalidOperation:
        raise InvalidRequest("'seconds' must be a number above 0.", param="seconds") from None
    text = f"{seconds:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
