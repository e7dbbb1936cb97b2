from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from bitmesh_proxy.calls import JobStatus
from bitmesh_proxy.errors import NotFound
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.instances import register_instance
from bitmesh_proxy.storage.jobs import _FORGET_ENDED, MAX_STATE_BYTES, JobStore, NewJob
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.verification import verify_books
from tests.storage.examples import NOON_S, USD, closing, key_spec, opening, released, usd


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


def new_job(account: Account, request_id: str = "req_1", **changes: Any) -> NewJob:
    return replace(
        NewJob(
            account_id=account.id,
            key_id="key_1",
            request_id=request_id,
            model_id="google/veo-3.1",
            provider="together",
            offer_id="together:google/veo-3.1",
            provider_job_id="video_1",
            status=JobStatus.QUEUED,
            facts={"seconds": "5"},
            state={"raw": {"status": "queued"}},
            created_at_s=NOON_S,
            next_poll_at_s=NOON_S + 2,
        ),
        **changes,
    )


async def test_job_is_kept_and_found_by_its_owner_alone(
    jobs: JobStore, ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore
) -> None:
    await ledger.open_reservation(opening("req_1", account.id))
    job = await jobs.create(new_job(account))
    assert job.id.startswith("job_")
    assert (job.status, job.polls, job.refusals, job.completed_at_s) == (JobStatus.QUEUED, 0, 0, None)
    assert (job.facts, job.state) == ({"seconds": "5"}, {"raw": {"status": "queued"}})
    assert (job.created_at_s, job.next_poll_at_s) == (NOON_S, NOON_S + 2)
    assert await jobs.get(account.id, "video_1") == job
    other = await accounts.create("Bob")
    assert await jobs.get(other.id, "video_1") is None
    assert await jobs.get(account.id, "video_2") is None
    assert await jobs.hold_of("req_1") == USD


async def test_job_of_unknown_owner_is_refused(jobs: JobStore, account: Account, key: KeyRecord) -> None:
    with pytest.raises(NotFound):
        await jobs.create(new_job(account, key_id="key_2"))
    with pytest.raises(NotFound):
        await jobs.hold_of("req_unknown")


async def test_making_it_again_gives_the_same_job(
    jobs: JobStore, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await ledger.open_reservation(opening("req_1", account.id))
    first = await jobs.create(new_job(account))
    assert await jobs.create(new_job(account)) == first


async def test_due_ones_come_in_order(jobs: JobStore, account: Account, key: KeyRecord) -> None:
    for number, seconds in enumerate([30, 10, 20]):
        await jobs.create(
            new_job(account, f"req_{number}", provider_job_id=f"v{number}", next_poll_at_s=NOON_S + seconds)
        )
    assert await jobs.due(NOON_S + 9, latest_s=NOON_S * 3, limit=10) == []
    assert [job.provider_job_id for job in await jobs.due(NOON_S + 20, latest_s=NOON_S * 3, limit=10)] == ["v1", "v2"]
    assert [job.provider_job_id for job in await jobs.due(NOON_S + 99, latest_s=NOON_S * 3, limit=2)] == ["v1", "v2"]
    assert [job.provider_job_id for job in await jobs.due(NOON_S, latest_s=NOON_S + 25, limit=9)] == ["v0"]
    assert await jobs.next_due_at_s(after_s=NOON_S + 10) == NOON_S + 20
    assert await jobs.next_due_at_s(after_s=NOON_S + 30) is None


async def test_update_and_postpone(jobs: JobStore, account: Account, key: KeyRecord) -> None:
    job = await jobs.create(new_job(account))
    job = await jobs.postpone(job.id, next_poll_at_s=NOON_S + 5, refusals=1)
    assert (job.polls, job.refusals, job.next_poll_at_s) == (1, 1, NOON_S + 5)
    job = await jobs.update(job.id, status=JobStatus.IN_PROGRESS, state={"raw": None}, next_poll_at_s=NOON_S + 9)
    assert (job.polls, job.refusals, job.status, job.state) == (2, 0, JobStatus.IN_PROGRESS, {"raw": None})
    with pytest.raises(NotFound):
        await jobs.postpone("job_unknown", next_poll_at_s=NOON_S, refusals=0)


async def test_end_closes_job_and_request_together_and_once(
    jobs: JobStore, ledger: LedgerStore, account: Account, key: KeyRecord, accounts: AccountStore, database: Database
) -> None:
    await ledger.open_reservation(opening("req_1", account.id, hold_nano_usd=usd(2)))
    job = await jobs.create(new_job(account))
    assert await jobs.open_requests() == {"req_1"}
    ends = [
        jobs.finish(
            job.id,
            status=JobStatus.COMPLETED,
            state={"raw": {"status": "completed"}},
            completed_at_s=NOON_S + 61.5,
            closing=closing("req_1", amount, total_ms=None),
        )
        for amount in (usd(1), usd(2))
    ]
    first, second = await asyncio.gather(*ends)
    assert first == second
    assert (first.status, first.next_poll_at_s, first.completed_at_s) == (JobStatus.COMPLETED, None, NOON_S + 61.5)
    row = await ledger.request("req_1")
    assert row is not None
    assert (row.state, row.charge_nano_usd, row.total_ms) == ("settled", usd(1), 61_500)
    found = await accounts.get(account.id)
    assert found is not None
    assert (found.balance_nano_usd, found.held_nano_usd) == (usd(6), 0)
    late = await jobs.update(job.id, status=JobStatus.QUEUED, state={}, next_poll_at_s=NOON_S)
    assert late == first
    assert await jobs.due(NOON_S * 2, latest_s=NOON_S * 3, limit=10) == []
    assert await jobs.open_requests() == set()
    assert await verify_books(database) == []


async def test_failure_releases(jobs: JobStore, ledger: LedgerStore, account: Account, key: KeyRecord) -> None:
    await ledger.open_reservation(opening("req_1", account.id))
    job = await jobs.create(new_job(account))
    await jobs.finish(job.id, status=JobStatus.FAILED, state={}, completed_at_s=NOON_S, closing=released("req_1"))
    row = await ledger.request("req_1")
    assert row is not None
    assert (row.state, row.charge_nano_usd) == ("released", 0)


async def test_open_job_keeps_its_request_over_a_restart(
    jobs: JobStore, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    for name in ("req_1", "req_2"):
        await ledger.open_reservation(opening(name, account.id))
    await jobs.create(new_job(account))
    assert await ledger.resolve_interrupted(alive=[]) == 1
    assert [row.request_id for row in await ledger.find_open()] == ["req_1"]


async def test_jobs_and_those_to_come_are_counted_by_key(
    jobs: JobStore, ledger: LedgerStore, account: Account, key: KeyRecord, keys: KeyStore, database: Database
) -> None:
    instance = await register_instance(database)

    async def take(request_id: str, key_id: str = "key_1") -> bool:
        return await jobs.take_place(key_id, request_id, instance=instance.number, limit=2)

    await keys.create(key_spec(account.id, id="key_2", token_digest=None, consumer_key="ck"))
    await ledger.open_reservation(opening("req_1", account.id))
    assert [await take("req_1"), await take("req_2"), await take("req_3")] == [True, True, False]
    assert await take("req_4", "key_2")
    first = await jobs.create(new_job(account, "req_1"))
    await jobs.leave_place("req_1")
    assert not await take("req_3"), "the job has the place of its request, and no second one"
    await jobs.leave_place("req_2")
    assert await take("req_3")
    await jobs.finish(first.id, status=JobStatus.CANCELLED, state={}, completed_at_s=NOON_S, closing=released("req_1"))
    assert await take("req_5")
    assert not await take("req_6")
    await instance.close()
    other = await register_instance(database)
    assert await jobs.take_place("key_1", "req_6", instance=other.number, limit=1), "with a process its places go"
    await other.close()


async def test_newest_job_of_a_name_counts(jobs: JobStore, account: Account, key: KeyRecord) -> None:
    await jobs.create(new_job(account, "req_1"))
    second = await jobs.create(new_job(account, "req_2"))
    assert await jobs.get(account.id, "video_1") == second


async def test_large_answers_are_not_kept(jobs: JobStore, account: Account, key: KeyRecord) -> None:
    state = {"progress_percent": 50, "raw": {"preview": "x" * MAX_STATE_BYTES}}
    job = await jobs.create(new_job(account, state=state))
    assert job.state == {"progress_percent": 50, "raw": None}


async def test_pages_go_both_ways_and_stay_with_their_owner(
    jobs: JobStore, account: Account, key: KeyRecord, accounts: AccountStore
) -> None:
    for number in range(4):
        await jobs.create(new_job(account, f"req_{number}", provider_job_id=f"v{number}"))
    stranger = await accounts.create("stranger")

    async def names(after: str | None, limit: int, newest_first: bool, account_id: str = account.id) -> list[str]:
        found = await jobs.page(account_id, after=after, limit=limit, newest_first=newest_first)
        return [job.provider_job_id for job in found]

    assert await names(None, 3, True) == ["v3", "v2", "v1"]
    assert await names("v1", 3, True) == ["v0"]
    assert await names("v1", 1, False) == ["v2"]
    assert await names("unknown", 3, True) == []
    assert await names(None, 3, True, stranger.id) == []


async def test_only_a_job_that_has_ended_is_deleted(
    jobs: JobStore, ledger: LedgerStore, account: Account, key: KeyRecord
) -> None:
    await ledger.open_reservation(opening("req_1", account.id))
    job = await jobs.create(new_job(account))
    await jobs.delete(job.id)
    assert await jobs.get(account.id, job.provider_job_id) == job
    await jobs.finish(job.id, status=JobStatus.FAILED, state={}, completed_at_s=NOON_S, closing=released("req_1"))
    await jobs.delete(job.id)
    assert await jobs.get(account.id, job.provider_job_id) is None
    assert await ledger.request("req_1") is not None


async def test_ended_jobs_go_oldest_first_and_open_ones_stay(
    jobs: JobStore, ledger: LedgerStore, account: Account, key: KeyRecord, database: Database
) -> None:
    for number in range(5):
        await ledger.open_reservation(opening(f"req_{number}", account.id))
        job = await jobs.create(new_job(account, f"req_{number}", provider_job_id=f"video_{number}"))
        if number != 1:
            closed = closing(f"req_{number}", 5)
            ended_at_s = NOON_S + 100 - number
            await jobs.finish(job.id, status=JobStatus.COMPLETED, state={}, completed_at_s=ended_at_s, closing=closed)

    async def kept() -> list[str]:
        rows = await database.read("SELECT provider_job_id FROM jobs ORDER BY number")
        return [row[0].removeprefix("video_") for row in rows]

    assert await jobs.forget_ended(before_s=NOON_S + 96, limit=10) == 0
    assert await jobs.forget_ended(before_s=NOON_S + 99, limit=1) == 1
    assert await kept() == ["0", "1", "2", "3"]
    assert await jobs.forget_ended(before_s=NOON_S + 9999, limit=2) == 2
    assert await kept() == ["0", "1"]
    assert await jobs.forget_ended(before_s=NOON_S + 9999, limit=2) == 1
    assert await kept() == ["1"]
    assert await verify_books(database) == []
    request = await ledger.request("req_0")
    assert request is not None
    assert request.charge_nano_usd == 5


async def test_ended_jobs_are_found_without_reading_others(database: Database) -> None:
    plan = [row[3] for row in await database.read(f"EXPLAIN QUERY PLAN {_FORGET_ENDED}", (0, 1))]
    reads = [step for step in plan if step.split()[1] == "jobs"]
    assert "SEARCH jobs USING COVERING INDEX jobs_ended (completed_at_ms<?)" in reads, plan
    assert [step for step in reads if not step.startswith("SEARCH")] == [], plan
