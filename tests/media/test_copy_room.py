"""The budget of the copies: never exceeded, and what is read stays."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from bitmesh_proxy.media.copies import CopyStore
from bitmesh_proxy.media.copy_room import SWEEP_INTERVAL_S
from tests.hand_clock import HandClock
from tests.media.disks import RefusingFiles, ShortFiles
from tests.media.test_copies import content, files_in, store_in


async def put(store: CopyStore, *media_ids: str, size: int = 100) -> None:
    for media_id in media_ids:
        await store.put(media_id, bytes(size), media_type="image/png")


def bytes_in(directory: Path) -> int:
    """What all files take together; a file that goes while we look takes nothing."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


async def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    async with store_in(tmp_path, max_bytes=300) as store:
        await put(store, "a", "b", "c")
        await content(store, "a")
        await put(store, "d")
        assert files_in(tmp_path) == ["a.png", "c.png", "d.png"]
        await put(store, "e", size=200)
        assert files_in(tmp_path) == ["d.png", "e.png"]
        assert store.used_bytes == 300


async def test_what_is_too_large_for_all_room_removes_nothing(tmp_path: Path) -> None:
    async with store_in(tmp_path, max_bytes=300) as store:
        await put(store, "a", "b")
        assert await store.begin("c", media_type="image/png", length_bytes=301) is None
        assert files_in(tmp_path) == ["a.png", "b.png"]


async def test_a_disk_that_others_need_is_left_to_them_and_the_longest_unused_goes_for_it(tmp_path: Path) -> None:
    files = ShortFiles(1000)
    async with store_in(tmp_path, min_free_bytes=700, files=files) as store:
        await put(store, "a", "b", "c")
        await content(store, "a")
        await put(store, "d")
        assert files_in(tmp_path) == ["a.png", "c.png", "d.png"]
        assert await store.begin("e", media_type="image/png", length_bytes=301) is None
        files.size_bytes = None
        assert await store.begin("e", media_type="image/png", length_bytes=1) is None
        assert files_in(tmp_path) == ["a.png", "c.png", "d.png"]
        assert store.used_bytes == 300


async def test_what_is_read_stays_and_counts(tmp_path: Path) -> None:
    async with store_in(tmp_path, max_bytes=300) as store:
        await put(store, "a", "b")
        read = await store.open("a")
        assert read is not None
        assert await store.begin("c", media_type="image/png", length_bytes=250) is None
        assert files_in(tmp_path) == ["a.png", "b.png"]
        await put(store, "c", size=200)
        assert files_in(tmp_path) == ["a.png", "c.png"]
        read.close()
        await put(store, "d", size=300)
        assert files_in(tmp_path) == ["d.png"]


async def test_running_copies_count_with_all_they_will_take(tmp_path: Path) -> None:
    async with store_in(tmp_path, max_bytes=300) as store:
        first = await store.begin("a", media_type="image/png", length_bytes=200)
        assert first is not None
        assert await store.begin("b", media_type="image/png", length_bytes=101) is None
        second = await store.begin("b", media_type="image/png", length_bytes=100)
        assert second is not None
        await first.close()
        await second.close()
        assert store.used_bytes == 0


async def test_many_at_once_never_take_more_than_there_is(tmp_path: Path) -> None:
    async with store_in(tmp_path, max_bytes=1000) as store:

        async def one(number: int) -> None:
            running = await store.begin(f"id{number}", media_type="image/png", length_bytes=10 + 7 * number)
            if running is None:
                return
            assert store.used_bytes <= 1000
            await running.append(bytes(10 + 7 * number))
            if number % 3:
                await running.finish()
            await running.close()
            assert bytes_in(tmp_path) <= store.used_bytes <= 1000

        await asyncio.gather(*(one(number) for number in range(60)))
        assert store.used_bytes == bytes_in(tmp_path)


async def test_what_is_too_old_is_removed_now_and_then(tmp_path: Path) -> None:
    clock = HandClock()
    async with store_in(tmp_path, clock=clock, keep_s=100) as store:
        await put(store, "a", "b")
        clock.now_s += 100
        read = await store.open("a")
        assert read is None
        await put(store, "c")
        assert files_in(tmp_path) == ["a.png", "b.png", "c.png"]
        clock.now_s += SWEEP_INTERVAL_S
        await put(store, "d")
        assert files_in(tmp_path) == ["d.png"]
        assert store.used_bytes == 100


async def test_a_clock_that_was_ahead_puts_no_sweep_off(tmp_path: Path) -> None:
    clock = HandClock()
    async with store_in(tmp_path, clock=clock, keep_s=3_500) as store:
        await put(store, "a")
        clock.now_s += 3_300
        await put(store, "b")
        clock.now_s -= 3_000
        await put(store, "c")
        clock.now_s += 3_250
        await put(store, "d")
        assert files_in(tmp_path) == ["b.png", "c.png", "d.png"]


async def test_a_restart_sweeps_at_once(tmp_path: Path) -> None:
    clock = HandClock()
    async with store_in(tmp_path, clock=clock, keep_s=100) as store:
        await put(store, "a")
    clock.now_s += 100
    async with store_in(tmp_path, clock=clock, keep_s=100) as store:
        assert files_in(tmp_path) == []
        assert store.used_bytes == 0


async def test_two_files_of_one_id_are_one_copy_the_newer(tmp_path: Path) -> None:
    clock = HandClock()
    async with store_in(tmp_path, clock=clock) as store:
        await put(store, "a")
    (tmp_path / "a.jpg").write_bytes(b"from before")
    async with store_in(tmp_path, clock=clock) as store:
        assert len(files_in(tmp_path)) == 1
        assert store.used_bytes == len(await content(store, "a") or b"")


async def test_a_file_that_cannot_be_removed_still_counts(tmp_path: Path) -> None:
    files = RefusingFiles("remove")
    async with store_in(tmp_path, max_bytes=300, files=files) as store:
        await put(store, "a", size=200)
        assert await store.begin("b", media_type="image/png", length_bytes=200) is None
        assert store.used_bytes == 200


async def test_a_directory_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "media").write_text("a file")
    with pytest.raises(OSError, match="media"):
        async with store_in(tmp_path / "media"):
            pass
