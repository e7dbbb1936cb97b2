"""An offer: one model at one provider, with its price and what it can do. Rows of ``config/models/*.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.prices import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What an offer can do beyond the bare prompt. Off until tried against the real service."""

    max_images_in: int = 0
    mask: bool = False
    max_count: int = 1
    #: Lengths in seconds, smallest first; empty means any up to ``max_seconds``.
    seconds: tuple[int, ...] = ()
    max_seconds: int | None = None
    #: ``"1024x1024"`` and the like; empty means any within ``max_pixels``.
    sizes: tuple[str, ...] = ()
    max_pixels: int | None = None
    tools: bool = False
    images_in_chat: bool = False
    streams: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """``upstream_model`` is the provider's own name; ``defaults`` are added to the provider's request where the caller
    did not say; ``options`` are facts that only the provider's dialect reads (quality maps, voices …).
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
    max_output_tokens: int | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Stable name of the offer in the books: ``provider:upstream_model``."""
        return f"{self.provider}:{self.upstream_model}"
