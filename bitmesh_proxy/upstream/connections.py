"""The pool: connections to each origin, those that wait for a next request, and those who wait for a connection.

The one used last is used next, so that the others can grow old and go. A waiting connection is looked at before it is
used: if the provider has closed it, or has said something unasked, it is dropped and nobody notices.
"""

from __future__ import annotations

import asyncio
from collections import deque

from bitmesh_proxy.errors import UpstreamTimeout
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.heads import HeadReader
from bitmesh_proxy.upstream.opening import Connect, NamedConnect, Origin
from bitmesh_proxy.upstream.watch import Patience, Watch


class OriginPool:
    """Of one origin. ``count`` are all of them: ``members`` (idle or in use), and those that are being opened."""

    __slots__ = ("_connections", "count", "heads", "idle", "members", "origin", "reaper", "waiters", "watch")

    def __init__(self, origin: Origin, connections: Connections) -> None:
        self.origin = origin
        self._connections = connections
        self.heads = connections.heads
        self.watch = connections.watch
        self.count = 0
        self.idle: list[ProviderConnection] = []
        self.members: set[ProviderConnection] = set()
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.reaper: asyncio.TimerHandle | None = None

    def take_idle(self) -> ProviderConnection | None:
        """One that waits, alive; None if there is none."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_alive():
                return connection
            connection.close()
        return None

    def note_answer(self, transport: asyncio.BaseTransport) -> None:
        """The first answer on a new connection has begun."""
        if self._connections.named is not None:
            self._connections.named.note_answer(transport)

    def give_back(self, connection: ProviderConnection) -> None:
        """After an exchange, however it ended. Another one may follow, or it is closed."""
        may_follow = connection.end()
        slot, connection.slot = connection.slot, None
        if slot is not None:
            slot.release()
        if not may_follow:
            return
        loop = self._connections.loop
        connection.idle_since_s = loop.time()
        self.idle.append(connection)
        if self.waiters:
            self.wake_next()
        if self.reaper is None:
            self.reaper = loop.call_later(self._connections.keepalive_s, self._reap)

    def forget(self, connection: ProviderConnection) -> None:
        """It is lost. One that was never handed out is counted down by whoever opened it."""
        self.watch.forget(connection)
        if connection not in self.members:
            return
        self.members.discard(connection)
        if not connection.is_busy and connection in self.idle:
            self.idle.remove(connection)
        self.count_down()

    def count_down(self) -> None:
        """One less. A pool without any is forgotten: where links lead to any host, pools must not pile up."""
        self.count -= 1
        self.wake_next()
        if not self.count and not self.waiters:
            if self.reaper is not None:
                self.reaper.cancel()
            self._connections.pools.pop(self.origin, None)

    def wake_next(self) -> None:
        """It is the turn of whoever has waited longest."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def wait_for_turn(self) -> None:
        """Wait until one is idle, or there is room for a new one. Whether it still is has to be looked at."""
        waiter: asyncio.Future[None] = self._connections.loop.create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():  # it was our turn, and we do not take it
                self.wake_next()
            elif waiter in self.waiters:  # else it has been passed over already
                self.waiters.remove(waiter)
            raise

    def close(self) -> None:
        """End all of them at once."""
        if self.reaper is not None:
            self.reaper.cancel()
        for connection in self.members:
            connection.close()
        self.idle.clear()

    def _reap(self) -> None:
        """Close what has waited too long. The oldest stand first."""
        self.reaper = None
        loop = self._connections.loop
        oldest_s = loop.time() - self._connections.keepalive_s
        while self.idle and self.idle[0].idle_since_s <= oldest_s:
            self.idle.pop(0).close()
        if self.idle:
            wait_s = self.idle[0].idle_since_s - oldest_s
            self.reaper = loop.call_later(max(wait_s, 0.01), self._reap)


class Connections:
    """All pools. Belongs to one event loop; ``close`` ends it.

    ``connect`` opens connections in another way than by the origin's name; what it raises, ``take`` raises.
    """

    def __init__(
        self, *, connect_timeout_s: float, keepalive_s: float, max_per_origin: int, connect: Connect | None = None
    ) -> None:
        self.keepalive_s = keepalive_s
        self._max_per_origin = max_per_origin
        self.loop = asyncio.get_running_loop()
        self.heads = HeadReader(self.loop)
        self.watch = Watch(self.loop)
        #: None where they are opened in another way.
        self.named: NamedConnect | None = None
        if connect is None:
            connect = self.named = NamedConnect(timeout_s=connect_timeout_s, watch=self.watch)
        self._open = connect
        self.pools: dict[Origin, OriginPool] = {}
        self._is_closed = False

    @property
    def origins(self) -> int:
        """To how many origins there are connections, or some being opened."""
        return len(self.pools)

    def take_idle(self, origin: Origin) -> ProviderConnection | None:
        """One that waits, alive; None if there is none."""
        pool = self.pools.get(origin)
        return pool.take_idle() if pool is not None and pool.idle else None

    async def take(self, origin: Origin, *, is_fresh: bool, until_s: float) -> ProviderConnection:
        """One that waits, or a new one (``is_fresh``: only that); waits while there are as many as may be.

        ``until_s`` is a moment of the loop's clock. Raises UpstreamUnreachable, or UpstreamTimeout at that moment.
        """
        if self._is_closed:
            raise RuntimeError("the connections have been closed")
        try:
            while True:
                pool = self.pools.get(origin)  # anew each time: an empty one goes while one waits
                if pool is None:
                    pool = self.pools[origin] = OriginPool(origin, self)
                connection = None if is_fresh else pool.take_idle()
                if connection is not None:
                    return connection
                if pool.count < self._max_per_origin:
                    if self.named is not None and self.loop.time() + self.named.timeout_s <= until_s:
                        return await self._connect(pool)  # which has less patience of its own
                    with Patience(self.watch, until_s):
                        return await self._connect(pool)
                if pool.idle:  # a fresh one is wanted, so an old one has to go
                    pool.idle.pop(0).close()
                with Patience(self.watch, until_s):
                    await pool.wait_for_turn()
        except TimeoutError as exc:
            raise UpstreamTimeout("The provider did not answer in time.") from exc

    def give_back(self, connection: ProviderConnection) -> None:
        """After an exchange, however it ended. Another one may follow, or it is closed."""
        connection.home.give_back(connection)

    async def close(self) -> None:
        """End all of them at once."""
        self._is_closed = True
        for pool in self.pools.values():
            pool.close()
        self.watch.close()
        if self.named is not None:
            self.named.close()
        await asyncio.sleep(0)  # the transports end with the loop's next turn

    async def _connect(self, pool: OriginPool) -> ProviderConnection:
        pool.count += 1
        connection: ProviderConnection | None = None
        try:
            connection = await self._open(pool.origin, lambda: ProviderConnection(self.loop, pool))
        finally:
            if connection is None:
                pool.count_down()
        pool.members.add(connection)
        if self._is_closed:
            connection.close()
        if connection.is_lost:  # meanwhile
            pool.forget(connection)
        return connection
