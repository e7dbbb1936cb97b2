"""Work that must finish whoever leaves: settlements, and calls that go on without their caller.

It lives in tasks that the application knows, not in a handler's, and is awaited when the application stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

#: How long stopping waits for what is under way.
CLOSE_TIMEOUT_S = 30.0


class Settlements:
    """Keeps tasks until they are done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end, and wait for it; whoever is cancelled while waiting leaves it running."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Whoever waited has the exception; if nobody did, it must not be lost without a word.
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.debug("work that was to be finished ended with %r", exc)

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait for what is under way; what is not done after ``timeout_s`` is left to the next start's recovery."""
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in pending:
            task.cancel()
        if pending:
            log.error("%d settlements could not be finished; the next start resolves them", len(pending))
            await asyncio.gather(*pending, return_exceptions=True)
