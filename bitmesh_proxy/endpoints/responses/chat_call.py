"""From a request to a chat call: the whole conversation, in chat completions' names.

The order is: this request's ``instructions``, then the context (what was said before), then the new input. Neighbouring
calls of tools, and the assistant's words before them, are one message of the assistant's. Reasoning items are left out:
chat completions have no place for them that all providers share. ``developer`` is sent as ``system``, which every
provider knows and OpenAI reads as the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bitmesh_proxy.calls import ChatCall, JsonObject
from bitmesh_proxy.endpoints.responses.content import is_audio
from bitmesh_proxy.endpoints.responses.items import GIVEN, OUTPUTS
from bitmesh_proxy.endpoints.responses.request import ResponseRequest
from bitmesh_proxy.errors import InvalidRequest, UnsupportedParameter, UnsupportedValue

MAX_CALL_ID_CHARACTERS: Final = 64
#: Fields of chat completions that would change what this endpoint promises: one answer, its own tools, text.
_REFUSED: Final = ("functions", "function_call", "web_search_options", "modalities", "audio", "prediction")
_INPUT_AUDIO_FORMATS: Final = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


def chat_call(request: ResponseRequest, context: Sequence[JsonObject] = ()) -> ChatCall:
    """The call. ``context`` are the items before the request's own, resolved.

    Raises UnsupportedParameter for what only media models have, InvalidRequest for parts that chat cannot carry.
    """
    _refuse_media_wishes(request)
    param = request.input_name
    messages = list(_messages([*context, *request.items], param))
    if request.instructions is not None:
        messages.insert(0, {"role": "system", "content": request.instructions})
    return ChatCall(
        model=request.model,
        messages=messages,
        options=_options(request),
        # The answer is made from events either way; but a whole answer is read whole, so that a failure in the middle
        # of it is a status and no half of one.
        stream=request.stream,
    )


def _refuse_media_wishes(request: ResponseRequest) -> None:
    wishes = request.media
    asked = {
        "max_items": wishes.count if wishes.count != 1 else None,
        "size": wishes.size,
        "quality": wishes.quality,
        "seconds": wishes.seconds,
        "response_format": wishes.response_format if wishes.response_format != "url" else None,
        "mask": wishes.mask,
    }
    for name, value in asked.items():
        if value is not None:
            raise UnsupportedParameter(f"The model '{request.model}' makes text and takes no '{name}'.", param=name)


def _options(request: ResponseRequest) -> dict[str, Any]:
    for name in _REFUSED:
        if name in request.extras:
            raise UnsupportedParameter(f"'{name}' is not supported here.", param=name)
    options: dict[str, Any] = {**request.extras, **request.sampling, **request.tool_use.chat_options()}
    ours = {
        "max_completion_tokens": request.max_output_tokens,
        "response_format": _response_format(request.text_format),
        "verbosity": request.verbosity,
        "reasoning_effort": request.effort,
        "safety_identifier": request.safety_identifier,
        "prompt_cache_key": request.prompt_cache_key,
        "parallel_tool_calls": request.parallel_tool_calls if request.tool_use.allowed else None,
    }
    options |= {name: value for name, value in ours.items() if value is not None}
    if request.wants_logprobs:
        options |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return options


def _response_format(text_format: JsonObject) -> JsonObject | None:
    if text_format["type"] == "text":
        return None
    if text_format["type"] == "json_object":
        return {"type": "json_object"}
    described = {name: value for name, value in text_format.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": described}


def _messages(items: Sequence[JsonObject], param: str) -> Iterator[JsonObject]:
    """Items as messages. Neighbours of one turn of the assistant's are merged as they come."""
    turn: dict[str, Any] | None = None  # an assistant message that tool calls may still join
    after_tools: list[JsonObject] = []  # pictures out of tool outputs, which tool messages cannot carry
    for item in items:
        kind = item["type"]
        if kind == "reasoning":
            continue
        if kind in GIVEN:
            if after_tools:
                yield _user(after_tools)
                after_tools = []
            if turn is None:
                turn = {"role": "assistant", "content": None}
            turn.setdefault("tool_calls", []).append(_tool_call(item))
            continue
        if turn is not None:
            yield turn
            turn = None
        if kind in OUTPUTS:
            text, media = _tool_output(item["output"], param)
            yield {"role": "tool", "tool_call_id": short_call_id(item["call_id"]), "content": text}
            after_tools += media
            continue
        if after_tools:
            yield _user(after_tools)
            after_tools = []
        if item["role"] == "assistant":
            turn = _assistant(item, param)
        else:
            yield _said(item, param)
    if turn is not None:
        yield turn
    if after_tools:
        yield _user(after_tools)


def short_call_id(call_id: str) -> str:
    """An id that every provider takes: one that is too long becomes its digest, the same each time."""
    if len(call_id) <= MAX_CALL_ID_CHARACTERS:
        return call_id
    return "call_" + hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _tool_call(item: JsonObject) -> JsonObject:
    call_id = short_call_id(item["call_id"])
    if item["type"] == "custom_tool_call":
        return {"id": call_id, "type": "custom", "custom": {"name": item["name"], "input": item["input"]}}
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": call_id, "type": "function", "function": function}


def _tool_output(output: str | Sequence[JsonObject], param: str) -> tuple[str, list[JsonObject]]:
    if isinstance(output, str):
        return output, []
    texts = [part["text"] for part in output if part["type"] == "input_text"]
    return "\n".join(texts), [_part(part, param) for part in output if part["type"] != "input_text"]


def _user(parts: list[JsonObject]) -> JsonObject:
    return {"role": "user", "content": parts}


def _said(item: JsonObject, param: str) -> JsonObject:
    """A message of the user's or the system's."""
    role = "user" if item["role"] == "user" else "system"
    parts = item["content"]
    if len(parts) == 1 and parts[0]["type"] == "input_text":
        return {"role": role, "content": parts[0]["text"]}
    if role == "system":
        return {"role": role, "content": "\n\n".join(part["text"] for part in parts)}
    return {"role": role, "content": [_part(part, param) for part in parts]}


def _assistant(item: JsonObject, param: str) -> dict[str, Any]:
    """A message of the assistant's. What it made (pictures) goes along as parts, for models that take those."""
    texts = [part["text"] for part in item["content"] if part["type"] == "output_text"]
    refusals = [part["refusal"] for part in item["content"] if part["type"] == "refusal"]
    media = [_part(part, param) for part in item["content"] if part["type"] not in ("output_text", "refusal")]
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if media:
        message["content"] = [*({"type": "text", "text": text} for text in texts), *media]
    if refusals:
        message["refusal"] = "".join(refusals)
        message["content"] = message["content"] or None
    return message


def _part(part: Mapping[str, Any], param: str) -> JsonObject:
    kind = part["type"]
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part["text"]}
    if kind == "input_image":
        image = {"url": part["image_url"]}
        if part["detail"] != "auto":
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_video":
        return {"type": "video_url", "video_url": {"url": part["video_url"]}}
    if is_audio(part):
        return _audio(part)
    return _file(part, param)


def _audio(part: Mapping[str, Any]) -> JsonObject:
    url: str = part["file_url"]
    form = _INPUT_AUDIO_FORMATS.get(part["media_type"])
    if url[:5].lower() == "data:" and form is not None:
        return {"type": "input_audio", "input_audio": {"data": url.partition(",")[2], "format": form}}
    return {"type": "audio_url", "audio_url": {"url": url}}


def _file(part: Mapping[str, Any], param: str) -> JsonObject:
    url: str | None = part.get("file_url")
    if url is None:
        raise InvalidRequest("An input_file has neither 'file_data' nor 'file_url'.", param=param)
    if url[:5].lower() != "data:":
        raise UnsupportedValue("Models take files as 'file_data', not as links.", param=param)
    file = {"file_data": url}
    file["filename"] = part.get("filename") or "file"
    return {"type": "file", "file": file}
