"""The arguments of a tool call, for providers that want them as an object and not as JSON within a string."""

from __future__ import annotations

from typing import Any

import orjson

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.dialects.json_answers import child, string
from bitmesh_proxy.errors import InvalidRequest
from bitmesh_proxy.nesting import MAX_WRITTEN_DEPTH, is_deeper


def tool_called(call: JsonObject, param: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a call. The free text that a custom tool was given becomes the member ``input``.

    ``param`` is the message's place. Raises InvalidRequest, see ``tool_arguments``.
    """
    if custom := child(call, "custom"):
        return string(custom.get("name")), {"input": string(custom.get("input"))}
    function = child(call, "function")
    return string(function.get("name")), tool_arguments(function.get("arguments"), param)


def tool_arguments(arguments: object, param: str) -> dict[str, Any]:
    """As an object; what is another kind of value becomes its member ``value``, and nothing an empty one.

    ``param`` is the message's place. Raises InvalidRequest for what is not JSON, or too deep to be
    written.
    """
    if isinstance(arguments, dict):
        return arguments
    try:
        parsed = orjson.loads(string(arguments) or "{}")
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest("The arguments of a tool call are not JSON.", param=f"{param}.tool_calls") from exc
    if is_deeper(parsed, MAX_WRITTEN_DEPTH):
        message = f"The arguments of a tool call are nested more than {MAX_WRITTEN_DEPTH} levels deep."
        raise InvalidRequest(message, param=f"{param}.tool_calls")
    return parsed if isinstance(parsed, dict) else {"value": parsed}
