"""Function tools, the choice among them, and the rule that the answer is held to.

``allowed_tools``, ``none``, ``required`` and a named function are promises of this service, not requests to the model:
a call that the choice does not allow is left out of the answer, and an answer that lacks a required call has failed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.endpoints.responses.items import FUNCTION_NAME

MAX_TOOLS: Final = 1_024
MAX_ALLOWED_TOOLS: Final = 128
_NAMES: Final = frozenset(("tools", "tool_choice"))
_MODES: Final = ("auto", "none", "required")


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """``tools`` and ``choice`` as they are echoed. ``allowed``: names that may be called; ``must_call``: one has to."""

    tools: tuple[JsonObject, ...] = ()
    choice: str | JsonObject = "auto"
    allowed: frozenset[str] = frozenset()
    must_call: bool = False

    def chat_options(self) -> dict[str, Any]:
        """What chat completions are to be sent; nothing at all where no call is allowed."""
        if not self.allowed:
            return {}
        # Chat completions do not know the list of allowed tools: a model that sees no others calls no others.
        is_list = not isinstance(self.choice, str) and self.choice["type"] == "allowed_tools"
        shown = [tool for tool in self.tools if not is_list or tool["name"] in self.allowed]
        sent = [{"type": "function", "function": _without_nulls(tool)} for tool in shown]
        if isinstance(self.choice, str):
            choice: str | JsonObject = self.choice
        elif self.choice["type"] == "function":
            choice = {"type": "function", "function": {"name": self.choice["name"]}}
        else:
            choice = self.choice["mode"]
        return {"tools": sent, "tool_choice": choice}


_NO_TOOLS: Final = ToolUse()


def read_tools(body: Fields) -> ToolUse:
    """``tools`` and ``tool_choice``. Raises InvalidRequest."""
    if body.lacks(_NAMES):
        return _NO_TOOLS
    tools = tuple(_read_tool(tool) for tool in body.objects("tools", max_items=MAX_TOOLS) or ())
    names = frozenset(tool["name"] for tool in tools)
    if len(names) < len(tools):
        body.fail("tools", "Two tools have the same name.")
    value = body.values.get("tool_choice")
    if value is None:
        return ToolUse(tools=tools, allowed=names)
    if isinstance(value, str):
        mode = body.choice("tool_choice", _MODES)
        assert mode is not None
        return _by_mode(body, tools, names, mode=mode, choice=mode)
    choice = body.object("tool_choice")
    assert choice is not None
    kind = choice.choice("type", ("function", "allowed_tools"))
    if kind == "function":
        name = _known_name(choice, names)
        return ToolUse(
            tools=tools, choice={"type": "function", "name": name}, allowed=frozenset((name,)), must_call=True
        )
    if kind is None:
        raise choice.missing("type")
    listed = choice.objects("tools", max_items=MAX_ALLOWED_TOOLS)
    if not listed:
        raise choice.missing("tools")
    allowed = [_known_name(each, names) for each in listed]
    mode = choice.choice("mode", _MODES) or "auto"
    echoed = {"type": "allowed_tools", "tools": [{"type": "function", "name": name} for name in allowed], "mode": mode}
    return _by_mode(body, tools, frozenset(allowed), mode=mode, choice=echoed)


def _by_mode(
    body: Fields, tools: tuple[JsonObject, ...], allowed: frozenset[str], *, mode: str, choice: str | JsonObject
) -> ToolUse:
    if mode == "required" and not allowed:
        body.fail("tool_choice", "'tool_choice' requires a call, but there are no tools.")
    return ToolUse(
        tools=tools,
        choice=choice,
        allowed=frozenset() if mode == "none" else allowed,
        must_call=mode == "required",
    )


def _read_tool(tool: Fields) -> JsonObject:
    kind = tool.required_string("type", max_characters=64)
    if kind != "function":
        tool.fail("type", f"Tools of the type '{kind}' are not run here; only 'function' tools are.")
    inner = tool.object("function") or tool  # chat completions nest it
    parameters = inner.object("parameters")
    return {
        "type": "function",
        "name": inner.required_string("name", pattern=FUNCTION_NAME),
        "description": inner.string("description"),
        "parameters": None if parameters is None else parameters.values,
        "strict": inner.boolean("strict"),
    }


def _known_name(choice: Fields, names: frozenset[str]) -> str:
    if choice.values.get("type", "function") != "function":
        choice.fail("type", "Only function tools can be chosen.")
    function = choice.object("function") or choice
    name = function.required_string("name", max_characters=64)
    if name not in names:
        function.fail("name", f"'tools' has no function '{name}'.")
    return name


def _without_nulls(tool: JsonObject) -> JsonObject:
    return {name: value for name, value in tool.items() if name != "type" and value is not None}
