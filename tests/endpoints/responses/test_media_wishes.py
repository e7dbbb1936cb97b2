"""How many, how large, how long and in which form: read from either interface's fields, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.endpoints.responses.media_wishes import NO_WISHES, MediaWishes, read_media_wishes
from bitmesh_proxy.errors import InvalidRequest


def read(**fields: Any) -> MediaWishes:
    return read_media_wishes(Fields(fields))


def test_everything_that_is_said_is_read() -> None:
    assert read(
        max_items=2, size="1280x720", quality="hd", seconds=5, response_format="b64_json", mask="HTTPS://a.test/m.png"
    ) == MediaWishes(
        count=2, size=(1280, 720), quality="hd", seconds="5", response_format="b64_json", mask="HTTPS://a.test/m.png"
    )


def test_who_says_nothing_of_these_has_no_wishes() -> None:
    assert read(model="m", input="hi") is NO_WISHES
    assert read(size="auto", seconds="auto", mask=None) == NO_WISHES
    assert read(response_format={"type": "json_object"}) == NO_WISHES  # of a text


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"max_items": 0}, "max_items", "invalid_value"),
        ({"max_items": 101}, "max_items", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"size": "big"}, "size", "invalid_value"),
        ({"width": 64}, "height", "missing_required_parameter"),
        ({"width": 64, "height": "64"}, "height", "invalid_value"),
        ({"size": "0x10"}, "size", "invalid_value"),
        ({"quality": ""}, "quality", "invalid_value"),
        ({"seconds": 0}, "seconds", "invalid_value"),
        ({"seconds": "soon"}, "seconds", "invalid_value"),
        ({"seconds": True}, "seconds", "invalid_value"),
        ({"seconds": "1e400000"}, "seconds", "invalid_value"),
        ({"seconds": "1.2345"}, "seconds", "invalid_value"),
        ({"response_format": "png"}, "response_format", "invalid_value"),
        ({"mask": "x"}, "mask", "invalid_value"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(**fields)
    assert (raised.value.param, raised.value.code, raised.value.status) == (param, code, 400)


def test_count_and_size_may_have_the_names_of_other_interfaces() -> None:
    media = read(n=2, width=64, height=32)
    assert (media.count, media.size) == (2, (64, 32))
    both = read(n=2, max_items=3, width=64, height=32, size="1x2")
    assert (both.count, both.size) == (3, (1, 2))


@pytest.mark.parametrize(
    ("given", "seconds"), [(5, "5"), ("5", "5"), (5.5, "5.5"), ("10.50", "10.5"), ("auto", None), (100, "100")]
)
def test_seconds_are_a_plain_decimal(given: Any, seconds: str | None) -> None:
    assert read(seconds=given).seconds == seconds
