"""Links are replaced where results are, and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest

from bitmesh_proxy.media.payload_links import links_in, replace_links


@pytest.mark.parametrize(
    ("raw", "links"),
    [
        ({"data": [{"url": "https://a/1"}, {"url": "https://a/2"}]}, [("image", "https://a/1"), ("image", "https://a/2")]),
        ({"outputs": {"video_url": "https://a/v", "cost": 0.28}}, [("video", "https://a/v")]),
        ({"outputs": [{"video_url": "https://a/v"}, {"audio_url": "http://a/s"}]},
         [("video", "https://a/v"), ("audio", "http://a/s")]),
        ({"data": [{"b64_json": "AAAA"}, {"url": None}, "text", {"url": {"x": 1}}]}, []),
        ({"data": {"url": "https://a/1"}}, []),
        ({"data": [{"url": "data:image/png;base64,AAAA"}]}, []),
        ({"prompt": "https://a/1", "error": {"url": "https://a/1"}}, []),
        ({}, []),
    ],
)  # fmt: skip
def test_which_links_are_results(raw: dict[str, Any], links: list[tuple[str, str]]) -> None:
    assert links_in(raw) == links


def test_only_known_places_change_and_the_original_stays() -> None:
    raw = {
        "id": "job",
        "prompt": "https://a/1",
        "data": [{"index": 0, "url": "https://a/1", "note": "https://a/1"}, {"b64_json": "AAAA"}],
        "outputs": {"video_url": "https://a/2", "cost": 0.28, "more": ["https://a/2"]},
    }
    before = copy.deepcopy(raw)
    answer = replace_links(raw, {"https://a/1": "https://us/x", "https://a/2": "https://us/y"})
    assert raw == before
    assert orjson.loads(orjson.dumps(answer)) == {
        "id": "job",
        "prompt": "https://a/1",
        "data": [{"index": 0, "url": "https://us/x", "note": "https://a/1"}, {"b64_json": "AAAA"}],
        "outputs": {"video_url": "https://us/y", "cost": 0.28, "more": ["https://a/2"]},
    }


def test_a_link_without_a_replacement_stays() -> None:
    assert replace_links({"data": [{"url": "https://a/1"}]}, {}) == {"data": [{"url": "https://a/1"}]}
