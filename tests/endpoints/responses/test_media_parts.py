from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import MediaOutput
from bitmesh_proxy.endpoints.responses.media_parts import caption, data_uri, logprob, output_link, output_part
from tests.endpoints.responses.specification import violations


def test_links_are_captions_too_and_bytes_are_not_said_twice() -> None:
    image = output_part("https://h.test/a", "image", None)
    assert caption(image, "image") == "![image](https://h.test/a)"
    assert caption(output_part("https://h.test/a", "video", None), "video") == "[video](https://h.test/a)"
    assert caption(output_part("data:image/png;base64,QQ==", "image", None), "image") == "[image]"


@pytest.mark.parametrize(
    ("media_type", "filename"),
    [("audio/mpeg", "speech.mp3"), ("audio/wav; rate=8000", "speech.wav"), (None, "speech.mp3"), ("x/y", "speech.bin")],
)
def test_a_sound_has_a_name_that_fits(media_type: str | None, filename: str) -> None:
    assert output_part("https://h.test/a", "audio", media_type)["filename"] == filename


def test_a_link_that_only_we_can_open_is_none() -> None:
    assert output_link(MediaOutput(kind="image", url="https://h.test/a", needs_credential=True)) is None
    assert output_link(MediaOutput(kind="image", url="https://h.test/a")) == "https://h.test/a"
    assert output_link(MediaOutput(kind="audio", data=b"A")) == data_uri(b"A", "audio/mpeg")


def test_a_probability_has_all_that_the_schema_wants() -> None:
    raw = {"token": "é", "logprob": -1, "bytes": None, "top_logprobs": [{"token": "e", "logprob": -2, "bytes": [101]}]}
    rendered = logprob(raw)
    assert violations("LogProb", rendered) == []
    assert rendered["bytes"] == [0xC3, 0xA9]
    assert violations("LogProb", logprob({"logprob": 0})) == []


@pytest.mark.parametrize("odd", [None, "", "-0.5", True, [], {}, ["x"], {"a": -0.5}])
@pytest.mark.parametrize("name", ["token", "logprob", "bytes", "top_logprobs"])
def test_a_probability_in_types_of_its_own_still_has_it(name: str, odd: Any) -> None:
    raw = {"token": "e", "logprob": -1, "bytes": [101], "top_logprobs": []}
    for each in ({**raw, name: odd}, {**raw, "top_logprobs": [odd, {**raw, name: odd}]}):
        assert violations("LogProb", logprob(each)) == []
