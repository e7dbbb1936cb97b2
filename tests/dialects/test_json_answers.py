"""Providers' JSON is read with suspicion."""

from __future__ import annotations

import pytest

from bitmesh_proxy.dialects.json_answers import (
    child,
    from_base64,
    link,
    milliseconds,
    objects,
    read_event,
    read_object,
    read_success,
    string,
)
from bitmesh_proxy.errors import ProviderRefused, UpstreamBroken


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b"null", b'{"half":', b"\xff"])
def test_only_an_object_is_an_answer(body: bytes) -> None:
    with pytest.raises(UpstreamBroken, match="The provider's answer is not"):
        read_object(body)
    with pytest.raises(UpstreamBroken, match="The provider sent an event that is not"):
        read_event(body)


def test_what_could_not_be_written_again_is_no_answer() -> None:
    deep = b'{"a":' * 300 + b"1" + b"}" * 300
    with pytest.raises(UpstreamBroken, match="nested more than 200 levels deep"):
        read_object(deep)
    with pytest.raises(UpstreamBroken, match="nested more than 200 levels deep"):
        read_event(deep)


def test_an_answer_has_to_hold_what_is_needed() -> None:
    assert read_success(b'{"id":"1"}', "data", "id") == {"id": "1"}
    with pytest.raises(UpstreamBroken, match="data or id"):
        read_success(b'{"id":""}', "data", "id")
    with pytest.raises(ProviderRefused, match="Blocked"):
        read_success(b'{"errors":[{"message":"Blocked"}]}', "data")
    # What was made counts, even if something else failed.
    assert read_success(b'{"data":[1],"errors":[{"message":"Blocked"}]}', "data")["data"] == [1]


def test_what_is_of_another_type_is_as_if_it_were_not_there() -> None:
    assert objects([{"a": 1}, "x", None]) == [{"a": 1}]
    assert objects({"a": 1}) == []
    assert child({"a": {"b": {"c": 1}}}, "a", "b") == {"c": 1}
    assert child({"a": [1]}, "a", "b") == {}
    assert (string("x"), string(7), string(None)) == ("x", "", "")


@pytest.mark.parametrize(
    "value", ["javascript:alert(1)", "/relative", "ftp://x.test/a", "data:image/png;base64,aaaa", 7, None]
)
def test_only_a_web_address_is_a_link(value: object) -> None:
    assert link(value) is None
    assert link("https://x.test/a") == "https://x.test/a"


def test_base64_plain_and_in_a_data_uri() -> None:
    assert from_base64("aGk=") == from_base64("data:text/plain;charset=utf-8;base64,aGk=") == b"hi"
    for bad in ("aGk", "%%%%", "data:text/plain,hi", "aGk=\n aGk="):
        with pytest.raises(UpstreamBroken):
            from_base64(bad)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(3, 3000), (2.25, 2250), ("8", 8000), ("0.0004", 0), (1e9, 10**12), ("1e-999999", 0)],
)
def test_a_length_is_a_number_of_seconds(seconds: object, expected: int) -> None:
    assert milliseconds(seconds) == expected


@pytest.mark.parametrize(
    "seconds",
    [None, True, -1, "-1", "", "long", "NaN", "sNaN", "Infinity", 1e300, 2**63, "1e999990", "1e999999999", [3], {}],
)
def test_what_is_no_length_is_none_and_takes_no_time(seconds: object) -> None:
    assert milliseconds(seconds) is None
