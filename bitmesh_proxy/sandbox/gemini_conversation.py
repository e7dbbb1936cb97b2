"""A ``generateContent`` request as the conversation that ``chat`` answers, and what the schema does not refuse of it.

Source: Google's documentation of function calling, thinking and thought signatures, read 2026-11.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bitmesh_proxy.sandbox.plays import Json, Refused

MOST_STOPS = 5

Part = Mapping[str, Any]


def parts_of(content: Json) -> Sequence[Part]:
    """The parts of a content; none for what is no content."""
    parts = content.get("parts") if isinstance(content, dict) else None
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def text_of(content: Json) -> str:
    return "\n".join(part["text"] for part in parts_of(content) if isinstance(part.get("text"), str))


def last_user_text(body: Json) -> str:
    """The text of the last content of the user's: function responses are none."""
    contents = body.get("contents")
    if contents is None and isinstance(body.get("generateContentRequest"), dict):
        contents = body["generateContentRequest"].get("contents")
    for content in reversed(contents if isinstance(contents, list) else []):
        if isinstance(content, dict) and content.get("role", "user") == "user":
            return text_of(content)
    return ""


def pictures_of(body: Json) -> list[str]:
    """The base64 of all pictures in the request, in order."""
    return [
        str(blob.get("data", ""))
        for content in body["contents"]
        for part in parts_of(content)
        if str((blob := part.get("inlineData") or {}).get("mimeType", "")).startswith("image/")
    ]


def check(body: Json, model: str) -> None:
    """Raises Refused for what a schema cannot say."""
    if not body["contents"]:
        raise Refused(400, "* GenerateContentRequest.contents: contents is not specified", param="contents")
    for number, content in enumerate(body["contents"]):
        if content.get("role", "user") not in ("user", "model"):
            raise Refused(400, "Please use a valid role: user, model.", param=f"contents[{number}].role")
        if not content.get("parts"):
            message = f"* GenerateContentRequest.contents[{number}].parts: contents.parts must not be empty."
            raise Refused(400, message, param=f"contents[{number}].parts")
    config = body.get("generationConfig") or {}
    if config.get("candidateCount", 1) != 1:
        raise Refused(400, "Multiple candidates is not enabled for this model")
    if len(config.get("stopSequences") or ()) > MOST_STOPS:
        raise Refused(400, f"Number of stop sequences must be at most {MOST_STOPS}.", param="stop_sequences")
    _check_thinking(config.get("thinkingConfig") or {}, model)
    if model.startswith("gemini-3"):
        _check_signatures(body["contents"])


def _check_thinking(thinking: Mapping[str, Any], model: str) -> None:
    if "thinkingLevel" in thinking and "thinkingBudget" in thinking:
        raise Refused(400, "You can only set only one of thinking budget and thinking level.")
    if "thinkingLevel" in thinking and not model.startswith("gemini-3"):
        raise Refused(400, "Thinking level is not supported for this model.")
    if thinking.get("thinkingBudget") == 0 and "pro" in model:
        raise Refused(400, "Budget 0 is invalid. This model only works in thinking mode.")


def _check_signatures(contents: Sequence[Mapping[str, Any]]) -> None:
    """Gemini 3 wants its signature back with the first function call of each step of the current turn."""
    said = [
        place for place, content in enumerate(contents) if content.get("role", "user") == "user" and text_of(content)
    ]
    for content in contents[said[-1] if said else 0 :]:
        calls = [part for part in parts_of(content) if "functionCall" in part]
        if content.get("role") == "model" and calls and not calls[0].get("thoughtSignature"):
            name = calls[0]["functionCall"].get("name")
            message = (
                "Function call is missing a thought_signature in functionCall parts. This is required for tools to "
                f"work correctly, and missing thought_signature may lead to degraded performance. Function: {name}"
            )
            raise Refused(400, message)


def as_chat(body: Json, model: str) -> dict[str, Any]:
    """The body in the shape of OpenAI's chat completions. Media are not in it: they are counted apart."""
    messages: list[dict[str, Any]] = []
    if system := body.get("systemInstruction"):
        messages.append({"role": "system", "content": text_of(system)})
    for content in body["contents"]:
        messages += _messages(content)
    config = body.get("generationConfig") or {}
    chat: dict[str, Any] = {"model": model, "messages": messages, "seed": config.get("seed")}
    chat["max_tokens"] = config.get("maxOutputTokens")
    chat["stop"] = config.get("stopSequences")
    functions = [function for tool in body.get("tools") or () for function in tool.get("functionDeclarations") or ()]
    if functions:
        chat["tools"] = [_tool(function) for function in functions]
        chat["tool_choice"] = _choice((body.get("toolConfig") or {}).get("functionCallingConfig") or {})
    if config.get("responseMimeType") == "application/json":
        schema = config.get("responseJsonSchema") or lowered(config.get("responseSchema"))
        chat["response_format"] = (
            {"type": "json_schema", "json_schema": {"schema": schema}} if schema else {"type": "json_object"}
        )
    return chat


def _messages(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    role = "assistant" if content.get("role") == "model" else "user"
    parts = parts_of(content)
    calls = [json.dumps(part["functionCall"].get("args") or {}) for part in parts if "functionCall" in part]
    results = [json.dumps(part["functionResponse"].get("response")) for part in parts if "functionResponse" in part]
    told = [text for text in (text_of(content), *calls) if text]
    messages = [{"role": role, "content": "\n".join(told)}] if told or not results else []
    # Last, so that it is what gets answered.
    return messages + [{"role": "tool", "content": result} for result in results]


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parametersJsonSchema") or lowered(function.get("parameters"))
    return {"type": "function", "function": {"name": function.get("name", ""), "parameters": parameters}}


def _choice(calling: Mapping[str, Any]) -> Any:
    if calling.get("mode") == "NONE":
        return "none"
    names = calling.get("allowedFunctionNames")
    return {"type": "function", "function": {"name": names[0]}} if names else "auto"


def lowered(schema: Json) -> Json:
    """Google's own schema, whose types are in capitals, as a JSON schema."""
    if isinstance(schema, dict):
        return {
            name: value.lower() if name == "type" and isinstance(value, str) else lowered(value)
            for name, value in schema.items()
        }
    return [lowered(item) for item in schema] if isinstance(schema, list) else schema
