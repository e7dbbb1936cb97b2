"""OpenAI's embeddings and moderations: whole answers that are passed through.

Source: OpenAI's published API description of 2026-08-21.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson

from bitmesh_proxy.calls import EmbeddingCall, ModerationCall, Usage
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import EmbeddingDialect, ModerationDialect, UpstreamRequest
from bitmesh_proxy.dialects.openai_usage import UsageParser, parse_usage, parse_usage_with_cost, read_whole_usage


def embedding_dialect(
    *, options: frozenset[str] = frozenset({"dimensions", "encoding_format", "user"}), reads_cost: bool = False
) -> EmbeddingDialect:
    """``POST /embeddings``. ``options`` are the further fields that the provider knows.

    ``reads_cost``: what a call cost is what its figures say, if they do.
    """
    return EmbeddingDialect(
        request=partial(_embedding_request, options=options),
        read_usage=partial(_embedding_usage, parse=parse_usage_with_cost if reads_cost else parse_usage),
    )


def moderation_dialect() -> ModerationDialect:
    """``POST /moderations``."""
    return ModerationDialect(request=_moderation_request)


def _embedding_request(call: EmbeddingCall, offer: Offer, *, options: frozenset[str]) -> UpstreamRequest:
    inputs: Any = list(call.inputs)
    if len(inputs) == 1 and isinstance(inputs[0], str):
        inputs = inputs[0]  # what every imitation understands
    chosen = {name: value for name, value in call.options.items() if name in options and value is not None}
    body = {**offer.defaults, "model": offer.upstream_model, "input": inputs, **chosen}
    return UpstreamRequest(path="/embeddings", body=orjson.dumps(body))


def _embedding_usage(body: bytes, *, parse: UsageParser) -> Usage | None:
    return read_whole_usage(body, parse)[0]


def _moderation_request(call: ModerationCall, offer: Offer) -> UpstreamRequest:
    inputs: Any = list(call.inputs)
    if len(inputs) == 1 and isinstance(inputs[0], str):
        inputs = inputs[0]
    return UpstreamRequest(
        path="/moderations", body=orjson.dumps({**offer.defaults, "model": offer.upstream_model, "input": inputs})
    )
