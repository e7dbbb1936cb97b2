"""What a caller asks for and a protocol has no words for: said to the caller, never dropped without a word."""

from __future__ import annotations

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.errors import UnsupportedParameter


def refuse_logprobs(options: JsonObject) -> None:
    """For models that tell no probabilities. Raises UnsupportedParameter."""
    for name in ("top_logprobs", "logprobs"):
        if options.get(name):
            raise UnsupportedParameter("This model does not tell the probabilities of its tokens.", param=name)
