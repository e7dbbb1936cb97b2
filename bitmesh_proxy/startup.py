"""What a start finds before anything is opened: models and prices, the way to each provider or the sandbox instead.

One process asks for this as it puts the application together, the supervisor of several before it forks.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.kept import load_kept_catalogue
from bitmesh_proxy.catalogue.loader import catalogue_dirs
from bitmesh_proxy.catalogue.row_files import CatalogueError
from bitmesh_proxy.settings import Settings, SettingsError, resolve_data_dir
from bitmesh_proxy.storage.failures import may_pass
from bitmesh_proxy.upstream.access import ProviderAccess, configured_access, missing_credentials, provider_names

if TYPE_CHECKING:
    from bitmesh_proxy.sandbox.server import Sandbox

#: In the data directory: what the sandbox has to remember when the service is restarted.
SANDBOX_JOURNAL_NAME = "sandbox.kept"


class StartError(Exception):
    """The application cannot start as it is configured, or as things are. The message is for the operator."""

    @property
    def may_pass(self) -> bool:
        """Is it worth another try as it is configured? A full disk may have room again."""
        return may_pass(self.__cause__)


def offered_by(settings: Settings, environ: Mapping[str, str]) -> Catalogue:
    """Models, offers and prices. Raises StartError."""
    try:
        return load_kept_catalogue(
            catalogue_dirs(settings),
            providers=provider_names(settings),
            directory=resolve_data_dir(settings, environ),
        )
    except (CatalogueError, SettingsError, FileNotFoundError) as exc:
        raise StartError(str(exc)) from exc


def access_by(settings: Settings, environ: Mapping[str, str]) -> Mapping[str, ProviderAccess] | None:
    """How each provider is reached; None where the sandbox is to play them all. Raises StartError.

    Where the settings name a credential that is not there, somebody meant the provider and not its player, whose
    answers would be sold for real ones.
    """
    try:
        access = configured_access(settings, environ)
        missing = missing_credentials(settings, environ)
    except (SettingsError, FileNotFoundError) as exc:
        raise StartError(str(exc)) from exc
    mode = settings.sandbox.mode
    if mode == "off" or (mode == "auto" and (access or missing)):
        return access
    # With several workers both could listen, and the kernel would divide callers between them.
    if settings.sandbox.port and settings.sandbox.port == settings.http.port:
        raise StartError(f"sandbox.port: must not be http.port ({settings.http.port})")
    return None


def on_missing_credentials(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """What is to be said of providers whose credential is not where it is meant to be, one sentence for each."""
    try:
        missing = missing_credentials(settings, environ)
    except SettingsError:  # the start will say so
        return []
    return [f"provider {name}: {detail}" for name, detail in missing.items()]


def sandbox_port_taken(settings: Settings, exc: OSError) -> StartError:
    """What to say when the sandbox cannot listen."""
    return StartError(f"sandbox.port: cannot listen on 127.0.0.1:{settings.sandbox.port}: {exc.strerror or exc}")


def sandbox_for(settings: Settings, environ: Mapping[str, str], sock: socket.socket | None = None) -> Sandbox:
    """The providers' stand-in, not started. ``sock``: where it is to listen, if not at the configured port."""
    from bitmesh_proxy.sandbox.server import Sandbox  # a gateway with real providers need not load Pillow
    from bitmesh_proxy.sandbox.stage import Options

    options = Options(
        token_interval_s=settings.sandbox.token_interval_ms / 1000,
        job_duration_s=settings.sandbox.job_duration_s,
        max_movie_frames=settings.sandbox.max_clip_frames,
        max_movie_pixels=settings.sandbox.max_clip_pixels,
    )
    journal = resolve_data_dir(settings, environ) / SANDBOX_JOURNAL_NAME
    return Sandbox(port=settings.sandbox.port, sock=sock, options=options, journal=journal)
