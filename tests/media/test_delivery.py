"""From an id to bytes: the copy, the fetch under way, or a new one; bounded, the credential only where it belongs."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from aiohttp import web

from bitmesh_proxy.errors import NotFound
from bitmesh_proxy.media.delivery import DeliveryLimits
from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchError, FetchTimedOut
from bitmesh_proxy.media.files import Files
from bitmesh_proxy.storage.media import MediaRecord
from tests.media.outside import Answering, body, redirect, serving
from tests.media.rooms import SECRET, Room, copied, media_room, source, until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


def record(url: str | None, *, media_id: str = "abc", **more: object) -> MediaRecord:
    return MediaRecord(
        media_id=media_id,
        provider="maker",
        account_id="acc",
        kind="image",
        created_at_s=0.0,
        url=url,
        **more,  # type: ignore[arg-type]
    )


async def taken(room: Room, wanted: MediaRecord, start: int = 0, end: int | None = None) -> bytes:
    async with room.deliveries.open(wanted) as delivery:
        return b"".join([chunk async for chunk in delivery.chunks(start, end)])


class Gate:
    """An answer that sends its head and first half, and the rest when it is let go."""

    def __init__(self, data: bytes = PNG) -> None:
        self.data = data
        self.may_go_on = asyncio.Event()
        self.calls = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        response = web.StreamResponse()
        response.content_type, response.content_length = "image/png", len(self.data)
        await response.prepare(request)
        await response.write(self.data[: len(self.data) // 2])
        await self.may_go_on.wait()
        await response.write(self.data[len(self.data) // 2 :])
        return response


async def test_the_second_time_it_comes_from_the_disk(tmp_path: Path) -> None:
    async with serving({"/a": body(PNG)}) as outside, media_room(tmp_path, [source(outside.url(""))]) as room:
        wanted = record(outside.url("/a"))
        assert await taken(room, wanted) == PNG
        await copied(room, "abc")
        assert await taken(room, wanted) == PNG
        assert await taken(room, wanted, 100, 200) == PNG[100:200]
        async with room.deliveries.open(wanted) as delivery:
            assert (delivery.media_type, delivery.length_bytes, delivery.is_kept) == ("image/png", len(PNG), True)
    assert len(outside.requests) == 1


async def test_who_comes_meanwhile_reads_along(tmp_path: Path) -> None:
    gate = Gate()
    async with serving({"/a": gate}) as outside, media_room(tmp_path, [source(outside.url(""))]) as room:
        wanted = record(outside.url("/a"))
        callers = [asyncio.create_task(taken(room, wanted)) for _ in range(10)]
        async with room.deliveries.open(wanted) as late:
            chunks = late.chunks()
            assert await anext(chunks) == PNG[: len(PNG) // 2]
            gate.may_go_on.set()
            assert b"".join([chunk async for chunk in chunks]) == PNG[len(PNG) // 2 :]
        assert await asyncio.gather(*callers) == [PNG] * 10
        assert gate.calls == 1


async def test_without_room_for_copies_everybody_has_a_fetch_of_their_own(tmp_path: Path) -> None:
    gate = Gate()
    gate.may_go_on.set()
    async with serving({"/a": gate}) as outside:
        async with media_room(tmp_path, [source(outside.url(""))], cache_bytes=0) as room:
            wanted = record(outside.url("/a"))
            async with room.deliveries.open(wanted) as stuck:
                assert not stuck.is_kept
                assert await asyncio.gather(*(taken(room, wanted) for _ in range(3))) == [PNG] * 3
                assert b"".join([chunk async for chunk in stuck.chunks()]) == PNG
    assert 3 < gate.calls + 1 <= 5


async def test_a_caller_that_leaves_does_not_spoil_the_copy(tmp_path: Path) -> None:
    gate = Gate()
    async with serving({"/a": gate}) as outside, media_room(tmp_path, [source(outside.url(""))]) as room:
        wanted = record(outside.url("/a"))
        async with room.deliveries.open(wanted) as delivery:
            await anext(delivery.chunks())
        gate.may_go_on.set()
        await copied(room, "abc")
        assert await taken(room, wanted) == PNG
    assert gate.calls == 1


async def test_a_cancelled_caller_leaves_no_reader_behind(tmp_path: Path) -> None:
    hanging = asyncio.Event()

    async def never(request: web.Request) -> web.StreamResponse:
        hanging.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving({"/a": never}) as outside, media_room(tmp_path, [source(outside.url(""))]) as room:
        caller = asyncio.create_task(taken(room, record(outside.url("/a"))))
        await hanging.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller


async def test_after_a_break_the_next_caller_tries_anew(tmp_path: Path) -> None:
    answers: list[Answering] = [_breaking, body(PNG)]

    async def one_after_the_other(request: web.Request) -> web.StreamResponse:
        return await answers.pop(0)(request)

    async with serving({"/a": one_after_the_other}) as outside:
        async with media_room(tmp_path, [source(outside.url(""))]) as room:
            wanted = record(outside.url("/a"))
            with pytest.raises(FetchBroken):
                await taken(room, wanted)
            assert await taken(room, wanted) == PNG


async def _breaking(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type, response.content_length = "image/png", len(PNG)
    await response.prepare(request)
    await response.write(PNG[:1000])
    assert request.transport is not None
    request.transport.close()
    return response


async def test_gone_is_not_found(tmp_path: Path) -> None:
    async with serving({}) as outside, media_room(tmp_path, [source(outside.url(""))]) as room:
        for wanted in (
            record(outside.url("/none")),
            record(None),
            record(None, is_short=True),
            MediaRecord(
                media_id="abc", provider="gone", account_id="acc", kind="image", created_at_s=0.0, is_short=True
            ),
        ):
            with pytest.raises(NotFound):
                await taken(room, wanted)


async def test_a_link_to_a_private_address_is_not_followed(tmp_path: Path) -> None:
    async with serving({"/a": body(PNG)}) as inside, media_room(tmp_path, []) as room:
        with pytest.raises(FetchError):
            await taken(room, record(inside.url("/a")))
    assert inside.requests == []


# ------------------------------------------------------------ credentials


async def test_a_short_link_is_built_from_the_configuration_and_carries_no_credential(tmp_path: Path) -> None:
    async with serving({"/shrt/abc": redirect("/files/1"), "/files/1": body(PNG)}) as outside:
        async with media_room(tmp_path, [source(outside.url(""))]) as room:
            assert await taken(room, record("http://ignored.test/", is_short=True, needs_credential=True)) == PNG
    assert [path for _, path, _ in outside.requests] == ["/shrt/abc", "/files/1"]
    assert not any("Authorization" in headers for _, _, headers in outside.requests)


async def test_the_credential_goes_only_where_it_is_needed_and_only_to_its_provider(tmp_path: Path) -> None:
    routes = {"/a": body(PNG)}
    async with serving(routes) as own, serving(routes) as other:
        sources = [source(own.url("")), source(other.url(""), provider="other")]
        async with media_room(tmp_path, sources) as room:
            await taken(room, record(own.url("/a"), media_id="a"))
            await taken(room, record(own.url("/a"), media_id="b", needs_credential=True))
            await taken(room, record(other.url("/a"), media_id="c", needs_credential=True))
    assert [headers.get("Authorization") for _, _, headers in own.requests] == [None, SECRET["Authorization"]]
    assert [headers.get("Authorization") for _, _, headers in other.requests] == [None]


# ------------------------------------------------------------ bounds


async def test_fetches_at_once_are_bounded(tmp_path: Path) -> None:
    gate = Gate()
    limits = DeliveryLimits(max_concurrent_fetches=2, turn_timeout_s=0.1)
    async with serving({"/a": gate}) as outside, media_room(tmp_path, [source(outside.url(""))], limits=limits) as room:
        running = [asyncio.create_task(taken(room, record(outside.url("/a"), media_id=name))) for name in "ab"]
        await until(lambda: gate.calls == 2)
        with pytest.raises(FetchTimedOut, match="too many"):
            await taken(room, record(outside.url("/a"), media_id="c"))
        gate.may_go_on.set()
        assert await asyncio.gather(*running) == [PNG, PNG]
        assert await taken(room, record(outside.url("/a"), media_id="c")) == PNG
    assert gate.calls == 3


async def test_a_copy_is_made_ahead_of_anybody_asking(tmp_path: Path) -> None:
    async with serving({"/a": body(PNG)}) as outside, media_room(tmp_path, [source(outside.url(""))]) as room:
        room.deliveries.copy_ahead(record(outside.url("/a")))
        await copied(room, "abc")
        room.deliveries.copy_ahead(record(outside.url("/a")))
        assert await taken(room, record(outside.url("/a"))) == PNG
    assert len(outside.requests) == 1


async def test_copies_made_ahead_are_bounded_and_a_failure_harms_nobody(tmp_path: Path) -> None:
    gate = Gate()
    limits = DeliveryLimits(max_waiting_copies=2)
    async with serving({"/a": gate}) as outside, media_room(tmp_path, [source(outside.url(""))], limits=limits) as room:
        for name in ("a", "b", "c", "d"):
            room.deliveries.copy_ahead(record(outside.url("/a"), media_id=name))
        await until(lambda: gate.calls == 2)
        gate.may_go_on.set()
        await copied(room, "a")
        await copied(room, "b")
        assert gate.calls == 2
        room.deliveries.copy_ahead(record(outside.url("/none"), media_id="e"))
        room.deliveries.copy_ahead(record(None, media_id="f"))
        await until(lambda: len(outside.requests) == 3)


async def test_a_copy_made_ahead_goes_on_when_its_reader_leaves(tmp_path: Path) -> None:
    gate = Gate()
    limits = DeliveryLimits(finish_alone_bytes=0)
    async with serving({"/a": gate}) as outside, media_room(tmp_path, [source(outside.url(""))], limits=limits) as room:
        async with room.deliveries.open(record(outside.url("/a"))) as delivery:
            await anext(delivery.chunks())
            room.deliveries.copy_ahead(record(outside.url("/a")))
            await asyncio.sleep(0.01)
        gate.may_go_on.set()
        await copied(room, "abc")
    assert gate.calls == 1


async def test_closing_ends_what_runs(tmp_path: Path) -> None:
    gate = Gate()
    async with serving({"/a": gate}) as outside, media_room(tmp_path, [source(outside.url(""))]) as room:
        async with room.deliveries.open(record(outside.url("/a"))) as delivery:
            chunks = delivery.chunks()
            await anext(chunks)
            room.deliveries.copy_ahead(record(outside.url("/a"), media_id="other"))
            await room.deliveries.close()
            with pytest.raises(FetchBroken):
                await anext(chunks)
        assert room.copies.used_bytes == 0


class ThreadlessFiles(Files):
    """What comes of it where the system gives no thread any more."""

    def create(self, path: Path) -> int:
        """See Files."""
        raise RuntimeError("can't start new thread")


async def test_what_breaks_a_fetch_off_is_told_its_readers_and_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving({"/a": body(PNG)}) as outside,
        media_room(tmp_path, [source(outside.url(""))], files=ThreadlessFiles()) as room,
    ):
        with pytest.raises(FetchError):
            await taken(room, record(outside.url("/a")))
        await until(lambda: bool(caplog.records))
        gc.collect()  # or asyncio would say only then that nobody has asked for it
    assert [(entry.name, entry.message) for entry in caplog.records] == [
        ("bitmesh_proxy.media.delivery", "fetch abc broke off: can't start new thread")
    ]
