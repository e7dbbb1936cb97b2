"""File operations in threads: done even when nobody waits for them any more, and undone if need be."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bitmesh_proxy.media.files import Files, FileThreads, read_if_cached


@pytest.fixture
async def threads() -> AsyncIterator[FileThreads]:
    pool = FileThreads()
    yield pool
    await pool.close()


async def test_the_work_is_not_done_on_the_loops_thread(threads: FileThreads) -> None:
    assert await threads.run(threading.get_ident) != threading.get_ident()


async def test_an_error_of_the_work_is_the_callers(threads: FileThreads, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await threads.run(Files().open, tmp_path / "none")


async def test_a_cancelled_caller_still_waits_for_the_thread(threads: FileThreads) -> None:
    begun, may_end = threading.Event(), threading.Event()
    undone: list[str] = []

    def work() -> str:
        begun.set()
        may_end.wait(5)
        return "a descriptor"

    task = asyncio.create_task(threads.run(work, undo=undone.append))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):  # whoever insists, waits as well
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["a descriptor"]


async def test_a_failed_work_is_not_undone(threads: FileThreads) -> None:
    begun, may_end = threading.Event(), threading.Event()
    undone: list[str] = []

    def work() -> str:
        begun.set()
        may_end.wait(5)
        raise OSError("no")

    task = asyncio.create_task(threads.run(work, undo=undone.append))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == []


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    files, partial, final = Files(), tmp_path / "x.part", tmp_path / "x"
    descriptor = files.create(partial)
    files.write(descriptor, b"abc", 0)
    files.write(descriptor, b"def", 3)
    assert files.read(descriptor, 100, 2) == b"cdef"
    files.settle(descriptor, partial, final, at_s=1_000_000.5)
    os.close(descriptor)
    assert not partial.exists()
    assert final.read_bytes() == b"abcdef"
    assert final.stat().st_mtime == 1_000_000.5
    assert final.stat().st_mode & 0o777 == 0o600


def test_another_files_name_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        Files().create(tmp_path / "x")


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "x.png").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        Files().open(tmp_path / "x.png")


def test_a_full_disk_is_an_error() -> None:
    descriptor = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(OSError, match="No space left"):
            Files().write(descriptor, b"x", 0)
    finally:
        os.close(descriptor)


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    Files().remove(tmp_path / "none")


def test_the_free_bytes_are_those_of_the_file_system(tmp_path: Path) -> None:
    assert Files().free_bytes(tmp_path) > 0


def test_what_is_cached_is_read_at_once_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abcdef")
    descriptor = os.open(tmp_path / "x", os.O_RDONLY)
    try:
        assert read_if_cached(descriptor, 3, 2) in (b"cde", None)
        assert read_if_cached(descriptor, 100, 4) in (b"ef", None)
        assert read_if_cached(descriptor, 100, 6) is None
    finally:
        os.close(descriptor)
