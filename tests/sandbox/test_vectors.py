"""Embeddings: unit vectors, near where words are shared."""

from __future__ import annotations

import math

import pytest

from bitmesh_proxy.sandbox.vectors import embed


def similarity(one: str, other: str) -> float:
    return sum(a * b for a, b in zip(embed(one, 256), embed(other, 256), strict=True))


@pytest.mark.parametrize("text", ["a red fox", "", "one", "word " * 500])
@pytest.mark.parametrize("dimensions", [1, 7, 768])
def test_the_length_is_one(text: str, dimensions: int) -> None:
    vector = embed(text, dimensions)
    assert len(vector) == dimensions
    assert math.hypot(*vector) == pytest.approx(1.0)


def test_shared_words_bring_texts_together() -> None:
    assert similarity("a red fox", "A RED FOX") == pytest.approx(1.0)
    assert similarity("a red fox", "the red fox") > 0.5 > similarity("a red fox", "income tax law")
