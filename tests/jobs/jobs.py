"""A job service over a running gateway whose own poller sleeps, with a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bitmesh_proxy import keys
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.settings import Jobs
from bitmesh_proxy.storage.jobs import Job, JobStore
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.attempts import Attempts
from tests.hand_clock import HandClock
from tests.journeys.gateway import Gateway, running_gateway, video

SETTINGS = Jobs(
    first_poll_s=2.0, max_poll_s=20.0, backoff_factor=2.0, max_concurrent_polls_per_provider=2,
    slow_after_s=3600.0, slow_poll_s=300.0, give_up_after_s=86400.0, max_open_per_key=3,
)  # fmt: skip
#: Far beyond any test.
ASLEEP = {"jobs": {"first_poll_s": 9000.0, "max_poll_s": 9000.0}}


@dataclass(slots=True)
class Room:
    """The room under test and what it stands on."""

    gateway: Gateway
    service: JobService
    store: JobStore
    clock: HandClock

    async def submit(self, prompt: str = "A cat [[sandbox: job_s=3600]]", **more: object) -> Job:
        """Hand a clip in through the gateway; its first poll is due in two seconds of the clock."""
        answer = await self.gateway.post("/video", video(prompt, **more))
        assert answer.status == 200, answer.json
        job = await self.store.get(self.gateway.account_id, answer.json["id"])
        assert job is not None
        self.clock.now_s = max(self.clock.now_s, job.created_at_s)
        return await self.store.postpone(job.id, next_poll_at_s=self.clock.now_s + 2.0, refusals=0)


def service_of(
    gateway: Gateway,
    clock: HandClock,
    *,
    access: Mapping[str, ProviderAccess] | None = None,
    attempts: Attempts | None = None,
) -> JobService:
    """A service over the gateway's rooms; ``access`` in place of its own says which providers are configured."""
    app = gateway.app
    return JobService(
        JobStore(app[keys.DATABASE]),
        books=app[keys.BOOKS],
        catalogue=app[keys.CATALOGUE],
        access=app[keys.ACCESS] if access is None else access,
        attempts=attempts or app[keys.ATTEMPTS],
        media=app[keys.MEDIA],
        settlements=app[keys.SETTLEMENTS],
        settings=SETTINGS,
        instance=app[keys.INSTANCE],
        clock=clock,
    )


@asynccontextmanager
async def running_room(directory: Path, *, credit_usd: str = "10") -> AsyncIterator[Room]:
    """Start all of it."""
    async with running_gateway(directory, ASLEEP, credit_usd=credit_usd) as gateway:
        clock = HandClock(0.0)
        service = service_of(gateway, clock)
        try:
            yield Room(gateway=gateway, service=service, store=JobStore(gateway.app[keys.DATABASE]), clock=clock)
        finally:
            await service.close()
