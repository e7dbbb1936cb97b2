"""The pool: connections to each origin, those that wait for a next request, and those who wait for a connection.

The one used last is used next, so that the others can grow old and go. A waiting connection is looked at before it is
used: if the provider has closed it, or has said something unasked, it is dropped and nobody notices.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from bitmesh_proxy.errors import UpstreamTimeout, UpstreamUnreachable
from bitmesh_proxy.upstream.connection import ProviderConnection


class Origin(NamedTuple):
    """Where connections lead. ``host`` is a name or a bare address."""

    host: str
    port: int
    is_tls: bool


#: Opens a connection to an origin, with what the second argument makes as its protocol, within a bounded time.
Connect = Callable[[Origin, Callable[[], ProviderConnection]], Awaitable[ProviderConnection]]


class OriginPool:
    """Of one origin. ``count`` are all of them: waiting, in use and being opened."""

    __slots__ = ("count", "idle", "origin", "reaper", "waiters")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.count = 0
        self.idle: list[ProviderConnection] = []
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.reaper: asyncio.TimerHandle | None = None


class Connections:
    """All pools. Belongs to one event loop; ``close`` ends it.

    ``connect`` opens connections in another way than by the origin's name; what it raises, ``take`` raises.
    """

    def __init__(
        self, *, connect_timeout_s: float, keepalive_s: float, max_per_origin: int, connect: Connect | None = None
    ) -> None:
        self._open = connect or self._open_by_name
        self._connect_timeout_s = connect_timeout_s
        self._keepalive_s = keepalive_s
        self._max_per_origin = max_per_origin
        self._loop = asyncio.get_running_loop()
        self._pools: dict[Origin, OriginPool] = {}
        self._in_use: set[ProviderConnection] = set()
        self._tls: ssl.SSLContext | None = None
        self._is_closed = False

    @property
    def origins(self) -> int:
        """To how many origins there are connections, or some being opened."""
        return len(self._pools)

    def take_idle(self, origin: Origin) -> ProviderConnection | None:
        """One that waits, alive; None if there is none."""
        pool = self._pools.get(origin)
        if pool is None:
            return None
        while pool.idle:
            connection = pool.idle.pop()
            if connection.is_usable and not _has_something_to_say(connection):
                self._in_use.add(connection)
                return connection
            connection.close()
        return None

    async def take(self, origin: Origin, *, is_fresh: bool, until_s: float) -> ProviderConnection:
        """One that waits, or a new one (``is_fresh``: only that); waits while there are as many as may be.

        ``until_s`` is a moment of the loop's clock. Raises UpstreamUnreachable, or UpstreamTimeout at that moment.
        """
        try:
            async with asyncio.timeout_at(until_s):
                return await self._take(origin, is_fresh)
        except TimeoutError as exc:
            raise UpstreamTimeout("The provider did not answer in time.") from exc

    async def _take(self, origin: Origin, is_fresh: bool) -> ProviderConnection:
        if self._is_closed:
            raise RuntimeError("the connections have been closed")
        while True:
            pool = self._pools.get(origin)  # anew each time: an empty one goes while one waits
            if pool is None:
                pool = self._pools[origin] = OriginPool(origin)
            connection = None if is_fresh else self.take_idle(origin)
            if connection is not None:
                return connection
            if pool.count < self._max_per_origin:
                return await self._connect(pool)
            if pool.idle:  # a fresh one is wanted, so an old one has to go
                pool.idle.pop(0).close()
            await self._wait_for_turn(pool)

    def give_back(self, connection: ProviderConnection) -> None:
        """After an exchange, however it ended. Another one may follow, or it is closed."""
        self._in_use.discard(connection)
        pool = connection.pool
        assert isinstance(pool, OriginPool)
        if not connection.end() or self._is_closed:
            connection.close()
            return
        connection.idle_since_s = self._loop.time()
        pool.idle.append(connection)
        _wake_next(pool)
        if pool.reaper is None:
            pool.reaper = self._loop.call_later(self._keepalive_s, self._reap, pool)

    async def close(self) -> None:
        """End all of them at once."""
        self._is_closed = True
        for pool in self._pools.values():
            if pool.reaper is not None:
                pool.reaper.cancel()
            for connection in pool.idle:
                connection.close()
            pool.idle.clear()
        for connection in list(self._in_use):
            connection.close()
        await asyncio.sleep(0)  # the transports end with the loop's next turn

    async def _connect(self, pool: OriginPool) -> ProviderConnection:
        pool.count += 1
        connection: ProviderConnection | None = None
        try:
            connection = await self._open(
                pool.origin, lambda: ProviderConnection(self._loop, pool=pool, on_lost=self._forget)
            )
        finally:
            if connection is None:
                self._count_down(pool)
        connection.is_counted = True
        self._in_use.add(connection)
        if connection.is_lost:  # meanwhile
            self._forget(connection)
        return connection

    async def _open_by_name(self, origin: Origin, make: Callable[[], ProviderConnection]) -> ProviderConnection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    make,
                    origin.host,
                    origin.port,
                    ssl=await self._tls_context() if origin.is_tls else None,
                    server_hostname=origin.host if origin.is_tls else None,
                )
        except TimeoutError as exc:
            raise UpstreamUnreachable("The provider cannot be reached: the connection timed out.") from exc
        except (OSError, UnicodeError) as exc:  # a name that no resolver takes is a UnicodeError
            raise UpstreamUnreachable("The provider cannot be reached.") from exc
        return connection

    async def _wait_for_turn(self, pool: OriginPool) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        pool.waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():  # it was our turn, and we do not take it
                _wake_next(pool)
            else:
                pool.waiters.remove(waiter)
            raise

    def _forget(self, connection: ProviderConnection) -> None:
        """It is lost. One that was never handed out is counted down by whoever opened it."""
        pool = connection.pool
        assert isinstance(pool, OriginPool)
        if not connection.is_counted:
            return
        connection.is_counted = False
        self._in_use.discard(connection)
        if not connection.is_busy and connection in pool.idle:
            pool.idle.remove(connection)
        self._count_down(pool)

    def _count_down(self, pool: OriginPool) -> None:
        """One less. A pool without any is forgotten: where links lead to any host, pools must not pile up."""
        pool.count -= 1
        _wake_next(pool)
        if not pool.count and not pool.waiters:
            if pool.reaper is not None:
                pool.reaper.cancel()
            self._pools.pop(pool.origin, None)

    def _reap(self, pool: OriginPool) -> None:
        """Close what has waited too long. The oldest stand first."""
        pool.reaper = None
        oldest_s = self._loop.time() - self._keepalive_s
        while pool.idle and pool.idle[0].idle_since_s <= oldest_s:
            pool.idle.pop(0).close()
        if pool.idle:
            wait_s = pool.idle[0].idle_since_s - oldest_s
            pool.reaper = self._loop.call_later(max(wait_s, 0.01), self._reap, pool)

    async def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = await asyncio.to_thread(make_tls_context)  # it reads a few hundred certificates from disk
        return self._tls


def make_tls_context() -> ssl.SSLContext:
    """For connections outwards: certificates and names are checked, HTTP/1.1 is what we speak. Reads from the disk."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _wake_next(pool: OriginPool) -> None:
    while pool.waiters:
        waiter = pool.waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return


def _has_something_to_say(connection: ProviderConnection) -> bool:
    """Is there anything to be read where nothing was asked: an end that the event loop has not seen yet?"""
    fileno = connection.fileno
    if fileno < 0:
        return True
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))
