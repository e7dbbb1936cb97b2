"""Copies on a real disk: whole or not there, readable while they grow, gone when half, and never worse than no copy."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bitmesh_proxy.media.copies import GROWTH_BYTES, TOUCH_INTERVAL_S, CopyFailed, CopyStore
from bitmesh_proxy.media.copy_room import LOOK_INTERVAL_S
from bitmesh_proxy.media.files import Files
from tests.hand_clock import HandClock
from tests.media.disks import FailingFiles, RefusingFiles, SlowFiles

MIB = 1024 * 1024


@asynccontextmanager
async def store_in(
    directory: Path,
    *,
    max_bytes: int = 10 * MIB,
    keep_s: float = 1000.0,
    clock: Callable[[], float] | None = None,
    min_free_bytes: int = 0,
    files: Files | None = None,
    shared_as: str | None = None,
    is_first: bool = True,
) -> AsyncIterator[CopyStore]:
    store = CopyStore(
        directory,
        max_bytes=max_bytes,
        keep_s=keep_s,
        clock=clock or HandClock(),
        min_free_bytes=min_free_bytes,
        files=files,
        shared_as=shared_as,
        is_first=is_first,
    )
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def content(store: CopyStore, media_id: str) -> bytes | None:
    copy = await store.open(media_id)
    if copy is None:
        return None
    try:
        taken = b""
        while len(taken) < copy.size_bytes:
            taken += await copy.read(len(taken), 100_000)
        return taken
    finally:
        copy.close()


def files_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


async def test_only_its_owner_may_read_the_names_of_copies(tmp_path: Path) -> None:
    """They are ids, which is all that it takes to have the results."""
    before = os.umask(0o022)
    try:
        async with store_in(tmp_path / "data" / "media") as store:
            await store.put("abc", b"x" * 5000, media_type="image/webp")
    finally:
        os.umask(before)
    made = [tmp_path / "data/media", tmp_path / "data/media/partial", tmp_path / "data/media/abc.webp"]
    assert [path.stat().st_mode & 0o077 for path in made] == [0, 0, 0]


async def test_what_is_put_is_there_with_its_type(tmp_path: Path) -> None:
    async with store_in(tmp_path) as store:
        await store.put("abc", b"x" * 5000, media_type="image/webp")
        assert await content(store, "abc") == b"x" * 5000
        copy = await store.open("abc")
        assert copy is not None
        assert (copy.media_type, copy.size_bytes) == ("image/webp", 5000)
        copy.close()
        assert await content(store, "ABC") is None
        assert store.used_bytes == 5000
    assert files_in(tmp_path) == ["abc.webp"]


async def test_a_copy_is_read_while_it_grows_and_found_when_it_is_whole(tmp_path: Path) -> None:
    async with store_in(tmp_path) as store:
        running = await store.begin("abc", media_type="video/mp4", length_bytes=6)
        assert running is not None
        await running.append(b"abc")
        assert await running.read(1, 100) == b"bc"
        assert await content(store, "abc") is None
        await running.append(b"def")
        await running.finish()
        assert await content(store, "abc") == b"abcdef"
        assert await running.read(2, 3) == b"cde"
        await running.close()
        assert store.used_bytes == 6


async def test_half_a_copy_leaves_nothing_behind(tmp_path: Path) -> None:
    async with store_in(tmp_path) as store:
        running = await store.begin("abc", media_type="video/mp4", length_bytes=1000)
        assert running is not None
        await running.append(b"abc")
        assert store.used_bytes == 1000
        await running.close()
        assert store.used_bytes == 0
        assert await content(store, "abc") is None
    assert files_in(tmp_path) == []


async def test_a_restart_finds_whole_copies_and_throws_half_ones_away(tmp_path: Path) -> None:
    clock = HandClock()
    async with store_in(tmp_path, clock=clock) as store:
        await store.put("whole", b"abc", media_type="image/png")
        running = await store.begin("half", media_type="image/png", length_bytes=6)
        assert running is not None
        await running.append(b"abc")
        # No close: the process ends here.
        assert len(files_in(tmp_path)) == 2
    (tmp_path / "notes.txt").write_text("an operator's own")
    (tmp_path / "not an id.png").write_text("neither")
    clock.now_s += 10
    async with store_in(tmp_path, clock=clock) as store:
        assert files_in(tmp_path) == ["not an id.png", "notes.txt", "whole.png"]
        assert await content(store, "whole") == b"abc"
        copy = await store.open("whole")
        assert copy is not None
        assert (copy.media_type, clock.now_s - copy.created_at_s) == ("image/png", 10)
        copy.close()
        assert store.used_bytes == 3


async def test_the_last_use_outlives_a_restart(tmp_path: Path) -> None:
    clock = HandClock()
    async with store_in(tmp_path, clock=clock) as store:
        for media_id in ("a", "b"):
            await store.put(media_id, bytes(4 * MIB), media_type="image/png")
            clock.now_s += 1
        clock.now_s += TOUCH_INTERVAL_S
        assert await content(store, "a") is not None
    async with store_in(tmp_path, clock=clock) as store:
        await store.put("c", bytes(4 * MIB), media_type="image/png")
        assert await content(store, "b") is None
        assert await content(store, "a") is not None


async def test_a_restart_with_less_room_keeps_what_was_used_last(tmp_path: Path) -> None:
    clock = HandClock()
    async with store_in(tmp_path, clock=clock) as store:
        for media_id in ("a", "b", "c"):
            await store.put(media_id, bytes(1000), media_type="image/png")
            clock.now_s += 1
    async with store_in(tmp_path, clock=clock, max_bytes=2500) as store:
        assert files_in(tmp_path) == ["b.png", "c.png"]
        assert store.used_bytes == 2000


async def test_a_copy_that_is_too_old_is_not_there(tmp_path: Path) -> None:
    clock = HandClock()
    async with store_in(tmp_path, clock=clock, keep_s=100) as store:
        await store.put("abc", b"abc", media_type="image/png")
        clock.now_s += 99
        assert await content(store, "abc") == b"abc"
        clock.now_s += 1
        assert await content(store, "abc") is None
        await store.put("abc", b"new", media_type="image/jpeg")
        assert await content(store, "abc") == b"new"
        assert store.used_bytes == 3
    assert files_in(tmp_path) == ["abc.jpg"]


async def test_undeclared_length_sets_room_aside_as_it_grows(tmp_path: Path) -> None:
    async with store_in(tmp_path, max_bytes=2 * GROWTH_BYTES) as store:
        running = await store.begin("abc", media_type="video/mp4", length_bytes=None)
        assert running is not None
        assert store.used_bytes == GROWTH_BYTES
        await running.append(bytes(GROWTH_BYTES))
        await running.append(bytes(10))
        assert store.used_bytes == 2 * GROWTH_BYTES
        with pytest.raises(CopyFailed, match="no room"):
            await running.append(bytes(GROWTH_BYTES))
        assert await running.read(GROWTH_BYTES, 100) == bytes(10)
        await running.close()
        assert store.used_bytes == 0


async def test_more_than_was_declared_finds_room_or_fails(tmp_path: Path) -> None:
    async with store_in(tmp_path, max_bytes=100) as store:
        running = await store.begin("abc", media_type="video/mp4", length_bytes=90)
        assert running is not None
        with pytest.raises(CopyFailed, match="no room"):
            await running.append(bytes(101))
        await running.close()


async def test_without_room_there_is_no_copy(tmp_path: Path) -> None:
    async with store_in(tmp_path, max_bytes=0) as store:
        assert await store.begin("abc", media_type="image/png", length_bytes=1) is None
        assert await store.begin("abc", media_type="image/png", length_bytes=None) is None
        with pytest.raises(CopyFailed):
            await store.put("abc", b"x", media_type="image/png")
        assert store.used_bytes == 0


async def test_space_that_others_need_is_left_to_them(tmp_path: Path) -> None:
    async with store_in(tmp_path, min_free_bytes=2**62) as store:
        assert await store.begin("abc", media_type="image/png", length_bytes=1) is None
        assert store.used_bytes == 0


async def test_a_disk_that_runs_full_ends_the_copy_and_keeps_what_was_written_readable(tmp_path: Path) -> None:
    async with store_in(tmp_path, files=FailingFiles(room_bytes=5)) as store:
        running = await store.begin("abc", media_type="image/png", length_bytes=9)
        assert running is not None
        await running.append(b"abc")
        with pytest.raises(CopyFailed, match="No space left"):
            await running.append(b"defghi")
        assert await running.read(0, 100) == b"abc"
        await running.close()
        assert store.used_bytes == 0
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("operation", ["create", "settle"])
async def test_a_disk_that_refuses_costs_the_copy(tmp_path: Path, operation: str) -> None:
    async with store_in(tmp_path, files=RefusingFiles(operation)) as store:
        with pytest.raises(CopyFailed):
            await store.put("abc", b"abc", media_type="image/png")
        assert store.used_bytes == 0
    assert files_in(tmp_path) == []


async def test_a_copy_whose_file_is_gone_is_forgotten(tmp_path: Path) -> None:
    async with store_in(tmp_path) as store:
        await store.put("abc", b"abc", media_type="image/png")
        (tmp_path / "abc.png").unlink()
        assert await store.open("abc") is None
        assert store.used_bytes == 0


@pytest.mark.parametrize("shared_as", [None, "7"])
async def test_a_cache_that_was_emptied_by_hand_is_filled_anew(tmp_path: Path, shared_as: str | None) -> None:
    """Results that exist nowhere else would be lost, with what they cost."""
    clock = HandClock()
    async with store_in(tmp_path / "media", clock=clock, min_free_bytes=1, shared_as=shared_as) as store:
        await store.put("abc", b"abc", media_type="image/png")
        shutil.rmtree(tmp_path / "media")
        clock.now_s += LOOK_INTERVAL_S
        await store.put("def", b"def", media_type="image/png")
        assert await content(store, "def") == b"def"
        assert await store.open("abc") is None
        assert store.used_bytes == 3


async def test_a_cancelled_writer_leaves_no_open_file_and_no_debt(tmp_path: Path) -> None:
    files = SlowFiles()
    async with store_in(tmp_path, files=files) as store:
        before = len(os.listdir("/proc/self/fd"))
        task = asyncio.create_task(store.put("abc", b"abc", media_type="image/png"))
        await asyncio.to_thread(files.writing.wait)
        task.cancel()
        files.may_write.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(os.listdir("/proc/self/fd")) == before
        assert store.used_bytes == 0
        assert await content(store, "abc") is None
    assert files_in(tmp_path) == []


class TestSeveralProcesses:
    async def test_what_one_has_made_the_others_find(self, tmp_path: Path) -> None:
        async with store_in(tmp_path, shared_as="0") as one, store_in(tmp_path, shared_as="1", is_first=False) as other:
            await one.put("A" * 24, b"x" * 100, media_type="image/png")
            assert await content(other, "A" * 24) == b"x" * 100
            assert other.used_bytes == 100
            assert await content(other, "B" * 24) is None

    async def test_alone_nobody_looks_at_the_disk_for_what_is_not_known(self, tmp_path: Path) -> None:
        async with store_in(tmp_path) as one, store_in(tmp_path, shared_as="1") as other:
            await other.put("A" * 24, b"x", media_type="image/png")
            assert await content(one, "A" * 24) is None

    async def test_half_copies_of_others_are_left_to_them(self, tmp_path: Path) -> None:
        async with store_in(tmp_path, shared_as="0") as one:
            running = await one.begin("A" * 24, media_type="image/png", length_bytes=4)
            assert running is not None
            await running.append(b"half")
            async with store_in(tmp_path, shared_as="1", is_first=False) as other:
                both = await other.begin("A" * 24, media_type="image/png", length_bytes=4)
                assert both is not None, "each has a name of its own"
                await both.close()
            await running.finish()
            await running.close()
            assert await content(one, "A" * 24) == b"half"

    async def test_a_replacement_removes_what_the_dead_one_left(self, tmp_path: Path) -> None:
        async with store_in(tmp_path, shared_as="0"):
            for name in ("0-3", "1-3", "10-3", "7"):
                await asyncio.to_thread((tmp_path / "partial" / f"{'A' * 24}.{name}").write_bytes, b"x")
            async with store_in(tmp_path, shared_as="1", is_first=False):
                left = await asyncio.to_thread(files_in, tmp_path / "partial")
                assert [name.partition(".")[2] for name in left] == ["0-3", "10-3", "7"]
        async with store_in(tmp_path, shared_as="0"):
            assert await asyncio.to_thread(files_in, tmp_path) == []

    async def test_room_is_made_by_what_all_have_made(self, tmp_path: Path) -> None:
        clock = HandClock()
        async with (
            store_in(tmp_path, max_bytes=300, clock=clock, shared_as="0") as one,
            store_in(tmp_path, max_bytes=300, clock=clock, shared_as="1", is_first=False) as other,
        ):
            for number in range(3):
                clock.now_s += 1
                await one.put(str(number) * 24, b"x" * 100, media_type="image/png")
            clock.now_s += LOOK_INTERVAL_S
            await other.put("A" * 24, b"y" * 100, media_type="image/png")
            assert other.used_bytes == 300
            assert await asyncio.to_thread(files_in, tmp_path) == [
                f"{'1' * 24}.png", f"{'2' * 24}.png", f"{'A' * 24}.png"
            ]  # fmt: skip
            clock.now_s += LOOK_INTERVAL_S
            await one.put("B" * 24, b"z" * 100, media_type="image/png")
            assert one.used_bytes == 300, "what the other has removed takes no room any more"
            assert await content(one, "0" * 24) is None
