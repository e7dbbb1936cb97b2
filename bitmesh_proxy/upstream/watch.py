"""One timer for all exchanges: who has to be looked at, and when.

A timer of the event loop for each exchange costs more than everything else that sending a request does (uvloop makes
and destroys a handle of libuv: 3.8 us). Here an exchange is an entry in a heap, at most one for each connection: when
its time comes, the connection says when it wants to be looked at next. An exchange that ends leaves its entry behind,
and the next one on the same connection, which is due later, uses it again.
"""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from types import TracebackType
from typing import Final, Protocol

#: Entries of connections that are gone are cleared away when there are more of them than this, and than of others.
_MAX_STALE: Final = 64


class Watched(Protocol):
    """``watched_s``: when it stands in the heap (of the loop's clock), infinity if it does not."""

    watched_s: float

    def look(self, now_s: float) -> float:
        """It is time. Gives when to look again; infinity: not at all."""


class Watch:
    """The heap and its timer. Times are of the event loop's clock."""

    __slots__ = ("_entries", "_loop", "_number", "_stale", "_timer", "_timer_s")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._entries: list[tuple[float, int, Watched]] = []
        self._number = count()
        self._stale = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf

    @property
    def size(self) -> int:
        """Entries in the heap, those included that nobody will look at any more."""
        return len(self._entries)

    def add(self, watched: Watched, due_s: float) -> None:
        """Look at it at ``due_s``, or earlier."""
        if due_s < watched.watched_s:
            watched.watched_s = due_s
            heappush(self._entries, (due_s, next(self._number), watched))
            if due_s < self._timer_s:
                self._set_timer(due_s)

    def forget(self, watched: Watched) -> None:
        """It will not come back. Its entry goes when it is due, or when there are too many such."""
        if watched.watched_s != inf:
            watched.watched_s = inf
            self._stale += 1
            if self._stale > _MAX_STALE and self._stale * 2 > len(self._entries):
                self._entries = [entry for entry in self._entries if entry[2].watched_s == entry[0]]
                heapify(self._entries)
                self._stale = 0

    def close(self) -> None:
        """Look at nobody any more."""
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = self._loop.call_at(due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_s = None, inf
        now_s = self._loop.time()
        while self._entries and self._entries[0][0] <= now_s:
            due_s, _, watched = heappop(self._entries)
            if watched.watched_s != due_s:  # it is gone, or stands there twice
                self._stale = max(0, self._stale - 1)
                continue
            watched.watched_s = inf
            self.add(watched, watched.look(now_s))
        if self._entries and self._entries[0][0] < self._timer_s:
            self._set_timer(self._entries[0][0])


class Patience:
    """As ``asyncio.timeout_at``, looked after by a ``Watch``: ``with Patience(watch, until_s)``, in a task.

    It costs a tenth, and whoever opens connections does it for each. Raises TimeoutError at ``until_s``.
    """

    __slots__ = ("_cancelling", "_task", "_until_s", "_watch", "is_over", "watched_s")

    def __init__(self, watch: Watch, until_s: float) -> None:
        self._watch = watch
        self._until_s = until_s
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.is_over = False
        self.watched_s = inf

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "only a task can wait"
        self._task = task
        self._cancelling = task.cancelling()
        self._watch.add(self, self._until_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        assert task is not None, "it was entered"
        if not self.is_over:
            self._watch.forget(self)
        elif task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error  # nobody else has cancelled it

    def look(self, now_s: float) -> float:
        """See Watched."""
        if self._task is not None:
            self.is_over = True
            self._task.cancel()
        return inf
