"""Results that only our key opens lie under the configured address, whatever the provider calls itself."""

from __future__ import annotations

import pytest

from bitmesh_proxy.calls import MediaOutput
from bitmesh_proxy.providers.openai import PROVIDER
from bitmesh_proxy.settings import ProviderSettings, Settings, SettingsError
from bitmesh_proxy.upstream.access import ProviderAccess, configured_access


def test_a_path_becomes_a_link_under_the_configured_address() -> None:
    roots = {"default": "http://127.0.0.1:9/openai/v1", "v2": "http://127.0.0.1:9/v2"}
    access = ProviderAccess(provider=PROVIDER, roots=roots, auth_headers={})
    plain = MediaOutput(kind="image", url="https://elsewhere.test/a.png")
    content = MediaOutput(kind="video", path="/videos/v1/content", needs_credential=True)
    assert access.locate([plain, content]) == (
        plain,
        MediaOutput(kind="video", url="http://127.0.0.1:9/openai/v1/videos/v1/content", needs_credential=True),
    )


def test_a_further_server_without_an_address_stops_the_start_by_name() -> None:
    settings = Settings(providers=(ProviderSettings(name="local", kind="openai_compatible"),))
    with pytest.raises(SettingsError, match=r"providers\.local\.base_urls\.default"):
        configured_access(settings, {})
