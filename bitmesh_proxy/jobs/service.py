"""Long work: started by a call, taken to its end by the poller, looked at by its owner.

A job is a row. Whoever wants to know how it is doing, poller or owner, asks the provider through ``poll``, which lets
only one question per job be under way. The books are closed once, in the same transaction as the row. A question that
fails says nothing about the job: it is asked again later, and the hold stays (unless, time after time, the answer is
larger than is taken, or an error that names the job). Nor is a job done without a clip that can be handed out: its link
may come a little after the word, and if it does not, the job has failed. So has one, in the end, of which no last word
came within ``jobs.give_up_after_s``, for whatever reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from bitmesh_proxy.billing.bill import Ending, bill_of
from bitmesh_proxy.billing.reservation import Books, Outcome, Reservation
from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.calls import JobState, JobStatus, Media, MediaOutput, Usage, VideoCall
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.endpoints.endpoint import JobView
from bitmesh_proxy.errors import (
    GatewayError,
    NotFound,
    ProviderRefused,
    RateLimited,
    StillRunning,
    Unavailable,
    UpstreamBroken,
)
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.settings import Jobs as JobSettings
from bitmesh_proxy.storage.jobs import Job, JobStore, NewJob
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.attempts import Attempts

log = logging.getLogger(__name__)

#: A job that its provider does not know, or calls done without giving a clip, or answers with more than is taken, or
#: that is too old, so many polls in a row, is lost.
LOST_AFTER_REFUSALS = 5
#: A question refused so may be answered later.
_PASSING_STATUSES = frozenset({408, 425, 429, 503})
#: Whoever waits for a job looks at its row at least so often.
LOOK_AGAIN_S = 1.0
#: Between the attempts to write a new job's row while the database cannot be written.
CREATE_PAUSES_S = (0.1, 0.5, 2.0, 5.0)
#: Stands for each picture of a call whose job goes on: only their number counts for the price.
_SOME_PICTURE = Media(kind="image")


class JobService:
    """Everything about jobs but the poller's clockwork. ``instance`` is this process's number, ``clock`` Unix time."""

    def __init__(
        self,
        store: JobStore,
        *,
        books: Books,
        catalogue: Catalogue,
        access: Mapping[str, ProviderAccess],
        attempts: Attempts,
        media: MediaResults,
        settlements: Settlements,
        settings: JobSettings,
        instance: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._books = books
        self._catalogue = catalogue
        self._access = access
        self._attempts = attempts
        self._media = media
        self._settlements = settlements
        self._settings = settings
        self._instance = instance
        self._clock = clock
        self._polls: dict[str, asyncio.Task[Job]] = {}
        self._ended = asyncio.Event()
        #: Set when a job was started or polled, so that the poller does not sleep over its next poll.
        self.changed = asyncio.Event()

    @asynccontextmanager
    async def place(self, key_id: str, request_id: str) -> AsyncIterator[None]:
        """For as long as a job is being handed in: its place among those that the key may have open.

        Raises RateLimited when the key has as many as it may have.
        """
        limit = self._settings.max_open_per_key
        try:
            is_taken = await self._store.take_place(key_id, request_id, instance=self._instance, limit=limit)
        except asyncio.CancelledError:
            await self._leave(request_id)  # it may have been taken, or be so still
            raise
        if not is_taken:
            raise RateLimited(
                f"Too many jobs under way with this API key: {limit} are allowed.",
                retry_after_s=self._settings.max_poll_s,
            )
        try:
            yield
        finally:
            await self._leave(request_id)

    async def _leave(self, request_id: str) -> None:
        """Before the answer, so that whoever has it may take the place; or as soon as the database takes it."""
        leave = partial(self._store.leave_place, request_id)
        try:
            await self._settlements.run(leave())
        except Unavailable:
            self._settlements.insist(leave)

    async def start(
        self,
        call: VideoCall,
        offer: Offer,
        *,
        state: JobState,
        reservation: Reservation,
        caller: Caller,
        context: RequestContext,
    ) -> Job:
        """Write the job's row; from then on the reservation is the job's."""
        now_s = self._clock()
        job = await self._create(
            NewJob(
                account_id=caller.account_id,
                key_id=caller.key_id,
                request_id=context.request_id,
                model_id=offer.model_id,
                provider=offer.provider,
                offer_id=offer.id,
                provider_job_id=state.provider_job_id,
                facts=facts_of(call),
                state=_dump(state, []),
                status=JobStatus.IN_PROGRESS if state.status.is_final else state.status,  # its end is noted by _apply
                created_at_s=now_s,
                next_poll_at_s=now_s + self._settings.first_poll_s,
            )
        )
        reservation.hand_over()
        self.changed.set()
        return await self._apply(job, state) if state.status.is_final else job

    async def _create(self, new: NewJob) -> Job:
        """The provider is at work already, so the row is insisted on for a while."""
        for pause_s in CREATE_PAUSES_S:
            try:
                return await self._store.create(new)
            except Unavailable:
                log.warning("a job cannot be written now; trying again", extra={"request_id": new.request_id})
                await asyncio.sleep(pause_s)
        return await self._store.create(new)

    async def get(self, account_id: str, provider_job_id: str) -> Job:
        """The account's job. Raises NotFound, for another account's too."""
        job = await self._store.get(account_id, provider_job_id)
        if job is None:
            raise NotFound("Video job not found")
        return job

    async def refresh(self, job: Job) -> Job:
        """The job as its provider sees it now; as it was last seen when the provider cannot be asked."""
        if job.status.is_final:
            return job
        return await self.poll(job)

    async def wait(self, job: Job, *, timeout_s: float) -> Job:
        """The job when it has ended, or as it is after ``timeout_s``. The poller asks the provider; this only waits."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not job.status.is_final and (left_s := deadline_s - loop.time()) > 0:
            with suppress(TimeoutError):
                # Another process may take the job to its end: so the row is looked at now and then all the same.
                await asyncio.wait_for(self._ended.wait(), min(left_s, LOOK_AGAIN_S))
            job = await self.get(job.account_id, job.provider_job_id)
        return job

    async def page(self, account_id: str, *, after: str | None, limit: int, newest_first: bool) -> list[Job]:
        """Up to ``limit`` jobs of the account beyond the job ``after``. Raises NotFound for an ``after`` unknown."""
        if after is not None:
            await self.get(account_id, after)
        return await self._store.page(account_id, after=after, limit=limit, newest_first=newest_first)

    async def delete(self, job: Job) -> None:
        """Forget a job that has ended, and the links to what it made. Raises StillRunning for one that has not."""
        if not job.status.is_final:
            raise StillRunning("The video is still being made; it can be deleted when that has ended.", param="id")
        _, paths = _load(job)
        for path in paths:
            await self._media.forget(path.rpartition("/")[2])
        await self._store.delete(job.id)

    async def poll(self, job: Job) -> Job:
        """Ask the provider once, or join a question that is under way."""
        task = self._polls.get(job.id)
        if task is None:
            task = self._polls[job.id] = asyncio.create_task(self._poll(job))
            task.add_done_callback(lambda _: self._polls.pop(job.id, None))
        return await asyncio.shield(task)  # whoever asked may leave; the answer is for the books

    async def close(self) -> None:
        """End the questions under way; the next process asks again."""
        polls = list(self._polls.values())
        for task in polls:
            task.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    async def view(self, job: Job, *, public_base_url: str) -> JobView:
        """The job as an endpoint shows it, with links of ours."""
        state, media_paths = _load(job)
        return JobView(
            state=state,
            model_id=job.model_id,
            created_at_s=job.created_at_s,
            completed_at_s=job.completed_at_s,
            urls=[public_base_url + path for path in media_paths],
            call_facts=job.facts,
        )

    async def _poll(self, job: Job) -> Job:
        offer = self._catalogue.offer(job.offer_id)
        access = self._access.get(job.provider)
        if offer is None or access is None:
            log.warning("a job's offer is gone from the configuration: %s", job.offer_id, extra={"job_id": job.id})
            return await self._not_known(job, refusals=job.refusals)
        try:
            state = await self._attempts.poll_video(job.provider_job_id, offer, access=access)
        except GatewayError as error:
            return await self._not_answered(job, error)
        except Exception:  # an answer that we stumble over, and would stumble over again at once
            log.exception("what a provider said of a job cannot be understood", extra={"job_id": job.id})
            return await self._not_known(job)
        return await self._apply(job, state)

    async def _not_answered(self, job: Job, error: GatewayError) -> Job:
        why = f"{error.code} ({error.provider_status})" if isinstance(error, ProviderRefused) else error.code
        log.info("a job could not be polled: %s", why, extra={"job_id": job.id, "provider": job.provider})
        if isinstance(error, ProviderRefused) and error.provider_status in (404, 410):
            return await self._refused(job, "job_lost", "The provider does not know this job any more.")
        if isinstance(error, ProviderRefused) and self._is_about(job, error):
            return await self._refused(job, error.provider_code or "provider_error", error.message)
        if isinstance(error, UpstreamBroken) and error.is_too_large:
            return await self._refused(job, "answer_too_large", error.message)
        return await self._not_known(job)

    def _is_about(self, job: Job, error: ProviderRefused) -> bool:
        """Does a refusal speak of the job, rather than of the question or the moment?"""
        access = self._access.get(job.provider)
        video = None if access is None else access.provider.video
        if video is None or video.names_job is None or error.body is None or error.provider_status in _PASSING_STATUSES:
            return False
        return video.names_job(job.provider_job_id, error.body)

    async def _not_known(self, job: Job, *, refusals: int = 0) -> Job:
        """Note a poll that says nothing; one of too many if the job is too old."""
        if self._is_too_old(job):
            return await self._given_up(job)
        return await self._store.postpone(job.id, next_poll_at_s=self._next_poll_at_s(job), refusals=refusals)

    def _is_too_old(self, job: Job) -> bool:
        return self._clock() - job.created_at_s > self._settings.give_up_after_s

    async def _given_up(self, job: Job) -> Job:
        return await self._refused(job, "job_timed_out", "The provider has not said in time how this job ended.")

    async def _refused(self, job: Job, code: str, message: str) -> Job:
        """Note a poll that gives no hope; the last of too many ends the job as failed."""
        refusals = job.refusals + 1
        if refusals < LOST_AFTER_REFUSALS:
            return await self._store.postpone(job.id, next_poll_at_s=self._next_poll_at_s(job), refusals=refusals)
        lost = JobState(
            provider_job_id=job.provider_job_id, status=JobStatus.FAILED, error_code=code, error_message=message
        )
        return await self._apply(job, lost)

    async def _apply(self, job: Job, state: JobState) -> Job:
        """Note what the provider said; close the books when it was the last word."""
        if not state.status.is_final:
            if self._is_too_old(job):
                return await self._given_up(job)
            return await self._store.update(
                job.id, status=state.status, state=_dump(state, []), next_poll_at_s=self._next_poll_at_s(job)
            )
        paths = await self._paths_of(job, state)
        if state.status is JobStatus.COMPLETED and not paths:
            return await self._refused(
                job, "no_result", "The provider says that it is done, but gives no clip that can be read."
            )
        finished = await self._store.finish(
            job.id,
            status=state.status,
            state=_dump(state, paths),
            completed_at_s=self._clock(),
            closing=self._books.closing(job.request_id, await self._outcome(job, state)),
        )
        self._ended.set()
        self._ended = asyncio.Event()
        return finished

    async def _paths_of(self, job: Job, state: JobState) -> list[str]:
        """Links of ours to what was made; none where the provider's cannot be followed."""
        try:
            return [
                await self._media.register(output, provider=job.provider, account_id=job.account_id, public_base_url="")
                for output in state.outputs
            ]
        except UpstreamBroken as exc:
            log.warning("what a job made cannot be handed out: %s", exc, extra={"job_id": job.id})
            return []

    async def _outcome(self, job: Job, state: JobState) -> Outcome:
        offer = self._catalogue.offer(job.offer_id)
        is_complete = state.status is JobStatus.COMPLETED
        hold_nano_usd = await self._store.hold_of(job.request_id)
        return Outcome(
            status=200 if is_complete else 502,
            outcome="completed" if is_complete else f"job_{state.status}",
            bill=bill_of(
                call_of(job),
                offer,
                usage=state.usage,
                output_characters=0,
                ending=Ending.COMPLETE if is_complete else Ending.NOTHING,
                markup_nano=self._books.markup_nano,
                hold_nano_usd=hold_nano_usd,
            ),
            provider=None if offer is None else offer.provider,
            upstream_model=None if offer is None else offer.upstream_model,
            provider_request_id=job.provider_job_id,
        )

    def _next_poll_at_s(self, job: Job) -> float:
        """Back off from poll to poll; a job that takes very long is looked at rarely."""
        settings, now_s = self._settings, self._clock()
        if now_s - job.created_at_s > settings.slow_after_s:
            return now_s + settings.slow_poll_s
        return now_s + min(settings.max_poll_s, settings.first_poll_s * settings.backoff_factor ** min(job.polls, 64))


def facts_of(call: VideoCall) -> dict[str, Any]:
    """What pricing and later answers need of the call; never its prompt or pictures."""
    facts = {
        "width": call.width,
        "height": call.height,
        "seconds": call.seconds,
        "quality": call.quality,
        "resolution": call.options.get("resolution"),
        "test": call.test,
        "images_in": len(call.frames) + len(call.references),
    }
    return {name: value for name, value in facts.items() if value is not None}


def call_of(job: Job) -> VideoCall:
    """The call as far as its price depends on it."""
    facts = job.facts
    resolution = facts.get("resolution")
    return VideoCall(
        model=job.model_id,
        prompt="",
        width=facts.get("width"),
        height=facts.get("height"),
        seconds=facts.get("seconds"),
        quality=facts.get("quality"),
        references=(_SOME_PICTURE,) * facts.get("images_in", 0),
        options={"resolution": resolution} if resolution else {},
        test=bool(facts.get("test")),
    )


def _dump(state: JobState, media_paths: list[str]) -> dict[str, Any]:
    return {
        "progress_percent": state.progress_percent,
        "error_code": state.error_code,
        "error_message": state.error_message,
        "media": [
            {"kind": output.kind, "media_type": output.media_type, "path": path}
            for output, path in zip(state.outputs, media_paths, strict=False)
        ],
        "raw": state.raw,
        "reported_cost_nano_usd": None if state.usage is None else state.usage.reported_cost_nano_usd,
    }


def _load(job: Job) -> tuple[JobState, list[str]]:
    kept = job.state
    media: list[Mapping[str, Any]] = kept.get("media", [])
    cost_nano_usd = kept.get("reported_cost_nano_usd")
    state = JobState(
        provider_job_id=job.provider_job_id,
        status=job.status,
        progress_percent=kept.get("progress_percent"),
        outputs=tuple(MediaOutput(kind=each["kind"], media_type=each.get("media_type")) for each in media),
        error_code=kept.get("error_code"),
        error_message=kept.get("error_message"),
        raw=kept.get("raw"),
        usage=None if cost_nano_usd is None else Usage(reported_cost_nano_usd=cost_nano_usd),
    )
    return state, [each["path"] for each in media]
