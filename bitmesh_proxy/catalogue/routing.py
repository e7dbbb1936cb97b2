"""Which offers a call may be tried at, and in which order (``getBestProvider()`` of the Bitmesh reference).

Only offers that can do all of the call, of providers that are configured. Those that failed of late come last, and so
do those that their provider has ended; then the operator's priority counts, then the price of this call. Nothing is
dropped for being unhealthy or old: the last resort is better than none.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from bitmesh_proxy.calls import Call
from bitmesh_proxy.catalogue.catalogue import Catalogue, model_not_found
from bitmesh_proxy.catalogue.comparing import comparison_cost
from bitmesh_proxy.catalogue.fitting import Refusal, refusals
from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.errors import InvalidRequest, Unavailable, UnsupportedParameter, UnsupportedValue


class Health(Protocol):
    """What routing asks of ``OfferHealth``."""

    def is_healthy(self, offer_id: str) -> bool: ...


def route(
    catalogue: Catalogue,
    call: Call,
    *,
    available: Collection[str],
    health: Health,
    bound_model: str | None = None,
    allowed_models: Collection[str] | None = None,
    today: Callable[[], datetime.date] = lambda: datetime.datetime.now(datetime.UTC).date(),
) -> tuple[Offer, ...]:
    """The offers to try, best first; never empty.

    ``available`` are the providers that are configured, ``bound_model`` and ``allowed_models`` those of the key (ids or
    aliases).
    Raises ModelNotFound (unknown, or not for this key), InvalidRequest (the key is bound to another model, or the model
    is for another kind of work), Unavailable (no configured provider has it), UnsupportedParameter or UnsupportedValue
    (naming the field that no offer takes).
    """
    model = model_for(catalogue, call.model, bound_model=bound_model)
    if allowed_models is not None and not _is_allowed(model, allowed_models):
        raise model_not_found(call.model)
    if model.operation is not call.operation:
        raise InvalidRequest(
            f"The model '{model.id}' is a model for {model.operation}, not for {call.operation}.", param="model"
        )
    if len(model.offers) == 1:  # most models: nothing to put in order
        sole = model.offers[0]
        if sole.provider in available and not refusals(sole, call):
            return model.offers
    offers = [offer for offer in model.offers if offer.provider in available]
    if not offers:
        raise Unavailable(f"No provider that is configured here offers the model '{model.id}'.", retry_after_s=None)
    able = [offer for offer in offers if not refusals(offer, call)]
    if not able:
        raise _refusal_error(model, [refusals(offer, call) for offer in offers])
    if len(able) == 1:
        return (able[0],)
    day = today().isoformat() if any(offer.retires_on for offer in able) else ""

    def order(offer: Offer) -> tuple[bool, bool, int, int, str]:
        is_over = offer.retires_on is not None and offer.retires_on < day
        return not health.is_healthy(offer.id), is_over, offer.priority, comparison_cost(offer, call), offer.id

    return tuple(sorted(able, key=order))


def model_for(catalogue: Catalogue, name: str, *, bound_model: str | None) -> Model:
    """The model that is asked for, for a key that is bound to one (by any of its names) or to none.

    Raises InvalidRequest for another one than the key's, and ModelNotFound.
    """
    if bound_model is not None and name != bound_model:
        model = catalogue.find(name)
        if model is None or model is not catalogue.find(bound_model):
            raise InvalidRequest(f"This API key is bound to the model '{bound_model}'.", param="model")
        return model
    return catalogue.get(name)


def _is_allowed(model: Model, allowed_models: Collection[str]) -> bool:
    return any(name in allowed_models for name in (model.id, *model.aliases))


def _refusal_error(model: Model, by_offer: Sequence[Sequence[Refusal]]) -> InvalidRequest:
    """Name the field that every offer refuses; where each refuses another one, the first offer's."""
    everywhere = set.intersection(*({refusal.param for refusal in refused} for refused in by_offer))
    first = next((refusal for refusal in by_offer[0] if refusal.param in everywhere), by_offer[0][0])
    same = [refusal for refused in by_offer for refusal in refused if refusal.param == first.param]
    # Where some offer takes the field with another value, the value is what is wrong.
    spoken = next((refusal for refusal in same if refusal.is_value), first)
    message = f"{spoken.param}: the model '{model.id}' {spoken.reason}."
    if first.param not in everywhere:
        message += " No single provider of it takes all that was asked."
    error = UnsupportedValue if spoken.is_value else UnsupportedParameter
    return error(message, param=spoken.param)
