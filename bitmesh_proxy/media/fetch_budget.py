"""What one fetch may still take, over all its hops, and the one place where the connections' errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final

from bitmesh_proxy.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchTimedOut, FetchTooLarge, FetchUnreachable

#: While our own side holds things up, it is looked again at most this often whether the time is up.
_LOOK_AGAIN_S: Final = 0.05


class FetchBudget:
    """Bytes, and seconds spent waiting for the other side. What our own reader takes is not counted."""

    def __init__(self, *, max_bytes: int, total_timeout_s: float) -> None:
        self.max_bytes = max_bytes
        self._bytes_left = max_bytes
        self._s_left = total_timeout_s
        self._since_s: float | None = None
        self._bound: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None

    def count(self, size_bytes: int) -> None:
        """Take what came off the budget. Raises FetchTooLarge."""
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            raise FetchTooLarge("the answer is larger than it may be")

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Run what waits for the other side. Raises FetchTimedOut, FetchUnreachable, FetchBroken; not nested."""
        bound = self._bound = asyncio.timeout(None)
        try:
            async with bound:
                self._run_clock()
                self._look()
                yield
        except TimeoutError as exc:
            if not bound.expired():
                raise
            raise FetchTimedOut("the other side did not answer in time") from exc
        except UpstreamTimeout as exc:
            raise FetchTimedOut("the other side did not answer in time") from exc
        except UpstreamUnreachable as exc:
            raise FetchUnreachable("the other side cannot be reached") from exc
        except UpstreamBroken as exc:
            raise FetchBroken("the answer broke off") from exc
        finally:
            self._stop_clock()
            if self._timer is not None:
                self._timer.cancel()

    async def held(self, ours: Awaitable[None]) -> None:
        """Within ``waiting``: wait for our own side, which is not counted."""
        self._stop_clock()
        try:
            await ours
        finally:
            self._run_clock()

    def _run_clock(self) -> None:
        self._since_s = asyncio.get_running_loop().time()

    def _stop_clock(self) -> None:
        if self._since_s is not None:
            self._s_left -= asyncio.get_running_loop().time() - self._since_s
            self._since_s = None

    def _look(self) -> None:
        """Is the time up? One timer for all, not moved with every piece: when it fires, it looks what is left."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        left_s = self._s_left - (now_s - self._since_s if self._since_s is not None else 0.0)
        if left_s > 0 or self._since_s is None or self._timer is None:
            self._timer = loop.call_later(max(left_s, _LOOK_AGAIN_S if self._since_s is None else 0.0), self._look)
        elif self._bound is not None:
            self._bound.reschedule(now_s)
