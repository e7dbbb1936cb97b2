"""Bytes are counted as ``bytes.count`` counts them, whichever way that is found quicker."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from bitmesh_proxy.counting import FEW, occur_more_often, occurrences


class Text(bytes):
    """Notes how much of itself was looked at byte by byte."""

    counted = 0

    def count(self, mark: bytes, start: int = 0) -> int:  # type: ignore[override]
        Text.counted += len(self) - start
        return super().count(mark, start)


@pytest.mark.parametrize("marks", [[b"a"], [b"a", b"b"], [b"b", b"a", b"c"]])
@pytest.mark.parametrize(
    "numbers", [(0, 0, 0), (1, 0, 0), (3, 2, 1), (FEW, FEW, 1), (FEW + 1, 5, FEW - 1), (0, 9 * FEW, 3)]
)
def test_they_are_counted(marks: Sequence[bytes], numbers: tuple[int, int, int]) -> None:
    letters = list("a" * numbers[0] + "b" * numbers[1] + "c" * numbers[2] + "x" * 500)
    random.Random(1).shuffle(letters)
    raw = "".join(letters).encode()
    count = sum(raw.count(mark) for mark in marks)
    for mark in marks:
        assert occurrences(raw, mark) == raw.count(mark)
    assert not occur_more_often(raw, marks, count)
    assert not occur_more_often(raw, marks, count + 1)
    for fewer in {0, 1, FEW - 1, FEW, FEW + 1, count - 1}:
        assert occur_more_often(raw, marks, fewer) == (count > fewer)


def test_rare_ones_and_few_that_are_asked_for_are_not_counted_byte_by_byte() -> None:
    Text.counted = 0
    picture = Text(b'{"image":["' + b"A" * 10_000 + b'"]}')
    assert not occur_more_often(picture, [b"{", b"[", b","], 100)
    assert occurrences(picture, b"[") == 1
    assert occur_more_often(Text(b"[" * 10_000), [b"[", b","], 64)
    assert Text.counted == 0
    assert not occur_more_often(Text(b"[" * 10_000), [b"[", b","], 10_000)
    assert Text.counted == 10_000 - FEW
