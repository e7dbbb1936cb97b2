"""Callers of ``/imgrslt``: a usual one, and one below HTTP that reads as slowly as it likes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def ask(link: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answered:
    """One request on a connection of its own. Raises aiohttp.ClientPayloadError for half an answer."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.request(method, link, headers=headers) as response:
            return Answered(status=response.status, headers=response.headers, body=await response.read())


class SlowCaller:
    """A plain GET over a socket with a small buffer. ``read`` takes what is there, up to a size."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.head = b""

    async def read_head(self) -> bytes:
        """Everything up to the empty line; what came with it of the body stays unread."""
        loop = asyncio.get_running_loop()
        while not self.head.endswith(b"\r\n\r\n"):
            byte = await loop.sock_recv(self._connection, 1)
            if not byte:
                break
            self.head += byte
        return self.head

    async def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end. Raises ConnectionResetError when it was broken off."""
        return await asyncio.get_running_loop().sock_recv(self._connection, size)

    async def read_rest(self) -> int:
        """How many bytes come up to the end. Raises ConnectionResetError when it was broken off."""
        total = 0
        while piece := await self.read(1024 * 1024):
            total += len(piece)
        return total


@asynccontextmanager
async def slow_caller(link: str, *, buffer_bytes: int = 16 * 1024, version: str = "1.1") -> AsyncIterator[SlowCaller]:
    """A caller that has sent its request and read nothing yet."""
    url = URL(link)
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        connection.setblocking(False)
        await loop.sock_connect(connection, (url.host, url.port))
        await loop.sock_sendall(connection, f"GET {url.raw_path} HTTP/{version}\r\nHost: {url.host}\r\n\r\n".encode())
        yield SlowCaller(connection)
