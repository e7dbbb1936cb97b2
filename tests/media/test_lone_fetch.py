"""A fetch for one caller alone: by pieces, in parts, and poured from the first byte to the last."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest

from bitmesh_proxy.media.download import read_start
from bitmesh_proxy.media.fetch_errors import FetchTimedOut
from bitmesh_proxy.media.lone_fetch import LoneFetch
from tests.media.test_download import PNG, Script

ALL = PNG + b"abcdef"


async def begun(script: Script) -> LoneFetch:
    script.feed(PNG)
    return LoneFetch(script, await read_start(script, kind="image"))


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_it_is_read_by_pieces_of_any_size(size: int) -> None:
    script = Script(content_length=len(ALL))
    fetch = await begun(script)
    script.feed(b"abc", b"def")
    script.end()
    taken = b""
    while piece := await fetch.read(len(taken), size):
        assert len(piece) <= size
        taken += piece
    assert taken == ALL
    assert await fetch.read(len(ALL), size) == b""


@pytest.mark.parametrize("length", [len(ALL), None])
@pytest.mark.parametrize(
    "window", [(0, None), (0, len(ALL)), (0, 5), (len(PNG) - 1, len(PNG) + 2), (len(PNG) + 4, len(ALL)), (3, None)]
)
async def test_any_part_may_be_poured(window: tuple[int, int | None], length: int | None) -> None:
    script = Script(content_length=length)
    fetch = await begun(script)
    script.feed(b"abc", b"def")
    script.end()
    taken = bytearray()

    async def slowly(piece: bytes | memoryview) -> None:
        taken.extend(piece)

    def take(piece: bytes | memoryview) -> Awaitable[None] | None:
        return slowly(piece)

    await fetch.pour(take, *window)
    assert taken == ALL[window[0] : window[1]]


async def test_nothing_is_read_before_the_last_piece_is_done() -> None:
    script = Script(content_length=len(ALL))
    fetch = await begun(script)
    script.feed(b"abc", b"def")
    script.end()
    asked: list[int] = []

    async def slowly(piece: bytes | memoryview) -> None:
        asked.append(script.taken)

    await fetch.pour(slowly, 0, len(ALL))
    assert asked == [1, 2, 3]


@pytest.mark.parametrize("start", [0, 1])
async def test_a_break_is_an_error_after_the_last_byte(start: int) -> None:
    script = Script(content_length=len(ALL))
    fetch = await begun(script)
    script.feed(b"abc", FetchTimedOut("silence"))
    taken = bytearray()
    with pytest.raises(FetchTimedOut):
        await fetch.pour(taken.extend, start, len(ALL))
    assert taken == (PNG + b"abc")[start:]
