"""Embeddings: unit vectors in which texts that share words lie close to each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

#: Different words of a text that count; the rarest are left out.
MAX_WORDS = 10_000
#: Each word moves so many axes, by 4 bytes of its hash each.
AXES_PER_WORD = 8


def embed(text: str, dimensions: int) -> list[float]:
    """A vector of length 1, the same for the same text. Words count, their order does not."""
    total = [0] * dimensions
    for word, count in Counter(text.lower().split()).most_common(MAX_WORDS):
        digest = sha256(word.encode()).digest()
        for start in range(0, 4 * AXES_PER_WORD, 4):
            number = int.from_bytes(digest[start : start + 4])
            total[(number >> 1) % dimensions] += count if number & 1 else -count
    length = math.hypot(*total)
    if not length:
        return [1.0] + [0.0] * (dimensions - 1)
    return [value / length for value in total]


def embed_all(texts: Sequence[str], dimensions: int) -> list[list[float]]:
    """A vector for each text. Blocks: for a thread."""
    return [embed(text, dimensions) for text in texts]
