"""``model``: what the catalogue offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.catalogue.row_files import CatalogueError
from bitmesh_proxy.cli.catalogue import read_catalogue
from bitmesh_proxy.cli.options import EXIT_CONFIG, common_options, fail, settings_of
from bitmesh_proxy.cli.tables import print_json, print_table
from bitmesh_proxy.errors import ModelNotFound
from bitmesh_proxy.money import format_usd
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.upstream.access import configured_access, provider_names


@click.group()
def model() -> None:
    """Models, their offers and prices."""


@model.command(name="list")
@click.option(
    "--type", "operation", type=click.Choice([each.value for each in Operation]), help="One kind of work only."
)
@click.option("--provider", help="Models that this provider offers.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
@common_options
@click.pass_context
def list_models(
    ctx: click.Context,
    operation: str | None,
    provider: str | None,
    as_json: bool,
    config: Path | None,
    data_dir: Path | None,
) -> None:
    """All models, each with the price of its first offer."""
    settings = settings_of(ctx, config, data_dir)
    names = provider_names(settings)
    if provider is not None and provider not in names:
        fail(f"no provider is called {provider!r}; there are: {', '.join(sorted(names))}")
    models = [
        each
        for each in _load(settings).models
        if operation in (None, each.operation)
        and (provider is None or any(o.provider == provider for o in each.offers))
    ]
    if as_json:
        print_json([_as_json(each) for each in models])
        return
    print_table(
        ["MODEL", "TYPE", "PROVIDERS", "RETIRES", "PRICE OF THE FIRST OFFER"],
        [
            (
                each.id,
                each.operation,
                ", ".join(offer.provider for offer in each.offers),
                each.retires_on,
                describe_price(each.offers[0].price, in_full=False),
            )
            for each in models
        ],
    )


@model.command()
@click.argument("model_id")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@common_options
@click.pass_context
def show(ctx: click.Context, model_id: str, as_json: bool, config: Path | None, data_dir: Path | None) -> None:
    """One model (by id or alias) with every offer."""
    settings = settings_of(ctx, config, data_dir)
    try:
        found = _load(settings).get(model_id)
    except ModelNotFound as exc:
        fail(exc.message)
    if as_json:
        print_json(_as_json(found))
        return
    facts = {name: value for name, value in _as_json(found).items() if name != "offers" and value not in (None, [], "")}
    print_table(["FIELD", "VALUE"], [(n, ", ".join(v) if isinstance(v, list) else v) for n, v in facts.items()])
    click.echo()
    usable = configured_access(settings)
    print_table(
        ["OFFER", "UPSTREAM MODEL", "CREDENTIAL", "PRICE"],
        [
            (
                offer.provider,
                offer.upstream_model,
                "yes" if offer.provider in usable else "no",
                describe_price(offer.price),
            )
            for offer in found.offers
        ],
    )


def describe_price(price: Price, *, in_full: bool = True) -> str:
    """A price in one line, in US dollars and the units people quote. If not in full, tiers are a range."""
    if price.is_free:
        return "free"
    figures = [
        (price.input_nano_usd_per_million, "/M tokens in"),
        (price.cached_input_nano_usd_per_million, "/M cached"),
        (price.image_input_nano_usd_per_million, "/M picture tokens in"),
        (price.output_nano_usd_per_million, "/M tokens out"),
        (price.image_output_nano_usd_per_million, "/M picture tokens out"),
        (price.characters_nano_usd_per_million, "/M characters"),
        (price.image_nano_usd, "/picture"),
        (price.megapixel_first_nano_usd, "/first megapixel"),
        (price.megapixel_more_nano_usd, "/further megapixel"),
        (price.second_nano_usd, "/s"),
        (price.minute_nano_usd, "/min"),
        (price.video_nano_usd, "/clip"),
        (price.request_nano_usd, "/request"),
    ]
    tiers: dict[str, Mapping[str, int]] = {"/picture": price.image_tiers, "/s": price.second_tiers}
    if in_full:
        figures += [(amount, f"{unit} at {name}") for unit in tiers for name, amount in tiers[unit].items()]
        tiers = {}
    parts = [f"{_range([amount, *tiers.get(unit, {}).values()])}{unit}" for amount, unit in figures if amount]
    return ", ".join(parts) + (" (as the provider reports)" if price.is_reported else "")


def _range(amounts: Sequence[int]) -> str:
    low, high = format_usd(min(amounts)), format_usd(max(amounts))
    return f"${low}" if low == high else f"${low} to {high}"


def _load(settings: Settings) -> Catalogue:
    try:
        return read_catalogue(settings)
    except CatalogueError as exc:
        fail(str(exc), EXIT_CONFIG)


def _as_json(found: Model) -> dict[str, Any]:
    return {
        "id": found.id,
        "title": found.title,
        "owner": found.owner,
        "type": found.operation,
        "aliases": list(found.aliases),
        "inputs": list(found.inputs),
        "outputs": list(found.outputs),
        "context_tokens": found.context_tokens,
        "max_output_tokens": found.max_output_tokens,
        "released_on": found.released_on,
        "retires_on": found.retires_on,
        "offers": [_offer_as_json(offer) for offer in found.offers],
    }


def _offer_as_json(offer: Offer) -> dict[str, Any]:
    abilities = offer.abilities
    return {
        "provider": offer.provider,
        "upstream_model": offer.upstream_model,
        "price": describe_price(offer.price),
        "sizes": list(abilities.sizes),
        "seconds": list(abilities.seconds),
        "max_images_in": abilities.max_images_in,
        "mask": abilities.mask,
        "max_count": abilities.max_count,
        "default_size": offer.default_size,
        "default_seconds": offer.default_seconds,
    }
