"""What a caller asks for and a protocol has no words for, or cannot read: said to the caller, never dropped unsaid."""

from __future__ import annotations

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.dialects.json_answers import child, objects, string
from bitmesh_proxy.errors import InvalidRequest, UnsupportedParameter, UnsupportedValue


def refuse_logprobs(options: JsonObject) -> None:
    """For models that tell no probabilities. Raises UnsupportedParameter."""
    for name in ("top_logprobs", "logprobs"):
        if options.get(name):
            raise UnsupportedParameter("This model does not tell the probabilities of its tokens.", param=name)


def declared_functions(options: JsonObject) -> list[JsonObject]:
    """The functions among which a model may choose, for protocols that know no other tools. Raises UnsupportedValue."""
    functions: list[JsonObject] = []
    for place, tool in enumerate(objects(options.get("tools"))):
        function = child(tool, "function")
        if not function:
            kind = string(tool.get("type"))
            what = f"tools of the type '{kind}'" if kind not in ("", "function") else "tools without a 'function'"
            raise UnsupportedValue(f"This model takes no {what}; send functions.", param=f"tools[{place}]")
        functions.append(function)
    return functions


def stop_sequences(options: JsonObject) -> list[str]:
    """Where the answer is to end, for protocols that name it otherwise. Raises InvalidRequest for what is no text."""
    stop = options.get("stop")
    sequences = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(sequences, list) or not all(isinstance(each, str) for each in sequences):
        raise InvalidRequest("Invalid 'stop': expected a string or a list of strings.", param="stop")
    return sequences
