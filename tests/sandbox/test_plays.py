"""Where a key and a prompt are found."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.sandbox.plays import Refused, bearer, no_prompt, text_at


@pytest.mark.parametrize(
    ("header", "key"),
    [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Bearer ", None), ("Bearer", None), ("Basic abc", None)],
)
def test_a_bearer_key(header: str, key: str | None) -> None:
    assert bearer({"Authorization": header}) == key
    assert bearer({}) is None


@pytest.mark.parametrize(
    ("value", "prompt"), [("a fox", "a fox"), (["a", "b"], "a"), ([1, "b"], "b"), ([], ""), (7, ""), (None, "")]
)
def test_a_prompt_in_a_field(value: Any, prompt: str) -> None:
    assert text_at("input")({"input": value}) == prompt
    assert text_at("input")({}) == ""
    assert no_prompt({"prompt": "x"}) == ""


def test_a_refusal_is_told_by_its_message() -> None:
    refused = Refused(400, "no", headers={"Retry-After": "1"})
    assert (str(refused), refused.status, refused.headers, refused.code) == ("no", 400, {"Retry-After": "1"}, None)
