"""``/imgrslt/{id}`` as callers meet it: over real sockets, from the provider's server to theirs."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bitmesh_proxy.calls import MediaOutput
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.media.delivery import DeliveryLimits
from bitmesh_proxy.media.files import Files
from bitmesh_proxy.media.guarded_fetch import FetchLimits
from bitmesh_proxy.media.origins import Origin
from bitmesh_proxy.storage.media import MediaRecord
from tests.closed_port import closed_port
from tests.hand_clock import HandClock
from tests.media.callers import ask, slow_caller
from tests.media.disks import FailingFiles
from tests.media.memory_store import MemoryMediaStore
from tests.media.outside import Answering, Outside, body, raw_serving, redirect, serving
from tests.media.rooms import MIB, Room, copied, media_room, served, source, until
from tests.media.test_copies import files_in
from tests.media.test_delivery import Gate

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


@asynccontextmanager
async def gateway(
    directory: Path,
    outside: Outside,
    *,
    cache_bytes: int = 512 * MIB,
    limits: DeliveryLimits | None = None,
    fetch_limits: FetchLimits | None = None,
    clock: HandClock | None = None,
    files: Files | None = None,
    stall_timeout_s: float = 5.0,
    store: MemoryMediaStore | None = None,
) -> AsyncIterator[Room]:
    """A gateway for a provider at ``outside``."""
    async with (
        media_room(
            directory,
            [source(outside.url(""))],
            cache_bytes=cache_bytes,
            limits=limits,
            fetch_limits=fetch_limits,
            clock=clock,
            files=files,
            store=store,
        ) as room,
        served(room, stall_timeout_s=stall_timeout_s) as serving_room,
    ):
        yield serving_room


def id_of(link: str) -> str:
    return link.rpartition("/")[2]


async def test_the_first_and_the_second_time(tmp_path: Path) -> None:
    clock = HandClock()
    async with serving({"/a": body(PNG)}) as outside, gateway(tmp_path, outside, clock=clock) as room:
        link = await room.hand_out(outside.url("/a"))
        first = await ask(link)
        assert (first.status, first.body) == (200, PNG)
        await copied(room, id_of(link))
        clock.now_s += 100
        second = await ask(link)
        assert (second.status, second.body) == (200, PNG)
        assert len(outside.requests) == 1
        for answer, max_age in ((first, 1000), (second, 900)):
            assert answer.headers["Content-Type"] == "image/png"
            assert answer.headers["Content-Length"] == str(len(PNG))
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert answer.headers["ETag"] == f'"{id_of(link)}-{len(PNG):x}"'
            assert answer.headers["Cache-Control"] == f"public, max-age={max_age}, immutable"
            assert SAFETY.items() <= answer.headers.items()


async def test_a_short_link_through_its_redirect(tmp_path: Path) -> None:
    routes = {
        "/shrt/DwlaBdSakNRFlBxN": redirect("/bucket/x.jpg?sig=%2B"),
        "/bucket/x.jpg": body(b"\xff\xd8\xff\xe0" + PNG),
    }
    async with serving(routes) as outside, gateway(tmp_path, outside) as room:
        link = await room.hand_out(outside.url("/shrt/DwlaBdSakNRFlBxN"))
        assert link == f"{room.base_url}/imgrslt/DwlaBdSakNRFlBxN"
        answer = await ask(link)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")


@pytest.mark.parametrize("declared", [None, "application/octet-stream"])
async def test_without_any_word_on_the_type_it_is_png(tmp_path: Path, declared: str | None) -> None:
    async with serving({"/a": body(b"\x01\x02\x03", declared)}) as outside, gateway(tmp_path, outside) as room:
        answer = await ask(await room.hand_out(outside.url("/a")))
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")


async def test_bytes_of_ours_need_no_provider(tmp_path: Path) -> None:
    async with serving({}) as outside, gateway(tmp_path, outside) as room:
        link = await room.results.register(
            MediaOutput(kind="image", data=PNG), provider="maker", account_id="acc", public_base_url=room.base_url
        )
        answer = await ask(link)
        assert (answer.status, answer.body) == (200, PNG)
    assert outside.requests == []


# ------------------------------------------------------------ what is not there


@pytest.mark.parametrize(
    "media_id", ["DwlaBdSakNRFlBxN", "..%2f..%2fetc%2fpasswd", "a" * 65, "x.png", "%00", "%F0%9F%92%A9"]
)
async def test_an_id_that_was_not_handed_out_is_not_even_looked_for(tmp_path: Path, media_id: str) -> None:
    async with serving({"/shrt/DwlaBdSakNRFlBxN": body(PNG)}) as outside, gateway(tmp_path, outside) as room:
        answer = await ask(f"{room.base_url}/imgrslt/{media_id}")
        assert (answer.status, answer.body) == (404, b"Resource not found")
        assert answer.headers["Content-Type"].startswith("text/plain")
    assert outside.requests == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_what_the_provider_has_no_longer_is_not_found(tmp_path: Path, status: int) -> None:
    routes = {"/a": body(b"<Error>Request has expired</Error>", "application/xml", status=status)}
    async with serving(routes) as outside, gateway(tmp_path, outside) as room:
        answer = await ask(await room.hand_out(outside.url("/a")))
        assert (answer.status, answer.body) == (404, b"Resource not found")


async def _stalled(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    "answering",
    [
        body(b"oops", "text/plain", status=500),
        body(b"slow down", "text/plain", status=429),
        body(b"<!doctype html><title>Sign in</title>", "text/html"),
        body(b"<!doctype html><title>Sign in</title>", "image/png"),
        body(b"<svg onload=alert(1)>", "image/svg+xml"),
        body(b'{"error": "no"}', "application/json"),
        body(b"", "image/png"),
        body(bytes(2 * MIB), "image/png"),
        redirect("http://169.254.169.254/latest/meta-data/"),
        redirect("http://127.0.0.1/"),
        _stalled,
    ],
)
async def test_what_cannot_be_fetched_is_an_error_in_the_documents_words(tmp_path: Path, answering: Answering) -> None:
    fetch_limits = FetchLimits(max_bytes=MIB, idle_timeout_s=0.2, total_timeout_s=5)
    async with serving({"/a": answering}) as outside:
        async with gateway(tmp_path, outside, fetch_limits=fetch_limits) as room:
            answer = await ask(await room.hand_out(outside.url("/a")))
            assert (answer.status, answer.body) == (500, b"Error fetching image")
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert SAFETY.items() <= answer.headers.items()
            assert room.copies.used_bytes == 0


async def test_a_provider_that_cannot_be_reached(tmp_path: Path) -> None:
    with closed_port() as port:
        gone = Outside(origin=Origin("http", "127.0.0.1", port))
        async with gateway(tmp_path, gone) as room:
            answer = await ask(await room.hand_out(gone.url("/a")))
            assert (answer.status, answer.body) == (500, b"Error fetching image")


class _BrokenStore(MemoryMediaStore):
    async def get(self, media_id: str) -> MediaRecord | None:
        raise Unavailable("the database cannot be read")


async def test_a_database_that_cannot_be_read(tmp_path: Path) -> None:
    async with serving({}) as outside, gateway(tmp_path, outside, store=_BrokenStore()) as room:
        answer = await ask(f"{room.base_url}/imgrslt/abc")
        assert (answer.status, answer.body) == (500, b"Error fetching image")


# ------------------------------------------------------------ breaks


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize("cache_bytes", [512 * MIB, 0])
async def test_a_provider_that_breaks_off_is_a_broken_answer(
    tmp_path: Path, is_declared: bool, cache_bytes: int
) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = b"Content-Length: 100000\r\n\r\n" if is_declared else b"Transfer-Encoding: chunked\r\n\r\n2000\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n" + length + PNG[:8192])
        await writer.drain()
        writer.close()

    async with raw_serving(script) as outside, gateway(tmp_path, outside, cache_bytes=cache_bytes) as room:
        link = await room.hand_out(outside.url("/a"))
        with pytest.raises(aiohttp.ClientError):
            await ask(link)
        await until(lambda: room.copies.used_bytes == 0)
        with pytest.raises(aiohttp.ClientError):
            await ask(link)
    assert len(outside.requests) == 2
    assert files_in(tmp_path) == []


async def test_a_break_is_seen_even_by_a_caller_for_whom_the_close_is_the_end(tmp_path: Path) -> None:
    """A body without a length ends with the connection for HTTP/1.0, which many a proxy speaks to what is behind it."""
    may_break = asyncio.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n" + PNG[:8192]
        )
        await writer.drain()
        await may_break.wait()

    async with raw_serving(script) as outside, gateway(tmp_path, outside) as room:
        async with slow_caller(await room.hand_out(outside.url("/a")), version="1.0") as caller:
            assert b"Content-Length" not in await caller.read_head()
            assert await caller.read(4) == PNG[:4]
            may_break.set()
            with pytest.raises(ConnectionResetError):
                await caller.read_rest()


async def test_a_provider_that_falls_silent_in_mid_way(tmp_path: Path) -> None:
    fetch_limits = FetchLimits(idle_timeout_s=0.2)
    async with serving({"/a": Gate(PNG)}) as outside, gateway(tmp_path, outside, fetch_limits=fetch_limits) as room:
        with pytest.raises(aiohttp.ClientError):
            await ask(await room.hand_out(outside.url("/a")))


async def test_an_endless_body_is_cut_and_not_kept(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "image/png"
        await response.prepare(request)
        await response.write(PNG)
        while True:
            await response.write(bytes(64 * 1024))

    async with serving({"/a": endless}) as outside:
        async with gateway(tmp_path, outside, fetch_limits=FetchLimits(max_bytes=MIB)) as room:
            with pytest.raises(aiohttp.ClientError):
                await ask(await room.hand_out(outside.url("/a")))
            await until(lambda: room.copies.used_bytes == 0)
    assert files_in(tmp_path) == []


async def test_a_disk_that_runs_full_is_not_the_callers_trouble(tmp_path: Path) -> None:
    large = PNG + bytes(MIB)
    files = FailingFiles(room_bytes=300_000)
    async with serving({"/a": body(large)}) as outside, gateway(tmp_path, outside, files=files) as room:
        link = await room.hand_out(outside.url("/a"))
        answers = await asyncio.gather(ask(link), ask(link), ask(link))
        assert [answer.body == large for answer in answers] == [True] * 3
        await until(lambda: room.copies.used_bytes == 0)
        assert (await ask(link)).body == large
    assert files_in(tmp_path) == []


# ------------------------------------------------------------ many callers


async def test_callers_at_the_same_time_share_one_fetch(tmp_path: Path) -> None:
    gate = Gate(PNG)
    async with serving({"/a": gate}) as outside, gateway(tmp_path, outside) as room:
        link = await room.hand_out(outside.url("/a"))
        asking = [asyncio.create_task(ask(link)) for _ in range(20)]
        await until(lambda: gate.calls == 1)
        gate.may_go_on.set()
        assert [answer.body for answer in await asyncio.gather(*asking)] == [PNG] * 20
    assert gate.calls == 1


async def test_a_caller_that_leaves_in_mid_way_leaves_a_whole_copy(tmp_path: Path) -> None:
    gate = Gate(PNG)
    async with serving({"/a": gate}) as outside, gateway(tmp_path, outside) as room:
        link = await room.hand_out(outside.url("/a"))
        async with slow_caller(link) as caller:
            assert (await caller.read_head()).startswith(b"HTTP/1.1 200")
        gate.may_go_on.set()
        await copied(room, id_of(link))
        assert (await ask(link)).body == PNG
    assert gate.calls == 1


async def test_a_caller_that_leaves_a_large_rest_ends_the_fetch(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type, response.content_length = "video/mp4", 100 * MIB
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(64 * 1024))
                await asyncio.sleep(0.01)
        finally:
            left.set()

    limits = DeliveryLimits(finish_alone_bytes=MIB)
    async with serving({"/a": endless}) as outside, gateway(tmp_path, outside, limits=limits) as room:
        async with slow_caller(await room.hand_out(outside.url("/a"))) as caller:
            await caller.read_head()
        await left.wait()
        await until(lambda: room.copies.used_bytes == 0)


@pytest.mark.parametrize("cache_bytes", [0, 1000])
async def test_without_a_copy_a_caller_that_leaves_ends_the_fetch_at_once(tmp_path: Path, cache_bytes: int) -> None:
    """Not with the next piece: the provider says nothing more, and would be listened to until it is given up."""
    left = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 99999\r\n\r\n" + PNG)
        await writer.drain()
        assert await reader.read() == b""
        left.set()

    async with raw_serving(script) as outside, gateway(tmp_path, outside, cache_bytes=cache_bytes) as room:
        async with slow_caller(await room.hand_out(outside.url("/a"))) as caller:
            await caller.read_head()
            size = 0
            while size < len(PNG):
                size += len(await caller.read(64 * 1024))
            assert not left.is_set()
        await left.wait()


@pytest.mark.parametrize("cache_bytes", [512 * MIB, 1000, 0])
async def test_a_large_result_arrives_whole_whichever_way_it_goes(tmp_path: Path, cache_bytes: int) -> None:
    """With a copy being made, by hand since there is no room for it, and alone since none is kept."""
    large = PNG + b"".join(number.to_bytes(4, "big") for number in range(500_000))

    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "image/png"
        await response.prepare(request)
        for start in range(0, len(large), 300_000):
            await response.write(large[start : start + 300_000])
        return response

    routes = {"/sized": body(large), "/chunked": chunked}
    async with serving(routes) as outside, gateway(tmp_path, outside, cache_bytes=cache_bytes) as room:
        for path in routes:
            link = await room.hand_out(outside.url(path))
            answers = await asyncio.gather(ask(link), ask(link))
            assert [answer.body == large for answer in answers] == [True, True]
            part = await ask(link, headers={"Range": "bytes=1000000-1499999"})
            if part.status == 206:
                assert part.body == large[1_000_000:1_500_000]
            else:
                assert (path, part.body == large) == ("/chunked", True)


async def test_a_restart_serves_the_copies(tmp_path: Path) -> None:
    store = MemoryMediaStore()
    routes = {"/a": body(PNG)}
    async with serving(routes) as outside:
        async with gateway(tmp_path, outside, store=store) as room:
            media_id = id_of(await room.hand_out(outside.url("/a")))
            await ask(f"{room.base_url}/imgrslt/{media_id}")
            await copied(room, media_id)
        routes.clear()
        async with gateway(tmp_path, outside, store=store) as room:
            assert (await ask(f"{room.base_url}/imgrslt/{media_id}")).body == PNG
    assert len(outside.requests) == 1


async def test_an_evicted_copy_is_fetched_again(tmp_path: Path) -> None:
    async with serving({"/a": body(PNG), "/b": body(PNG)}) as outside:
        async with gateway(tmp_path, outside, cache_bytes=len(PNG) + 10) as room:
            links = [await room.hand_out(outside.url(path)) for path in ("/a", "/b")]
            for link in (*links, *links):
                assert (await ask(link)).body == PNG
                await copied(room, id_of(link))
    assert [path for _, path, _ in outside.requests] == ["/a", "/b", "/a", "/b"]


# ------------------------------------------------------------ ranges, HEAD, conditions


SIZE = len(PNG)
RANGES = [
    ({"Range": "bytes=0-0"}, 206, f"bytes 0-0/{SIZE}", PNG[:1]),
    ({"Range": "bytes=100-199"}, 206, f"bytes 100-199/{SIZE}", PNG[100:200]),
    ({"Range": "bytes=10000-"}, 206, f"bytes 10000-{SIZE - 1}/{SIZE}", PNG[10000:]),
    ({"Range": "bytes=-8"}, 206, f"bytes {SIZE - 8}-{SIZE - 1}/{SIZE}", PNG[-8:]),
    ({"Range": f"bytes=0-{10 * SIZE}"}, 206, f"bytes 0-{SIZE - 1}/{SIZE}", PNG),
    ({"Range": f"bytes={SIZE}-"}, 416, f"bytes */{SIZE}", b""),
    ({"Range": "bytes=-0"}, 416, f"bytes */{SIZE}", b""),
    ({"Range": "bytes=0-1,5-6"}, 200, None, PNG),
    ({"Range": "rows=0-1"}, 200, None, PNG),
    ({"Range": "bytes=5-4"}, 200, None, PNG),
    ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200, None, PNG),
    ({"Range": "bytes=0-9", "If-Range": "Wed, 21 Oct 2015 07:28:00 GMT"}, 200, None, PNG),
]


@pytest.mark.parametrize("state", ["on disk", "growing", "no copy"])
@pytest.mark.parametrize(("headers", "status", "content_range", "expected"), RANGES)
async def test_ranges(
    tmp_path: Path, state: str, headers: Mapping[str, str], status: int, content_range: str | None, expected: bytes
) -> None:
    gate = Gate(PNG)
    cache_bytes = 0 if state == "no copy" else 512 * MIB
    async with serving({"/a": gate}) as outside, gateway(tmp_path, outside, cache_bytes=cache_bytes) as room:
        link = await room.hand_out(outside.url("/a"))
        if state == "on disk":
            gate.may_go_on.set()
            await ask(link)
            await copied(room, id_of(link))
        asking = asyncio.create_task(ask(link, headers=headers))
        await until(lambda: gate.calls == 1)
        gate.may_go_on.set()
        answer = await asking
        assert (answer.status, answer.headers.get("Content-Range"), answer.body) == (status, content_range, expected)
        assert answer.headers["Content-Length"] == str(len(expected))
        assert ("ETag" in answer.headers) == (state != "no copy")
        assert ("immutable" in answer.headers.get("Cache-Control", "")) == (state != "no copy" and status != 416)


async def test_a_range_of_the_same_bytes(tmp_path: Path) -> None:
    async with serving({"/a": body(PNG)}) as outside, gateway(tmp_path, outside) as room:
        link = await room.hand_out(outside.url("/a"))
        tag = (await ask(link)).headers["ETag"]
        answer = await ask(link, headers={"Range": "bytes=4-7", "If-Range": tag})
        assert (answer.status, answer.body) == (206, PNG[4:8])


async def test_a_body_of_unknown_length_is_sent_whole(tmp_path: Path) -> None:
    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "image/png"
        await response.prepare(request)
        await response.write(PNG)
        return response

    async with serving({"/a": chunked}) as outside, gateway(tmp_path, outside) as room:
        link = await room.hand_out(outside.url("/a"))
        answer = await ask(link, headers={"Range": "bytes=0-1"})
        assert (answer.status, answer.body) == (200, PNG)
        assert answer.headers["Accept-Ranges"] == "none"
        assert "ETag" not in answer.headers
        await copied(room, id_of(link))
        answer = await ask(link, headers={"Range": "bytes=0-1"})
        assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (206, PNG[:2], "bytes")


@pytest.mark.parametrize("state", ["on disk", "first", "no copy"])
async def test_head_says_what_get_would(tmp_path: Path, state: str) -> None:
    cache_bytes = 0 if state == "no copy" else 512 * MIB
    async with serving({"/a": body(PNG)}) as outside, gateway(tmp_path, outside, cache_bytes=cache_bytes) as room:
        link = await room.hand_out(outside.url("/a"))
        if state == "on disk":
            await ask(link)
            await copied(room, id_of(link))
        head = await ask(link, method="HEAD", headers={"Range": "bytes=0-1"})
        get = await ask(link)
        assert (head.status, head.body) == (200, b"")
        for name in ("Content-Type", "Content-Length", "Accept-Ranges", "ETag", "Cache-Control", *SAFETY):
            assert head.headers.get(name) == get.headers.get(name)
        assert (await ask(f"{room.base_url}/imgrslt/none", method="HEAD")).status == 404


async def test_what_the_caller_has_already_is_not_sent_again(tmp_path: Path) -> None:
    async with serving({"/a": body(PNG)}) as outside, gateway(tmp_path, outside) as room:
        link = await room.hand_out(outside.url("/a"))
        tag = (await ask(link)).headers["ETag"]
        for value in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            answer = await ask(link, headers={"If-None-Match": value})
            assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", tag)
        assert (await ask(link, headers={"If-None-Match": '"x"'})).body == PNG


# ------------------------------------------------------------ slow callers


def _large(total: int, sent: list[int]) -> Answering:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type, response.content_length = "image/png", total
        await response.prepare(request)
        await response.write(PNG)
        sent[0] = len(PNG)
        piece = bytes(64 * 1024)
        while sent[0] < total:
            size = min(len(piece), total - sent[0])
            await response.write(piece[:size])
            sent[0] += size
        return response

    return answer


@pytest.mark.parametrize("has_copy", [True, False])
async def test_memory_stays_flat_for_a_slow_reader_of_100_megabytes(tmp_path: Path, has_copy: bool) -> None:
    """With a copy the provider is done at once and the disk holds the rest; without one the provider is slowed down."""
    total, sent = 100 * MIB, [0]
    async with serving({"/a": _large(total, sent)}) as outside:
        async with gateway(tmp_path, outside, cache_bytes=512 * MIB if has_copy else 0) as room:
            link = await room.hand_out(outside.url("/a"))
            tracemalloc.start()
            try:
                async with slow_caller(link) as caller:
                    await caller.read_head()
                    taken = await caller.read(1000)
                    if has_copy:
                        await until(lambda: sent[0] == total)
                        await copied(room, id_of(link))
                    else:
                        await _stands_still(sent)
                        assert sent[0] < 30 * MIB
                    size = len(taken)
                    while size < 20 * MIB:
                        size += len(await caller.read(MIB))
                    _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            # The test's own server and caller are in it, with a piece in each of their hands.
            assert peak < 4 * MIB


async def _stands_still(counter: list[int]) -> None:
    """Wait until a counter has stopped moving."""
    before = -1
    while counter[0] != before:
        before = counter[0]
        await asyncio.sleep(0.05)


async def test_a_caller_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    cut_off = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type, response.content_length = "image/png", 100 * MIB
        await response.prepare(request)
        try:
            await response.write(PNG)
            while True:
                await response.write(bytes(64 * 1024))
        finally:
            cut_off.set()

    async with serving({"/a": endless}) as outside:
        async with gateway(tmp_path, outside, cache_bytes=0, stall_timeout_s=0.2) as room:
            async with slow_caller(await room.hand_out(outside.url("/a"))) as caller:
                await caller.read_head()
                await cut_off.wait()
                with pytest.raises(ConnectionResetError):
                    await caller.read_rest()
