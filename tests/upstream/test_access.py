"""Where a provider is, and with which credential: by configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.providers import PROVIDERS
from bitmesh_proxy.settings import Settings, SettingsError
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.upstream.access import configured_access, provider_names, sandbox_access

SECRET = "sk-planted-0123456789abcdef"


def settings(*providers: dict[str, Any]) -> Settings:
    return load_settings(environ={}, overrides={"providers": list(providers)})  # type: ignore[dict-item]  # a list


def test_a_provider_is_reachable_when_its_credential_is_there() -> None:
    access = configured_access(settings(), {"TOGETHER_API_KEY": SECRET})
    assert list(access) == ["together"]
    assert access["together"].auth_headers == {"Authorization": f"Bearer {SECRET}"}
    assert configured_access(settings(), {}) == {}


def test_a_credential_is_in_no_repr() -> None:
    access = configured_access(settings(), {"TOGETHER_API_KEY": SECRET})
    assert SECRET not in repr(access)


def test_a_provider_may_be_switched_off_or_moved() -> None:
    environ = {"TOGETHER_API_KEY": SECRET}
    assert configured_access(settings({"name": "together", "enabled": False}), environ) == {}
    moved = settings({"name": "together", "base_urls": {"default": "https://eu.example.org/v1/"}, "max_concurrent": 3})
    access = configured_access(moved, environ)["together"]
    request = UpstreamRequest(method="POST", path="/chat/completions", body=b"{}")
    assert access.url(request) == "https://eu.example.org/v1/chat/completions"
    assert access.roots["v2"] == "https://api.together.ai/v2"
    assert access.max_concurrent == 3


def test_a_credential_comes_from_a_file_by_reference(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    entry = {"name": "together", "credential": f"file:{tmp_path / 'key'}"}
    assert configured_access(settings(entry), {})["together"].auth_headers["Authorization"].endswith(SECRET)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "providers_together").write_text(SECRET)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    assert list(configured_access(settings(), environ)) == ["together"]


def test_only_a_further_server_is_taken_at_its_word_on_what_calls_cost() -> None:
    known = settings({"name": "together", "takes_reported_cost": True})
    with pytest.raises(SettingsError, match=r"providers\.together\.takes_reported_cost"):
        configured_access(known, {"TOGETHER_API_KEY": SECRET})


def test_a_further_server_needs_no_credential() -> None:
    own = {"name": "own", "kind": "openai_compatible", "base_urls": {"default": "http://127.0.0.1:8000/v1"}}
    access = configured_access(settings(own), {})["own"]
    assert (access.auth_headers, access.roots["default"]) == ({}, "http://127.0.0.1:8000/v1")
    assert "own" in provider_names(settings(own))


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"name": "nobody"}, "nobody"),
        ({"name": "together", "base_urls": {"v9": "https://x.example.org"}}, "v9"),
        ({"name": "together", "base_urls": {"default": "ftp://x.example.org"}}, "http"),
    ],
)
def test_what_cannot_be_is_named(entry: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        configured_access(settings(entry), {"TOGETHER_API_KEY": SECRET})


def test_the_sandbox_keeps_every_providers_own_paths() -> None:
    access = sandbox_access(settings(), "http://127.0.0.1:9")
    assert set(access) == {provider.name for provider in PROVIDERS}
    assert access["together"].roots["v2"] == "http://127.0.0.1:9/together/v2"
    assert all(each.is_sandbox for each in access.values())
