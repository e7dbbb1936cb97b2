"""Anthropic's conversation as the one that ``chat`` answers, and what the schema alone does not refuse of it.

Source: the documentation of the messages API (errors, tool use, extended thinking, prompt caching), read 2026-11.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from bitmesh_proxy.sandbox.chat import count_prompt_tokens
from bitmesh_proxy.sandbox.inputs import read_thumbnail
from bitmesh_proxy.sandbox.plays import Ask, Json, Refused

#: Shorter beginnings are not cached, and a cached one lives so long.
LEAST_CACHED_TOKENS = 1024
CACHE_LIFETIME_S = 300.0

Block = Mapping[str, Any]


def blocks_of(content: Json) -> Sequence[Block]:
    """A message's content, which may be a plain string."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def last_user_text(body: Json) -> str:
    """The text of the last message of the user's that has any: tool results are none."""
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            return "\n".join(str(block.get("text")) for block in blocks_of(message.get("content")) if "text" in block)
    return ""


async def check(ask: Ask) -> None:
    """Raises Refused for what a schema cannot say."""
    body = ask.body
    if not body["messages"]:
        raise Refused(400, "messages: at least one message is required")
    offered: set[str] = set()
    for number, message in enumerate(body["messages"]):
        for place, block in enumerate(blocks_of(message["content"])):
            where = f"messages.{number}.content.{place}"
            await _check_picture(block, where)
            if block["type"] == "tool_result" and block["tool_use_id"] not in offered:
                raise Refused(
                    400,
                    f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {block['tool_use_id']}. Each "
                    "`tool_result` block must have a corresponding `tool_use` block in the previous message.",
                )
        offered = {block["id"] for block in blocks_of(message["content"]) if block["type"] == "tool_use"}
    _check_thinking(body)


async def _check_picture(block: Block, where: str) -> None:
    source = block.get("source")
    if block["type"] == "image" and isinstance(source, dict) and source["type"] == "base64":
        try:
            await read_thumbnail(source["data"], param=where)
        except Refused as refused:
            raise Refused(400, f"{where}.image.source.base64.data: Could not process image") from refused


def _check_thinking(body: Json) -> None:
    thinking = body.get("thinking") or {}
    if thinking.get("type") not in ("enabled", "adaptive"):
        return
    if thinking.get("budget_tokens", 0) >= body["max_tokens"]:
        raise Refused(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    if body.get("temperature", 1) != 1:
        raise Refused(400, "`temperature` may only be set to 1 when thinking is enabled.")
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        raise Refused(400, "Thinking may not be enabled when tool_choice forces tool use.")


def as_chat(body: Json) -> dict[str, Any]:
    """The body in the shape of OpenAI's chat completions."""
    messages: list[dict[str, Any]] = []
    if system := body.get("system"):
        messages.append({"role": "system", "content": _parts(blocks_of(system))})
    for message in body["messages"]:
        blocks = blocks_of(message["content"])
        results = [block for block in blocks if block["type"] == "tool_result"]
        if rest := _parts([block for block in blocks if block["type"] != "tool_result"]):
            messages.append({"role": message["role"], "content": rest})
        # Last, so that it is what gets answered.
        messages += [{"role": "tool", "content": _parts(blocks_of(block.get("content")))} for block in results]
    chat = {"model": body["model"], "messages": messages, "max_tokens": body.get("max_tokens")}
    chat["stop"] = body.get("stop_sequences")
    if tools := body.get("tools"):
        chat["tools"] = [_tool(tool) for tool in tools]
        chat["tool_choice"] = _choice(body.get("tool_choice") or {})
    if wanted := (body.get("output_config") or {}).get("format"):
        chat["response_format"] = {"type": "json_schema", "json_schema": {"schema": wanted["schema"]}}
    return chat


def _parts(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Text as text, pictures as pictures, everything else as the text that it is in JSON."""
    parts: list[dict[str, Any]] = []
    for block in blocks:
        match block["type"]:
            case "text":
                parts.append({"type": "text", "text": block["text"]})
            case "image":
                parts.append({"type": "image_url"})
            case "thinking" | "redacted_thinking":
                continue
            case "document":
                parts.append({"type": "text", "text": str((block.get("source") or {}).get("data", ""))[:4000]})
            case _:
                parts.append({"type": "text", "text": json.dumps(block.get("input", {}))})
    return parts


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool["name"], "parameters": tool.get("input_schema")}}


def _choice(choice: Mapping[str, Any]) -> Any:
    match choice.get("type"):
        case "none":
            return "none"
        case "tool":
            return {"type": "function", "function": {"name": choice["name"]}}
        case _:
            return "auto"


def count_cached(ask: Ask) -> tuple[int, int]:
    """Tokens that this call writes to the cache, and tokens that it reads from it; 0 without ``cache_control``.

    Read is the longest marked beginning that is known; written is the rest up to the last mark.
    """
    known = last = 0
    for beginning in _beginnings(ask.body):
        tokens = count_prompt_tokens(as_chat(beginning))
        if tokens < LEAST_CACHED_TOKENS:
            continue
        last = tokens
        digest = sha256(json.dumps(_unmarked(beginning), sort_keys=True).encode()).digest()
        if ask.stage.prompts.touch(digest, ask.stage.clock(), lifetime_s=CACHE_LIFETIME_S):
            known = tokens
    return last - known, known


def _unmarked(value: Json) -> Json:
    """Without marks: where they stand does not make another prompt of it."""
    if isinstance(value, dict):
        return {name: _unmarked(item) for name, item in value.items() if name != "cache_control"}
    return [_unmarked(item) for item in value] if isinstance(value, list) else value


def _beginnings(body: Json) -> Iterator[dict[str, Any]]:
    """The prompt up to each mark, in the order tools, system, messages."""
    begun: dict[str, Any] = {"model": body["model"], "messages": []}
    if tools := body.get("tools"):
        begun["tools"] = tools
        if any(tool.get("cache_control") for tool in tools):
            yield begun
    if system := body.get("system"):
        begun = {**begun, "system": system}
        if any(block.get("cache_control") for block in blocks_of(system)):
            yield begun
    for number, message in enumerate(body["messages"]):
        if any(block.get("cache_control") for block in blocks_of(message["content"])):
            yield {**begun, "messages": body["messages"][: number + 1]}
