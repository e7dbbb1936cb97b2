"""The server whose connections have a lane, and what runs an application with it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from bitmesh_proxy import keys
from bitmesh_proxy.upstream.watch import Watch
from bitmesh_proxy.web.lane.lane import Lane
from bitmesh_proxy.web.lane.protocol import LaneProtocol
from bitmesh_proxy.web.server import Server

#: So many callers are let in for each turn of an event loop that lets in one through each handle. (A handle that finds
#: nobody costs 3 us.)
DOORS: Final = 8


class LaneServer(Server):
    """Makes the connections, and ends them. Everything else is the server that it stands in for."""

    def __init__(self, server: web.Server, lane: Lane, cutting: asyncio.Event, *, max_head_bytes: int) -> None:
        super().__init__(server, cutting, max_head_bytes=max_head_bytes)
        self._lane = lane
        self._watch = Watch(self._loop)
        self._take_options(self._kwargs)

    def _take_options(self, options: dict[str, Any]) -> None:
        self._kwargs = options
        self._like = RequestHandler(self, loop=self._loop, **options)
        self._auto_decompress: bool = options.get("auto_decompress", True)

    def __call__(self) -> RequestHandler:
        """A new connection."""
        return LaneProtocol(self._like, self._auto_decompress, self._lane, self._watch)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's own signature
        """See Server."""
        await super().shutdown(timeout)
        self._watch.close()

    async def _end(self, connection: RequestHandler, timeout: float | None) -> None:  # noqa: ASYNC109 - as above
        await super()._end(connection, timeout)
        if isinstance(connection, LaneProtocol):
            connection.cut_call()

    def hand_down_keepalive(self) -> None:
        """Every connection inherits SO_KEEPALIVE from now on, so that it need not be set for each."""
        self._take_options({**self._kwargs, "tcp_keepalive": False})


class LaneRunner(web.AppRunner):
    """Runs an application, with a lane if its settings want one."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        server, cutting = await super()._make_server(), self.app[keys.CUTTING]
        http = self.app[keys.SETTINGS].http
        if http.lane:
            return LaneServer(server, Lane(self.app), cutting, max_head_bytes=http.max_head_bytes)
        return Server(server, cutting, max_head_bytes=http.max_head_bytes)

    async def open_doors(self, backlog: int) -> None:
        """Have callers let in ``DOORS`` at a time. To be called once, when all sockets listen (with that ``backlog``).

        uvloop takes one connection for each turn of the loop from each handle that listens (as libuv does since 1.45),
        so each socket gets more of them. With a thousand streams a turn takes 20 ms, so that fifty callers a second
        were let in, and who came behind them waited for a quarter of a second. asyncio's own loop takes all there are.
        """
        if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
            return
        for listening in tuple(self._sockets()):
            for _ in range(DOORS - 1):
                await web.SockSite(self, socket.socket(fileno=os.dup(listening.fileno())), backlog=backlog).start()

    def hand_down_keepalive(self) -> None:
        """Have the listening sockets, all of which there are by now, give SO_KEEPALIVE to the connections that they
        accept, as Linux does: two calls of the kernel less for each."""
        if sys.platform == "linux" and isinstance(self.server, LaneServer):
            for sock in self._sockets():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.server.hand_down_keepalive()

    def _sockets(self) -> Iterator[socket.socket]:
        """All that listen."""
        for site in self.sites:
            yield from getattr(site._server, "sockets", ())  # asyncio's servers have some, uvloop's too
