"""The catalogue as commands see it: read from its files each time, never what a server has kept of them."""

from __future__ import annotations

from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.loader import catalogue_dirs, load_catalogue
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.upstream.access import provider_names


def read_catalogue(settings: Settings) -> Catalogue:
    """All models and offers, those without a credential too. Raises CatalogueError with every fault found."""
    return load_catalogue(catalogue_dirs(settings), providers=provider_names(settings))
