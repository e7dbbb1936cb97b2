"""How many calls may be at a provider at the same time, for those who wait and for those who cannot."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """``limit`` places. First come, first served; whoever cannot wait stands behind those who do."""

    __slots__ = ("_free", "_waiters")

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiters: deque[asyncio.Future[None]] = deque()

    def take_now(self) -> bool:
        """Take one if one is free. It has to be released."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def take(self) -> None:
        """Take one as soon as one is free. It has to be released."""
        if self.take_now():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.release()  # it was handed to us, and we do not take it
            elif waiter in self._waiters:  # else it has been passed over already
                self._waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Give one back: to whoever has waited longest."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
