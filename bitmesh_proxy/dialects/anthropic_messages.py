"""Anthropic's messages: a chat call as its request. What it answers is read in ``anthropic_reader``.

Source: the API description behind Anthropic's SDKs, 2026-05-06. What differs from OpenAI's chat: the system prompt is
not a message, ``max_tokens`` is required, tool calls and results are blocks of content, neighbours of one role are one
message, and the schema is closed, so that one unknown field is a 400.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final

import orjson

from bitmesh_proxy.calls import ChatCall, JsonObject
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.anthropic_reader import AnthropicReader, read_whole, read_whole_usage
from bitmesh_proxy.dialects.base import ChatDialect, UpstreamRequest
from bitmesh_proxy.dialects.json_answers import child, objects, string
from bitmesh_proxy.dialects.reading_meter import ReadingMeter
from bitmesh_proxy.dialects.tool_arguments import tool_called
from bitmesh_proxy.dialects.unsupported import declared_functions, refuse_logprobs, stop_sequences
from bitmesh_proxy.errors import InvalidRequest, UnsupportedValue

WIRE_FORMAT: Final = "anthropic_messages"

#: Where neither the caller nor the offer says: long enough for an answer, short enough for every model.
_DEFAULT_MAX_TOKENS: Final = 4096
_LEAST_THINKING_TOKENS: Final = 1024
#: Thinking budgets of models that want a number instead of an effort.
_BUDGET_TOKENS: Final = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 24_576, "xhigh": 32_768, "max": 65_536}
_JSON_PROMPT: Final = "Answer with one JSON object and nothing else, without a code fence around it."
_PICTURE_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_NOT_IN_TOOL_IDS: Final = re.compile(r"[^a-zA-Z0-9_-]")

Block = dict[str, Any]


def dialect() -> ChatDialect:
    """``POST /messages``, plain and streamed.

    An offer's options: ``thinking`` is ``"adaptive"`` (default), ``"budget"`` (older models, which want a number of
    tokens) or ``"none"``; ``refuses`` names fields that the model does not take.
    """
    return ChatDialect(
        wire_format=WIRE_FORMAT,
        request=_request,
        read_usage=read_whole_usage,
        read_whole=read_whole,
        meter=partial(ReadingMeter, AnthropicReader),
        reader=AnthropicReader,
    )


def _request(call: ChatCall, offer: Offer) -> UpstreamRequest:
    options = {name: value for name, value in call.options.items() if value is not None}
    if options.get("n", 1) != 1:
        raise UnsupportedValue("This model gives one answer at a time.", param="n")
    refuse_logprobs(options)
    system, messages = _conversation(call.messages)
    wanted = child(options, "response_format")
    if wanted.get("type") == "json_object":
        system.append({"type": "text", "text": _JSON_PROMPT})
    body: dict[str, Any] = {
        **offer.defaults,
        "model": offer.upstream_model,
        "messages": messages,
        "max_tokens": _max_tokens(options, offer),
    }
    if system:
        body["system"] = system
    body.update(_sampling(options))
    body.update(_tools(options))
    body.update(_reasoning(options, offer, max_tokens=body["max_tokens"]))
    if child(body, "thinking").get("type") in ("adaptive", "enabled"):
        _give_way_to_thinking(body)
    if wanted.get("type") == "json_schema":
        schema = child(wanted, "json_schema", "schema")
        body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}
    if user := options.get("safety_identifier") or options.get("user"):
        body["metadata"] = {"user_id": str(user)[:512]}
    if call.stream:
        body["stream"] = True
    for name in offer.options.get("refuses", ()):
        body.pop(name, None)
    accept = "text/event-stream" if call.stream else "application/json"
    return UpstreamRequest(path="/messages", headers={"Accept": accept}, body=orjson.dumps(body))


def _max_tokens(options: JsonObject, offer: Offer) -> int:
    most = offer.max_output_tokens
    asked = options.get("max_completion_tokens") or options.get("max_tokens") or most or _DEFAULT_MAX_TOKENS
    return min(asked, most) if most else int(asked)


def _sampling(options: JsonObject) -> dict[str, Any]:
    chosen: dict[str, Any] = {name: options[name] for name in ("top_p", "top_k") if name in options}
    if "temperature" in options:
        chosen["temperature"] = min(options["temperature"], 1)  # the scale ends at 1 here, at 2 there
    if sequences := [sequence for sequence in stop_sequences(options) if sequence.strip()]:
        chosen["stop_sequences"] = sequences
    return chosen


def _reasoning(options: JsonObject, offer: Offer, *, max_tokens: int) -> dict[str, Any]:
    """How much to think. A caller may also send Anthropic's own ``thinking``."""
    if isinstance(options.get("thinking"), dict):
        return {"thinking": options["thinking"]}
    effort = options.get("reasoning_effort")
    manner = offer.options.get("thinking", "adaptive")
    if not isinstance(effort, str) or manner == "none":
        return {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    if manner == "adaptive":
        level = "low" if effort == "minimal" else effort
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": level}}
    # The budget is part of max_tokens and has to leave room for the answer.
    budget = min(_BUDGET_TOKENS.get(effort, _BUDGET_TOKENS["medium"]), max_tokens // 2)
    if budget < _LEAST_THINKING_TOKENS:
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _give_way_to_thinking(body: dict[str, Any]) -> None:
    """A forced tool call cannot be thought about, and who thinks samples as the provider likes: both are 400s there."""
    if child(body, "tool_choice").get("type") in ("any", "tool"):
        del body["thinking"]
        return
    for name in ("temperature", "top_k", "top_p"):
        body.pop(name, None)


def _tools(options: JsonObject) -> dict[str, Any]:
    declared = declared_functions(options)
    if not declared:
        return {}
    tools = [
        {
            "name": string(function.get("name")),
            "input_schema": {"type": "object", **child(function, "parameters")},
            **({"description": function["description"]} if function.get("description") else {}),
            **({"strict": True} if function.get("strict") is True else {}),
        }
        for function in declared
    ]
    choice = _tool_choice(options.get("tool_choice"))
    if options.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return {"tools": tools, **({"tool_choice": choice} if choice else {})}


def _tool_choice(asked: Any) -> dict[str, Any]:
    if isinstance(asked, str):
        return {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}.get(asked, {})
    name = child(asked, "function").get("name")
    return {"type": "tool", "name": name} if name else {}


# ---------------------------------------------------------------- the conversation


def _conversation(messages: Any) -> tuple[list[Block], list[dict[str, Any]]]:
    """The system prompt's blocks, and the messages with neighbours of one role joined."""
    system: list[Block] = []
    joined: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        param = f"messages.{place}"
        role = message.get("role")
        if role in ("system", "developer"):
            system += _system(message, param)
            continue
        if role == "tool":
            role, blocks = "user", [_tool_result(message, param)]
        elif role == "assistant":
            blocks = _assistant(message, param)
        elif role == "user":
            blocks = _content(message.get("content"), param)
            if not blocks:
                raise InvalidRequest("The message is empty.", param=f"{param}.content")
        else:
            raise InvalidRequest(f"This model knows no role {role!r}.", param=f"{param}.role")
        if joined and joined[-1]["role"] == role:
            joined[-1]["content"] += blocks
        elif blocks:
            joined.append({"role": role, "content": blocks})
    return system, joined


def _system(message: JsonObject, param: str) -> list[Block]:
    blocks = _content(message.get("content"), param)
    if any(block["type"] != "text" for block in blocks):
        raise InvalidRequest("A system message of this model is text.", param=f"{param}.content")
    return blocks


def _assistant(message: JsonObject, param: str) -> list[Block]:
    """Thinking comes first, as it was given; then text; then tool calls."""
    blocks: list[Block] = []
    for detail in objects(message.get("reasoning_details")):
        if signature := string(detail.get("signature")):
            blocks.append({"type": "thinking", "thinking": string(detail.get("text")), "signature": signature})
        elif data := string(detail.get("data")):
            blocks.append({"type": "redacted_thinking", "data": data})
    blocks += _content(message.get("content"), param)
    if refusal := string(message.get("refusal")):
        blocks.append({"type": "text", "text": refusal})
    for call in objects(message.get("tool_calls")):
        name, arguments = tool_called(call, param)
        blocks.append({"type": "tool_use", "id": _tool_id(call.get("id")), "name": name, "input": arguments})
    return blocks


def _tool_result(message: JsonObject, param: str) -> Block:
    result: Block = {"type": "tool_result", "tool_use_id": _tool_id(message.get("tool_call_id"))}
    if blocks := _content(message.get("content"), param):
        result["content"] = blocks
    return result


def _tool_id(given: object) -> str:
    """An id in the letters that are allowed; the same id always becomes the same."""
    return _NOT_IN_TOOL_IDS.sub("_", string(given)) or "_"


def _content(content: object, param: str) -> list[Block]:
    """Content as blocks. Empty text is left out, which this provider refuses."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    blocks = [_block(part, f"{param}.content.{place}") for place, part in enumerate(objects(content))]
    return [block for block in blocks if block is not None]


def _block(part: JsonObject, param: str) -> Block | None:
    kind = part.get("type")
    block: Block | None
    if kind in ("text", "refusal"):
        text = string(part.get("text")) or string(part.get("refusal"))
        block = {"type": "text", "text": text} if text else None
    elif kind == "image_url":
        image = part.get("image_url")
        block = {
            "type": "image",
            "source": _picture_source(string(child(part, "image_url").get("url") or image), param),
        }
    elif kind == "file":
        block = {"type": "document", "source": _document_source(child(part, "file"), param)}
    else:
        raise InvalidRequest(f"This model takes no content of type {kind!r}.", param=param)
    if block is not None and child(part, "cache_control").get("type") == "ephemeral":
        block["cache_control"] = {"type": "ephemeral"}  # five minutes, which is the kind that has a price
    return block


def _picture_source(url: str, param: str) -> dict[str, str]:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    media_type, data = _data_uri(url, param)
    if media_type not in _PICTURE_TYPES:
        raise InvalidRequest("This model takes jpeg, png, gif and webp pictures.", param=param)
    return {"type": "base64", "media_type": media_type, "data": data}


def _document_source(file: JsonObject, param: str) -> dict[str, str]:
    if url := string(file.get("file_url")):
        return {"type": "url", "url": url}
    media_type, data = _data_uri(string(file.get("file_data")), param)
    if media_type != "application/pdf":
        raise InvalidRequest("This model takes PDF files.", param=param)
    return {"type": "base64", "media_type": media_type, "data": data}


def _data_uri(url: str, param: str) -> tuple[str, str]:
    head, _, data = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not data:
        raise InvalidRequest("The data URI is not valid base64.", param=param)
    return head[5:].partition(";")[0], data
