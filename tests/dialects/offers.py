"""Offers for tests of dialects: as the catalogue would hand them over, without a catalogue."""

from __future__ import annotations

from typing import Any

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.catalogue.prices import Price


def make_offer(operation: Operation, upstream_model: str = "upstream/model", **fields: Any) -> Offer:
    """An offer of ``example/model`` at a provider called ``example``."""
    return Offer(
        model_id="example/model",
        provider="example",
        upstream_model=upstream_model,
        operation=operation,
        price=Price(is_free=True),
        **fields,
    )
