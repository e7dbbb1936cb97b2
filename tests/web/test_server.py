"""The server's end. What callers see of it: ``lane/test_server.py``, with a lane and without."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from bitmesh_proxy.web import server as module
from bitmesh_proxy.web.server import Server
from tests.web.private_names import private_names_of


async def nothing(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("nobody asks")


class Connection:
    """A connection by what the server knows of it; notes how long it was given."""

    def __init__(self, *, has_handler: bool, is_at_work: bool) -> None:
        self._task_handler = object() if has_handler else None
        self._request_in_progress = is_at_work
        self.given_s: list[float | None] = []

    async def shutdown(self, timeout: float | None) -> None:  # noqa: ASYNC109 - aiohttp's own signature
        self.given_s.append(timeout)


def server_of(*connections: Connection) -> tuple[Server, asyncio.Event]:
    original, cutting = web.Server(nothing), asyncio.Event()
    server = Server(original, cutting, max_head_bytes=65_536)
    server._connections.update({cast(Any, each): cast(Any, None) for each in connections})
    return server, cutting


async def test_all_private_names_of_aiohttp_that_are_used_are_there() -> None:
    of_the_connection, of_the_server = {"_request_in_progress", "_task_handler"}, {"_connections", "_kwargs", "_loop"}
    assert private_names_of(module) - {"_cutting", "_end", "_max_head_bytes"} == of_the_connection | of_the_server
    assert of_the_server <= vars(web.Server(nothing)).keys()
    assert all(hasattr(RequestHandler, name) for name in of_the_connection)


@pytest.mark.parametrize(
    ("has_handler", "time_s", "given_s"), [(True, 3.0, 1.5), (False, 3.0, 3.0), (True, None, None)]
)
async def test_each_wait_for_a_handler_gets_half_of_the_time(
    has_handler: bool, time_s: float | None, given_s: float | None
) -> None:
    connection = Connection(has_handler=has_handler, is_at_work=False)
    server, _ = server_of(connection)
    await server.shutdown(time_s)
    assert connection.given_s == [given_s]
    assert server.connections == []


@pytest.mark.parametrize("is_at_work", [True, False])
async def test_whoever_is_still_at_work_then_is_cut_off_by_us(is_at_work: bool) -> None:
    server, cutting = server_of(
        Connection(has_handler=True, is_at_work=False), Connection(has_handler=True, is_at_work=is_at_work)
    )
    await server.shutdown(0.0)
    assert cutting.is_set() is is_at_work
