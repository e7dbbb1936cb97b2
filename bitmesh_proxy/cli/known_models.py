"""Models that people name for a key: one that the catalogue does not know may come some day, but is seldom meant."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click

from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.row_files import CatalogueError
from bitmesh_proxy.cli.catalogue import read_catalogue
from bitmesh_proxy.settings import Settings


class KnownModels:
    """What the catalogue, read once, says of the models that are named; nothing where it cannot be read, which `doctor`
    and the server say at their starts."""

    def __init__(self, settings: Settings, named: Sequence[str]) -> None:
        self._named = named
        try:
            self._catalogue: Catalogue | None = read_catalogue(settings)
        except CatalogueError:
            self._catalogue = None

    def names_of(self, name: str) -> Collection[str]:
        """All names by which a key's list may allow the model that is called so."""
        model = None if self._catalogue is None else self._catalogue.find(name)
        return (name,) if model is None else (model.id, *model.aliases)

    def warn_of_unknown(self) -> None:
        """Say on standard error which of these ids and aliases no model has."""
        if self._catalogue is None:
            return
        for name in self._named:
            # Keys are exact about capital letters, so that a model may be found and be called otherwise.
            if self._catalogue.find(name) is None or name not in self.names_of(name):
                click.echo(
                    f"bitmesh-proxy: warning: no model is called {name!r} (see: bitmesh-proxy model list)", err=True
                )
