"""Streams in pieces: the same bytes whole, byte by byte, in two at every place, and in chunks of odd sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

SAMPLES = Path(__file__).parent.parent / "samples"


def sample(name: str) -> bytes:
    """A provider's answer, byte for byte."""
    return (SAMPLES / name).read_bytes()


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` cut at the given places (taken modulo its length)."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def ways_to_cut(data: bytes) -> Iterator[list[bytes]]:
    """Every way that tends to find a mistake; about as many as ``data`` has bytes."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for size in (7, 64, 333):
        yield [data[i : i + size] for i in range(0, len(data), size)]
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]
