"""Short links keep their id, and are built from the configuration alone."""

from __future__ import annotations

import re

import pytest

from bitmesh_proxy.media.origins import Origin
from bitmesh_proxy.media.sources import make_source

SHORT_URL = re.compile(r"https://api\.together\.(?:ai|xyz)/shrt/([A-Za-z0-9]+)")
ROOTS = {"default": "https://api.together.ai/v1", "v2": "https://api.together.ai/v2"}
TOGETHER = make_source("together", ROOTS, short_url=SHORT_URL, short_path="/shrt/")


def test_origins_are_those_of_the_base_urls() -> None:
    source = make_source("x", {"default": "https://a.test/v1", "files": "http://10.0.0.1:8000"})
    assert source.origins == {Origin("https", "a.test", 443), Origin("http", "10.0.0.1", 8000)}


@pytest.mark.parametrize("host", ["api.together.ai", "api.together.xyz"])
def test_a_short_link_has_its_id(host: str) -> None:
    assert TOGETHER.short_id_of(f"https://{host}/shrt/DwlaBdSakNRFlBxN") == "DwlaBdSakNRFlBxN"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.together.ai.evil.test/shrt/DwlaBdSakNRFlBxN",
        "https://evil.test/https://api.together.ai/shrt/DwlaBdSakNRFlBxN",
        "https://api.together.ai/shrt/../v1/models",
        "https://api.together.ai/shrt/a%2Fb",
        "https://api.together.ai/shrt/abc?x=1",
        "https://api.together.ai/shrt/",
        "https://api.together.ai/shrt/" + "a" * 65,
        "https://api.together.ai/imgproxy/sig/format:jpeg/aHR0cHM6",
        "http://api.together.ai/shrt/DwlaBdSakNRFlBxN",
    ],
)
def test_any_other_link_is_not_short(url: str) -> None:
    assert TOGETHER.short_id_of(url) is None


def test_the_link_behind_an_id_is_built_from_the_configuration() -> None:
    assert TOGETHER.short_link("abc") == "https://api.together.ai/shrt/abc"
    with pytest.raises(ValueError, match="not a short id"):
        TOGETHER.short_link("../v1/models")


def test_a_prefix_before_the_providers_paths_is_kept() -> None:
    played = {
        name: url.replace("https://api.together.ai", "http://127.0.0.1:9000/together") for name, url in ROOTS.items()
    }
    source = make_source("together", played, own_roots=ROOTS, short_url=SHORT_URL, short_path="/shrt/")
    assert source.short_link("abc") == "http://127.0.0.1:9000/together/shrt/abc"
    assert source.short_id_of("http://127.0.0.1:9000/together/shrt/abc") == "abc"
    assert source.short_id_of("https://api.together.xyz/shrt/abc") == "abc"


def test_a_provider_without_short_links_has_none() -> None:
    source = make_source("x", {"default": "https://a.test/v1"})
    assert source.short_id_of("https://a.test/shrt/abc") is None
    with pytest.raises(ValueError, match="not a short id"):
        source.short_link("abc")
