"""What the sandbox answers to a conversation in the shape of OpenAI's chat completions. Pure: no wire format in here.

Rules: the answer depends only on model, messages and seed; ``max_tokens`` cuts it (finish reason ``length``), ``stop``
ends it; with tools, and unless ``tool_choice`` says none, the first allowed tool is called once, and its result is then
answered in words; a JSON ``response_format`` is answered in JSON that fits.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

from bitmesh_proxy.sandbox.faults import MAX_TOKENS, Directives, read_markers
from bitmesh_proxy.sandbox.shapes import Shaper
from bitmesh_proxy.sandbox.words import compose, compose_tokens, count_tokens, tokenize

FinishReason = Literal["stop", "length", "tool_calls"]
#: What a message costs beside its text, and a picture in it (OpenAI's rule of thumb).
TOKENS_PER_MESSAGE = 4
TOKENS_PER_PICTURE = 85


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """``arguments`` is JSON text, or free text for a custom tool."""

    name: str
    arguments: str
    is_custom: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One answer: tokens of text, or a tool call whose arguments come in ``tokens``.

    ``stopped_by`` is the stop sequence that ended it.
    """

    tokens: tuple[str, ...]
    finish_reason: FinishReason
    tool_call: ToolCall | None = None
    stopped_by: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The whole answer with its usage in tokens."""

    choices: tuple[Choice, ...]
    prompt_tokens: int

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.tokens) for choice in self.choices)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def text_of(content: Any) -> str:
    """A message's content as text: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return ""


def last_user_text(body: Mapping[str, Any]) -> str:
    """The last user message, where the marker is looked for. "" when the body is not a conversation at all."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return ""
    users = (m for m in reversed(messages) if isinstance(m, dict) and m.get("role") == "user")
    return text_of(next(users, {}).get("content"))


def count_prompt_tokens(body: Mapping[str, Any]) -> int:
    """All messages, their pictures, and the tools' definitions."""
    total = 0
    for message in body["messages"]:
        content = message.get("content")
        pictures = [part for part in content if part.get("type") == "image_url"] if isinstance(content, list) else []
        total += TOKENS_PER_MESSAGE + count_tokens(text_of(content)) + TOKENS_PER_PICTURE * len(pictures)
    if tools := body.get("tools"):
        total += count_tokens(json.dumps(tools))
    return total


def answer(body: Mapping[str, Any], prompt: str, directives: Directives, *, player: str) -> Completion:
    """The completion for a checked body. ``prompt`` is the last user text without markers."""
    count = body.get("n") or 1
    return Completion(
        choices=tuple(_choice(body, prompt, directives, player=player, index=index) for index in range(count)),
        prompt_tokens=count_prompt_tokens(body),
    )


def _choice(body: Mapping[str, Any], prompt: str, directives: Directives, *, player: str, index: int) -> Choice:
    material = json.dumps([body["model"], body["messages"], body.get("seed"), index], sort_keys=True)
    rng = random.Random(sha256(material.encode()).digest())  # noqa: S311 (text of a sandbox)
    if (tool := _chosen_tool(body)) is not None:
        return _called(_call(tool, prompt, rng), limit=_limit(body))
    if directives.tokens is not None:
        # All choices together say no more than one may.
        count = min(directives.tokens, MAX_TOKENS // (body.get("n") or 1))
        tokens = compose_tokens(prompt, count, player=player, rng=rng)
    elif (structured := _structured(body, prompt, rng)) is not None:
        tokens = tokenize(structured)
    else:
        tokens = tokenize(compose(_subject(body, prompt), player=player, rng=rng))
    return _ended(tokens, stops=_stops(body), limit=_limit(body))


def _called(call: ToolCall, *, limit: int | None) -> Choice:
    """As far as the limit goes; without its beginning there is no call."""
    tokens = tuple(tokenize(call.arguments))
    if limit is None or len(tokens) <= limit:
        return Choice(tokens=tokens, finish_reason="tool_calls", tool_call=call)
    begun = replace(call, arguments="".join(tokens[: max(0, limit)])) if limit > 0 else None
    return Choice(tokens=tokens[: max(0, limit)], finish_reason="length", tool_call=begun)


def _subject(body: Mapping[str, Any], prompt: str) -> str:
    last = body["messages"][-1] if body["messages"] else {}
    if last.get("role") in ("tool", "function"):
        return f"{prompt} → {read_markers(text_of(last.get('content')))[1]}"
    return prompt


def _limit(body: Mapping[str, Any]) -> int | None:
    limits = [value for name in ("max_completion_tokens", "max_tokens") if (value := body.get(name)) is not None]
    return min(limits, default=None)


def _stops(body: Mapping[str, Any]) -> Sequence[str]:
    stop = body.get("stop") or ()
    return [stop] if isinstance(stop, str) else list(stop)


def _ended(tokens: Sequence[str], *, stops: Sequence[str], limit: int | None) -> Choice:
    text = "".join(tokens)
    position, stopped_by = min(
        ((position, stop) for stop in stops if stop and (position := text.find(stop)) >= 0), default=(0, None)
    )
    if stopped_by is not None:
        tokens = tokenize(text[:position])
    if limit is not None and len(tokens) > limit:
        return Choice(tokens=tuple(tokens[: max(0, limit)]), finish_reason="length")
    return Choice(tokens=tuple(tokens), finish_reason="stop", stopped_by=stopped_by)


def _structured(body: Mapping[str, Any], prompt: str, rng: random.Random) -> str | None:
    wanted = body.get("response_format") or {}
    match wanted.get("type"):
        case "json_schema":
            named = wanted.get("json_schema") or {}
            # Together also takes the schema itself in this place.
            schema = named.get("schema", named)
            return json.dumps(Shaper(schema, words=prompt, rng=rng).value(), ensure_ascii=False)
        case "json_object":
            return json.dumps({"answer": prompt, "sandbox": True}, ensure_ascii=False)
        case _:
            return None


def _chosen_tool(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The tool to call, or None when the answer is words."""
    tools, choice = body.get("tools") or (), body.get("tool_choice")
    last = body["messages"][-1] if body["messages"] else {}
    if not tools or choice == "none" or last.get("role") in ("tool", "function"):
        return None
    if isinstance(choice, dict):
        if allowed := (choice.get("allowed_tools") or {}).get("tools"):
            choice = allowed[0]
        name = _tool_name(choice)
        return next((tool for tool in tools if _tool_name(tool) == name), None)
    first: Mapping[str, Any] = tools[0]
    return first


def _tool_name(tool: Mapping[str, Any]) -> str:
    return str((tool.get("function") or tool.get("custom") or {}).get("name", ""))


def _call(tool: Mapping[str, Any], prompt: str, rng: random.Random) -> ToolCall:
    name = _tool_name(tool)
    if tool.get("type") == "custom":
        return ToolCall(name=name, arguments=prompt or "sandbox", is_custom=True)
    schema = (tool.get("function") or {}).get("parameters") or {"type": "object", "properties": {}}
    value = Shaper(schema, words=prompt, rng=rng).value()
    return ToolCall(name=name, arguments=json.dumps(value, ensure_ascii=False))
