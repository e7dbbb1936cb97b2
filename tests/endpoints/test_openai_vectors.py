"""Requests for vectors and verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import EmbeddingCall, ModerationCall
from bitmesh_proxy.context import Caller
from bitmesh_proxy.endpoints.openai_vectors import MAX_INPUTS, parse_embedding, parse_moderation
from bitmesh_proxy.errors import InvalidRequest, MissingParameter

CALLER = Caller(account_id="acc_1", key_id="key_1")


@pytest.mark.parametrize(
    ("said", "inputs"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [1, 2]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_embeddings_take_texts_and_tokens(said: Any, inputs: Any) -> None:
    body = {"model": "m", "input": said, "dimensions": 8, "encoding_format": "float", "user": "u", "test": True}
    assert parse_embedding(body, CALLER) == EmbeddingCall(
        model="m", inputs=inputs, options={"dimensions": 8, "encoding_format": "float", "user": "u"}
    )


@pytest.mark.parametrize(
    "said", ["", [], [""], ["a", 1], [1, "a"], [[]], [[1], "a"], [True], [-1], [1.5], 5, {}, ["a"] * (MAX_INPUTS + 1)]
)
def test_other_inputs_are_refused(said: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_embedding({"model": "m", "input": said}, CALLER)
    assert caught.value.param == "input"


@pytest.mark.parametrize(("field", "value"), [("dimensions", 0), ("encoding_format", "int8"), ("user", 5)])
def test_a_bad_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_embedding({"model": "m", "input": "a", field: value}, CALLER)
    assert caught.value.param == field


PICTURE_PART = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("said", "inputs"),
    [("", [""]), ("a", ["a"]), (["a", "b"], ["a", "b"]), ([{"type": "text", "text": "a"}, PICTURE_PART],) * 2],
)
def test_moderations_take_texts_and_parts(said: Any, inputs: Any) -> None:
    assert parse_moderation({"input": said}, CALLER) == ModerationCall(model="omni-moderation-latest", inputs=inputs)


@pytest.mark.parametrize("said", [5, [], [1], ["a", PICTURE_PART], [{"type": "image_url", "image_url": "x"}], [{}]])
def test_other_things_are_not_moderated(said: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_moderation({"model": "m", "input": said}, CALLER)
    assert caught.value.param == "input"


def test_something_must_be_given() -> None:
    for parse in (parse_embedding, parse_moderation):
        with pytest.raises(MissingParameter) as caught:
            parse({"model": "m"}, CALLER)
        assert caught.value.param == "input"
