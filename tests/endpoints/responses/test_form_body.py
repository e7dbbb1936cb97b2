from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from bitmesh_proxy.endpoints.responses import form_body
from bitmesh_proxy.endpoints.responses.form_body import FormFile
from bitmesh_proxy.errors import InvalidRequest, UnsupportedMediaType

MAX_DEPTH = 64
body_of_form = partial(form_body.body_of_form, max_depth=MAX_DEPTH)
MESSAGES = ("messages", '[{"role": "user", "content": "Remove background"}]')


def a_file(name: str = "image", media_type: str | None = "image/png", data: bytes = b"x") -> FormFile:
    return FormFile(name=name, filename="f.bin", data=data, media_type=media_type)


def test_fields_become_what_json_would_hold() -> None:
    fields = [
        ("model", "m"),
        ("input", "hi"),
        ("stream", "true"),
        ("store", "0"),
        ("temperature", "0.5"),
        ("max_items", "2"),
        ("size", "64x64"),
        ("tools", "[]"),
        ("tool_choice", "auto"),
        ("metadata", '{"a": "b"}'),
    ]
    assert body_of_form(fields) == {
        "model": "m",
        "input": "hi",
        "stream": True,
        "store": False,
        "temperature": 0.5,
        "max_items": 2,
        "size": "64x64",
        "tools": [],
        "tool_choice": "auto",
        "metadata": {"a": "b"},
    }


def test_input_may_be_a_list() -> None:
    assert body_of_form([("input", ' [{"role": "user"}]')])["input"] == [{"role": "user"}]


def test_files_join_the_last_message_of_the_users() -> None:
    said = '[{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}]'
    body = body_of_form([("messages", said)], [a_file(), a_file("image[]"), a_file("mask")])
    content = body["messages"][0]["content"]
    assert content[0] == {"type": "text", "text": "One"}
    assert [part.get("mask") for part in content[1:]] == [None, None, True]
    assert content[1]["image_url"] == "data:image/png;base64,eA=="


@pytest.mark.parametrize(
    ("fields", "content"),
    [([], 1), ([("input", "hi")], 2), ([("messages", '[{"role": "assistant", "content": "x"}]')], 1)],
)
def test_files_find_a_place(fields: list[tuple[str, str]], content: int) -> None:
    body = body_of_form(fields, [a_file()])
    said = body.get("messages") or body["input"]
    assert len(said[-1]["content"]) == content
    assert said[-1]["role"] == "user"


@pytest.mark.parametrize(
    ("name", "media_type", "kind"),
    [
        ("video", "video/mp4", "input_video"),
        ("audio", "audio/wav", "input_file"),
        ("file", "application/pdf", "input_file"),
        ("file", "image/png", "input_image"),
    ],
)
def test_a_file_is_what_its_bytes_are(name: str, media_type: str, kind: str) -> None:
    (part,) = body_of_form([], [a_file(name, media_type)])["input"][0]["content"]
    assert part["type"] == kind


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("messages", "hello")], "messages"),
        ([("tools", "{")], "tools"),
        ([("model", "a"), ("model", "b")], "model"),
    ],
)
def test_what_is_wrong_is_named(fields: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        body_of_form(fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "file", [a_file(media_type=None), a_file(media_type="audio/wav"), a_file("video", "image/png")]
)
def test_a_file_of_the_wrong_kind_is_refused(file: FormFile) -> None:
    with pytest.raises(UnsupportedMediaType):
        body_of_form([MESSAGES], [file])


@pytest.mark.parametrize(
    ("fields", "file"),
    [
        ([MESSAGES], a_file("surprise")),
        ([("messages", "5")], a_file()),
        ([("messages", '[{"role": "user", "content": 5}]')], a_file()),
    ],
)
def test_a_file_without_a_place_is_refused(fields: Any, file: FormFile) -> None:
    with pytest.raises(InvalidRequest):
        body_of_form(fields, [file])


def test_a_number_that_is_none_is_left_to_the_fields_own_rule() -> None:
    assert body_of_form([("seconds", "soon")])["seconds"] == "soon"


def test_a_field_may_be_no_deeper_than_json_would_be() -> None:
    def nested(depth: int) -> tuple[str, str]:
        return "metadata", '{"a":' * depth + "1" + "}" * depth

    assert body_of_form([nested(MAX_DEPTH - 1)])
    with pytest.raises(InvalidRequest, match="nested too deep") as raised:
        body_of_form([nested(MAX_DEPTH)])
    assert raised.value.param == "metadata"
