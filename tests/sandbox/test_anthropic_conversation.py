"""Anthropic's conversation in the shape that the sandbox answers."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.sandbox.anthropic_conversation import as_chat, blocks_of, last_user_text

RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "sunny"}


def chat(**more: Any) -> dict[str, Any]:
    return as_chat({"model": "m", "messages": [{"role": "user", "content": "hi"}], **more})


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "a\nb"),
        ([{"role": "user", "content": [RESULT]}], ""),
        ([{"role": "assistant", "content": "b"}], ""),
        (["no message", 7], ""),
        ("no list", ""),
    ],
)
def test_the_users_last_text(messages: Any, text: str) -> None:
    assert last_user_text({"messages": messages}) == text


def test_content_that_is_neither_text_nor_blocks_is_nothing() -> None:
    assert blocks_of("a") == [{"type": "text", "text": "a"}]
    assert (blocks_of(None), blocks_of([1, {"type": "image"}])) == ([], [{"type": "image"}])


def test_the_system_prompt_goes_first_and_a_tools_result_last() -> None:
    content = [RESULT, {"type": "image"}, {"type": "text", "text": "and?"}]
    told = chat(system="Be brief.", messages=[{"role": "user", "content": content}])
    assert [message["role"] for message in told["messages"]] == ["system", "user", "tool"]
    assert told["messages"][1]["content"] == [{"type": "image_url"}, {"type": "text", "text": "and?"}]
    assert told["messages"][2]["content"] == [{"type": "text", "text": "sunny"}]


def test_thinking_is_not_answered() -> None:
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]
    told = chat(messages=[{"role": "assistant", "content": content}])
    assert told["messages"] == [{"role": "assistant", "content": [{"type": "text", "text": '{"a": 1}'}]}]


@pytest.mark.parametrize(
    ("choice", "theirs"),
    [
        (None, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_a_choice_of_tools(choice: Any, theirs: Any) -> None:
    told = chat(tools=[{"name": "f", "input_schema": {"type": "object"}}], tool_choice=choice)
    assert told["tool_choice"] == theirs
    assert told["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assert "tool_choice" not in chat()
