"""The server that makes connections with a lane, and how it ends them: in time, and honestly."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import web

from bitmesh_proxy.web.lane import server as module
from bitmesh_proxy.web.lane.protocol import LaneProtocol
from bitmesh_proxy.web.lane.server import DOORS, LaneRunner, LaneServer
from bitmesh_proxy.web.server import Server
from bitmesh_proxy.web.unreadable import JsonRefusals
from tests.journeys.gateway import open_books
from tests.upstream.scripted_provider import Exchange, answering
from tests.web.lane.callers import (
    LAST,
    STREAM_HEAD,
    TOKEN,
    asked,
    begin_and_stall,
    chunk,
    json_answer,
    room,
    say,
)
from tests.web.private_names import private_names_of


async def test_all_private_names_of_aiohttp_that_are_used_are_there() -> None:
    own = {*vars(LaneServer), *vars(Server), "_lane", "_watch", "_like", "_auto_decompress", "_sockets"}
    assert private_names_of(module) - own == {"_kwargs", "_loop", "_make_server", "_server"}
    server = web.Server(lambda request: None)  # type: ignore[arg-type,return-value]  # it serves nothing
    assert {"_loop", "_kwargs"} <= vars(server).keys()
    assert inspect.iscoroutinefunction(web.AppRunner._make_server)
    assert "_server" in web.BaseSite.__slots__


async def test_the_server_is_the_one_it_stands_in_for(tmp_path: Path) -> None:
    async with room(tmp_path, answering(json_answer())) as there, there.caller() as caller:
        server = there.gateway.runner.server
        assert isinstance(there.gateway.runner, LaneRunner)
        assert isinstance(server, LaneServer)
        assert (await caller.ask()).status == 200
        assert [type(each) for each in server.connections] == [LaneProtocol]
        assert server.requests_count == 1
    async with room(tmp_path / "off", answering(json_answer()), {"http": {"lane": False}}) as there:
        server = there.gateway.runner.server
        assert type(server) is Server
        async with there.caller() as caller:
            assert (await caller.ask()).status == 200
            assert [type(each) for each in server.connections] == [JsonRefusals]
            assert server.requests_count == 1


@pytest.mark.parametrize("way", [True, False])
async def test_several_callers_are_let_in_for_each_turn_of_the_loop(tmp_path: Path, way: bool) -> None:
    many, turns = 3 * DOORS, 0
    async with room(tmp_path, answering(json_answer()), {"http": {"lane": way}}) as there:
        runner, address = there.gateway.runner, ("127.0.0.1", there.gateway.port)
        assert isinstance(runner, LaneRunner)
        assert runner.server is not None
        await runner.open_doors(many)
        with ExitStack() as callers:
            for _ in range(many):  # the system lets them in, and nobody has taken them yet
                callers.enter_context(socket.create_connection(address))
            assert not runner.server.connections
            while len(runner.server.connections) < many:
                await asyncio.sleep(0)
                turns += 1
        assert turns <= many / DOORS + 2
        async with there.caller() as caller:
            assert (await caller.ask()).status == 200
    with pytest.raises(ConnectionRefusedError):  # all doors are closed
        socket.create_connection(address)


@pytest.mark.parametrize("way", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_under_way_may_end_before_the_gateway_does(tmp_path: Path, way: bool, stream: bool) -> None:
    may_end = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.request()
        if stream:
            await exchange.say(STREAM_HEAD, chunk(TOKEN))
        await may_end.wait()
        await exchange.say(chunk(LAST) + chunk(b"") if stream else json_answer())
        await exchange.reader.read()

    async with room(tmp_path, script, {"http": {"lane": way}}) as there, there.caller() as caller:
        caller.send(caller.request(say(stream=stream)))
        await asked(there)
        stopping = asyncio.create_task(there.gateway.runner.cleanup())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        may_end.set()
        answer = await caller.answer()
        assert (answer.status, answer.is_whole) == (200, True)
        assert await caller.is_closed_by_gateway()
        await stopping
    async with open_books(tmp_path / "data") as books:
        assert [row.outcome for row in await books.rows()] == ["completed"]
        await books.check()


@pytest.mark.parametrize(
    ("way", "headers", "asks_before"),
    [(True, {}, False), (True, {}, True), (True, {"Origin": "https://page.example"}, False), (False, {}, False)],
    ids=["lane", "lane-after-another", "not", "none"],
)
async def test_a_call_gets_the_time_that_the_setting_says(
    tmp_path: Path, way: bool, headers: dict[str, str], asks_before: bool
) -> None:
    """Neither less nor more, or whoever waits for the end (systemd does for 45 s) kills it before all is settled."""
    changes = {"http": {"lane": way, "shutdown_timeout_s": 2.0}}
    async with room(tmp_path, begin_and_stall, changes) as there, there.caller() as caller:
        if asks_before:  # for aiohttp's handler, which sleeps while the lane is at work
            assert (await caller.ask(method="GET", path="/health")).status == 200
        caller.send(caller.request(say(stream=True), headers=headers))
        await caller.reader.readuntil(b"\n\n")
        begun_s = asyncio.get_running_loop().time()
        await asyncio.wait_for(there.gateway.runner.cleanup(), 3.5)
        assert asyncio.get_running_loop().time() - begun_s > 1.9
        assert ("/chat" in there.plain) is not (way and not headers)


@pytest.mark.parametrize("way", [True, False])
async def test_a_call_that_goes_on_too_long_is_cut_and_settled(
    tmp_path: Path, way: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bitmesh_proxy.access")
    changes = {"http": {"lane": way, "shutdown_timeout_s": 0.1}}
    async with room(tmp_path, begin_and_stall, changes) as there, there.caller() as caller:
        caller.send(caller.request(say(stream=True)))
        await caller.reader.readuntil(b"\n\n")
        stopping = asyncio.create_task(there.gateway.runner.cleanup())
        rest = await caller.reader.read()
        assert not rest.endswith(b"0\r\n\r\n"), "nobody may take it for whole"
        await stopping
    assert "POST /chat 503" in caplog.text
    async with open_books(tmp_path / "data") as books:
        (row,) = await books.rows()
        assert (row.state, row.outcome, row.http_status) == ("settled", "interrupted", 503)
        assert row.charge_nano_usd > 0
        await books.check()


@pytest.mark.parametrize("way", [True, False])
async def test_who_leaves_while_we_wait_for_the_end_has_left(tmp_path: Path, way: bool) -> None:
    changes = {"http": {"lane": way, "shutdown_timeout_s": 60}}
    async with room(tmp_path, begin_and_stall, changes) as there, there.caller() as caller:
        caller.send(caller.request(say(stream=True)))
        await caller.reader.readuntil(b"\n\n")
        stopping = asyncio.create_task(there.gateway.runner.cleanup())
        await asyncio.sleep(0)
        caller.writer.close()
        await stopping
    async with open_books(tmp_path / "data") as books:
        (row,) = await books.rows()
        assert (row.state, row.outcome, row.http_status) == ("settled", "caller_left", 499)
        await books.check()
