"""Connections of callers: which are kept alive, by whom, and when idle ones are closed."""

from __future__ import annotations

import asyncio
import socket
import sys
from math import inf
from pathlib import Path

import pytest

from bitmesh_proxy.web.lane.protocol import LaneProtocol
from bitmesh_proxy.web.lane.server import LaneRunner, LaneServer
from tests.journeys.gateway import eventually
from tests.upstream.scripted_provider import Exchange, answering
from tests.web.lane.callers import Room, json_answer, room


def connection_of(there: Room) -> LaneProtocol | None:
    """The only one there is, if it is."""
    server = there.gateway.runner.server
    assert isinstance(server, LaneServer)
    connections = server.connections
    if not connections:
        return None
    (connection,) = connections
    assert isinstance(connection, LaneProtocol)
    return connection


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each connection is told")
async def test_connections_inherit_it_from_the_sockets_that_accept_them(tmp_path: Path) -> None:
    async with room(tmp_path, answering(json_answer())) as there:
        runner = there.gateway.runner
        assert isinstance(runner, LaneRunner)
        runner.hand_down_keepalive()
        async with there.caller() as caller:
            assert (await caller.ask()).status == 200
            connection = connection_of(there)
            assert connection is not None
            assert connection.transport is not None
            sock = connection.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert not connection._tcp_keepalive


async def test_without_a_lane_there_is_nothing_to_hand_down(tmp_path: Path) -> None:
    async with room(tmp_path, answering(json_answer()), {"http": {"lane": False}}) as there:
        runner = there.gateway.runner
        assert isinstance(runner, LaneRunner)
        runner.hand_down_keepalive()
        async with there.caller() as caller:
            assert (await caller.ask()).status == 200


async def slow(exchange: Exchange) -> None:
    while True:
        await exchange.request()
        await asyncio.sleep(0.3)
        await exchange.say(json_answer())


@pytest.mark.parametrize("ways", ["lane", "plain", "lane plain", "plain lane", "lane plain lane"])
async def test_whichever_way_its_last_request_went_an_idle_connection_is_closed(tmp_path: Path, ways: str) -> None:
    async with room(tmp_path, slow, {"http": {"keepalive_timeout_s": 0.2}}) as there, there.caller() as caller:
        for way in ways.split():
            if way == "lane":
                assert (await caller.ask()).status == 200
            else:
                assert (await caller.ask(b"", method="GET", path="/test")).status == 200
        assert await caller.is_closed_by_gateway()
        await eventually(lambda: connection_of(there) is None, "it is gone")


async def test_one_that_is_gone_is_looked_after_no_longer(tmp_path: Path) -> None:
    async with room(tmp_path, answering(json_answer())) as there:
        server = there.gateway.runner.server
        assert isinstance(server, LaneServer)
        async with there.caller() as caller:
            assert (await caller.ask()).status == 200
            connection = connection_of(there)
            assert connection is not None
            assert connection.watched_s < inf
        await eventually(lambda: connection_of(there) is None, "it is gone")
        assert connection.watched_s == inf
        for _ in range(200):
            async with there.caller():
                await eventually(lambda: connection_of(there) is not None, "the caller is connected")
            await eventually(lambda: connection_of(there) is None, "it is gone")
        assert server._watch.size < 100
