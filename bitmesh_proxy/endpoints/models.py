"""``GET /v1/models``: the catalogue as callers see it, in the shape of OpenAI's list, with filters. Pure.

Every model carries OpenAI's four fields (``id``, ``object``, ``created``, ``owned_by``) and, beside them, what there is
to know before a call: modalities, sizes, lengths, and what each provider's offer costs an account here (the operator's
markup is in the figures). Prices are strings of US dollars under the names that ``config/models`` uses. Models that no
configured provider has are not listed.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    EmbeddingCall,
    ImageCall,
    JsonObject,
    Media,
    ModerationCall,
    Operation,
    SpeechCall,
    TranscriptionCall,
    VideoCall,
)
from bitmesh_proxy.catalogue.catalogue import Catalogue, model_not_found
from bitmesh_proxy.catalogue.comparing import comparison_cost
from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.catalogue.price_rows import PRICE_FIELDS
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.errors import InvalidRequest
from bitmesh_proxy.money import NANO_PER_USD, format_usd, round_up

#: What ``type`` may be, and which models it means.
TYPES: Final[Mapping[str, Callable[[Model], bool]]] = {
    "chat": lambda model: model.operation is Operation.CHAT,
    "text": lambda model: "text" in model.outputs and model.operation is not Operation.MODERATION,
    "image": lambda model: "image" in model.outputs,
    "video": lambda model: "video" in model.outputs,
    "audio": lambda model: model.operation in (Operation.SPEECH, Operation.TRANSCRIPTION) or "audio" in model.outputs,
    "speech": lambda model: model.operation is Operation.SPEECH,
    "transcription": lambda model: model.operation is Operation.TRANSCRIPTION,
    "embedding": lambda model: model.operation is Operation.EMBEDDING,
    "moderation": lambda model: model.operation is Operation.MODERATION,
}
SORTS: Final = ("name", "price", "date", "provider")
_FREE: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}
MAX_LIMIT: Final = 10_000


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What of the catalogue is wanted, and in which order. ``provider`` is an owner or who serves the model."""

    kind: str | None = None
    provider: str | None = None
    is_free: bool | None = None
    name: str | None = None
    sort: str | None = None
    limit: int | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One model as it is shown. ``price_nano_usd`` is that of a typical call at the cheapest offer."""

    model: Model
    shown: JsonObject
    providers: tuple[str, ...]
    price_nano_usd: int
    is_free: bool


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The whole list, made once at start: neither catalogue nor providers change while the process runs."""

    catalogue: Catalogue
    entries: tuple[Entry, ...]
    _by_id: Mapping[str, Entry]

    @classmethod
    def build(cls, catalogue: Catalogue, *, available: Collection[str], markup_nano: int) -> ModelList:
        """``available`` are the configured providers; ``markup_nano`` a ratio, 10⁹ is one."""
        entries = []
        for model in catalogue.models:
            offers = [offer for offer in model.offers if offer.provider in available]
            if offers:
                entries.append(_entry(model, offers, markup_nano))
        return cls(catalogue=catalogue, entries=tuple(entries), _by_id={entry.model.id: entry for entry in entries})

    def select(self, query: Query) -> JsonObject:
        """The list, filtered and sorted. ``price`` and ``date`` put the cheapest and the newest first."""
        found = [entry for entry in self.entries if _matches(entry, query)]
        if query.sort is not None:
            found.sort(key=_ORDERS[query.sort])
        return {"object": "list", "data": [entry.shown for entry in found[: query.limit]]}

    def get(self, name: str) -> JsonObject:
        """One model by its id or an alias. Raises ModelNotFound."""
        entry = self._by_id.get(self.catalogue.get(name).id)
        if entry is None:
            raise model_not_found(name)
        return entry.shown


def parse_query(pairs: Sequence[tuple[str, str]]) -> Query:
    """Read the query string. Unknown names are left alone. Raises InvalidRequest naming the parameter."""
    said: dict[str, str] = {}
    for name, value in pairs:
        if name in said:
            raise InvalidRequest(f"Invalid '{name}': it was given more than once.", param=name)
        said[name] = value.strip()
    said = {name: value for name, value in said.items() if value}
    return Query(
        kind=_word(said, "type", tuple(TYPES)),
        provider=said.get("provider"),
        is_free=None if (free := _word(said, "free", tuple(_FREE))) is None else _FREE[free],
        name=said.get("name"),
        sort=_word(said, "sort", SORTS),
        limit=_limit(said.get("limit")),
    )


def _word(said: Mapping[str, str], name: str, words: Sequence[str]) -> str | None:
    value = said.get(name)
    if value is None:
        return None
    if value.lower() not in words:
        raise InvalidRequest(f"Invalid '{name}': expected one of {', '.join(words)}.", param=name)
    return value.lower()


def _limit(value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= MAX_LIMIT:
        raise InvalidRequest(f"Invalid 'limit': expected an integer from 1 to {MAX_LIMIT}.", param="limit")
    return int(value)


def _matches(entry: Entry, query: Query) -> bool:
    model = entry.model
    if query.kind is not None and not TYPES[query.kind](model):
        return False
    if query.is_free is not None and entry.is_free is not query.is_free:
        return False
    if query.provider is not None:
        wanted = query.provider.casefold()
        if wanted not in _owner_of(model).casefold() and wanted not in entry.providers:
            return False
    if query.name is not None:
        wanted = query.name.casefold()
        return any(wanted in name.casefold() for name in (model.id, model.title, *model.aliases))
    return True


_ORDERS: Final[Mapping[str, Callable[[Entry], Any]]] = {
    "name": lambda entry: entry.model.id.casefold(),
    "price": lambda entry: (entry.price_nano_usd, entry.model.id.casefold()),
    "date": lambda entry: (-_created_of(entry.model), entry.model.id.casefold()),
    "provider": lambda entry: (_owner_of(entry.model).casefold(), entry.model.id.casefold()),
}


def _owner_of(model: Model) -> str:
    return model.owner or (model.id.partition("/")[0] if "/" in model.id else "")


def _created_of(model: Model) -> int:
    """Unix time of the release; 0 where nobody knows it."""
    if model.released_on is None:
        return 0
    day = datetime.date.fromisoformat(model.released_on)
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())


def _entry(model: Model, offers: Sequence[Offer], markup_nano: int) -> Entry:
    typical = _typical_call(model)
    is_free = all(offer.price.is_free for offer in offers)
    return Entry(
        model=model,
        shown=_show(model, offers, markup_nano=markup_nano, is_free=is_free),
        providers=tuple(dict.fromkeys(offer.provider for offer in offers)),
        price_nano_usd=min(_marked_up(comparison_cost(offer, typical), offer, markup_nano) for offer in offers),
        is_free=is_free,
    )


def _show(model: Model, offers: Sequence[Offer], *, markup_nano: int, is_free: bool) -> JsonObject:
    abilities = [offer.abilities for offer in offers]
    shown: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "created": _created_of(model),
        "owned_by": _owner_of(model) or offers[0].provider,
        "name": model.title or model.id,
        "type": model.operation.value,
        "aliases": list(model.aliases),
        "architecture": {"input_modalities": list(model.inputs), "output_modalities": list(model.outputs)},
        "output": list(model.outputs),
        "free": is_free,
        "supported_params": {
            "edit": any(can.max_images_in > 0 for can in abilities) and model.operation is not Operation.CHAT,
            "mask": any(can.mask for can in abilities),
            "quality": any(can.qualities for can in abilities),
            "tools": any(can.tools for can in abilities),
            "stream": model.operation is Operation.CHAT and any(can.streams for can in abilities),
        },
    }
    optional: dict[str, Any] = {
        "context_length": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "sizes": _union(can.sizes for can in abilities),
        "default_size": offers[0].default_size,
        "seconds": sorted({length for can in abilities for length in can.seconds}),
        "max_seconds": max((can.max_seconds or 0 for can in abilities), default=0),
        "default_seconds": offers[0].default_seconds,
        "qualities": _union(can.qualities for can in abilities),
        "max_images": max((can.max_images_in for can in abilities), default=0),
        "max_n": max((can.max_count for can in abilities), default=1) if model.operation is Operation.IMAGE else None,
        "translates": any(can.translates for can in abilities),
        "max_characters": max((can.max_characters or 0 for can in abilities), default=0),
        "release_date": model.released_on,
        "retirement_date": model.retires_on,
    }
    shown |= {name: value for name, value in optional.items() if value}
    shown["providers"] = [_show_offer(offer, markup_nano) for offer in offers]
    return shown


def _show_offer(offer: Offer, markup_nano: int) -> JsonObject:
    """What one provider's offer costs an account. ``is_estimate``: the provider names the true cost in its answer."""
    price = offer.sell_price or offer.price

    def charged(amount: int) -> int:
        return amount if offer.sell_price is not None else _marked_up(amount, offer, markup_nano)

    shown: dict[str, Any] = {
        "id": offer.provider,
        "model_name": offer.upstream_model,
        "price": {"free": True} if price.is_free else _show_price(price, charged),
    }
    if price.is_reported:
        shown["is_estimate"] = True
    if offer.retires_on is not None:
        shown["retirement_date"] = offer.retires_on
    return shown


def _show_price(price: Price, charged: Callable[[int], int]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, field in PRICE_FIELDS.items():
        value = getattr(price, field)
        if isinstance(value, Mapping):
            if value:
                shown[key] = {name: format_usd(charged(amount)) for name, amount in value.items()}
        elif value:
            shown[key] = format_usd(charged(value))
    if price.long_context is not None:
        above = {"above_tokens": price.long_context_above_tokens, "price": _show_price(price.long_context, charged)}
        shown["long_context"] = above
    return shown


def _marked_up(amount: int, offer: Offer, markup_nano: int) -> int:
    ratio = markup_nano if offer.markup_nano is None else offer.markup_nano
    return round_up(amount * ratio, NANO_PER_USD)


def _union(lists: Any) -> list[str]:
    return list(dict.fromkeys(word for words in lists for word in words))


def _typical_call(model: Model) -> Call:
    """The call whose price models of one kind are sorted by."""
    name = model.id
    match model.operation:
        case Operation.CHAT:
            return ChatCall(model=name, messages=[{"role": "user", "content": "a" * 4000}])
        case Operation.IMAGE:
            return ImageCall(model=name, prompt="a")
        case Operation.VIDEO:
            return VideoCall(model=name, prompt="a")
        case Operation.SPEECH:
            return SpeechCall(model=name, text="a" * 1000)
        case Operation.TRANSCRIPTION:
            return TranscriptionCall(model=name, audio=Media(kind="audio", data=b""), duration_s=60.0)
        case Operation.EMBEDDING:
            return EmbeddingCall(model=name, inputs=["a" * 4000])
        case Operation.MODERATION:
            return ModerationCall(model=name, inputs=["a" * 4000])
