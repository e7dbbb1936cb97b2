"""What one fetch may still take, over all its hops, and the one place where the connections' errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from math import inf
from types import TracebackType
from typing import Self

from bitmesh_proxy.awaitables import Deferred
from bitmesh_proxy.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchTimedOut, FetchTooLarge, FetchUnreachable
from bitmesh_proxy.upstream.watch import Watch


class FetchBudget:
    """Bytes, and seconds spent waiting for the other side. What our own reader takes is not counted.

    ``async with budget:`` around whatever waits for the other side; not nested. It raises FetchTimedOut when the time
    is up, and the connections' errors as FetchTimedOut, FetchUnreachable and FetchBroken. ``close`` it at the end.

    It is looked after by a ``Watch``: a timer of the event loop's for each wait was a twentieth of what a picture cost.
    """

    __slots__ = ("_bytes_left", "_cancelling", "_is_up", "_loop", "_s_left", "_since_s", "_task", "_watch", "watched_s")

    def __init__(self, *, max_bytes: int, total_timeout_s: float, watch: Watch) -> None:
        self._bytes_left = max_bytes
        self._s_left = total_timeout_s
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        #: Since when the clock has been running; None while it stands.
        self._since_s: float | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._is_up = False
        self.watched_s = inf

    def count(self, size_bytes: int) -> None:
        """Take what came off the budget. Raises FetchTooLarge."""
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            raise FetchTooLarge("the answer is larger than it may be")

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "only a task can wait"
        assert self._task is None, "one wait at a time"
        self._task = task
        self._cancelling = task.cancelling()
        self._is_up = False
        self._run_clock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_clock()
        task, self._task = self._task, None
        assert task is not None, "it was entered"
        if self._is_up and task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise FetchTimedOut("the other side did not answer in time") from error  # nobody else has cancelled it
        if isinstance(error, UpstreamTimeout):
            raise FetchTimedOut("the other side did not answer in time") from error
        if isinstance(error, UpstreamUnreachable):
            raise FetchUnreachable("the other side cannot be reached") from error
        if isinstance(error, UpstreamBroken):
            raise FetchBroken("the answer broke off") from error

    def held(self, ours: Awaitable[None]) -> Awaitable[None]:
        """Within a wait: wait for our own side, which is not counted."""
        return Deferred(lambda: self._held(ours))

    async def _held(self, ours: Awaitable[None]) -> None:
        self._stop_clock()
        try:
            await ours
        finally:
            self._run_clock()

    def close(self) -> None:
        """The fetch is over."""
        self._watch.forget(self)

    def look(self, now_s: float) -> float:
        """See Watched."""
        if self._since_s is None or self._task is None:
            return inf
        until_s = self._since_s + self._s_left
        if now_s < until_s:
            return until_s
        self._is_up = True
        self._task.cancel()
        return inf

    def _run_clock(self) -> None:
        self._since_s = self._loop.time()
        self._watch.add(self, self._since_s + self._s_left)

    def _stop_clock(self) -> None:
        if self._since_s is not None:
            self._s_left -= self._loop.time() - self._since_s
            self._since_s = None
