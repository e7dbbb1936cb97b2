"""Work that must finish whoever leaves: settlements, and calls that go on without their caller.

It lives in tasks that the application knows, not in a handler's, and is awaited when the application stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from bitmesh_proxy.errors import CallerLeft, GatewayError, Unavailable
from bitmesh_proxy.shielded import shielded

T = TypeVar("T")

log = logging.getLogger(__name__)

#: How long stopping waits for what is under way.
CLOSE_TIMEOUT_S = 15.0
#: Pauses between attempts while the database cannot be written: the first, and the longest.
FIRST_RETRY_S = 0.05
MAX_RETRY_S = 5.0


class Settlements:
    """Keeps tasks until they are done."""

    def __init__(self, *, first_retry_s: float = FIRST_RETRY_S, max_retry_s: float = MAX_RETRY_S) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._first_retry_s = first_retry_s
        self._max_retry_s = max_retry_s

    def __len__(self) -> int:
        """How much is under way."""
        return len(self._tasks)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end, and wait for it; whoever is cancelled while waiting leaves it running."""
        task = self._start(work)
        try:
            return await shielded(task)
        except asyncio.CancelledError:
            task.add_done_callback(_report)  # nobody else will hear of it
            raise

    def insist(self, attempt: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Repeat ``attempt`` until the database takes it. It must not matter if it is done twice.

        Goes on whether or not the task is awaited; ends early only with an error that is not ``Unavailable``.
        """
        task = self._start(self._repeat(attempt))
        task.add_done_callback(_report)
        return task

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait for what is under way; what is not done after ``timeout_s`` is left to the next start's recovery."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while self._tasks:  # work under way may start more
            _, pending = await asyncio.wait(
                self._tasks, timeout=max(0.0, deadline_s - asyncio.get_running_loop().time())
            )
            if not pending:
                continue
            log.error("%d settlements could not be finished; the next start resolves them", len(pending))
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _repeat(self, attempt: Callable[[], Awaitable[T]]) -> T:
        pause_s = self._first_retry_s
        while True:
            try:
                return await attempt()
            except Unavailable:
                await asyncio.sleep(pause_s)
                pause_s = min(self._max_retry_s, pause_s * 2)


def _report(task: asyncio.Task[Any]) -> None:
    """Whoever waited has the exception; if nobody did, it must not be lost without a word."""
    if task.cancelled() or (exc := task.exception()) is None:
        return
    if isinstance(exc, CallerLeft):  # the work itself has noticed it: an outcome, and what led here
        return
    if isinstance(exc, GatewayError):
        log.info("work that its caller had left ended with %s: %s", exc.code, exc.message)
    else:
        log.error("work that its caller had left failed", exc_info=exc)
