"""An offer: one model at one provider, with its price and what it can do. Rows of ``config/models/*.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

import msgspec

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.prices import Price


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an offer can do beyond the bare prompt. Off until tried against the real service."""

    #: Input pictures of one call, a clip's frames and references included.
    max_images_in: int = 0
    #: A picture of how a clip ends.
    last_frame: bool = False
    mask: bool = False
    max_count: int = 1
    #: Lengths in seconds, smallest first; empty means any up to ``max_seconds``.
    seconds: tuple[int, ...] = ()
    max_seconds: int | None = None
    #: A length between two of ``seconds`` is made as the longer one (and charged as such).
    rounds_seconds_up: bool = False
    #: ``"1024x1024"`` and the like; empty means any within ``max_pixels``.
    sizes: tuple[str, ...] = ()
    max_pixels: int | None = None
    tools: bool = False
    images_in_chat: bool = False
    audio_in_chat: bool = False
    files_in_chat: bool = False
    #: Chat only: media are streamed by us where the provider does not.
    streams: bool = True
    #: Transcription only: what was said in any language comes in English where that is asked.
    translates: bool = False
    #: Longest text of a speech call.
    max_characters: int | None = None
    #: The provider's words for ``quality``; empty means that the model knows none, and any may be said.
    qualities: tuple[str, ...] = ()


class Offer(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """``upstream_model`` is the provider's own name; ``defaults`` are added to the provider's request where the caller
    did not say; ``options`` are facts that only the provider's dialect reads (voices, names of fields …).
    What an account pays: the offer's ``sell_price`` if there is one, else its cost times ``markup_nano`` (a ratio,
    10⁹ is one), else its cost times the markup of the settings.
    """

    model_id: str
    provider: str
    upstream_model: str
    operation: Operation
    price: Price
    abilities: Abilities = Abilities()
    #: Lower is tried first; equal ones go by price.
    priority: int = 100
    default_seconds: int | None = None
    default_size: str | None = None
    #: The most steps that the prices of a picture cover; more cost in proportion. None: steps do not count.
    priced_steps: int | None = None
    #: Callers' words for a quality → the provider's.
    quality_map: Mapping[str, str] = msgspec.field(default_factory=dict)
    max_output_tokens: int | None = None
    #: The model's.
    context_tokens: int | None = None
    sell_price: Price | None = None
    markup_nano: int | None = None
    #: ISO date after which the provider no longer serves it. Such an offer is tried last, never hidden.
    retires_on: str | None = None
    defaults: Mapping[str, Any] = msgspec.field(default_factory=dict)
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Stable name of the offer in the books: ``provider:upstream_model``."""
        return f"{self.provider}:{self.upstream_model}"

    def quality_for(self, asked: str | None) -> str | None:
        """The provider's word for a caller's quality: what is sent, and what price tiers are named by."""
        return None if asked is None else self.quality_map.get(asked, asked)

    def size_for(self, width: int | None, height: int | None) -> tuple[int, int] | None:
        """Width and height in pixels of what a call gets: as asked, else ``default_size``, else None (unknown)."""
        if width is not None and height is not None:
            return width, height
        if self.default_size is None:
            return None
        own_width, _, own_height = self.default_size.partition("x")
        return int(own_width), int(own_height)

    def seconds_for(self, asked: str | None) -> Decimal | None:
        """Length in seconds of the clip that a call gets, so also what it is charged for.

        ``asked`` is the caller's string; without one it is ``default_seconds``. None when the offer does not take that
        length or it is none at all (or, with nothing asked, when the provider decides).
        """
        if asked is None:
            return None if self.default_seconds is None else Decimal(self.default_seconds)
        wanted = _positive(asked)
        if wanted is None:
            return None
        lengths = self.abilities.seconds
        if not lengths:
            longest = self.abilities.max_seconds
            return wanted if longest is None or wanted <= longest else None
        if wanted in lengths:
            return wanted
        longer = [length for length in lengths if length > wanted >= lengths[0]]
        return Decimal(longer[0]) if longer and self.abilities.rounds_seconds_up else None


def _positive(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() and value > 0 else None
