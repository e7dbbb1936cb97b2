"""Embeddings are metered however long they are."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bitmesh_proxy.calls import ModerationCall, Operation, Usage
from bitmesh_proxy.dialects.openai_vectors import embedding_dialect, moderation_dialect
from tests.dialects.offers import make_offer
from tests.providers.contracts import sent_json


def test_an_embedding_is_metered_however_long_it_is() -> None:
    for length in (3, 5000):
        body = orjson.dumps(
            {
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.125] * length}],
                "model": "text-embedding-3-small",
                "usage": {"prompt_tokens": 8, "total_tokens": 8},
            }
        )
        assert embedding_dialect().read_usage(body) == Usage(input_tokens=8)


@pytest.mark.parametrize("inputs", [["one"], [{"type": "text", "text": "x"}], ["one", "two"]])
def test_a_single_text_is_sent_bare(inputs: list[Any]) -> None:
    body = sent_json(
        moderation_dialect().request(ModerationCall(model="m", inputs=inputs), make_offer(Operation.MODERATION))
    )
    assert body == {"model": "upstream/model", "input": "one" if inputs == ["one"] else inputs}
