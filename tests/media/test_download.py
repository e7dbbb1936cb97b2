"""A fetch that several read, with and without a copy: nothing lost, nothing twice, no clean end of a half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bitmesh_proxy.media.copies import CopyStore
from bitmesh_proxy.media.download import Download, DownloadReader, MediaHead
from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchError, FetchGone, FetchNotMedia, FetchTimedOut
from bitmesh_proxy.upstream.inbox import Take
from tests.media.disks import FailingFiles, RefusingFiles
from tests.media.test_copies import content, files_in, store_in

PNG = b"\x89PNG\r\n\x1a\n" + bytes(600)


@dataclass
class Script:
    """A provider's answer, fed piece by piece. ``taken`` counts what the download has asked for."""

    status: int = 200
    media_type: str | None = "image/png"
    content_length: int | None = None
    taken: int = 0
    ended: bool = False
    is_closed: bool = False
    _is_at_end: bool = False
    may_close: asyncio.Event | None = None
    _pieces: asyncio.Queue[bytes | FetchError] = field(default_factory=asyncio.Queue)

    def feed(self, *pieces: bytes | FetchError) -> None:
        for piece in pieces:
            self._pieces.put_nowait(piece)

    def end(self) -> None:
        self.feed(b"")

    async def read(self) -> bytes:
        if self._is_at_end:
            return b""
        self.taken += 1
        piece = await self._pieces.get()
        if isinstance(piece, FetchError):
            raise piece
        self._is_at_end = not piece
        return piece

    async def pour(self, take: Take) -> None:
        while piece := await self.read():
            pending = take(piece)
            if pending is not None:
                await pending

    def close(self) -> None:
        self.is_closed = True
        self.feed(FetchBroken("closed"))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Script]:
        try:
            yield self
        finally:
            if self.may_close is not None:
                await self.may_close.wait()
            self.ended = True


@asynccontextmanager
async def running(
    script: Script, copies: CopyStore | None, *, finish_alone_bytes: int = 10**9
) -> AsyncIterator[Download]:
    download = Download(
        "abc", kind="image", open_answer=script.opened, copies=copies, finish_alone_bytes=finish_alone_bytes
    )
    task = asyncio.create_task(download.run())
    try:
        yield download
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settled() -> None:
    """Let everything that can run, run, threads included."""
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)


async def all_of(reader: DownloadReader, *, size: int = 100_000, start: int = 0) -> bytes:
    taken = b""
    while piece := await reader.read(start + len(taken), size):
        taken += piece
    return taken


async def test_the_first_reader_gets_pieces_as_they_come(tmp_path: Path) -> None:
    script = Script(content_length=len(PNG) + 3)
    async with store_in(tmp_path) as copies, running(script, copies) as download:
        reader = download.join()
        script.feed(PNG)
        assert await reader.head() == MediaHead(media_type="image/png", length_bytes=len(PNG) + 3)
        assert await reader.read(0, 10_000) == PNG
        script.feed(b"abc")
        assert await reader.read(len(PNG), 10_000) == b"abc"
        script.end()
        assert await reader.read(len(PNG) + 3, 10_000) == b""
        reader.close()
        await download.over()
        assert await content(copies, "abc") == PNG + b"abc"


async def test_readers_that_come_later_get_everything_too(tmp_path: Path) -> None:
    script = Script()
    async with store_in(tmp_path) as copies, running(script, copies) as download:
        first = download.join()
        script.feed(PNG, b"abc")
        await first.read(0, 10_000)
        await settled()
        second = download.join()
        third = asyncio.create_task(all_of(download.join(), size=7))
        script.feed(b"def")
        script.end()
        assert await all_of(second) == PNG + b"abcdef"
        assert await all_of(first, start=len(PNG)) == b"abcdef"
        assert await third == PNG + b"abcdef"
        assert await all_of(download.join()) == PNG + b"abcdef"  # also after its end, while it is still there


async def test_with_a_copy_nobody_waits_for_a_slow_reader(tmp_path: Path) -> None:
    script = Script()
    async with store_in(tmp_path) as copies, running(script, copies) as download:
        slow, quick = download.join(), download.join()
        script.feed(PNG, *[bytes([number]) * 50_000 for number in range(20)])
        script.end()
        assert len(await all_of(quick)) == len(PNG) + 1_000_000
        quick.close()
        assert await slow.read(0, 10) == PNG[:10]
        rest = await all_of(slow, start=10)
        assert PNG[:10] + rest == PNG + b"".join(bytes([number]) * 50_000 for number in range(20))


async def test_a_reader_may_begin_further_on(tmp_path: Path) -> None:
    script = Script()
    for copies_bytes in (10**6, 0):
        async with store_in(tmp_path / str(copies_bytes), max_bytes=copies_bytes) as copies:
            script = Script(content_length=len(PNG) + 6)
            async with running(script, copies) as download:
                task = asyncio.create_task(all_of(download.join(), start=len(PNG) + 2))
                script.feed(PNG, b"abc", b"def")
                script.end()
                assert await task == b"cdef"


async def test_short_pieces_are_collected_until_the_type_is_known(tmp_path: Path) -> None:
    script = Script(media_type="image/jpeg")
    async with store_in(tmp_path) as copies, running(script, copies) as download:
        reader = download.join()
        script.feed(*[PNG[at : at + 1] for at in range(len(PNG))])
        assert (await reader.head()).media_type == "image/png"
        script.end()
        assert await all_of(reader) == PNG


async def test_a_body_shorter_than_sniffing_needs(tmp_path: Path) -> None:
    script = Script()
    async with store_in(tmp_path) as copies, running(script, copies) as download:
        reader = download.join()
        script.feed(PNG[:20])
        script.end()
        assert await all_of(reader) == PNG[:20]


# ------------------------------------------------------------ without a copy


async def test_without_room_the_next_piece_waits_for_the_reader(tmp_path: Path) -> None:
    script = Script()
    async with store_in(tmp_path, max_bytes=0) as copies, running(script, copies) as download:
        reader = download.join()
        script.feed(PNG, b"abc", b"def")
        script.end()
        await reader.head()
        await settled()
        assert script.taken == 1
        assert not reader.is_copied
        assert not download.may_join
        assert await reader.read(0, 5) == PNG[:5]
        await settled()
        assert script.taken == 1
        assert await reader.read(5, 10_000) == PNG[5:]
        await settled()
        assert script.taken == 2
        assert await all_of(reader, start=len(PNG)) == b"abcdef"
    assert files_in(tmp_path) == []


async def test_a_disk_that_runs_full_in_mid_way_costs_no_reader_a_byte(tmp_path: Path) -> None:
    script = Script(content_length=len(PNG) + 400)
    async with store_in(tmp_path, files=FailingFiles(room_bytes=len(PNG) + 150)) as copies:
        async with running(script, copies) as download:
            slow, quick = download.join(), download.join()
            script.feed(PNG, b"a" * 100, b"b" * 100, b"c" * 100, b"d" * 100)
            script.end()
            assert await slow.read(0, 5) == PNG[:5]
            both = list(await asyncio.gather(all_of(slow, start=5, size=33), all_of(quick)))
            expected = PNG + b"a" * 100 + b"b" * 100 + b"c" * 100 + b"d" * 100
            assert both == [expected[5:], expected]
            assert not download.may_join
        assert await content(copies, "abc") is None
        assert copies.used_bytes == 0
    assert files_in(tmp_path) == []


async def test_a_disk_that_refuses_at_the_end_costs_only_the_copy(tmp_path: Path) -> None:
    script = Script()
    async with store_in(tmp_path, files=RefusingFiles("settle")) as copies:
        async with running(script, copies) as download:
            reader = download.join()
            script.feed(PNG)
            script.end()
            assert await all_of(reader) == PNG
        assert copies.used_bytes == 0
    assert files_in(tmp_path) == []


async def test_a_reader_that_leaves_lets_the_others_go_on(tmp_path: Path) -> None:
    script = Script()
    async with store_in(tmp_path, max_bytes=0) as copies, running(script, copies) as download:
        stuck, reader = download.join(), download.join()
        script.feed(PNG, b"abc")
        script.end()
        assert await reader.read(0, 10_000) == PNG
        await settled()
        assert script.taken == 1
        stuck.close()
        assert await all_of(reader, start=len(PNG)) == b"abc"


async def test_to_a_reader_that_pours_pieces_go_straight(tmp_path: Path) -> None:
    """Given to it within the call that brings them, in order, and what it asks to be waited for is waited for."""
    script = Script(content_length=len(PNG) + 9)
    taken: list[bytes] = []
    slow = asyncio.Event()

    def take(piece: bytes | memoryview) -> Awaitable[None] | None:
        taken.append(bytes(piece))
        return _wait(slow) if piece == b"def" else None

    async with store_in(tmp_path, max_bytes=0) as copies, running(script, copies) as download:
        reader = download.join()
        pouring = asyncio.create_task(reader.pour(take, 0, len(PNG) + 9))
        script.feed(PNG)
        await settled()
        assert reader.is_pouring
        reader.hand(b"abc")
        assert taken == [PNG, b"abc"]
        script.feed(b"def", b"ghi")
        script.end()
        await settled()
        assert taken == [PNG, b"abc", b"def"]
        assert not pouring.done()
        slow.set()
        await pouring
        assert taken == [PNG, b"abc", b"def", b"ghi"]
        reader.close()
        assert not script.is_closed  # it had come to its end, and the connection may serve again


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _refuse() -> None:
    raise ConnectionResetError("the caller has left")


@pytest.mark.parametrize("is_late", [False, True])
async def test_who_takes_no_more_ends_the_fetch_with_its_own_error(tmp_path: Path, is_late: bool) -> None:
    script = Script(content_length=len(PNG) + 1000)

    def take(piece: bytes | memoryview) -> Awaitable[None] | None:
        if piece != b"abc":
            return None
        if is_late:
            return _refuse()
        raise ConnectionResetError("the caller has left")

    async with store_in(tmp_path, max_bytes=0) as copies, running(script, copies) as download:
        reader = download.join()
        pouring = asyncio.create_task(reader.pour(take, 0, len(PNG) + 1000))
        script.feed(PNG)
        await settled()
        script.feed(b"abc")
        with pytest.raises(ConnectionResetError):
            await pouring
        await download.over()
        assert script.is_closed


async def test_a_break_reaches_whoever_pours(tmp_path: Path) -> None:
    script = Script(content_length=len(PNG) + 1000)
    taken: list[bytes] = []
    async with store_in(tmp_path, max_bytes=0) as copies, running(script, copies) as download:
        pouring = asyncio.create_task(
            download.join().pour(lambda piece: taken.append(bytes(piece)), 0, len(PNG) + 1000)
        )
        script.feed(PNG, b"abc", FetchTimedOut("silence"))
        with pytest.raises(FetchTimedOut):
            await pouring
        assert taken == [PNG, b"abc"]


@pytest.mark.parametrize("room", [10**6, 0])
@pytest.mark.parametrize("window", [(0, None), (0, 5), (len(PNG) - 1, len(PNG) + 2), (3, len(PNG) + 6)])
async def test_a_part_may_be_poured_with_and_without_a_copy(
    tmp_path: Path, room: int, window: tuple[int, int | None]
) -> None:
    script = Script(content_length=len(PNG) + 6)
    taken = bytearray()
    start, end = window
    async with store_in(tmp_path, max_bytes=room) as copies, running(script, copies) as download:
        script.feed(PNG, b"abc", b"def")
        script.end()
        await download.join().pour(lambda piece: taken.extend(piece), start, end)
        assert taken == (PNG + b"abcdef")[start:end]


# ------------------------------------------------------------ nobody left


async def test_what_is_nearly_there_is_finished_for_whoever_comes_next(tmp_path: Path) -> None:
    script = Script(content_length=len(PNG) + 6)
    async with store_in(tmp_path) as copies, running(script, copies, finish_alone_bytes=6) as download:
        reader = download.join()
        script.feed(PNG)
        await reader.read(0, 10_000)
        reader.close()
        script.feed(b"abc", b"def")
        script.end()
        await download.over()
        await settled()
        assert await content(copies, "abc") == PNG + b"abcdef"


@pytest.mark.parametrize("length", [len(PNG) + 7, None])
async def test_what_is_far_from_there_is_given_up(tmp_path: Path, length: int | None) -> None:
    script = Script(content_length=length)
    async with store_in(tmp_path) as copies, running(script, copies, finish_alone_bytes=6) as download:
        reader = download.join()
        script.feed(PNG)
        await reader.read(0, 10_000)
        reader.close()
        script.feed(b"abcdefg")
        await download.over()
        await settled()
        assert script.ended
        assert copies.used_bytes == 0
    assert files_in(tmp_path) == []


async def test_without_a_copy_it_ends_with_its_last_reader(tmp_path: Path) -> None:
    script = Script()
    async with store_in(tmp_path, max_bytes=0) as copies, running(script, copies) as download:
        reader = download.join()
        script.feed(PNG)
        await reader.head()
        reader.close()
        assert script.is_closed  # at once, and not with a next piece, which may be long in coming
        await download.over()
        assert script.ended


async def test_who_comes_while_it_is_given_up_is_not_let_in(tmp_path: Path) -> None:
    script = Script(content_length=len(PNG) + 1000, may_close=asyncio.Event())
    async with store_in(tmp_path) as copies, running(script, copies, finish_alone_bytes=0) as download:
        reader = download.join()
        script.feed(PNG)
        await reader.read(0, 10_000)
        reader.close()
        script.feed(b"a")
        await settled()
        assert not download.is_over
        assert not download.may_join
        assert script.may_close is not None
        script.may_close.set()


async def test_who_comes_back_in_time_finds_it_going_on(tmp_path: Path) -> None:
    script = Script(content_length=len(PNG) + 1000)
    async with store_in(tmp_path) as copies, running(script, copies, finish_alone_bytes=6) as download:
        reader = download.join()
        script.feed(PNG)
        await reader.read(0, 10_000)
        reader.close()
        again = download.join()
        script.feed(bytes(1000))
        script.end()
        assert await all_of(again) == PNG + bytes(1000)


async def test_who_is_told_to_keep_going_does(tmp_path: Path) -> None:
    script = Script(content_length=len(PNG) + 1000)
    async with store_in(tmp_path) as copies, running(script, copies, finish_alone_bytes=0) as download:
        download.keep_going = True
        script.feed(PNG, bytes(1000))
        script.end()
        await download.over()
        await settled()
        assert await content(copies, "abc") == PNG + bytes(1000)


# ------------------------------------------------------------ broken


@pytest.mark.parametrize("room", [10**6, 0])
async def test_a_break_in_mid_way_is_an_error_after_the_last_byte(tmp_path: Path, room: int) -> None:
    script = Script(content_length=len(PNG) + 100)
    async with store_in(tmp_path, max_bytes=room) as copies, running(script, copies) as download:
        readers = [download.join(), download.join()]
        script.feed(PNG, b"abc", FetchTimedOut("silence"))
        for outcome in await asyncio.gather(*map(_until_error, readers)):
            assert outcome == (PNG + b"abc", FetchTimedOut)
        for reader in readers:
            reader.close()
        await settled()
        assert await content(copies, "abc") is None
        assert copies.used_bytes == 0
    assert files_in(tmp_path) == []


async def _until_error(reader: DownloadReader) -> tuple[bytes, type[FetchError]]:
    taken = b""
    try:
        while piece := await reader.read(len(taken), 10_000):
            taken += piece
    except FetchError as exc:
        return taken, type(exc)
    raise AssertionError("a clean end of half a picture")


async def test_a_cancelled_fetch_is_no_clean_end(tmp_path: Path) -> None:
    script = Script()
    async with store_in(tmp_path) as copies:
        async with running(script, copies) as download:
            reader = download.join()
            script.feed(PNG)
            await reader.head()
        with pytest.raises(FetchBroken):
            await reader.read(len(PNG), 10)
        assert copies.used_bytes == 0


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_link_that_is_no_longer_good_is_gone(tmp_path: Path, status: int) -> None:
    async with store_in(tmp_path) as copies, running(Script(status=status), copies) as download:
        with pytest.raises(FetchGone):
            await download.join().head()


@pytest.mark.parametrize("status", [204, 206, 304, 400, 429, 500, 503])
async def test_any_other_status_is_trouble(tmp_path: Path, status: int) -> None:
    async with store_in(tmp_path) as copies, running(Script(status=status), copies) as download:
        with pytest.raises(FetchBroken, match=str(status)):
            await download.join().head()


@pytest.mark.parametrize("body", [b"", b"<!doctype html><title>Sign in</title>", b"<svg onload=alert(1)>"])
async def test_what_is_not_media_is_not_passed_on(tmp_path: Path, body: bytes) -> None:
    script = Script()
    async with store_in(tmp_path) as copies, running(script, copies) as download:
        script.feed(*([body] if body else []))
        script.end()
        with pytest.raises(FetchNotMedia):
            await download.join().head()
        assert copies.used_bytes == 0
