"""The clockwork that takes every open job to its end, whether or not its owner ever comes back.

Jobs that are due are polled concurrently, with a cap per provider, so that one slow provider holds up nobody else. All
state is in the rows: after a restart the first look finds what the last process left. Rows of jobs that ended long ago
(``jobs.keep_s``) go.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from bitmesh_proxy.errors import GatewayError
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.settings import Jobs as JobSettings
from bitmesh_proxy.storage.jobs import Job, JobStore
from bitmesh_proxy.storage.sweeps import NowAndThen

log = logging.getLogger(__name__)

#: Rows looked at in one go.
BATCH = 500
#: The longest sleep: a job that another process started is found after so long at the latest.
MAX_SLEEP_S = 5.0
MIN_SLEEP_S = 0.02
#: Old rows are looked for this often, and so many go at once.
SWEEP_INTERVAL_S = 60.0
SWEEP_ROWS = 500
#: After a fault of the database.
TROUBLE_SLEEP_S = 2.0


class Poller:
    """Runs until it is cancelled. ``clock`` is Unix time."""

    def __init__(
        self,
        service: JobService,
        store: JobStore,
        settings: JobSettings,
        clock: Callable[[], float] = time.time,
        *,
        max_sleep_s: float = MAX_SLEEP_S,
    ) -> None:
        self._service = service
        self._store = store
        self._settings = settings
        self._clock = clock
        self._max_sleep_s = max_sleep_s
        self._longest_s = max(settings.first_poll_s, settings.max_poll_s, settings.slow_poll_s)
        self._sweeps = NowAndThen(SWEEP_INTERVAL_S)
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(settings.max_concurrent_polls_per_provider)
        )

    async def run(self) -> None:
        """Look, poll what is due, sleep until the next is due, a poll has ended, or a new job is started."""
        try:
            while True:
                self._service.changed.clear()  # before looking: what changes meanwhile must not be slept over
                try:
                    sleep_s = await self.step()
                except GatewayError as error:  # the database is locked or full
                    log.warning("jobs cannot be looked after now: %s", error.code)
                    sleep_s = TROUBLE_SLEEP_S
                except Exception:  # the top of a background task: if it ended, no job would
                    log.exception("jobs cannot be read")
                    sleep_s = TROUBLE_SLEEP_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(sleep_s):
                        await self._service.changed.wait()
        finally:
            for task in self._under_way.values():
                task.cancel()
            await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def step(self) -> float:
        """Start the polls that are due; gives the seconds until the next one is."""
        now_s = self._clock()
        for job in await self._store.due(now_s, latest_s=now_s + self._longest_s, limit=BATCH):
            if job.id not in self._under_way:
                task = self._under_way[job.id] = asyncio.create_task(self._poll(job))
                task.add_done_callback(functools.partial(self._forget, job.id))
        if self._sweeps.is_due(now_s):  # what the jobs cost stays in the ledger
            await self._store.forget_ended(before_s=now_s - self._settings.keep_s, limit=SWEEP_ROWS)
        next_at_s = await self._store.next_due_at_s(after_s=now_s)
        if next_at_s is None:
            return self._max_sleep_s
        return min(self._max_sleep_s, max(MIN_SLEEP_S, next_at_s - now_s))

    def _forget(self, job_id: str, _: asyncio.Task[None]) -> None:
        self._under_way.pop(job_id, None)
        self._service.changed.set()  # its next poll may be the next of all

    async def _poll(self, job: Job) -> None:
        async with self._slots[job.provider]:
            try:
                await self._service.poll(job)
            except GatewayError as error:
                log.warning("a job's state cannot be kept: %s", error.code, extra={"job_id": job.id})
                await asyncio.sleep(TROUBLE_SLEEP_S)
            except Exception:
                # One job that cannot be understood must not stop the others; it is tried again when it is due.
                log.exception("a poll failed", extra={"job_id": job.id})
                await asyncio.sleep(TROUBLE_SLEEP_S)
