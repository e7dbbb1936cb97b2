from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.endpoints.responses.truncation import (
    CHARACTERS_PER_MEDIA,
    characters_of,
    estimate_tokens,
    fit,
)
from bitmesh_proxy.errors import ContextLengthExceeded
from tests.endpoints.responses.making import a_request


def items_of(*items: Any) -> list[Any]:
    return list(a_request(input=list(items)).items)


def said(role: str, letter: str, count: int = 40) -> dict[str, Any]:
    return {"role": role, "content": letter * count}


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "x" * 39}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "y" * 40}


def kinds_of(items: list[Any]) -> list[str]:
    return [item.get("role") or item["type"] for item in items]


def fitted(
    items: list[Any], context_tokens: int | None, *, is_auto: bool = True, reserved_tokens: int = 0
) -> list[Any]:
    return fit(items, context_tokens=context_tokens, is_auto=is_auto, reserved_tokens=reserved_tokens, param="input")


def test_nothing_is_dropped_unless_it_is_allowed() -> None:
    items = items_of(said("user", "a", 400))
    assert fitted(items, None) == fitted(items, 60, is_auto=False) == items
    with pytest.raises(ContextLengthExceeded) as raised:
        fitted(items, 49, is_auto=False)
    assert raised.value.param == "input"


def test_the_oldest_go_first_and_the_systems_words_stay() -> None:
    items = items_of(said("system", "s"), said("user", "a"), said("assistant", "b"), said("user", "c"))
    assert fitted(items, 40) == items
    assert kinds_of(fitted(items, 30)) == ["system", "assistant", "user"]
    assert kinds_of(fitted(items, 40, reserved_tokens=20)) == ["system", "user"]
    assert kinds_of(fitted(items, 0)) == ["system", "user"]


def test_a_call_goes_with_its_output() -> None:
    items = items_of(said("user", "a"), CALL, OUTPUT, said("user", "c"))
    assert kinds_of(fitted(items, 30)) == ["function_call", "function_call_output", "user"]
    assert kinds_of(fitted(items, 25)) == ["user"]


def test_what_follows_the_last_question_stays() -> None:
    items = items_of(said("user", "a"), said("user", "b"), CALL, OUTPUT)
    assert kinds_of(fitted(items, 0)) == ["user", "function_call", "function_call_output"]


def test_tokens_are_estimated() -> None:
    picture = {"type": "input_image", "image_url": "https://a.test/b"}
    items = items_of({"role": "user", "content": [{"type": "input_text", "text": "abcd"}, picture]}, CALL, OUTPUT)
    assert [characters_of(item) for item in items] == [4 + CHARACTERS_PER_MEDIA, 40, 40]
    assert estimate_tokens(items, instructions="abcd") == (88 + CHARACTERS_PER_MEDIA) // 4
    assert characters_of({"type": "reasoning", "summary": []}) == 0


def test_the_call_of_a_custom_tool_goes_with_its_output() -> None:
    call = {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x" * 39}
    output = {"type": "custom_tool_call_output", "call_id": "c", "output": "y" * 40}
    items = items_of(call, output, said("user", "a"))
    assert [characters_of(item) for item in items] == [40, 40, 40]
    assert kinds_of(fitted(items, 20)) == ["user"]
