"""What an offer costs, in the units its provider bills by, and what a call therefore costs.

A ``Price`` is read from decimal strings at start and is all integers afterwards. A *cost* is what the provider takes
for a usage, an *estimate* the upper bound that is reserved before the call; what an account pays is decided in
``billing``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import msgspec

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.money import PER_MILLION, NanoUsd, round_half_even

#: What makers of pictures bill as one; every further one that is begun counts whole.
MEGAPIXEL = 1024 * 1024
#: Resolutions by name, as the greatest length of a picture's shorter side in pixels. ``2k`` is 2048x2048 for pictures
#: and 2560x1440 for clips.
IMAGE_RESOLUTIONS: Mapping[str, int] = {"0.5k": 512, "1k": 1024, "2k": 2048, "4k": 4096}
VIDEO_RESOLUTIONS: Mapping[str, int] = {"2k": 1440, "4k": 2160}


class Price(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Nano-dollars. ``*_per_million`` are per million tokens or characters, the others per single unit.

    ``image_tiers`` and ``second_tiers`` map ``"quality"``, ``"WxH"``, ``"quality/WxH"`` or a resolution name
    (``"1080p"``) to a price that takes the place of ``image_nano_usd`` or ``second_nano_usd``.
    ``is_reported``: the provider names the cost in its answer, and the figures here only bound the reservation.
    Where token figures stand beside figures per picture, character, second or minute (``counts_tokens``), a usage with
    tokens is priced by its tokens alone; the other figures bound the reservation, and price an answer that names no
    tokens. ``long_context`` takes the place of the whole price for a call of more input tokens than
    ``long_context_above_tokens``. What follows from the figures is worked out once, in the instance's ``__dict__``, and
    is no part of its value.
    """

    input_nano_usd_per_million: int = 0
    cached_input_nano_usd_per_million: int | None = None
    cache_write_nano_usd_per_million: int | None = None
    image_input_nano_usd_per_million: int | None = None
    output_nano_usd_per_million: int = 0
    image_output_nano_usd_per_million: int | None = None
    characters_nano_usd_per_million: int = 0
    image_nano_usd: int | None = None
    image_tiers: Mapping[str, int] = msgspec.field(default_factory=dict)
    input_image_nano_usd: int = 0
    megapixel_first_nano_usd: int | None = None
    megapixel_more_nano_usd: int = 0
    second_nano_usd: int | None = None
    second_tiers: Mapping[str, int] = msgspec.field(default_factory=dict)
    #: Of input sound (transcription). Kept apart from seconds so that 0.0037 USD a minute stays a whole number.
    minute_nano_usd: int | None = None
    video_nano_usd: int | None = None
    #: Charged whatever the usage says.
    request_nano_usd: int = 0
    is_reported: bool = False
    is_free: bool = False
    long_context_above_tokens: int | None = None
    long_context: Price | None = None

    @cached_property
    def counts_tokens(self) -> bool:
        """Has the price figures for tokens?"""
        return any(
            (
                self.input_nano_usd_per_million,
                self.output_nano_usd_per_million,
                self.image_input_nano_usd_per_million,
                self.image_output_nano_usd_per_million,
            )
        )

    @cached_property
    def dearest_text_nano_usd_per_million(self) -> int:
        """The most that a token of text may be counted by on its way in."""
        return max(
            self.input_nano_usd_per_million,
            self.cache_write_nano_usd_per_million or 0,
            self.cached_input_nano_usd_per_million or 0,
        )

    @cached_property
    def dearest_output_nano_usd_per_million(self) -> int:
        """The most that a token may be counted by on its way out."""
        return max(self.output_nano_usd_per_million, self.image_output_nano_usd_per_million or 0)

    def for_input(self, input_tokens: int) -> Price:
        """The price that holds for a call of so many input tokens: this one, or that of long contexts."""
        if self.long_context is None or self.long_context_above_tokens is None:
            return self
        return self.long_context if input_tokens > self.long_context_above_tokens else self

    def token_cost(self, usage: Usage) -> NanoUsd:
        """Cost of the token and character part of a usage, rounded half to even once."""
        price = self.for_input(usage.input_tokens)
        if not (
            usage.cached_input_tokens
            or usage.cache_write_tokens
            or usage.image_input_tokens
            or usage.image_output_tokens
            or usage.characters
        ):
            plain_total = usage.input_tokens * price.input_nano_usd_per_million
            plain_total += usage.output_tokens * price.output_nano_usd_per_million
            return round_half_even(plain_total, PER_MILLION)
        image_in = min(usage.image_input_tokens, usage.input_tokens)
        cached = min(usage.cached_input_tokens, usage.input_tokens - image_in)
        written = min(usage.cache_write_tokens, usage.input_tokens - image_in - cached)
        plain = usage.input_tokens - image_in - cached - written
        image_out = min(usage.image_output_tokens, usage.output_tokens)
        total = (
            plain * price.input_nano_usd_per_million
            + cached * _or(price.cached_input_nano_usd_per_million, price.input_nano_usd_per_million)
            + written * _or(price.cache_write_nano_usd_per_million, price.input_nano_usd_per_million)
            + image_in * _or(price.image_input_nano_usd_per_million, price.input_nano_usd_per_million)
            + (usage.output_tokens - image_out) * price.output_nano_usd_per_million
            + image_out * _or(price.image_output_nano_usd_per_million, price.output_nano_usd_per_million)
            + usage.characters * price.characters_nano_usd_per_million
        )
        return round_half_even(total, PER_MILLION)

    def megapixels_price(self, pixels: int) -> int:
        """Nano-dollars that a picture of so many pixels costs by its megapixels; 0 without a figure for them."""
        if self.megapixel_first_nano_usd is None:
            return 0
        further = max(0, -(-pixels // MEGAPIXEL) - 1)
        return self.megapixel_first_nano_usd + further * self.megapixel_more_nano_usd

    def image_price(self, *, quality: str | None = None, width: int | None = None, height: int | None = None) -> int:
        """Nano-dollars of one picture of that quality and size; the tier that says most about it wins.

        0 when the price has no figure per picture (it is then made of tokens or megapixels).
        """
        for name in _tier_names(quality, width, height):
            if name in self.image_tiers:
                return self.image_tiers[name]
        by_resolution = _resolution_price(self.image_tiers, width, height, IMAGE_RESOLUTIONS)
        return _or(by_resolution, _or(self.image_nano_usd, 0))

    def second_price(self, *, quality: str | None = None, width: int | None = None, height: int | None = None) -> int:
        """Nano-dollars of one second of a clip. A size between two resolutions counts as the higher one.

        0 when there is no figure.
        """
        for name in _tier_names(quality, width, height):
            if name in self.second_tiers:
                return self.second_tiers[name]
        by_resolution = _resolution_price(self.second_tiers, width, height, VIDEO_RESOLUTIONS)
        return _or(by_resolution, _or(self.second_nano_usd, 0))

    def named_second_price(self, resolution: object) -> int | None:
        """The same of a clip whose resolution the caller named (``"1080p"``); a word that nobody knows is as dear as
        any. None where the price has no figures for resolutions."""
        if all(resolution_pixels(name, VIDEO_RESOLUTIONS) is None for name in self.second_tiers):
            return None
        lines = resolution_pixels(resolution, VIDEO_RESOLUTIONS) if isinstance(resolution, str) else None
        if not lines:
            return max(self.second_nano_usd or 0, *self.second_tiers.values())
        return self.second_price(width=lines, height=lines)


def _tier_names(quality: str | None, width: int | None, height: int | None) -> Iterator[str]:
    size = f"{width}x{height}" if width and height else None
    if quality and size:
        yield f"{quality}/{size}"
    if size:
        yield size
    if quality:
        yield quality


def _resolution_price(
    tiers: Mapping[str, int], width: int | None, height: int | None, names: Mapping[str, int]
) -> int | None:
    """Price of the lowest resolution named in ``tiers`` that is not below the size."""
    if not width or not height:
        return None
    reached = [
        (pixels, price)
        for pixels, price in ((resolution_pixels(name, names), price) for name, price in tiers.items())
        if pixels is not None and pixels >= min(width, height)
    ]
    return min(reached)[1] if reached else None


def resolution_pixels(name: str, names: Mapping[str, int]) -> int | None:
    """Pixels of the shorter side that a resolution (``"720p"``, ``"4k"``) stands for; None for any other word."""
    lowered = name.lower()
    if lowered.endswith("p") and lowered[:-1].isascii() and lowered[:-1].isdigit():
        return int(lowered[:-1])
    return names.get(lowered)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
