"""The registry, and rules that every provider in it keeps."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from bitmesh_proxy import providers
from bitmesh_proxy.calls import Operation
from bitmesh_proxy.providers import PROVIDERS
from bitmesh_proxy.providers.base import Provider, bearer, header

#: Not a provider by itself: the settings make providers with it.
FACTORIES = {"openai_compatible"}


def test_the_registry_is_the_folder_in_alphabetical_order() -> None:
    files = {module.name for module in pkgutil.iter_modules(providers.__path__)} - {"base"} - FACTORIES
    names = [provider.name for provider in PROVIDERS]
    assert names == sorted(files)
    for provider in PROVIDERS:
        assert importlib.import_module(f"bitmesh_proxy.providers.{provider.name}").PROVIDER is provider


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_what_every_provider_keeps(provider: Provider) -> None:
    assert "default" in provider.roots
    for url in provider.roots.values():
        assert url.startswith("https://")
        assert not url.endswith("/")
    assert provider.credential_env.isupper()
    assert any(provider.dialect_for(operation) is not None for operation in Operation)
    # The credential is in a header, never in an address.
    assert "secret-1" in "".join(provider.auth("secret-1").values())
    assert (provider.short_url is None) == (not provider.short_path)


def test_ways_to_authenticate() -> None:
    assert bearer("k") == {"Authorization": "Bearer k"}
    assert header("x-api-key")("k") == {"x-api-key": "k"}
