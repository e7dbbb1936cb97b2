"""Embeddings: unit vectors in which texts that share words lie close to each other."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from hashlib import sha256


def embed(text: str, dimensions: int) -> list[float]:
    """A vector of length 1, the same for the same text. Words count, their order does not."""
    total = [0.0] * dimensions
    for word in _words(text):
        rng = random.Random(sha256(word.encode()).digest())  # noqa: S311 (a hash spread over the axes)
        for axis in rng.sample(range(dimensions), min(dimensions, 24)):
            total[axis] += rng.choice((-1.0, 1.0))
    length = math.sqrt(sum(value * value for value in total))
    if not length:
        return [1.0] + [0.0] * (dimensions - 1)
    return [value / length for value in total]


def _words(text: str) -> Iterable[str]:
    return text.lower().split() or [""]
