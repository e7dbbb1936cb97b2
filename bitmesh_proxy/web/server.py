"""The server of callers' connections: aiohttp's, but for the connections' end.

aiohttp gives running answers their time, and then their handlers, which it has told to end, the same time once more.
Here both share one. Whoever is still at work when it is over is cut off by us, and that is said (``keys.CUTTING``)
before anybody notices, so that it is not taken for the caller's leaving. This leans on private names of
``RequestHandler``, as there is no public way: ``tests/web/test_server.py`` lists them, and ``pyproject.toml`` bounds
the version.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from bitmesh_proxy.web.unreadable import JsonRefusals


class Server(web.Server):
    """The server that it stands in for, with that end. ``cutting`` is set once an answer has had its time.

    ``max_head_bytes``: see JsonRefusals.
    """

    def __init__(self, server: web.Server, cutting: asyncio.Event, *, max_head_bytes: int) -> None:
        self.__dict__.update(server.__dict__)
        self._cutting = cutting
        self._max_head_bytes = max_head_bytes

    def __call__(self) -> RequestHandler:
        """A new connection."""
        return JsonRefusals(self, max_head_bytes=self._max_head_bytes, loop=self._loop, **self._kwargs)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's own signature
        """End all connections: running answers get ``timeout`` seconds, or as long as they take."""
        await asyncio.gather(*[self._end(each, timeout) for each in self.connections])
        self._connections.clear()

    async def _end(self, connection: RequestHandler, timeout: float | None) -> None:  # noqa: ASYNC109 - as above
        if timeout is not None and connection._task_handler is not None:
            timeout /= 2  # it is waited for twice
        await connection.shutdown(timeout)
        if connection._request_in_progress:  # whoever is at work has been told to end, and has not yet
            self._cutting.set()
