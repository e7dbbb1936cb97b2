"""Reading ``config/models/*.toml`` into a ``Catalogue``, and refusing to when anything in it is wrong.

All faults of all files are collected and reported together, each with file, line of the row's header, and reason.
An offer of a provider that is known but not configured is loaded all the same: whether it can be used is decided by
routing. Directories are read in the order given, files by name; rows may refer to models of any file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.offer import Abilities, Offer
from bitmesh_proxy.catalogue.price_rows import Complain, read_price, read_ratio
from bitmesh_proxy.catalogue.row_files import CatalogueError, Placed, Problem, read_row_files
from bitmesh_proxy.catalogue.rows import ModelRow, OfferRow
from bitmesh_proxy.defaults import defaults_dir
from bitmesh_proxy.settings import Settings

#: What an operation takes and gives when its model says nothing else.
_MODALITIES: Mapping[Operation, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Operation.CHAT: (("text",), ("text",)),
    Operation.IMAGE: (("text",), ("image",)),
    Operation.VIDEO: (("text",), ("video",)),
    Operation.SPEECH: (("text",), ("audio",)),
    Operation.TRANSCRIPTION: (("audio",), ("text",)),
    Operation.EMBEDDING: (("text",), ("embedding",)),
    Operation.MODERATION: (("text",), ("text",)),
}
_KNOWN_MODALITIES = frozenset({"text", "image", "video", "audio", "file", "embedding"})
_SIZE = re.compile(r"^([1-9][0-9]{0,4})x([1-9][0-9]{0,4})$")
_LARGEST_SIDE = 16_384


def catalogue_dirs(settings: Settings) -> list[Path]:
    """Where the rows are: the configured directory or the shipped one, then the operator's own."""
    shipped = settings.catalogue.dir
    directories = [Path(shipped).expanduser() if shipped else defaults_dir() / "models"]
    return directories + [Path(directory).expanduser() for directory in settings.catalogue.extra_dirs]


def load_catalogue(dirs: Sequence[Path], *, providers: Collection[str]) -> Catalogue:
    """Read all ``*.toml`` of the directories. ``providers`` are the names that an offer may have.

    Raises CatalogueError with every fault found.
    """
    files = read_row_files(dirs)
    by_id = _index_models(files.models)
    made = _make_offers(files.offers, by_id, providers)
    models = [
        _make_model(placed, made.get(model_id, []), is_claimed=model_id in files.claimed)
        for model_id, placed in by_id.items()
    ]
    if not models and not files.problems:
        files.problems.extend(Problem(path=directory, line=None, reason="no models here") for directory in dirs)
    if files.problems:
        raise CatalogueError(files.problems)
    return Catalogue.build(model for model in models if model is not None)


def _index_models(rows: Sequence[Placed[ModelRow]]) -> dict[str, Placed[ModelRow]]:
    by_id: dict[str, Placed[ModelRow]] = {}
    for placed in rows:
        first = by_id.setdefault(placed.row.id, placed)
        if first is not placed:
            placed.complain(f"model {placed.row.id}: stands already at {first.place}")
    # Names that differ in case only are the same name to callers. Ids come first, so that the alias gets the blame.
    owners: dict[str, str] = {}
    for model_id, placed in by_id.items():
        _claim(owners, model_id, placed)
    for placed in by_id.values():
        for alias in placed.row.aliases:
            _claim(owners, alias, placed)
    return by_id


def _claim(owners: dict[str, str], name: str, placed: Placed[ModelRow]) -> None:
    folded = name.casefold()
    if folded in owners:
        placed.complain(f"model {placed.row.id}: {name} is already a name of {owners[folded]}")
    else:
        owners[folded] = placed.row.id


def _make_model(placed: Placed[ModelRow], offers: Sequence[Offer], *, is_claimed: bool) -> Model | None:
    row = placed.row
    operation = _operation(row)
    if operation is None:
        placed.complain(f"model {row.id}: unknown operation {row.operation!r}, want one of {', '.join(Operation)}")
        return None
    for word in (*row.inputs, *row.outputs):
        if word not in _KNOWN_MODALITIES:
            placed.complain(f"model {row.id}: {word!r} is no modality, want {', '.join(sorted(_KNOWN_MODALITIES))}")
    if row.released_on and row.retires_on and row.retires_on < row.released_on:
        placed.complain(f"model {row.id}: retires_on is before released_on")
    if not is_claimed:
        placed.complain(f"model {row.id}: no offer serves it")
    inputs, outputs = _MODALITIES[operation]
    return Model(
        id=row.id,
        operation=operation,
        offers=tuple(sorted(offers, key=lambda offer: (offer.priority, offer.id))),
        title=row.title or row.id.rpartition("/")[2],
        owner=row.owner or row.id.rpartition("/")[0].partition("/")[0],
        aliases=row.aliases,
        inputs=row.inputs or inputs,
        outputs=row.outputs or outputs,
        context_tokens=row.context_tokens,
        max_output_tokens=row.max_output_tokens,
        released_on=row.released_on.isoformat() if row.released_on else None,
        retires_on=row.retires_on.isoformat() if row.retires_on else _last_retirement(offers),
    )


def _last_retirement(offers: Sequence[Offer]) -> str | None:
    """The day on which the last offer ends, when every one has an end."""
    dates = [offer.retires_on for offer in offers if offer.retires_on is not None]
    return max(dates) if dates and len(dates) == len(offers) else None


def _operation(row: ModelRow) -> Operation | None:
    return Operation(row.operation) if row.operation in set(Operation) else None


def _make_offers(
    rows: Sequence[Placed[OfferRow]], models: Mapping[str, Placed[ModelRow]], providers: Collection[str]
) -> dict[str, list[Offer]]:
    made: dict[str, list[Offer]] = {}
    seen: dict[str, Placed[OfferRow]] = {}
    for placed in rows:
        row = placed.row
        offer_id = f"{row.provider}:{row.upstream_model}"
        if row.provider not in providers:
            placed.complain(
                f"offer {offer_id}: unknown provider {row.provider!r}, known: {', '.join(sorted(providers))}"
            )
        first = seen.setdefault(offer_id, placed)
        if first is not placed:
            placed.complain(f"offer {offer_id}: stands already at {first.place}")
        if row.model not in models:
            placed.complain(f"offer {offer_id}: no [[model]] row has the id {row.model!r}")
            continue
        model = models[row.model].row
        operation = _operation(model)
        if operation is not None:
            made.setdefault(row.model, []).append(_make_offer(placed, model, operation))
    return made


def _make_offer(placed: Placed[OfferRow], model: ModelRow, operation: Operation) -> Offer:
    row = placed.row

    def complain(reason: str) -> None:
        placed.complain(f"offer {row.provider}:{row.upstream_model}: {reason}")

    _check_abilities(row, operation, complain)
    if row.sell is not None and row.markup is not None:
        complain("sell and markup: one or the other")
    return Offer(
        model_id=model.id,
        provider=row.provider,
        upstream_model=row.upstream_model,
        operation=operation,
        price=read_price(
            row,
            operation,
            complain,
            is_free=row.free,
            is_reported=row.reported_by_provider,
            long_context=row.long_context,
        ),
        abilities=Abilities(**{name: getattr(row, name) for name in _ABILITY_FIELDS}),
        priority=row.priority,
        default_seconds=row.default_seconds,
        default_size=row.default_size,
        priced_steps=row.priced_steps,
        quality_map=row.quality_map,
        max_output_tokens=row.max_output_tokens or model.max_output_tokens,
        context_tokens=model.context_tokens,
        sell_price=None if row.sell is None else read_price(row.sell, operation, lambda why: complain(f"sell: {why}")),
        markup_nano=None if row.markup is None else read_ratio("markup", row.markup, complain),
        retires_on=row.retires_on.isoformat() if row.retires_on else None,
        defaults=row.defaults,
        options=row.options,
    )


_ABILITY_FIELDS = tuple(Abilities.__struct_fields__)


def _check_abilities(row: OfferRow, operation: Operation, complain: Complain) -> None:
    for size in (*row.sizes, *filter(None, (row.default_size,))):
        match = _SIZE.match(size)
        if match is None or max(int(match[1]), int(match[2])) > _LARGEST_SIDE:
            complain(f"{size!r} is no size: want WIDTHxHEIGHT in pixels, each side up to {_LARGEST_SIDE}")
    if row.sizes and row.default_size and row.default_size not in row.sizes:
        complain(f"default_size: {row.default_size} is not among sizes")
    if row.sizes:
        for tier in (*row.usd_per_image_by, *row.usd_per_second_by):
            size = tier.rpartition("/")[2]
            if _SIZE.match(size) and size not in row.sizes:
                complain(f"price of {tier}: {size} is not among sizes")
    for word, own in row.quality_map.items():
        if own not in row.qualities:
            complain(f"quality_map.{word}: {own} is not among qualities")
    if list(row.seconds) != sorted(set(row.seconds)):
        complain("seconds: want each length once, shortest first")
    if row.seconds and row.default_seconds and row.default_seconds not in row.seconds:
        complain(f"default_seconds: {row.default_seconds} is not among seconds")
    if row.rounds_seconds_up and not row.seconds:
        complain("rounds_seconds_up: means nothing without seconds")
    if operation is Operation.VIDEO and row.usd_per_second is not None and row.default_seconds is None:
        complain("default_seconds: needed to price a call that names no length")
    if row.priced_steps is not None and operation is not Operation.IMAGE:
        complain("priced_steps: means something for pictures only")
    for repeated, times in Counter(row.sizes).items():
        if times > 1:
            complain(f"sizes: {repeated} stands there {times} times")
