"""What a caller sends as ``input`` or ``messages``, as items of the one form in the middle: Open Responses items.

Every item gets an id, a type and, where the specification has one, a status, so that it can be kept, listed, referred
to and sent back. ``messages`` may hold what chat completions hold (roles ``tool``, ``tool_calls``): they become
function calls and their outputs. ``compaction`` and ``item_reference`` items stay as they are: only the store can
resolve them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.endpoints.responses.content import MAX_PARTS, read_content, read_part, text_part
from bitmesh_proxy.endpoints.responses.fields import MAX_TEXT_CHARACTERS, Fields
from bitmesh_proxy.errors import InvalidRequest

#: Makes an id from a prefix (``msg_``).
NewId = Callable[[str], str]

MAX_ITEMS: Final = 10_000
FUNCTION_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CALL_ID: Final = re.compile(r".{1,64}", re.DOTALL)
#: Calls of tools, a function's and a custom tool's, which takes free text: where what they are given stands.
GIVEN: Final[Mapping[str, str]] = {"function_call": "arguments", "custom_tool_call": "input"}
#: What they gave.
OUTPUTS: Final = frozenset(("function_call_output", "custom_tool_call_output"))
_ROLES: Final = ("user", "assistant", "system", "developer")
_STATUSES: Final = ("in_progress", "completed", "incomplete")
_PHASES: Final = ("commentary", "final_answer")


def read_input(body: Fields, new_id: NewId) -> list[JsonObject]:
    """The items of ``input``: a string is one user message. Raises InvalidRequest."""
    value = body.values.get("input")
    if isinstance(value, str):
        text = body.required_string("input")
        return [_message("user", [text_part(text)], new_id("msg_"))]
    if not isinstance(value, list):
        body.fail("input", "'input' must be a string or a list of items.")
    return [_read_item(item, new_id) for item in body.objects("input", max_items=MAX_ITEMS) or []]


def read_messages(body: Fields, new_id: NewId) -> list[JsonObject]:
    """The items of ``messages``. Raises InvalidRequest."""
    messages = body.objects("messages", max_items=MAX_ITEMS)
    if not messages:
        body.fail("messages", "'messages' must be a list of at least one message.")
    items: list[JsonObject] = []
    for message in messages:
        items += _read_chat_message(message, new_id)
    return items


def check_call_ids(items: Sequence[JsonObject], *, param: str) -> None:
    """Every output must answer a call that the conversation holds. Raises InvalidRequest."""
    known: set[str] = set()
    for index, item in enumerate(items):
        if item["type"] in GIVEN:
            known.add(item["call_id"])
        elif item["type"] in OUTPUTS and item["call_id"] not in known:
            raise InvalidRequest(
                f"There is no function call with the call_id '{item['call_id']}' for item {index} to answer.",
                param=param,
            )


def _read_item(item: Fields, new_id: NewId) -> JsonObject:
    name = item.string("type", max_characters=128)
    if name is None:
        name = "message" if item.has("role") else "item_reference"
    reader = _ITEMS.get(name)
    if reader is None:
        item.fail("type", f"There is no input item of the type '{name}' here.")
    return reader(item, new_id)


def _read_message(item: Fields, new_id: NewId) -> JsonObject:
    role = item.choice("role", _ROLES)
    if role is None:
        raise item.missing("role")
    content = read_content(item, role=role)
    message = dict(_message(role, content, _id_of(item, "msg_", new_id)))
    message["status"] = item.choice("status", _STATUSES) or "completed"
    if phase := item.choice("phase", _PHASES):
        if role != "assistant":
            item.fail("phase", "Only messages of the assistant have a phase.")
        message["phase"] = phase
    return message


def _message(role: str, content: Sequence[JsonObject], item_id: str) -> JsonObject:
    return {"id": item_id, "type": "message", "status": "completed", "role": role, "content": list(content)}


def _read_call(kind: str, prefix: str, item: Fields, new_id: NewId) -> JsonObject:
    return {
        "id": _id_of(item, prefix, new_id),
        "type": kind,
        "status": item.choice("status", _STATUSES) or "completed",
        "call_id": item.required_string("call_id", pattern=_CALL_ID),
        "name": item.required_string("name", pattern=FUNCTION_NAME),
        GIVEN[kind]: item.required_string(GIVEN[kind]),
    }


def _read_call_output(kind: str, prefix: str, item: Fields, new_id: NewId) -> JsonObject:
    return {
        "id": _id_of(item, prefix, new_id),
        "type": kind,
        "status": item.choice("status", _STATUSES) or "completed",
        "call_id": item.required_string("call_id", pattern=_CALL_ID),
        "output": _read_output(item),
    }


def _read_output(item: Fields) -> str | list[JsonObject]:
    value = item.values.get("output")
    if value is None:
        raise item.missing("output")
    if isinstance(value, str):
        return item.required_string("output")
    if not isinstance(value, list):
        item.fail("output", f"'{item.param('output')}' must be a string or a list of parts.")
    return [read_part(part, role="user") for part in item.objects("output", max_items=MAX_PARTS) or []]


def _read_reasoning(item: Fields, new_id: NewId) -> JsonObject:
    reasoning: dict[str, Any] = {
        "id": _id_of(item, "rs_", new_id),
        "type": "reasoning",
        "status": item.choice("status", _STATUSES) or "completed",
        "summary": [_text_of(part, "summary_text") for part in item.objects("summary", max_items=MAX_PARTS) or []],
    }
    if content := item.objects("content", max_items=MAX_PARTS):
        reasoning["content"] = [_text_of(part, "reasoning_text") for part in content]
    if encrypted := item.string("encrypted_content"):
        reasoning["encrypted_content"] = encrypted
    return reasoning


def _text_of(part: Fields, kind: str) -> JsonObject:
    return {"type": kind, "text": part.required_string("text")}


def _read_compaction(item: Fields, new_id: NewId) -> JsonObject:
    return {
        "id": _id_of(item, "cmp_", new_id),
        "type": "compaction",
        "status": "completed",
        "encrypted_content": item.required_string(
            "encrypted_content", min_characters=1, max_characters=MAX_TEXT_CHARACTERS
        ),
    }


def _read_reference(item: Fields, _: NewId) -> JsonObject:
    return {"type": "item_reference", "id": item.required_string("id", min_characters=1, max_characters=128)}


def _read_image_generation(item: Fields, new_id: NewId) -> JsonObject:
    """A picture that OpenAI's service made: one of the assistant's."""
    data = item.required_string("result", min_characters=1)
    media_type = f"image/{item.choice('output_format', ('png', 'jpeg', 'webp')) or 'png'}"
    image = {"type": "input_image", "image_url": f"data:{media_type};base64,{data}", "detail": "auto"}
    return _message("assistant", [image], _id_of(item, "msg_", new_id))


def _id_of(item: Fields, prefix: str, new_id: NewId) -> str:
    return item.string("id", max_characters=128) or new_id(prefix)


_ITEMS: Final[Mapping[str, Callable[[Fields, NewId], JsonObject]]] = {
    "message": _read_message,
    "function_call": partial(_read_call, "function_call", "fc_"),
    "function_call_output": partial(_read_call_output, "function_call_output", "fco_"),
    "custom_tool_call": partial(_read_call, "custom_tool_call", "ctc_"),
    "custom_tool_call_output": partial(_read_call_output, "custom_tool_call_output", "ctco_"),
    "reasoning": _read_reasoning,
    "compaction": _read_compaction,
    "item_reference": _read_reference,
    "image_generation_call": _read_image_generation,
}


def _read_chat_message(message: Fields, new_id: NewId) -> list[JsonObject]:
    """One of ``messages``: mostly one item; an assistant with ``tool_calls`` is several."""
    role = message.string("role", max_characters=64)
    if role is None:
        raise message.missing("role")
    if role == "tool":
        return [_tool_message(message, new_id)]
    if role not in _ROLES:
        message.fail("role", f"'{message.param('role')}' must be one of: assistant, developer, system, tool, user.")
    calls = message.objects("tool_calls", max_items=128) if role == "assistant" else None
    items = [] if calls and not message.has("content") else [_read_message(message, new_id)]
    return items + [_chat_tool_call(call, new_id) for call in calls or []]


def _tool_message(message: Fields, new_id: NewId) -> JsonObject:
    content = read_content(message, role="user")
    texts = [part["text"] for part in content if part["type"] == "input_text"]
    return {
        "id": new_id("fco_"),
        "type": "function_call_output",
        "status": "completed",
        "call_id": message.required_string("tool_call_id", pattern=_CALL_ID),
        "output": "".join(texts) if len(texts) == len(content) else content,
    }


def _chat_tool_call(call: Fields, new_id: NewId) -> JsonObject:
    if custom := call.object("custom"):
        return {
            "id": new_id("ctc_"),
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": call.required_string("id", pattern=_CALL_ID),
            "name": custom.required_string("name", pattern=FUNCTION_NAME),
            "input": custom.required_string("input"),
        }
    function = call.object("function")
    if function is None:
        raise call.missing("function")
    arguments = function.values.get("arguments")
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "status": "completed",
        "call_id": call.required_string("id", pattern=_CALL_ID),
        "name": function.required_string("name", pattern=FUNCTION_NAME),
        "arguments": arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode(),
    }
