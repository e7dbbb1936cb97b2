"""OpenAI's chat completions as callers send them. How they are answered is in ``openai_chat_answers``.

Only what every provider would refuse is refused here, with OpenAI's way of naming fields; the rest is the provider's to
judge. Source: OpenAI's published API description of 2026-08-21.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bitmesh_proxy.calls import ChatCall, JsonObject
from bitmesh_proxy.context import Caller, Surface
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.endpoints.openai_chat_answers import ChunkRenderer, render_chat
from bitmesh_proxy.endpoints.openai_fields import is_integer, is_number, model_of
from bitmesh_proxy.errors import InvalidRequest, MissingParameter

_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
#: Fields with a place of their own, and those that have no say.
_NO_OPTIONS: Final = frozenset(("model", "messages", "stream", "test"))
_MAX_MESSAGES: Final = 10_000


def _strings(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


#: Fields whose type or range OpenAI itself refuses: what is expected, and whether a value is that.
_FIELDS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "stream": ("a boolean", lambda value: isinstance(value, bool)),
    "stream_options": ("an object", lambda value: isinstance(value, dict)),
    "temperature": ("a number from 0 to 2", lambda value: is_number(value) and 0 <= value <= 2),
    "top_p": ("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1),
    "frequency_penalty": ("a number from -2 to 2", lambda value: is_number(value) and -2 <= value <= 2),
    "presence_penalty": ("a number from -2 to 2", lambda value: is_number(value) and -2 <= value <= 2),
    "n": ("an integer from 1 to 128", lambda value: is_integer(value) and 1 <= value <= 128),
    "max_tokens": ("an integer of at least 1", lambda value: is_integer(value) and value >= 1),
    "max_completion_tokens": ("an integer of at least 1", lambda value: is_integer(value) and value >= 1),
    "seed": ("an integer", is_integer),
    "logprobs": ("a boolean", lambda value: isinstance(value, bool)),
    "top_logprobs": ("an integer from 0 to 20", lambda value: is_integer(value) and 0 <= value <= 20),
    "stop": ("a string or a list of strings", _strings),
    "tools": ("a list of objects", _objects),
    "response_format": ("an object", lambda value: isinstance(value, dict)),
    "parallel_tool_calls": ("a boolean", lambda value: isinstance(value, bool)),
    "user": ("a string", lambda value: isinstance(value, str)),
}


def parse(body: JsonObject, caller: Caller) -> ChatCall:
    """Read a request. Raises InvalidRequest or MissingParameter naming the first field that is wrong.

    A key that is bound to a model takes that model's name or none: OpenAI's clients always send one.
    """
    model = model_of(body, caller)
    messages = body.get("messages")
    if messages is None:
        raise MissingParameter("Missing required parameter: 'messages'.", param="messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("Invalid 'messages': expected a list of at least one message.", param="messages")
    if len(messages) > _MAX_MESSAGES:
        raise InvalidRequest(f"Invalid 'messages': more than {_MAX_MESSAGES} messages.", param="messages")
    for index, message in enumerate(messages):
        if not _is_plain(message):
            _check_message(message, f"messages[{index}]")
    options: dict[str, Any] = {}
    is_good = True
    for name, value in body.items():
        if value is None or name in _NO_OPTIONS:
            continue
        options[name] = value
        field = _FIELDS.get(name)
        is_good = is_good and (field is None or field[1](value))
    stream = body.get("stream")
    if not is_good or (stream is not None and type(stream) is not bool):
        _refuse_first(body)
    return ChatCall(model=model, messages=messages, options=options, stream=stream is True)


def _refuse_first(body: JsonObject) -> None:
    """Name the first field, in the order of the table, that is wrong. Raises InvalidRequest."""
    for name, (expected, is_valid) in _FIELDS.items():
        value = body.get(name)
        if value is not None and not is_valid(value):
            raise InvalidRequest(f"Invalid '{name}': expected {expected}.", param=name)


def _is_plain(message: object) -> bool:
    """Is it a role and a text, as nearly all are, so that there is nothing to look for?"""
    if type(message) is not dict or type(message.get("content")) is not str:
        return False
    role = message.get("role")
    return type(role) is str and role in _ROLES


def _check_message(message: object, name: str) -> None:
    if not isinstance(message, dict):
        raise InvalidRequest(f"Invalid '{name}': expected an object.", param=name)
    role = message.get("role")
    if role is None:
        raise MissingParameter(f"Missing required parameter: '{name}.role'.", param=f"{name}.role")
    if not isinstance(role, str) or role not in _ROLES:
        expected = ", ".join(sorted(_ROLES))
        raise InvalidRequest(f"Invalid '{name}.role': expected one of {expected}.", param=f"{name}.role")
    content = message.get("content")
    if content is None:
        if role != "assistant":
            raise MissingParameter(f"Missing required parameter: '{name}.content'.", param=f"{name}.content")
    elif not isinstance(content, str) and not _objects(content):
        raise InvalidRequest(
            f"Invalid '{name}.content': expected a string or a list of objects.", param=f"{name}.content"
        )


COMPLETIONS: Final = Endpoint(
    name="chat",
    surface=Surface.OPENAI,
    parse=parse,
    render_chat=render_chat,
    chunk_renderer=ChunkRenderer,
    drops_unasked_usage=True,
    comments_cost=True,
    takes_plain_chats=True,
)
