"""Streams from one worker to another: whole, from where they were left, and never taken for whole when they are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.web.responses.elsewhere import Elsewhere
from bitmesh_proxy.web.responses.replies import EventLog
from bitmesh_proxy.worker import Doors


@pytest.fixture
def doors() -> Iterator[Doors]:
    opened = Doors.open(3)
    yield opened
    for sock in opened.sockets:
        sock.close()


@asynccontextmanager
async def worker(doors: Doors, seat: int, logs: dict[str, EventLog]) -> AsyncIterator[Elsewhere]:
    made = Elsewhere(logs.get, doors, seat=seat)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def event(number: int) -> bytes:
    return b"event: response.output_text.delta\ndata: " + str(number).encode() * 1000 + b"\n\n"


async def test_events_come_as_they_are_written_up_to_the_end(doors: Doors) -> None:
    log = EventLog()
    async with worker(doors, 0, {}) as here, worker(doors, 1, {}), worker(doors, 2, {"resp_1": log}):
        await log.write(event(0) + event(1))
        frames = await here.follow("resp_1", after=-1)
        assert frames is not None
        assert await anext(frames) == event(0) + event(1)
        await log.write(event(2))
        assert await anext(frames) == event(2)
        large = b"event: large\ndata: " + b"x" * 1_000_000 + b"\n\n"
        await log.write(large)
        await log.finish()
        assert [piece async for piece in frames] == [large]


async def test_who_comes_back_gets_what_is_missing(doors: Doors) -> None:
    log = EventLog()
    for number in range(4):
        await log.write(event(number))
    await log.finish()
    async with worker(doors, 0, {}) as here, worker(doors, 1, {"resp_1": log}):
        for after, missing in ((1, event(2) + event(3)), (3, b"")):
            frames = await here.follow("resp_1", after=after)
            assert frames is not None
            assert b"".join([piece async for piece in frames]) == missing


async def test_what_nobody_makes_is_nowhere(doors: Doors) -> None:
    # Nobody is behind the third door: a worker that has died, and whose replacement is not there yet.
    doors.sockets[2].close()
    async with worker(doors, 0, {"resp_1": EventLog()}) as here, worker(doors, 1, {}):
        assert await here.follow("resp_1", after=-1) is None, "what is made here is not elsewhere"
        assert await here.follow("resp_2", after=-1) is None


async def test_a_worker_that_dies_in_the_middle_is_no_end(doors: Doors) -> None:
    log = EventLog()
    async with worker(doors, 0, {}) as here:
        async with worker(doors, 1, {"resp_1": log}):
            await log.write(event(0))
            frames = await here.follow("resp_1", after=-1)
            assert frames is not None
            assert await anext(frames) == event(0)
        with pytest.raises(Unavailable, match="has ended"):
            await anext(frames)


async def test_what_breaks_off_there_breaks_off_here(doors: Doors) -> None:
    log = EventLog()
    async with worker(doors, 0, {}) as here, worker(doors, 1, {"resp_1": log}):
        await log.write(event(0))
        log.break_off()
        frames = await here.follow("resp_1", after=-1)
        assert frames is not None
        assert await anext(frames) == event(0)
        with pytest.raises(Unavailable):
            await anext(frames)


@pytest.mark.parametrize("said", [b"wrong resp_1 -1\n", b"\n", b"a b c d e\n", b"\xff\n", b"x" * 100_000])
async def test_who_does_not_know_the_secret_is_not_let_in(doors: Doors, said: bytes) -> None:
    log = EventLog()
    await log.write(event(0))
    async with worker(doors, 0, {"resp_1": log}):
        reader, writer = await asyncio.open_unix_connection(doors.names[0])
        writer.write(said)
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("said", ["é resp_1 0\n".encode(), b"x" * 200_000, b"\xff\n", b"no more\n", b"\n"])
async def test_whoever_says_something_else_is_sent_away_without_a_word(
    doors: Doors, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Any user of the machine may come to the door."""
    async with worker(doors, 0, {"resp_1": EventLog()}):
        reader, writer = await asyncio.open_unix_connection(doors.names[0])
        writer.write(said)
        with suppress(ConnectionError):  # it is closed before all of it has been read
            assert await reader.read() == b""
        writer.close()
    assert caplog.records == []
