"""What a caller asks for and a protocol has no words for, or cannot read: said to the caller, never dropped unsaid."""

from __future__ import annotations

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.errors import InvalidRequest, UnsupportedParameter


def refuse_logprobs(options: JsonObject) -> None:
    """For models that tell no probabilities. Raises UnsupportedParameter."""
    for name in ("top_logprobs", "logprobs"):
        if options.get(name):
            raise UnsupportedParameter("This model does not tell the probabilities of its tokens.", param=name)


def stop_sequences(options: JsonObject) -> list[str]:
    """Where the answer is to end, for protocols that name it otherwise. Raises InvalidRequest for what is no text."""
    stop = options.get("stop")
    sequences = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(sequences, list) or not all(isinstance(each, str) for each in sequences):
        raise InvalidRequest("Invalid 'stop': expected a string or a list of strings.", param="stop")
    return sequences
