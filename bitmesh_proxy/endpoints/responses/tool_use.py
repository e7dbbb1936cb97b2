"""Tools that callers run, the choice among them, and the rule that the answer is held to.

Functions are the standard's. Custom tools, which take free text, are OpenAI's, and models of others may refuse them.

``allowed_tools``, ``none``, ``required`` and a named function are promises of this service, not requests to the model:
a call that the choice does not allow is left out of the answer, and an answer that lacks a required call has failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.endpoints.responses.items import FUNCTION_NAME

MAX_TOOLS: Final = 1_024
MAX_ALLOWED_TOOLS: Final = 128
_NAMES: Final = frozenset(("tools", "tool_choice"))
_KINDS: Final = ("function", "custom")
_MODES: Final = ("auto", "none", "required")


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """``tools`` and ``choice`` as they are echoed. ``allowed``: names that may be called; ``must_call``: one has to.
    ``custom``: names of the tools that take free text."""

    tools: tuple[JsonObject, ...] = ()
    choice: str | JsonObject = "auto"
    allowed: frozenset[str] = frozenset()
    must_call: bool = False
    custom: frozenset[str] = frozenset()

    def chat_options(self) -> dict[str, Any]:
        """What chat completions are to be sent; nothing at all where no call is allowed."""
        if not self.allowed:
            return {}
        # Chat completions do not know the list of allowed tools: a model that sees no others calls no others.
        is_list = not isinstance(self.choice, str) and self.choice["type"] == "allowed_tools"
        shown = [tool for tool in self.tools if not is_list or tool["name"] in self.allowed]
        if isinstance(self.choice, str):
            choice: str | JsonObject = self.choice
        elif is_list:
            choice = self.choice["mode"]
        else:
            kind = self.choice["type"]
            choice = {"type": kind, kind: {"name": self.choice["name"]}}
        return {"tools": [_for_chat(tool) for tool in shown], "tool_choice": choice}


_NO_TOOLS: Final = ToolUse()


def read_tools(body: Fields) -> ToolUse:
    """``tools`` and ``tool_choice``. Raises InvalidRequest."""
    if body.lacks(_NAMES):
        return _NO_TOOLS
    tools = tuple(_read_tool(tool) for tool in body.objects("tools", max_items=MAX_TOOLS) or ())
    kinds = {tool["name"]: tool["type"] for tool in tools}
    if len(kinds) < len(tools):
        body.fail("tools", "Two tools have the same name.")
    names = frozenset(kinds)
    custom = frozenset(name for name, kind in kinds.items() if kind == "custom")
    value = body.values.get("tool_choice")
    if value is None:
        return ToolUse(tools=tools, allowed=names, custom=custom)
    if isinstance(value, str):
        mode = body.choice("tool_choice", _MODES)
        assert mode is not None
        return _by_mode(body, ToolUse(tools=tools, choice=mode, allowed=names, custom=custom), mode)
    choice = body.object("tool_choice")
    assert choice is not None
    kind = choice.choice("type", (*_KINDS, "allowed_tools"))
    if kind in _KINDS:
        name = _known_name(choice, kinds)
        echoed: JsonObject = {"type": kind, "name": name}
        return ToolUse(tools=tools, choice=echoed, allowed=frozenset((name,)), must_call=True, custom=custom)
    if kind is None:
        raise choice.missing("type")
    listed = choice.objects("tools", max_items=MAX_ALLOWED_TOOLS)
    if not listed:
        raise choice.missing("tools")
    allowed = [_known_name(each, kinds) for each in listed]
    mode = choice.choice("mode", _MODES) or "auto"
    shown = [{"type": kinds[name], "name": name} for name in allowed]
    echoed = {"type": "allowed_tools", "tools": shown, "mode": mode}
    return _by_mode(body, ToolUse(tools=tools, choice=echoed, allowed=frozenset(allowed), custom=custom), mode)


def _by_mode(body: Fields, use: ToolUse, mode: str) -> ToolUse:
    if mode == "required" and not use.allowed:
        body.fail("tool_choice", "'tool_choice' requires a call, but there are no tools.")
    return replace(use, allowed=frozenset() if mode == "none" else use.allowed, must_call=mode == "required")


def _read_tool(tool: Fields) -> JsonObject:
    kind = tool.required_string("type", max_characters=64)
    if kind not in _KINDS:
        tool.fail(
            "type", f"Tools of the type '{kind}' are not run here; only 'function' and 'custom' tools are sent on."
        )
    inner = tool.object(kind) or tool  # chat completions nest it
    named = {
        "type": kind,
        "name": inner.required_string("name", pattern=FUNCTION_NAME),
        "description": inner.string("description"),
    }
    if kind == "custom":
        return named | {"format": _read_format(inner)}
    parameters = inner.object("parameters")
    return named | {
        "parameters": None if parameters is None else parameters.values,
        "strict": inner.boolean("strict"),
    }


def _read_format(tool: Fields) -> JsonObject:
    """What a custom tool's text has to be: any, or one of a grammar's."""
    wanted = tool.object("format")
    if wanted is None or (wanted.choice("type", ("text", "grammar")) or "text") == "text":
        return {"type": "text"}
    grammar = wanted.object("grammar") or wanted  # chat completions nest it
    syntax = grammar.choice("syntax", ("lark", "regex"))
    if syntax is None:
        raise grammar.missing("syntax")
    return {"type": "grammar", "syntax": syntax, "definition": grammar.required_string("definition")}


def _known_name(choice: Fields, kinds: Mapping[str, str]) -> str:
    kind = choice.choice("type", _KINDS) or "function"
    inner = choice.object(kind) or choice
    name = inner.required_string("name", max_characters=64)
    if kinds.get(name) != kind:
        inner.fail("name", f"'tools' has no {'function' if kind == 'function' else 'custom tool'} '{name}'.")
    return name


def _for_chat(tool: JsonObject) -> JsonObject:
    kind = tool["type"]
    sent = {name: value for name, value in tool.items() if name != "type" and value is not None}
    if kind == "custom" and sent["format"]["type"] == "grammar":
        grammar = {name: value for name, value in sent["format"].items() if name != "type"}
        sent["format"] = {"type": "grammar", "grammar": grammar}
    return {"type": kind, kind: sent}
