"""Who leaves, stops the meter: before the first byte, in mid-stream, and where the work goes on all the same."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from pathlib import Path

import orjson
import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.calls import Basis
from bitmesh_proxy.storage.database import DATABASE_NAME
from tests.journeys.gateway import Gateway, chat, eventually, image, open_books, raw_call, running_gateway, until, video
from tests.journeys.scripted import MODEL, at

pytestmark = pytest.mark.journey


async def leave_once_the_upstream_works(gateway: Gateway, path: str, body: object) -> None:
    async with raw_call(gateway, "POST", path, orjson.dumps(body)):
        await eventually(lambda: bool(gateway.upstream_calls()), "the upstream is called")


async def read_events(reader: asyncio.StreamReader, count: int) -> None:
    for _ in range(count):
        await reader.readuntil(b"\n\n")


@pytest.mark.both_ways
@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_first_byte_the_upstream_is_cancelled_and_nothing_is_charged(
    gateway: Gateway, stream: bool
) -> None:
    gateway.fault("stall=60")
    await leave_once_the_upstream_works(gateway, "/chat", chat(stream=stream))
    (sent,) = gateway.upstream_calls()
    await eventually(lambda: sent.cancelled, "the upstream is cancelled")
    assert sent.ended_at is not None
    row = await gateway.last_row()
    assert (row.outcome, row.http_status, row.charge_nano_usd) == ("caller_left", 499, 0)
    assert row.cost_nano_usd > 0  # the prompt had been sent
    await gateway.check_books()


@pytest.mark.both_ways
async def test_in_mid_stream_the_upstream_is_cancelled_and_the_delivered_part_is_charged(gateway: Gateway) -> None:
    gateway.fault("tokens=1000 interval_ms=10")
    body = orjson.dumps(chat(stream=True, max_tokens=1000))
    async with raw_call(gateway, "POST", "/chat", body) as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        await read_events(reader, 5)
    (sent,) = gateway.upstream_calls()
    await eventually(lambda: sent.cancelled, "the upstream is cancelled")
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.http_status, row.basis) == ("settled", "caller_left", 499, Basis.ESTIMATED)
    assert 0 < row.charge_nano_usd < row.hold_nano_usd // 2
    assert row.output_tokens < 500
    assert row.first_byte_ms is not None
    await gateway.check_books()


@pytest.mark.both_ways
async def test_a_stream_that_waits_for_its_next_token_notices_too(gateway: Gateway) -> None:
    gateway.fault("tokens=20 stall_after=3:60")
    body = orjson.dumps(chat(stream=True, max_tokens=20))
    async with raw_call(gateway, "POST", "/chat", body) as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        await read_events(reader, 3)
    (sent,) = gateway.upstream_calls()
    await eventually(lambda: sent.cancelled, "the upstream is cancelled")
    assert (await gateway.last_row()).outcome == "caller_left"
    await gateway.check_books()


async def test_who_stays_and_takes_nothing_is_cut_off_when_the_longest_answer_is_over(tmp_path: Path) -> None:
    body = {"model": "openai/tts-1", "input": "Hello [[sandbox: huge=40000000]]", "voice": "alloy"}
    async with running_gateway(tmp_path, {"upstream": {"total_timeout_s": 1.0}}) as gateway:
        async with raw_call(gateway, "POST", "/v1/audio/speech", orjson.dumps(body)) as (reader, _):
            await reader.readuntil(b"\r\n\r\n")
            slots = gateway.app[keys.CONCURRENCY_LIMIT]
            await eventually(lambda: not slots.running(gateway.key.id), "its place among the key's calls is free")
            row = await gateway.last_row()
            assert (row.state, row.outcome, row.http_status) == ("settled", "caller_left", 499)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):  # what it had not taken is lost
                await reader.readexactly(40_000_000)
        await gateway.check_books()


@pytest.mark.parametrize("is_charged", [True, False])
async def test_a_picture_that_its_provider_makes_anyway_is_charged_by_setting(tmp_path: Path, is_charged: bool) -> None:
    changes = {"billing": {"charge_abandoned_media": is_charged}}
    async with running_gateway(tmp_path, changes) as gateway:
        gateway.fault("stall=60")
        await leave_once_the_upstream_works(gateway, "/image", image())
        row = await gateway.last_row()
        assert (row.outcome, row.http_status) == ("caller_left", 499)
        assert row.cost_nano_usd > 0
        assert (row.charge_nano_usd > 0) is is_charged
        await gateway.check_books()


async def test_a_clip_goes_on_without_the_caller_who_handed_it_in(gateway: Gateway) -> None:
    gateway.fault("stall=0.3", path="*/videos", method="POST")
    await leave_once_the_upstream_works(gateway, "/video", video())
    row = await gateway.last_row()
    assert (row.state, row.outcome) == ("settled", "completed")
    assert row.charge_nano_usd > 0
    await gateway.check_books()


@pytest.mark.both_ways
async def test_while_its_provider_is_not_reachable_yet_nothing_is_charged(tmp_path: Path) -> None:
    """A listening socket whose queue is full takes no connection: nothing was sent, so nobody can have begun."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with running_gateway(
            tmp_path / "data", at(tmp_path / "rows", one=f"http://127.0.0.1:{port}/v1")
        ) as gateway:

            async def has_begun() -> bool:
                return bool(await gateway.books.rows())

            body = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]})
            async with raw_call(gateway, "POST", "/chat", body):
                await until(has_begun, "the call is in the books")
                await asyncio.sleep(0.1)
            row = await gateway.last_row()
            assert (row.state, row.outcome, row.cost_nano_usd) == ("released", "caller_left", 0)
            await gateway.check_books()
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("lane", [True, False])
async def test_what_waits_for_the_database_when_our_time_is_over_was_interrupted_by_us(
    tmp_path: Path, lane: bool
) -> None:
    data = tmp_path / "data"
    async with running_gateway(data, {"http": {"lane": lane, "shutdown_timeout_s": 0.5}}) as gateway:
        lock = sqlite3.connect(data / DATABASE_NAME, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        metrics = gateway.app[keys.METRICS]
        async with raw_call(gateway, "POST", "/chat", orjson.dumps(chat(stream=True))) as (reader, _):
            await eventually(lambda: metrics.under_way == 1, "the call waits for its row")
            stopping = asyncio.create_task(gateway.runner.cleanup())
            assert await reader.read() == b""
            lock.close()
            await stopping
    async with open_books(data) as books:
        row = await books.last_row()
        assert (row.state, row.outcome, row.http_status) == ("released", "interrupted", 503)
        await books.check()
