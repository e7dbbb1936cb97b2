"""A job's state follows from the clock."""

from __future__ import annotations

from bitmesh_proxy.sandbox.jobs import Job, JobBook, JobPhase
from bitmesh_proxy.sandbox.pictures import Picture

RECIPE = Picture(prompt="x", width=8, height=8)


def make_job(job_id: str = "a", *, owner: str = "openai", duration_s: float = 8.0, will_fail: bool = False) -> Job:
    return Job(
        owner=owner,
        job_id=job_id,
        created_at=100.0,
        duration_s=duration_s,
        will_fail=will_fail,
        recipe=RECIPE,
        facts={},
    )


def test_queued_running_done() -> None:
    job = make_job()
    phases = [job.phase(100.0 + age) for age in (0, 1.9, 2, 7.9, 8, 1000)]
    queued, running, done = JobPhase.QUEUED, JobPhase.RUNNING, JobPhase.DONE
    assert phases == [queued, queued, running, running, done, done]
    assert [job.progress(100.0 + age) for age in (0, 4, 8, 80)] == [0.0, 0.5, 1.0, 1.0]


def test_a_failing_job_fails_at_its_end() -> None:
    job = make_job(will_fail=True)
    assert job.phase(107.9) is JobPhase.RUNNING
    assert job.phase(108.0) is JobPhase.FAILED


def test_a_job_without_duration_is_done_at_once() -> None:
    assert make_job(duration_s=0).phase(100.0) is JobPhase.DONE
    assert make_job(duration_s=0).progress(100.0) == 1.0


def test_the_book_is_bounded_and_keeps_owners_apart() -> None:
    book = JobBook(max_jobs=3)
    for job_id in "abcd":
        book.add(make_job(job_id, owner="openai" if job_id != "d" else "together"))
    assert len(book) == 3
    assert book.find("openai", "a") is None
    assert book.find("openai", "d") is None
    assert book.find("together", "d") is not None
    assert [job.job_id for job in book.newest_first("openai")] == ["c", "b"]
    assert book.remove("openai", "b") is not None
    assert book.remove("openai", "b") is None
