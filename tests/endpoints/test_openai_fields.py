"""Fields of requests: types, bounds, forms as JSON, sizes, models, pictures."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.calls import Media
from bitmesh_proxy.context import Caller
from bitmesh_proxy.endpoints import openai_fields as fields
from bitmesh_proxy.errors import InvalidRequest, MissingParameter

FREE = Caller(account_id="acc_1", key_id="key_1")
BOUND = Caller(account_id="acc_1", key_id="key_2", bound_model="vendor/bound")
PICTURE = Media(kind="image", data=b"...")


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (fields.integer(1, 3), [1, 3], [0, 4, 1.0, True, "1", [1], math.nan]),
        (fields.integer(1), [1, 10**12], [0, -1]),
        (fields.number(0, 1), [0, 1, 0.5], [-0.1, 1.1, True, "0.5", math.nan, math.inf]),
        (fields.number(), [0, -1e9], [math.nan, math.inf, None]),
        (fields.text(3), ["", "abc"], ["abcd", 1, ["a"]]),
        (fields.text(min_characters=1), ["a"], [""]),
        (fields.boolean(), [True, False], [0, 1, "true"]),
        (fields.one_of("a", "b"), ["a"], ["c", "", ["a"], {}]),
        (fields.list_of(), [[], ["a"]], ["a", [1]]),
        (fields.list_of(("a",)), [["a"]], [["b"]]),
    ],
)
def test_a_field_takes_what_it_says(field: fields.Field, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        fields.check_fields({"it": value}, {"it": field})
    for value in bad:
        if value is None:
            continue
        with pytest.raises(InvalidRequest, match=r"Invalid 'it': expected") as caught:
            fields.check_fields({"it": value}, {"it": field})
        assert (caught.value.param, caught.value.code) == ("it", "invalid_value")
    fields.check_fields({"it": None}, {"it": field})


@pytest.mark.parametrize(
    ("field", "said", "value"),
    [
        (fields.integer(), "12", 12),
        (fields.integer(), "1.5", "1.5"),
        (fields.integer(), "9" * 40, "9" * 40),
        (fields.integer(), " 12\x1f", 12),
        (fields.number(), "12\x1c", 12),
        (fields.number(), "0.25\x1d", 0.25),
        (fields.number(), "0.25", 0.25),
        (fields.number(), "3", 3),
        (fields.number(), "nan", "nan"),
        (fields.number(), "1e400", "1e400"),
        (fields.boolean(), "True", True),
        (fields.boolean(), "0", False),
        (fields.boolean(), "perhaps", "perhaps"),
        (fields.text(), "12", "12"),
    ],
)
def test_a_forms_text_becomes_the_value_that_json_has(field: fields.Field, said: str, value: object) -> None:
    assert fields.body_of_form([("it", said)], [], {"it": field}) == {"it": value}


@given(st.text())
def test_reading_a_text_never_raises_and_never_gives_what_is_not_finite(said: str) -> None:
    for field in (fields.integer(), fields.number(), fields.boolean()):
        value = field.read_text(said)
        assert not (isinstance(value, float) and not math.isfinite(value))


def test_a_form_is_the_json_that_it_stands_for() -> None:
    body = fields.body_of_form(
        [
            ("model", "m"),
            ("n", "2"),
            ("include[]", "a"),
            ("include[]", "b"),
            ("empty", ""),
            ("twice", "x"),
            ("twice", "y"),
        ],
        [("image[]", PICTURE), ("mask", PICTURE)],
        {"n": fields.integer()},
    )
    assert body == {
        "model": "m",
        "n": 2,
        "include": ["a", "b"],
        "twice": ["x", "y"],
        "image": [PICTURE],
        "mask": PICTURE,
    }
    assert fields.body_of_form([], [("image", PICTURE), ("image[]", PICTURE)], {}) == {"image": [PICTURE, PICTURE]}


@pytest.mark.parametrize(
    ("said", "size"),
    [("1024x768", (1024, 768)), ("64X64", (64, 64)), ("10×20", (10, 20)), ("10*20", (10, 20)), ("auto", (None, None))],
)
def test_a_size_is_read(said: str, size: tuple[int | None, int | None]) -> None:
    assert fields.size_of({"size": said}) == size
    assert fields.size_of({}) == (None, None)


@pytest.mark.parametrize("said", ["0x10", "10x0", "10", "x", "10x10x10", "-1x5", "1000000x1", 5, ["a"], "１x１"])
def test_a_size_that_is_none_is_refused(said: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fields.size_of({"size": said})
    assert caught.value.param == "size"


def test_the_model_is_the_callers_or_the_keys() -> None:
    assert fields.model_of({"model": "m"}, FREE) == "m"
    assert fields.model_of({}, BOUND) == fields.model_of({"model": "vendor/bound"}, BOUND) == "vendor/bound"
    assert fields.model_of({}, FREE, default="d") == "d"
    assert fields.model_of({"model": "alias"}, BOUND) == "alias"  # routing knows whose it is
    for caller in (FREE, BOUND):
        with pytest.raises(InvalidRequest):
            fields.model_of({"model": 5}, caller)
    with pytest.raises(MissingParameter):
        fields.model_of({}, FREE)


def test_a_picture_is_a_file_a_link_or_an_object_around_one() -> None:
    link = "https://example.org/a.png"
    for given_as in (link, {"image_url": link}, {"url": link}, {"image_url": {"url": link}}):
        assert fields.media_of(given_as, param="image") == Media(kind="image", url=link)
    assert fields.media_of(PICTURE, param="image") is PICTURE
    for wrong in ("ftp://x/y", "a.png", 5, {"file_id": "f"}, {}, None):
        with pytest.raises(InvalidRequest) as caught:
            fields.media_of(wrong, param="mask")
        assert caught.value.param == "mask"


def test_other_fields_come_through_without_files_and_nulls() -> None:
    body = {"model": "m", "x": 1, "y": None, "file": PICTURE, "files": [PICTURE], "z": [1]}
    assert fields.others(body, ("model",)) == {"x": 1, "z": [1]}
