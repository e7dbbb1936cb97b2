"""The catalogue: every model by its id and its aliases, and every offer by its name in the books. Read-only.

Lookups are one dictionary access, however many models there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import force_setattr

from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.errors import ModelNotFound


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """Made by ``build``. ``models`` are sorted by id (without case); ``version`` changes when a fact or price does."""

    models: tuple[Model, ...]
    version: str
    _by_name: Mapping[str, Model]
    _by_folded_name: Mapping[str, Model]
    _offers: Mapping[str, Offer]

    @classmethod
    def build(cls, models: Iterable[Model], *, version: str | None = None) -> Catalogue:
        """Index the models. Names must not collide (the loader sees to it); a later one would hide an earlier one.

        ``version``: what came out for the same models before, for whoever knows it; it takes most of the time.
        """
        ordered = tuple(sorted(models, key=lambda model: (model.id.casefold(), model.id)))
        _share_names_of_providers(ordered)
        names = {name: model for model in ordered for name in (model.id, *model.aliases)}
        return cls(
            models=ordered,
            # The representation of frozen values holds every field, so comments and order of rows do not matter.
            version=version or hashlib.sha256(repr(ordered).encode()).hexdigest()[:16],
            _by_name=names,
            _by_folded_name={name.casefold(): model for name, model in names.items()},
            _offers={offer.id: offer for model in ordered for offer in model.offers},
        )

    def find(self, name: str) -> Model | None:
        """The model of that id or alias; upper and lower case are the same where nothing fits exactly."""
        return self._by_name.get(name) or self._by_folded_name.get(name.casefold())

    def get(self, name: str) -> Model:
        """Like ``find``. Raises ModelNotFound."""
        model = self.find(name)
        if model is None:
            raise model_not_found(name)
        return model

    def offer(self, offer_id: str) -> Offer | None:
        """The offer of that name (``provider:upstream_model``), as jobs and the ledger keep it."""
        return self._offers.get(offer_id)


def _share_names_of_providers(models: Iterable[Model]) -> None:
    """Make each one object for all offers, every one of which was read by itself. All calls look at their provider's
    name, and of thousands of equal ones none would be warm in the processor's caches."""
    shared: dict[str, str] = {}
    for model in models:
        for offer in model.offers:
            force_setattr(offer, "provider", shared.setdefault(offer.provider, offer.provider))


def model_not_found(name: str) -> ModelNotFound:
    """The one answer for a model that is not there and for one that the key may not use: the two look the same."""
    shown = name if len(name) <= 200 else f"{name[:200]}…"
    return ModelNotFound(f"The model '{shown}' does not exist or you do not have access to it.", param="model")
