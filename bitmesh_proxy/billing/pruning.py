"""Old requests are summed up while the service runs, a few at a time (``ledger.keep_s``; how: ``storage/months.py``).

There is no hurry. A step takes the writer for about a millisecond, and the next one comes after ``REST`` times as long
as it took, waiting for its turn included: the more there is to write for callers, the longer the rests. On busy books
of 100,000 keys that was 2,000 requests a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

from bitmesh_proxy.errors import GatewayError
from bitmesh_proxy.shielded import shielded
from bitmesh_proxy.storage.months import Due, Hindrance, LedgerMonths, Step

log = logging.getLogger(__name__)

#: Not in the way of a start.
FIRST_LOOK_S: Final = 5.0
INTERVAL_S: Final = 3600.0
REST: Final = 9.0
MIN_REST_S: Final = 0.005


async def prune(months: LedgerMonths, due: Due, *, rest: float = REST) -> AsyncIterator[Step]:
    """Sum up all requests that are due; gives each step. ``rest``: 0 for when nobody else writes.

    Raises Unavailable when the books cannot be written; what was done until then is done. When it is cancelled in the
    middle of a step, it gives that step too before it ends: what was submitted is written.
    """
    loop = asyncio.get_running_loop()
    while True:
        began_s = loop.time()
        work = asyncio.ensure_future(months.step(due.before_s, through=due.last_request))
        try:
            step = await shielded(work)
        except asyncio.CancelledError:
            await asyncio.wait((work,))
            if work.exception() is None:
                yield work.result()
            raise
        if step.is_last:
            return
        yield step
        await asyncio.sleep(max(MIN_REST_S, rest * (loop.time() - began_s)) if rest else 0)


class Pruner:
    """Does so for as long as the service runs. ``clock`` is Unix time."""

    def __init__(self, months: LedgerMonths, *, keep_s: float, clock: Callable[[], float] = time.time) -> None:
        self._months = months
        self._keep_s = keep_s
        self._clock = clock
        #: The request that has been named as holding up others.
        self._named: str | None = None

    async def run(self, *, first_look_s: float = FIRST_LOOK_S, interval_s: float = INTERVAL_S) -> None:
        """Look now and then, until it is cancelled."""
        await asyncio.sleep(first_look_s)
        while True:
            try:
                await self.look()
            except GatewayError as error:
                log.warning("old requests cannot be summed up now: %s", error.code)
            except Exception:  # the top of a background task: if it ended, the ledger would grow again
                log.exception("old requests cannot be summed up")
            await asyncio.sleep(interval_s)

    async def look(self) -> None:
        """Sum up what is old, and say in one line what was done, also when it is broken off."""
        now_s = self._clock()
        due = await self._months.due(now_s - self._keep_s, now_s=now_s)
        requests, latest_s = 0, 0.0
        try:
            async for step in prune(self._months, due):
                requests += step.requests
                latest_s = max(latest_s, step.started_at_s)
        finally:
            if requests:
                upto = f" up to {show_day(latest_s)}" if latest_s else ""
                log.info("%d requests%s have been summed up by month", requests, upto)
        self._name(due.held_up_by)

    def _name(self, hindrance: Hindrance | None) -> None:
        """Once, for as long as it holds up others."""
        named, self._named = self._named, None if hindrance is None else hindrance.request_id
        if hindrance is None or hindrance.request_id == named:
            return
        name, began = hindrance.request_id, show_day(hindrance.began_s)
        if hindrance.is_open:
            log.warning("request %s is open since %s: what came after it is not summed up", name, began)
        else:
            until = show_day(hindrance.began_s + self._keep_s)
            text = "request %s began on %s, later than what came after it (was the clock wrong?): that is kept until %s"
            log.warning(text, name, began, until)


def show_day(moment_s: float) -> str:
    """``2026-08-20``, UTC."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%d")
