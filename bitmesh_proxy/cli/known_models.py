"""Models that people name for a key: one that the catalogue does not know may come some day, but is seldom meant."""

from __future__ import annotations

from collections.abc import Iterable

import click

from bitmesh_proxy.catalogue.row_files import CatalogueError
from bitmesh_proxy.cli.catalogue import read_catalogue
from bitmesh_proxy.settings import Settings


def warn_of_unknown_models(settings: Settings, names: Iterable[str]) -> None:
    """Say on standard error which of these ids and aliases no model has. Reads the catalogue."""
    try:
        catalogue = read_catalogue(settings)
    except CatalogueError:  # `doctor` says it, and the server at its start
        return
    for name in names:
        model = catalogue.find(name)
        if model is None or name not in (model.id, *model.aliases):  # keys are exact about capital letters
            click.echo(f"bitmesh-proxy: warning: no model is called {name!r} (see: bitmesh-proxy model list)", err=True)
