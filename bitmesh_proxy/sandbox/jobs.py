"""Long work as rows: a job's state follows from the clock, so nothing runs in the background.

A job spends the first quarter of its time in the queue. The oldest goes first when the book is full.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bitmesh_proxy.sandbox.studio import Recipe

QUEUED_SHARE = 0.25


class JobPhase(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """``owner`` is the play's name; ``facts`` is what the play wants to know again; times in seconds."""

    owner: str
    job_id: str
    created_at: float
    duration_s: float
    will_fail: bool
    recipe: Recipe
    facts: dict[str, Any]

    @property
    def ends_at(self) -> float:
        return self.created_at + self.duration_s

    def phase(self, now: float) -> JobPhase:
        if now >= self.ends_at:
            return JobPhase.FAILED if self.will_fail else JobPhase.DONE
        return JobPhase.QUEUED if self.progress(now) < QUEUED_SHARE else JobPhase.RUNNING

    def progress(self, now: float) -> float:
        """From 0 to 1."""
        return min(1.0, (now - self.created_at) / self.duration_s) if self.duration_s else 1.0


class JobBook:
    def __init__(self, *, max_jobs: int) -> None:
        self._max_jobs = max_jobs
        self._jobs: OrderedDict[tuple[str, str], Job] = OrderedDict()
        #: Is told of each job that comes.
        self.on_add: Callable[[Job], None] = lambda job: None

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        self._jobs[job.owner, job.job_id] = job
        while len(self._jobs) > self._max_jobs:
            self._jobs.popitem(last=False)
        self.on_add(job)

    def find(self, owner: str, job_id: str) -> Job | None:
        return self._jobs.get((owner, job_id))

    def remove(self, owner: str, job_id: str) -> Job | None:
        return self._jobs.pop((owner, job_id), None)

    def newest_first(self, owner: str) -> Iterator[Job]:
        return (job for (name, _), job in reversed(self._jobs.items()) if name == owner)
