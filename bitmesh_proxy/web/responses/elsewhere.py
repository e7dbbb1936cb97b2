"""Streams of background responses that another worker makes: whoever comes back for one may come to any worker.

Each worker has a *door*, a unix socket without a place in the file system (``worker.py``). Through it a sibling says
the secret that all of them have from the supervisor, a response's id, and the sequence number after which it wants the
events. It gets them as they come, each piece behind its length, and a length of 0 at the end. An end without that is a
worker that has died, and no end of the stream. A worker that does not make the response closes the door again.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.web.responses.replies import EventLog
from bitmesh_proxy.worker import Doors

#: A sibling that has not answered after so long is busy, or about to be replaced.
ANSWER_TIMEOUT_S: Final = 2.0
_FOUND: Final = b"+"
_LENGTH_BYTES: Final = 4


class Elsewhere:
    """The door of the worker in ``seat``, and the way to the others'. Between ``start`` and ``close``."""

    def __init__(self, log_of: Callable[[str], EventLog | None], doors: Doors, *, seat: int) -> None:
        """``log_of`` gives the events of a response that is made here, or was lately."""
        self._log_of = log_of
        self._doors = doors
        self._seat = seat
        self._server: asyncio.Server | None = None
        self._visits: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the door."""
        self._server = await asyncio.start_unix_server(self._note_visit, sock=self._doors.sockets[self._seat])

    async def close(self) -> None:
        """Close it, behind the last visitor."""
        if self._server is not None:
            self._server.close()
        for task in self._visits:
            task.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)

    async def follow(self, response_id: str, *, after: int) -> AsyncIterator[bytes] | None:
        """The events behind a sequence number, as they come; None when no sibling makes that response, or did lately.

        The iterator raises Unavailable when the sibling dies.
        """
        for seat, name in enumerate(self._doors.names):
            if seat != self._seat:
                frames = await self._ask(name, f"{self._doors.secret} {response_id} {after}\n")
                if frames is not None:
                    return frames
        return None

    async def _ask(self, name: str, question: str) -> AsyncIterator[bytes] | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(name)  # at once, or not at all
        except OSError:
            sock.close()
            return None
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        try:
            writer.write(question.encode())
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await reader.readexactly(len(_FOUND))
        except (asyncio.IncompleteReadError, OSError):  # TimeoutError is one
            writer.close()
            return None
        except BaseException:
            writer.close()
            raise
        return _frames(reader, writer)

    async def _note_visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._visits.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError, Unavailable):
                await self._answer(reader, writer)
        finally:
            self._visits.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            secret, response_id, after = (await reader.readuntil()).decode().split()
        if not hmac.compare_digest(secret.encode(), self._doors.secret.encode()):  # of texts it takes ASCII alone
            return
        events = self._log_of(response_id)
        if events is None:
            return
        writer.write(_FOUND)
        async for frames in events.follow(after=int(after)):
            writer.write(len(frames).to_bytes(_LENGTH_BYTES, "big") + frames)
            await writer.drain()
        writer.write(bytes(_LENGTH_BYTES))
        await writer.drain()


async def _frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
    try:
        while length := int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big"):
            yield await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError) as exc:
        raise Unavailable("The worker that makes this response has ended.") from exc
    finally:
        writer.close()
