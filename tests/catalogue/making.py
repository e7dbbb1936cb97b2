"""Offers and catalogues for the tests of this room, with nothing in them that a test does not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.offer import Abilities, Offer
from bitmesh_proxy.catalogue.prices import Price

#: Where the rows that come with the package are.
SHIPPED_MODELS = Path(__file__).parents[2] / "config" / "models"


def make_offer(
    name: str = "alpha:m",
    *,
    operation: Operation = Operation.CHAT,
    model_id: str = "m",
    price: Price | None = None,
    abilities: Abilities | None = None,
    **more: Any,
) -> Offer:
    """An offer named ``provider:upstream_model``."""
    provider, _, upstream_model = name.partition(":")
    return Offer(
        model_id=model_id,
        provider=provider,
        upstream_model=upstream_model,
        operation=operation,
        price=price or Price(),
        abilities=abilities or Abilities(),
        **more,
    )


def make_catalogue(*offers: Offer, aliases: tuple[str, ...] = ()) -> Catalogue:
    """A catalogue of the one model that the offers serve."""
    first = offers[0]
    return Catalogue.build([Model(id=first.model_id, operation=first.operation, offers=offers, aliases=aliases)])
