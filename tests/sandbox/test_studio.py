"""Rendering in threads, once for equal recipes, and bounded in what is kept."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest

from bitmesh_proxy.sandbox.studio import MAX_CONCURRENT_RENDERS, Studio


class Log:
    """What was rendered, where, and how many at a time."""

    def __init__(self) -> None:
        self.rendered: list[str] = []
        self.threads: set[int] = set()
        self.lock = threading.Lock()
        self.at_work = 0
        self.most_at_work = 0
        self.gate = threading.Barrier(MAX_CONCURRENT_RENDERS, timeout=5)


@dataclass(frozen=True)
class Block:
    """A recipe for so many bytes."""

    name: str
    size: int
    log: Log = field(compare=False)
    meets: bool = False
    media_type: str = "application/octet-stream"
    extension: str = "bin"

    def render(self) -> bytes:
        with self.log.lock:
            self.log.rendered.append(self.name)
            self.log.threads.add(threading.get_ident())
            self.log.at_work += 1
            self.log.most_at_work = max(self.log.most_at_work, self.log.at_work)
        if self.meets:
            self.log.gate.wait()
        with self.log.lock:
            self.log.at_work -= 1
        if self.size < 0:
            raise ValueError("cannot")
        return bytes(self.size)


async def test_equal_recipes_are_rendered_once_and_off_the_loop() -> None:
    studio, log = Studio(keep_bytes=100), Log()
    assert await studio.render(Block("a", 10, log)) == await studio.render(Block("a", 10, log)) == bytes(10)
    assert log.rendered == ["a"]
    assert threading.get_ident() not in log.threads


async def test_the_longest_unused_is_dropped() -> None:
    studio, log = Studio(keep_bytes=100), Log()
    for name in ("a", "b", "a", "c", "a", "b"):
        await studio.render(Block(name, 40, log))
    assert log.rendered == ["a", "b", "c", "b"]


async def test_what_is_larger_than_all_is_not_kept() -> None:
    studio, log = Studio(keep_bytes=100), Log()
    await studio.render(Block("small", 10, log))
    for _ in range(2):
        assert len(await studio.render(Block("big", 101, log))) == 101
    await studio.render(Block("small", 10, log))
    assert log.rendered == ["small", "big", "big"]


async def test_two_work_at_a_time() -> None:
    """The barrier lets a render go only when another is at work: fewer than two would hang, more are counted."""
    studio, log = Studio(keep_bytes=100), Log()
    await asyncio.gather(*(studio.render(Block(str(number), 1, log, meets=True)) for number in range(6)))
    assert log.most_at_work == MAX_CONCURRENT_RENDERS


async def test_two_who_want_the_same_wait_for_one() -> None:
    studio, log = Studio(keep_bytes=1000), Log()
    await asyncio.gather(*(studio.render(Block("same", 10, log)) for _ in range(20)))
    assert len(log.rendered) <= MAX_CONCURRENT_RENDERS


async def test_a_failure_reaches_who_asked() -> None:
    studio, log = Studio(keep_bytes=100), Log()
    with pytest.raises(ValueError, match="cannot"):
        await studio.render(Block("bad", -1, log))
    assert await studio.render(Block("good", 1, log)) == b"\0"


@dataclass(frozen=True)
class Film:
    """Takes until it is let go."""

    name: str
    go: threading.Event = field(compare=False)
    media_type: str = "video/mp4"
    extension: str = "mp4"

    def render(self) -> bytes:
        assert self.go.wait(timeout=5)
        return b"film"


async def test_a_word_does_not_wait_for_films() -> None:
    studio, go = Studio(keep_bytes=100), threading.Event()
    films = [asyncio.create_task(studio.render(Film(str(number), go))) for number in range(MAX_CONCURRENT_RENDERS + 1)]
    await asyncio.sleep(0)
    assert await studio.render(Block("word", 4, Log())) == bytes(4)
    assert not any(film.done() for film in films)
    go.set()
    assert await asyncio.gather(*films) == [b"film"] * len(films)
