"""What has come waits to be taken, in order and never without bound; who takes slowly makes its source wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from bitmesh_proxy.errors import UpstreamBroken
from bitmesh_proxy.upstream.heads import AnswerHead
from bitmesh_proxy.upstream.inbox import HIGH_WATER_BYTES, Inbox

HEAD = AnswerHead(200, {}, should_close=False)


class Connection:
    """The source, as far as an inbox knows it."""

    def __init__(self) -> None:
        self.is_held = False
        self.is_paused = False

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_held = self.is_paused = False

    async def taken(self, pending: Awaitable[None]) -> None:
        await pending


def made() -> tuple[Inbox, Connection]:
    connection = Connection()
    return Inbox(connection, asyncio.get_running_loop()), connection


async def test_what_came_before_it_was_asked_for_is_taken_at_once() -> None:
    inbox, connection = made()
    inbox.on_head(HEAD)
    inbox.on_piece(b"a", None)
    inbox.on_piece(b"b", b"1\r\nb\r\n")
    inbox.on_end()
    was_held = connection.is_held
    assert await inbox.head() is HEAD
    assert await inbox.read() == b"ab"
    assert (was_held, connection.is_held) == (True, False)
    assert await inbox.read() == b""


async def test_who_waits_is_woken_by_what_comes() -> None:
    inbox, _ = made()
    waiting = asyncio.create_task(inbox.head())
    await asyncio.sleep(0)
    inbox.on_head(HEAD)
    assert await waiting is HEAD
    for data in (b"a", b"b"):
        reading = asyncio.create_task(inbox.read())
        await asyncio.sleep(0)
        inbox.on_piece(data, None)
        assert await reading == data
    reading = asyncio.create_task(inbox.read())
    await asyncio.sleep(0)
    inbox.on_end()
    assert await reading == b""


async def test_an_error_comes_after_what_came_before_it() -> None:
    inbox, _ = made()
    inbox.on_head(HEAD)
    inbox.on_piece(b"a", None)
    inbox.on_error(UpstreamBroken("x"))
    assert await inbox.head() is HEAD
    assert await inbox.read() == b"a"
    for _ in range(2):
        with pytest.raises(UpstreamBroken):
            await inbox.read()


async def test_an_error_instead_of_a_head() -> None:
    inbox, _ = made()
    waiting = asyncio.create_task(inbox.head())
    await asyncio.sleep(0)
    inbox.on_error(UpstreamBroken("x"))
    with pytest.raises(UpstreamBroken):
        await waiting


async def test_too_much_makes_the_source_wait() -> None:
    inbox, connection = made()
    inbox.on_head(HEAD)
    inbox.on_piece(bytes(HIGH_WATER_BYTES), None)
    was_paused = connection.is_paused
    inbox.on_piece(b"x", None)
    assert (was_paused, connection.is_paused) == (False, True)
    assert len(await inbox.read()) == HIGH_WATER_BYTES + 1
    assert not connection.is_paused


async def test_poured_pieces_are_taken_within_the_call_that_brings_them() -> None:
    inbox, connection = made()
    inbox.on_head(HEAD)
    inbox.on_piece(b"a", None)
    taken: list[bytes] = []
    slow = asyncio.get_running_loop().create_future()

    def take(data: bytes) -> Awaitable[None] | None:
        taken.append(data)
        return slow if data == b"c" else None

    pouring = asyncio.create_task(inbox.pour(take))
    await asyncio.sleep(0)
    inbox.on_piece(b"b", None)
    inbox.on_piece(b"c", None)
    assert (taken, connection.is_paused) == ([b"a", b"b", b"c"], True)
    inbox.on_piece(b"d", None)  # was under way
    inbox.on_end()
    await asyncio.sleep(0)
    assert taken[-1] == b"c"
    slow.set_result(None)
    await asyncio.wait_for(pouring, 5)
    assert taken == [b"a", b"b", b"c", b"d"]
    assert not connection.is_paused
