"""Google's ``generateContent`` for chat: a chat call as its request. What it answers is read in ``gemini_reader``.

Source: Google's discovery document of generativelanguage v1beta, 2026-08-22. What differs from OpenAI's chat: the
system prompt is a field, roles are ``user`` and ``model``, tool results are named by their function, media are bytes.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final
from urllib.parse import quote

import orjson

from bitmesh_proxy.calls import ChatCall, JsonObject
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import ChatDialect, UpstreamRequest
from bitmesh_proxy.dialects.gemini_reader import GeminiReader, read_whole, read_whole_usage
from bitmesh_proxy.dialects.json_answers import child, objects, string
from bitmesh_proxy.dialects.reading_meter import ReadingMeter
from bitmesh_proxy.dialects.tool_arguments import tool_called
from bitmesh_proxy.dialects.unsupported import declared_functions, refuse_logprobs, stop_sequences
from bitmesh_proxy.errors import InvalidRequest, UnsupportedValue

WIRE_FORMAT: Final = "gemini"

_GENERATION_FIELDS: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "seed": "seed",
}
_MAX_STOPS: Final = 5
_LEVELS: Final = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM"}
_BUDGET_TOKENS: Final = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192}
_MOST_BUDGET_TOKENS: Final = 24_576
#: What Google's documentation gives for tool calls whose signature is not known (Gemini 3, "Thought signatures").
_UNKNOWN_SIGNATURE: Final = "skip_thought_signature_validator"

Part = dict[str, Any]


def dialect() -> ChatDialect:
    """``:generateContent`` and ``:streamGenerateContent``.

    An offer's options: ``thinking`` is ``"level"`` (default), ``"budget"`` (Gemini 2.5) or ``"none"``;
    ``signs_thoughts``: the model refuses earlier tool calls without a signature; ``refuses`` names fields of the
    generation config that the model does not take.
    """
    return ChatDialect(
        wire_format=WIRE_FORMAT,
        request=_request,
        read_usage=read_whole_usage,
        read_whole=read_whole,
        meter=partial(ReadingMeter, GeminiReader),
        reader=GeminiReader,
        takes_image_urls=False,
    )


def model_path(offer: Offer, method: str) -> str:
    """``/models/{model}:{method}``."""
    return f"/models/{quote(offer.upstream_model, safe='')}:{method}"


def _request(call: ChatCall, offer: Offer) -> UpstreamRequest:
    options = {name: value for name, value in call.options.items() if value is not None}
    if options.get("n", 1) != 1:
        raise UnsupportedValue("This model gives one answer at a time.", param="n")
    refuse_logprobs(options)
    system, contents = _conversation(call, signs=bool(offer.options.get("signs_thoughts")))
    body: dict[str, Any] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    config = {**offer.defaults, **_generation_config(options, offer)}
    for name in offer.options.get("refuses", ()):
        config.pop(name, None)
    if config:
        body["generationConfig"] = config
    body.update(_tools(options))
    if call.stream:
        return UpstreamRequest(
            path=model_path(offer, "streamGenerateContent"), query=(("alt", "sse"),), body=orjson.dumps(body)
        )
    return UpstreamRequest(path=model_path(offer, "generateContent"), body=orjson.dumps(body))


def _generation_config(options: JsonObject, offer: Offer) -> dict[str, Any]:
    config: dict[str, Any] = {theirs: options[ours] for ours, theirs in _GENERATION_FIELDS.items() if ours in options}
    if limit := options.get("max_completion_tokens") or options.get("max_tokens"):
        config["maxOutputTokens"] = limit
    if stops := stop_sequences(options):
        if len(stops) > _MAX_STOPS:
            raise UnsupportedValue(f"This model takes at most {_MAX_STOPS} stop sequences.", param="stop")
        config["stopSequences"] = stops
    wanted = child(options, "response_format")
    if wanted.get("type") in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
        if schema := child(wanted, "json_schema", "schema"):
            config["responseJsonSchema"] = schema
    effort = options.get("reasoning_effort")
    manner = offer.options.get("thinking", "level")
    if isinstance(effort, str) and manner != "none":
        config["thinkingConfig"] = _thinking(effort, manner)
    return config


def _thinking(effort: str, manner: str) -> dict[str, Any]:
    shown = {"includeThoughts": True} if effort != "none" else {}
    if manner == "budget":
        return {"thinkingBudget": _BUDGET_TOKENS.get(effort, _MOST_BUDGET_TOKENS), **shown}
    return {"thinkingLevel": _LEVELS.get(effort, "HIGH"), **shown}


def _tools(options: JsonObject) -> dict[str, Any]:
    functions = declared_functions(options)
    if not functions:
        return {}
    declarations = [
        {
            "name": string(function.get("name")),
            "description": string(function.get("description")),
            **({"parametersJsonSchema": schema} if (schema := child(function, "parameters")) else {}),
        }
        for function in functions
    ]
    tools: dict[str, Any] = {"tools": [{"functionDeclarations": declarations}]}
    choice = options.get("tool_choice")
    name = child(choice, "function").get("name")
    if name:
        calling = {"mode": "ANY", "allowedFunctionNames": [name]}
    elif isinstance(choice, str) and choice in ("auto", "none", "required"):
        calling = {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice]}
    else:
        return tools
    return {**tools, "toolConfig": {"functionCallingConfig": calling}}


# ---------------------------------------------------------------- the conversation


def _conversation(call: ChatCall, *, signs: bool) -> tuple[list[Part], list[dict[str, Any]]]:
    """The system prompt's parts, and the contents with neighbours of one role joined."""
    system: list[Part] = []
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for place, message in enumerate(call.messages):
        param = f"messages.{place}"
        role = message.get("role")
        if role in ("system", "developer"):
            system += _parts(message.get("content"), param)
            continue
        if role == "assistant":
            theirs, parts = "model", _model_parts(message, param, names=names, signs=signs)
        elif role == "tool":
            theirs, parts = "user", [_tool_result(message, param, names)]
        elif role == "user":
            theirs, parts = "user", _parts(message.get("content"), param)
            if not parts:
                raise InvalidRequest("The message is empty.", param=f"{param}.content")
        else:
            raise InvalidRequest(f"This model knows no role {role!r}.", param=f"{param}.role")
        if contents and contents[-1]["role"] == theirs:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": theirs, "parts": parts})
    return system, contents


def _model_parts(message: JsonObject, param: str, *, names: dict[str, str], signs: bool) -> list[Part]:
    parts = _parts(message.get("content"), param)
    if refusal := string(message.get("refusal")):
        parts.append({"text": refusal})
    signatures = [
        signature
        for detail in objects(message.get("reasoning_details"))
        if (signature := string(detail.get("data")) or string(detail.get("signature")))
    ]
    for place, call in enumerate(objects(message.get("tool_calls"))):
        name, arguments = tool_called(call, param)
        names[string(call.get("id"))] = name
        part: Part = {"functionCall": {"name": name, "args": arguments}}
        # The first call of a turn carries the signature; the others have none.
        if place == 0 and signatures:
            part["thoughtSignature"] = signatures[-1]
        elif place == 0 and signs:
            part["thoughtSignature"] = _UNKNOWN_SIGNATURE
        parts.append(part)
    return parts


def _tool_result(message: JsonObject, param: str, names: dict[str, str]) -> Part:
    name = names.get(string(message.get("tool_call_id")))
    if name is None:
        raise InvalidRequest(
            "The tool call that this answers is not in the conversation.", param=f"{param}.tool_call_id"
        )
    text = "".join(string(part.get("text")) for part in _parts(message.get("content"), param))
    try:
        result = orjson.loads(text)
    except orjson.JSONDecodeError:
        result = None
    return {"functionResponse": {"name": name, "response": result if isinstance(result, dict) else {"result": text}}}


def _parts(content: object, param: str) -> list[Part]:
    if isinstance(content, str):
        return [{"text": content}] if content else []
    found = [_part(part, f"{param}.content.{place}") for place, part in enumerate(objects(content))]
    return [part for part in found if part is not None]


def _part(part: JsonObject, param: str) -> Part | None:
    kind = string(part.get("type"))
    if kind in ("text", "refusal"):
        text = string(part.get("text")) or string(part.get("refusal"))
        return {"text": text} if text else None
    if kind == "input_audio":
        sound = child(part, "input_audio")
        media_type = {"mp3": "audio/mpeg"}.get(string(sound.get("format")), f"audio/{sound.get('format')}")
        return {"inlineData": {"mimeType": media_type, "data": string(sound.get("data"))}}
    if kind in ("image_url", "video_url"):
        holder = part.get(kind)
        return _inline(string(holder.get("url") if isinstance(holder, dict) else holder), param)
    if kind == "file":
        return _inline(string(child(part, "file").get("file_data")), param)
    raise InvalidRequest(f"This model takes no content of type {kind!r}.", param=param)


def _inline(url: str, param: str) -> Part:
    head, _, data = url.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64") or not data:
        raise InvalidRequest("This model takes media as base64 data URIs, not as links.", param=param)
    return {"inlineData": {"mimeType": head[5:].partition(";")[0], "data": data}}
