from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.endpoints.responses.content import audio_type_of, is_audio, is_media, read_content
from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.errors import InvalidRequest

PNG = "data:image/png;base64,iVBORw0KGgo="
LINK = "https://example.com/image.jpg"
IMAGE = {"type": "input_image", "image_url": LINK, "detail": "auto"}
VIDEO = {"type": "input_video", "video_url": LINK}
WAV = {"type": "input_file", "file_url": "data:audio/wav;base64,UklGRg==", "media_type": "audio/wav"}
TEXT = {"type": "input_text", "text": "hi"}
PDF = "data:application/pdf;base64,JVBERg=="


def read(content: Any, role: str = "user") -> list[Any]:
    return list(read_content(Fields({"content": content}, "input[0]"), role=role))


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ({"type": "text", "text": "hi"}, TEXT),
        ({"type": "input_text", "text": "hi"}, TEXT),
        ({"type": "image_url", "image_url": {"url": LINK}}, IMAGE),
        ({"type": "image_url", "image_url": {"url": LINK, "detail": "low"}}, {**IMAGE, "detail": "low"}),
        ({"type": "image_url", "image_url": LINK}, IMAGE),
        ({"type": "input_image", "image_url": LINK}, IMAGE),
        ({"type": "input_image", "image_url": PNG, "detail": None}, {**IMAGE, "image_url": PNG}),
        ({"type": "input_image", "image_url": LINK, "mask": True}, {**IMAGE, "mask": True}),
        ({"type": "video_url", "video_url": {"url": LINK}}, VIDEO),
        ({"type": "input_video", "video_url": LINK}, VIDEO),
        ({"type": "audio_url", "audio_url": {"url": WAV["file_url"]}}, WAV),
        ({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}, WAV),
        ({"type": "input_file", "file_data": PDF}, {"type": "input_file", "file_url": PDF}),
        ({"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
         {"type": "input_file", "file_url": PDF, "filename": "a.pdf"}),
        ({"type": "input_file", "file_data": "QQ=="},
         {"type": "input_file", "file_url": "data:application/octet-stream;base64,QQ=="}),
        ({"type": "input_file", "file_url": "https://h.test/a.mp3"},
         {"type": "input_file", "file_url": "https://h.test/a.mp3", "media_type": "audio/mpeg"}),
    ],
)  # fmt: skip
def test_both_vocabularies_mean_the_same(part: Any, wanted: Any) -> None:
    assert read([part]) == [wanted]


def test_a_string_is_one_text() -> None:
    assert read("hi") == [TEXT]
    assert read("hi", "assistant") == [{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}]


@pytest.mark.parametrize(
    ("content", "role", "param"),
    [
        (None, "user", "input[0].content"),
        (5, "user", "input[0].content"),
        (["x"], "user", "input[0].content[0]"),
        ([{}], "user", "input[0].content[0].type"),
        ([{"type": "hologram"}], "user", "input[0].content[0].type"),
        ([{"type": "text"}], "user", "input[0].content[0].text"),
        ([{"type": "text", "text": 5}], "user", "input[0].content[0].text"),
        ([{"type": "image_url"}], "user", "input[0].content[0].image_url"),
        ([{"type": "image_url", "image_url": {}}], "user", "input[0].content[0].image_url.url"),
        ([TEXT, {"type": "input_image", "image_url": "ftp://x"}], "user", "input[0].content[1].image_url"),
        ([{"type": "input_image", "image_url": "data:nothing"}], "user", "input[0].content[0].image_url"),
        ([{"type": "input_image", "image_url": LINK, "detail": "max"}], "user", "input[0].content[0].detail"),
        ([{"type": "input_image", "file_id": "f"}], "user", "input[0].content[0].file_id"),
        ([{"type": "input_file"}], "user", "input[0].content[0].file_url"),
        ([{"type": "input_file", "file_data": PDF, "file_url": LINK}], "user", "input[0].content[0].file_url"),
        ([{"type": "input_audio"}], "user", "input[0].content[0].input_audio"),
        ([{"type": "input_audio", "input_audio": {"data": "x", "format": "8-track"}}], "user",
         "input[0].content[0].input_audio.format"),
        ([IMAGE], "system", "input[0].content[0].type"),
        ([{"type": "refusal", "refusal": "no"}], "user", "input[0].content[0].type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(content: Any, role: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(content, role)
    assert raised.value.param == param


def test_kinds() -> None:
    assert [is_media(part) for part in (TEXT, IMAGE, VIDEO, WAV)] == [False, True, True, True]
    assert [is_audio(part) for part in (IMAGE, WAV, {"type": "input_file", "file_url": PDF})] == [False, True, False]
    assert audio_type_of("DATA:AUDIO/MPEG;base64,x") == "audio/mpeg"
    assert audio_type_of("https://h.test/a.WAV?x=.png") == "audio/wav"
    assert audio_type_of(PDF) is None
