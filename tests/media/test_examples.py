"""Which links stand for any picture, and which mean one."""

from __future__ import annotations

import pytest

from bitmesh_proxy.media.examples import is_example


@pytest.mark.parametrize(
    "link",
    [
        "https://example.com/image.jpg",
        "http://cdn.example.org/a/b.png?c=d",
        "https://pictures.test/x",
        "data:image/png;base64,iVBORw0KG...",
        "data:image/jpeg;base64,…",
    ],
)
def test_links_of_documentation(link: str) -> None:
    assert is_example(link)


@pytest.mark.parametrize(
    "link",
    [
        "https://example.com.evil.net/image.jpg",
        "https://notexample.com/image.jpg",
        "https://pictures.bitmesh.ai/image.jpg",
        "data:image/png;base64,iVBORw0KGgo=",
        "data:image/png;base64," + "A" * 200 + "...",
        "data:text/plain,hello...",
        "http://[broken",
        "",
    ],
)
def test_links_that_mean_what_they_say(link: str) -> None:
    assert not is_example(link)
