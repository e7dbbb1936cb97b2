"""Rows of ``config/models/*.toml`` as they are written: the keys that exist, and their types. Nothing is judged here.

A file holds ``[[model]]`` rows (facts about a model, stated once in all files together) and ``[[offer]]`` rows (that
model at one provider). Prices are decimal strings of US dollars with the unit in the key, never TOML floats.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^\S+$")]
Count = Annotated[int, Meta(ge=1)]
CountOrZero = Annotated[int, Meta(ge=0)]


class PriceRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices, flat in an ``[[offer]]`` row, or by themselves under ``sell`` and ``long_context.price``."""

    usd_per_million_input_tokens: str | None = None
    usd_per_million_cached_input_tokens: str | None = None
    usd_per_million_cache_write_tokens: str | None = None
    usd_per_million_image_input_tokens: str | None = None
    usd_per_million_output_tokens: str | None = None
    usd_per_million_image_output_tokens: str | None = None
    usd_per_million_characters: str | None = None
    usd_per_image: str | None = None
    usd_per_image_by: Mapping[str, str] = msgspec.field(default_factory=dict)
    usd_per_input_image: str | None = None
    usd_per_first_megapixel: str | None = None
    usd_per_further_megapixel: str | None = None
    usd_per_second: str | None = None
    usd_per_second_by: Mapping[str, str] = msgspec.field(default_factory=dict)
    usd_per_minute: str | None = None
    usd_per_video: str | None = None
    usd_per_request: str | None = None


class LongContextRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The price of calls of more than ``above_tokens`` input tokens: the whole call, not only what is above."""

    above_tokens: Count
    price: PriceRow


class OfferRow(PriceRow, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[offer]]``: a model at a provider. What is not said the offer cannot do."""

    model: Name
    provider: Name
    upstream_model: Name
    reported_by_provider: bool = False
    free: bool = False
    long_context: LongContextRow | None = None
    #: What accounts pay, in place of cost × markup.
    sell: PriceRow | None = None
    #: A decimal string, in place of ``billing.markup``.
    markup: str | None = None
    priority: int = 100
    retires_on: datetime.date | None = None

    max_images_in: CountOrZero = 0
    last_frame: bool = False
    mask: bool = False
    max_count: Count = 1
    seconds: tuple[Count, ...] = ()
    max_seconds: Count | None = None
    rounds_seconds_up: bool = False
    default_seconds: Count | None = None
    sizes: tuple[str, ...] = ()
    max_pixels: Count | None = None
    default_size: str | None = None
    #: The most steps that the prices of a picture cover; more cost in proportion.
    priced_steps: Count | None = None
    tools: bool = False
    images_in_chat: bool = False
    audio_in_chat: bool = False
    files_in_chat: bool = False
    streams: bool = True
    translates: bool = False
    max_characters: Count | None = None
    qualities: tuple[Name, ...] = ()
    quality_map: Mapping[Name, Name] = msgspec.field(default_factory=dict)
    #: Empty: the model's.
    max_output_tokens: Count | None = None
    defaults: Mapping[str, Any] = msgspec.field(default_factory=dict)
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)


class ModelRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[model]]``: what is true of a model wherever it is served."""

    id: Name
    operation: str
    title: str = ""
    #: Empty: the part of the id before its slash.
    owner: str = ""
    aliases: tuple[Name, ...] = ()
    #: Empty: what the operation takes and gives anyway.
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    context_tokens: Count | None = None
    max_output_tokens: Count | None = None
    released_on: datetime.date | None = None
    retires_on: datetime.date | None = None
