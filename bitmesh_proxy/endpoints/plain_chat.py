"""Chat bodies that are plainly good, taken at a glance: nine of ten, in a tenth of the time that the rules take.

A body is taken only where every rule of Bitmesh's chat passes and changes nothing: fields of the very type that they
should have, without blanks around them. Of anything else the rules (``bitmesh``) are the judge, and theirs are all
words; here is neither a refusal nor a conversion. The tests hold both ways against each other.
"""

from __future__ import annotations

from typing import Any, Final

from bitmesh_proxy.calls import ChatCall, JsonObject
from bitmesh_proxy.endpoints.laravel_rules import BLANKS

#: Messages, and parts of messages, of one body. The rules count to 10,000.
_MAX_ELEMENTS: Final = 1_000
_ROLES: Final = frozenset(("system", "user", "assistant", "tool"))
_LARGEST: Final = 1.7976931348623157e308
#: After ``max_tokens`` and ``temperature``, in the order in which they stand in the options, with what they may be.
_SELDOM: Final = (
    ("repetition_penalty", 0, _LARGEST),
    ("frequency_penalty", -2, 2),
    ("presence_penalty", -2, 2),
)
#: After those.
_COUNTS: Final = ("max_completion_tokens", "n")
_MAX_INTEGER: Final = 2**63
#: With what is no text at all.
BLANK_OR_NOTHING: Final = frozenset(("", *BLANKS))


def plain_chat(body: JsonObject, bound_model: str | None, *, without: frozenset[str]) -> ChatCall | None:
    """The call that the rules would make of the body; None where they have to be asked.

    ``without`` are the names of the fields that do not go to the options as they came.
    """
    model = body.get("model")
    if bound_model is not None:
        if model is not None:
            return None
        model = bound_model
    elif type(model) is not str or model[:1] in BLANK_OR_NOTHING or model[-1] in BLANK_OR_NOTHING:
        return None
    messages = body.get("messages")
    if type(messages) is not list or not _are_plain(messages):
        return None
    options: dict[str, Any] = {}
    for name, value in body.items():
        if value is not None and name not in without:
            options[name] = value  # noqa: PERF403 - a comprehension takes twice as long
    own = 2 if "model" in body else 1
    stream = test = None
    if len(options) + own < len(body):
        if "max_tokens" in body and (number := body["max_tokens"]) is not None:
            if type(number) is not int or not 1 <= number < _MAX_INTEGER:
                return None
            options["max_tokens"] = number
        if "temperature" in body and (number := body["temperature"]) is not None:
            if not _is_within(number, 0, 2):
                return None
            options["temperature"] = number
        if len(options) + own < len(body):  # there is more than the two that nearly all send
            for name, least, most in _SELDOM:
                number = body.get(name)
                if number is not None:
                    if not _is_within(number, least, most):
                        return None
                    options[name] = number
            for name in _COUNTS:
                number = body.get(name)
                if number is not None:
                    if type(number) is not int or not 1 <= number < _MAX_INTEGER:
                        return None
                    options[name] = number
            stream, test = body.get("stream"), body.get("test")
            if (stream is not None and type(stream) is not bool) or (test is not None and type(test) is not bool):
                return None
    return ChatCall(model=model, messages=messages, options=options, stream=stream is True, test=test is True)


def _is_within(number: Any, least: float, most: float) -> bool:
    return (type(number) is float or type(number) is int) and least <= number <= most


def _are_plain(messages: list[Any]) -> bool:
    count = len(messages)
    if not 0 < count <= _MAX_ELEMENTS:
        return False
    for message in messages:
        if type(message) is not dict:
            return False
        role, content = message.get("role"), message.get("content")
        if type(role) is not str or role not in _ROLES:
            return False
        if type(content) is str:
            if content[:1] in BLANK_OR_NOTHING:
                return False
        elif type(content) is list:
            count += len(content)
            if count > _MAX_ELEMENTS or not content or not all(map(_is_plain_part, content)):
                return False
        elif content is not None or role != "assistant" or not _has_tool_calls(message):
            return False
    return True


def _has_tool_calls(message: dict[str, Any]) -> bool:
    calls = message.get("tool_calls")
    return type(calls) is list and bool(calls)


def _is_plain_part(part: Any) -> bool:
    return type(part) is dict and type(kind := part.get("type")) is str and kind[:1] not in BLANK_OR_NOTHING
