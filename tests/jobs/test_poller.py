"""The clockwork: what is due is asked, nobody holds up anybody else, and nothing is slept over."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.calls import JobStatus
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.jobs.poller import MAX_SLEEP_S, Poller
from bitmesh_proxy.storage.jobs import JobStore
from tests.jobs.jobs import SETTINGS, Room, service_of
from tests.journeys.gateway import eventually, until


def poller_of(room: Room) -> Poller:
    return Poller(room.service, room.store, SETTINGS, clock=room.clock)


def polls(room: Room) -> int:
    return len([each for each in room.gateway.upstream_calls() if each.method == "GET"])


async def test_nothing_is_asked_before_it_is_due(room: Room) -> None:
    await room.submit()
    poller = poller_of(room)
    assert 1.9 < await poller.step() <= 2.0
    assert polls(room) == 0
    room.clock.now_s += 2.5
    assert await poller.step() == MAX_SLEEP_S
    await eventually(lambda: polls(room) == 1, "the job is asked for")


async def test_without_jobs_it_sleeps_as_long_as_it_may(room: Room) -> None:
    assert await poller_of(room).step() == MAX_SLEEP_S


async def test_a_job_is_not_asked_for_twice_at_once(room: Room) -> None:
    await room.submit()
    room.clock.now_s += 2.5
    room.gateway.fault("stall=0.3", method="GET")
    poller = poller_of(room)
    for _ in range(5):
        await poller.step()
    await eventually(lambda: polls(room) == 1, "the job is asked for")
    await asyncio.sleep(0.05)
    assert polls(room) == 1


async def test_a_provider_is_asked_so_many_things_at_once(room: Room) -> None:
    for _ in range(4):
        await room.submit()
    room.clock.now_s += 2.5
    room.gateway.fault("stall=1", method="GET", times=2)
    await poller_of(room).step()
    await eventually(lambda: polls(room) == SETTINGS.max_concurrent_polls_per_provider, "as many as may be")
    await asyncio.sleep(0.05)
    assert polls(room) == SETTINGS.max_concurrent_polls_per_provider
    await eventually(lambda: polls(room) == 4, "the others have had their turn")


async def test_it_runs_every_job_to_its_end_and_wakes_when_one_is_added(room: Room) -> None:
    running = asyncio.create_task(poller_of(room).run())
    try:
        first = await room.submit("A cat [[sandbox: job_s=0]]")
        room.clock.now_s += 2.5
        room.service.changed.set()

        async def is_done() -> bool:
            job = await room.store.get(room.gateway.account_id, first.provider_job_id)
            return job is not None and job.status is JobStatus.COMPLETED

        await until(is_done, "the clip is done")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    await room.gateway.check_books()


async def test_a_clock_that_goes_back_by_hours_holds_up_no_job(room: Room) -> None:
    await room.submit()
    poller = poller_of(room)
    room.clock.now_s -= 5 * 3600
    await poller.step()
    await eventually(lambda: polls(room) == 1, "the job is asked for")
    await until(lambda: is_put_off(room), "its next poll is one by the new time")
    assert await poller.step() <= SETTINGS.max_poll_s
    assert polls(room) == 1


async def is_put_off(room: Room) -> bool:
    """Whether the next poll of any job is one that the settings allow for."""
    now_s = room.clock.now_s
    next_at_s = await room.store.next_due_at_s(after_s=now_s)
    return next_at_s is not None and next_at_s <= now_s + SETTINGS.max_poll_s


async def test_a_job_of_an_offer_that_is_gone_is_postponed_not_lost(room: Room) -> None:
    job = await room.submit()
    room.clock.now_s += 2.5
    service = service_of(room.gateway, room.clock, access={})
    await Poller(service, room.store, SETTINGS, clock=room.clock).step()

    async def is_postponed() -> bool:
        kept = await room.store.get(room.gateway.account_id, job.provider_job_id)
        return kept is not None and kept.next_poll_at_s is not None and kept.next_poll_at_s > room.clock.now_s

    await until(is_postponed, "it waits for its provider to come back")
    assert polls(room) == 0
    await room.gateway.check_books(open_requests=1)


async def test_a_job_that_ended_long_ago_is_forgotten_and_what_it_cost_is_not(room: Room) -> None:
    job = await room.submit("A cat [[sandbox: job_s=0]]")
    poller = poller_of(room)

    async def state() -> JobStatus | None:
        found = await room.store.get(room.gateway.account_id, job.provider_job_id)
        return None if found is None else found.status

    async def is_done() -> bool:
        return await state() is JobStatus.COMPLETED

    room.clock.now_s += 2.5
    await poller.step()
    await until(is_done, "the clip is done")
    # (Days in one step would be a poll's timeout, too; here nothing is open any more.)
    room.clock.now_s += SETTINGS.keep_s - 60
    await poller.step()
    assert await state() is JobStatus.COMPLETED
    room.clock.now_s += 30
    await poller.step()  # too soon after the last look
    room.clock.now_s += 60
    assert await state() is JobStatus.COMPLETED
    await poller.step()
    assert await state() is None
    answer = await room.gateway.get(f"/video/{job.provider_job_id}")
    assert answer.status == 404
    await room.gateway.check_books()


class LockedStore(JobStore):
    """Where somebody else has the database for a while."""

    async def forget_ended(self, *, before_s: float, limit: int) -> int:
        raise Unavailable("The books cannot be written at the moment. Please try again.")


async def test_a_database_that_is_locked_for_a_while_is_no_fault_of_ours(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bitmesh_proxy.jobs.poller")
    store = LockedStore(room.gateway.app[keys.DATABASE])
    running = asyncio.create_task(Poller(room.service, store, SETTINGS, clock=room.clock).run())
    try:
        await eventually(lambda: "jobs cannot be looked after now: unavailable" in caplog.messages, "it is said")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert [record.levelname for record in caplog.records if record.name.endswith("poller")] == ["WARNING"]
