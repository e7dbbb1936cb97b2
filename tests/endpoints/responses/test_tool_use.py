from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.endpoints.responses.tool_use import ToolUse, read_tools
from bitmesh_proxy.errors import InvalidRequest
from tests.endpoints.responses.specification import violations

LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}}
LISTEN = {"type": "function", "name": "listen", "description": "Listens.", "strict": True}


def use_of(choice: Any = None, tools: Any = (LOOK, LISTEN)) -> ToolUse:
    return read_tools(Fields({"tools": list(tools), "tool_choice": choice}))


def allowed(mode: str | None, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "name": name} for name in names]
    return {"type": "allowed_tools", "tools": tools} | ({"mode": mode} if mode else {})


@pytest.mark.parametrize(
    ("choice", "names", "must_call", "sent"),
    [
        (None, {"look", "listen"}, False, "auto"),
        ("auto", {"look", "listen"}, False, "auto"),
        ("required", {"look", "listen"}, True, "required"),
        ("none", set(), False, None),
        ({"type": "function", "name": "look"}, {"look"}, True, {"type": "function", "function": {"name": "look"}}),
        (allowed(None, "look"), {"look"}, False, "auto"),
        (allowed("required", "look"), {"look"}, True, "required"),
        (allowed("none", "look"), set(), False, None),
    ],
)
def test_a_choice_says_what_may_and_what_must_be_called(
    choice: Any, names: set[str], must_call: bool, sent: Any
) -> None:
    use = use_of(choice)
    assert (set(use.allowed), use.must_call) == (names, must_call)
    options = use.chat_options()
    assert options.get("tool_choice") == sent
    if sent is not None:  # of a list of allowed tools the model sees no others
        shown = ["look"] if isinstance(choice, dict) and "tools" in choice else ["look", "listen"]
        assert [tool["function"]["name"] for tool in options["tools"]] == shown


def test_tools_are_echoed_whole_and_sent_without_nulls() -> None:
    use = use_of()
    assert [violations("FunctionTool", tool) for tool in use.tools] == [[], []]
    assert use.chat_options()["tools"][0]["function"] == {"name": "look", "parameters": {"type": "object"}}


def test_the_mode_is_echoed_even_where_it_was_left_out() -> None:
    assert violations("AllowedToolChoice", use_of(allowed(None, "look")).choice) == []


def test_chat_completions_nest_a_tool() -> None:
    assert use_of(tools=[{"type": "function", "function": LOOK}]).allowed == {"look"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": "look"}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"name": "look"}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{**LOOK, "parameters": []}]}, "tools[0].parameters"),
        ({"tools": [{**LOOK, "strict": 1}]}, "tools[0].strict"),
        ({"tools": [LOOK, LOOK]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": 5}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {}}, "tool_choice.type"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "rm"}}, "tool_choice.name"),
        ({"tools": [LOOK], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.tools"),
        ({"tools": [LOOK], "tool_choice": allowed("auto", "look", "rm")}, "tool_choice.tools[1].name"),
        ({"tools": [LOOK], "tool_choice": allowed("maybe", "look")}, "tool_choice.mode"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_tools(Fields(fields))
    assert raised.value.param == param


GRAMMAR = {"syntax": "lark", "definition": "start: /a+/"}
PATCH = {"type": "custom", "name": "patch", "description": "Edits.", "format": {"type": "grammar", **GRAMMAR}}


def test_custom_tools_are_echoed_and_sent_as_chat_completions_have_them() -> None:
    use = use_of(tools=[LOOK, PATCH, {"type": "custom", "name": "say"}])
    assert (set(use.allowed), set(use.custom)) == ({"look", "patch", "say"}, {"patch", "say"})
    assert use.tools[1:] == (
        PATCH,
        {"type": "custom", "name": "say", "description": None, "format": {"type": "text"}},
    )
    _, patch, say = use.chat_options()["tools"]
    nested = {"type": "grammar", "grammar": GRAMMAR}
    assert patch == {"type": "custom", "custom": {"name": "patch", "description": "Edits.", "format": nested}}
    assert say == {"type": "custom", "custom": {"name": "say", "format": {"type": "text"}}}
    assert use_of(tools=[patch]).tools == (PATCH,)  # their own form is read too


def test_a_custom_tool_may_be_chosen() -> None:
    use = use_of({"type": "custom", "name": "patch"}, tools=[LOOK, PATCH])
    assert (set(use.allowed), use.must_call, set(use.custom)) == ({"patch"}, True, {"patch"})
    assert use.choice == {"type": "custom", "name": "patch"}
    assert use.chat_options()["tool_choice"] == {"type": "custom", "custom": {"name": "patch"}}
    listed = {"type": "allowed_tools", "tools": [{"type": "custom", "name": "patch"}], "mode": "auto"}
    use = use_of(listed, tools=[LOOK, PATCH])
    assert (set(use.allowed), use.choice) == ({"patch"}, listed)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"tools": [{**PATCH, "format": "text"}]}, "tools[0].format"),
        ({"tools": [{**PATCH, "format": {"type": "json"}}]}, "tools[0].format.type"),
        ({"tools": [{**PATCH, "format": {"type": "grammar", "definition": "a"}}]}, "tools[0].format.syntax"),
        ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "lark"}}]}, "tools[0].format.definition"),
        ({"tools": [PATCH], "tool_choice": {"type": "function", "name": "patch"}}, "tool_choice.name"),
        ({"tools": [LOOK], "tool_choice": {"type": "custom", "name": "look"}}, "tool_choice.name"),
    ],
)
def test_what_is_wrong_with_a_custom_tool_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_tools(Fields(fields))
    assert raised.value.param == param
