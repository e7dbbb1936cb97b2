"""What an offer costs, in the units its provider bills by, and what a call therefore costs.

A ``Price`` is read from decimal strings at start and is all integers afterwards. ``cost`` is what the provider takes for
a usage; ``estimate`` is the upper bound that is reserved before the call. What an account pays is decided in ``billing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.money import PER_MILLION, NanoUsd, round_half_even


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Nano-dollars. ``*_per_million`` are per million tokens or characters, the others per single unit.

    ``image_tiers`` and ``second_tiers`` map ``"quality"``, ``"WxH"``, ``"quality/WxH"`` or a resolution name
    (``"1080p"``) to a price that takes the place of ``image_nano_usd`` or ``second_nano_usd``.
    ``is_reported``: the provider names the cost in its answer, and the figures here only bound the reservation.
    """

    input_nano_usd_per_million: int = 0
    cached_input_nano_usd_per_million: int | None = None
    cache_write_nano_usd_per_million: int | None = None
    image_input_nano_usd_per_million: int | None = None
    output_nano_usd_per_million: int = 0
    image_output_nano_usd_per_million: int | None = None
    characters_nano_usd_per_million: int = 0
    image_nano_usd: int | None = None
    image_tiers: Mapping[str, int] = field(default_factory=dict)
    input_image_nano_usd: int = 0
    megapixel_first_nano_usd: int | None = None
    megapixel_more_nano_usd: int = 0
    second_nano_usd: int | None = None
    second_tiers: Mapping[str, int] = field(default_factory=dict)
    video_nano_usd: int | None = None
    #: Charged whatever the usage says.
    request_nano_usd: int = 0
    is_reported: bool = False
    is_free: bool = False

    def token_cost(self, usage: Usage) -> NanoUsd:
        """Cost of the token and character part of a usage, rounded half to even once."""
        image_in = min(usage.image_input_tokens, usage.input_tokens)
        cached = min(usage.cached_input_tokens, usage.input_tokens - image_in)
        written = min(usage.cache_write_tokens, usage.input_tokens - image_in - cached)
        plain = usage.input_tokens - image_in - cached - written
        image_out = min(usage.image_output_tokens, usage.output_tokens)
        total = (
            plain * self.input_nano_usd_per_million
            + cached * _or(self.cached_input_nano_usd_per_million, self.input_nano_usd_per_million)
            + written * _or(self.cache_write_nano_usd_per_million, self.input_nano_usd_per_million)
            + image_in * _or(self.image_input_nano_usd_per_million, self.input_nano_usd_per_million)
            + (usage.output_tokens - image_out) * self.output_nano_usd_per_million
            + image_out * _or(self.image_output_nano_usd_per_million, self.output_nano_usd_per_million)
            + usage.characters * self.characters_nano_usd_per_million
        )
        return round_half_even(total, PER_MILLION)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
