"""The machine itself in trouble: a locked database, a full disk, callers who read slowly."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest

from bitmesh_proxy.startup import StartError
from tests.journeys.gateway import (
    IMAGE_MODEL,
    bearer,
    chat,
    eventually,
    open_books,
    raw_call,
    running_gateway,
    until,
    video,
)
from tests.journeys.processes import PATIENTLY, make_key, serving

pytestmark = [pytest.mark.journey, pytest.mark.timeout(30)]


@pytest.mark.both_ways
async def test_a_database_locked_by_another_process_is_503_until_it_is_free(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"data": {"dir": str(tmp_path), "busy_timeout_s": 0.2}}) as gateway:
        assert (await gateway.post("/chat", chat())).status == 200
        calls = len(gateway.upstream_calls())
        intruder = sqlite3.connect(tmp_path / "bitmesh-proxy.db", isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        try:
            answer = await gateway.post("/chat", chat())
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert set(answer.json) == {"error"}
            elsewhere = await gateway.post("/v1/chat/completions", chat())
            assert (elsewhere.status, elsewhere.headers["Retry-After"]) == (503, "5")
            assert len(gateway.upstream_calls()) == calls
            ready = await gateway.get("/ready")
            assert (ready.status, ready.json["checks"]["accepting"]) == (503, "ok")
            assert (await gateway.get("/health")).status == 200
        finally:
            intruder.execute("ROLLBACK")
            intruder.close()
        assert (await gateway.post("/chat", chat())).status == 200
        assert (await gateway.get("/ready")).status == 200
        await gateway.check_books()


@pytest.mark.both_ways
async def test_a_settlement_waits_for_a_locked_database_and_is_not_lost(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"data": {"dir": str(tmp_path), "busy_timeout_s": 0.1}}) as gateway:
        gateway.fault("stall=0.3")
        call = asyncio.create_task(gateway.post("/chat", chat()))
        await eventually(lambda: bool(gateway.upstream_calls()), "the upstream is called")
        intruder = sqlite3.connect(tmp_path / "bitmesh-proxy.db", isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        answer = await call
        assert answer.status == 200
        assert (await gateway.books.rows())[0].state == "open"
        intruder.execute("ROLLBACK")
        intruder.close()
        row = await gateway.last_row()
        assert (row.state, row.outcome) == ("settled", "completed")
        await gateway.check_books()


@pytest.mark.parametrize(("fault", "status"), [("stall=0.3", 200), ("stall=0.3 status=500", 500)])
async def test_an_answer_under_a_key_does_not_wait_for_the_database(tmp_path: Path, fault: str, status: int) -> None:
    """It was made, and paid; its keeping, or the freeing of its key, follows when the books can be written again."""
    async with running_gateway(tmp_path, {"data": {"dir": str(tmp_path), "busy_timeout_s": 0.1}}) as gateway:
        gateway.fault(fault)
        key = {"Idempotency-Key": "k"}
        call = asyncio.create_task(gateway.post("/chat", chat(), headers=key))
        await eventually(lambda: bool(gateway.upstream_calls()), "the upstream is called")
        intruder = sqlite3.connect(tmp_path / "bitmesh-proxy.db", isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        first = await call
        assert first.status == status
        intruder.execute("ROLLBACK")
        intruder.close()
        again = await gateway.post("/chat", chat(), headers=key)
        assert again.status == 200
        assert (again.body == first.body) is (status == 200)
        await until(gateway.books.all_closed, "every row is closed")
        await gateway.check_books()


async def test_a_clip_that_was_begun_while_the_database_was_locked_is_not_orphaned(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"data": {"dir": str(tmp_path), "busy_timeout_s": 0.1}}) as gateway:
        gateway.fault("stall=0.3", method="POST")
        call = asyncio.create_task(gateway.post("/video", video()))
        await eventually(lambda: bool(gateway.upstream_calls()), "the upstream is called")
        intruder = sqlite3.connect(tmp_path / "bitmesh-proxy.db", isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(0.6)
        intruder.execute("ROLLBACK")
        intruder.close()
        assert (await call).status == 200
        row = await gateway.last_row()
        assert (row.state, row.outcome) == ("settled", "completed")
        await gateway.check_books()


@pytest.mark.both_ways
async def test_a_nearly_full_disk_takes_no_new_work(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    async with running_gateway(tmp_path, {"data": {"dir": str(tmp_path), "min_free_bytes": 2 * free}}) as gateway:
        answer = await gateway.post("/chat", chat())
        assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
        assert gateway.upstream_calls() == []
        assert (await gateway.get("/test")).status == 200
        assert (await gateway.get("/ready")).status == 503
        await gateway.check_books()


async def test_copies_leave_a_small_disk_to_the_books(tmp_path: Path) -> None:
    """Where there is room for calls, but none for a cache, results are passed on without a copy."""
    free = shutil.disk_usage(tmp_path).free
    async with running_gateway(tmp_path, {"data": {"dir": str(tmp_path), "min_free_bytes": free * 3 // 4}}) as gateway:
        answer = await gateway.post("/image", {"model": IMAGE_MODEL, "prompt": "A lantern"})
        assert answer.status == 200
        path = answer.json["data"][0]["url"].removeprefix(gateway.url)
        assert [(await gateway.get(path)).status for _ in range(2)] == [200, 200]
        assert [call.method for call in gateway.upstream_calls()] == ["POST", "GET", "GET"]
        await gateway.check_books()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; only root may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip("a file system of one's own takes root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.both_ways
async def test_a_full_disk_stops_calls_and_freeing_it_lets_them_go_on(small_disk: Path) -> None:
    changes = {"data": {"dir": str(small_disk / "data"), "min_free_bytes": 0}}
    async with running_gateway(small_disk / "data", changes) as gateway:
        assert (await gateway.post("/chat", chat())).status == 200
        ballast = small_disk / "ballast"
        with report_under_way(small_disk / "data" / "bitmesh-proxy.db"):
            with pytest.raises(OSError, match="No space left"):
                fill(ballast)
            statuses = {(await gateway.post("/chat", chat(f"{number}"))).status for number in range(40)}
        assert 503 in statuses
        assert statuses <= {200, 503}
        ballast.unlink()
        assert (await gateway.post("/chat", chat())).status == 200
        await until(gateway.books.all_closed, "what could be opened and not be settled is tried again")
        await gateway.check_books()


async def test_a_start_on_a_full_disk_says_so_and_is_worth_another_try(small_disk: Path) -> None:
    changes = {"data": {"dir": str(small_disk / "data")}}
    async with running_gateway(small_disk / "data", changes):
        pass
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        fill(ballast)
    with pytest.raises(StartError, match=r"bitmesh-proxy\.db: disk I/O error \(the disk is full\)") as refused:
        async with running_gateway(small_disk / "data", changes):
            pass
    assert refused.value.may_pass
    ballast.unlink()
    async with running_gateway(small_disk / "data", changes) as gateway:
        await gateway.check_books()


@contextmanager
def report_under_way(database: Path) -> Iterator[None]:
    """Keeps the write-ahead log from starting over: where calls are slow, it would be copied between them, and they
    would go on for long within the room that it has already."""
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM requests").fetchall()
        yield


def fill(ballast: Path) -> None:
    """Write until there is no room any more."""
    with ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
@PATIENTLY
async def test_a_slow_reader_of_a_large_picture_costs_no_memory(tmp_path: Path) -> None:
    """Sixty-four megabytes, eight readers who take next to nothing: half a gigabyte if anything were collected."""
    data, size = tmp_path / "data", 64 * 1024**2
    key = await make_key(data)
    async with aiohttp.ClientSession() as http, serving(data) as served:
        body = {"model": IMAGE_MODEL, "prompt": f"x [[sandbox: huge={size}]]", "width": 256, "height": 256}
        async with http.post(served.url + "/image", json=body, headers=bearer(key)) as answer:
            shown = await answer.json()
            assert answer.status == 200, shown
            url = shown["data"][0]["url"]
        async with http.get(url) as answer:  # once in full, so that the copy is there and everything is imported
            total = 0
            async for chunk in answer.content.iter_any():
                total += len(chunk)
        assert total >= size
        before = resident_bytes(served.process.pid)
        readers = [await http.get(url) for _ in range(8)]
        for reader in readers:
            assert await reader.content.read(64 * 1024)
        await asyncio.sleep(0.5)
        assert resident_bytes(served.process.pid) - before < size
        for reader in readers:
            reader.close()
    async with open_books(data) as books:
        await books.last_row()
        await books.check()


@pytest.mark.both_ways
async def test_a_slow_reader_of_a_stream_holds_the_upstream_back(tmp_path: Path) -> None:
    """A chunk is read when the one before it has been taken: nothing is collected in between."""
    async with running_gateway(tmp_path) as gateway:
        gateway.fault("tokens=200000")
        body = orjson.dumps(chat(stream=True, max_tokens=131_072))
        async with raw_call(gateway, "POST", "/chat", body) as (reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
            await asyncio.sleep(1.0)
            (sent,) = gateway.upstream_calls()
            assert sent.ended_at is None, "the upstream has sent everything, and somebody keeps it"
        row = await gateway.last_row()
        assert row.outcome == "caller_left"
        assert row.output_tokens < 200_000
        await gateway.check_books()
