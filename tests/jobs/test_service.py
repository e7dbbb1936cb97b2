"""A job's way from its row to the last word, and what says nothing about it: a question that fails, a word alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import orjson
import pytest
from msgspec.structs import replace

from bitmesh_proxy import keys
from bitmesh_proxy.calls import Frame, JobState, JobStatus, Media, MediaOutput, VideoCall
from bitmesh_proxy.dialects.gemini_media import video_dialect
from bitmesh_proxy.errors import NotFound, RateLimited
from bitmesh_proxy.jobs.service import LOST_AFTER_REFUSALS, JobService, call_of, facts_of
from bitmesh_proxy.storage.jobs import Job
from bitmesh_proxy.upstream.attempts import Attempts
from tests.jobs.jobs import SETTINGS, Room, service_of
from tests.media.outside import Answering, redirect, serving

PICTURE = Media(kind="image", url="https://example.org/x.png")


async def test_polls_back_off_and_a_slow_job_is_looked_at_rarely(room: Room) -> None:
    job = await room.submit()
    begun_s, polls = room.clock.now_s, job.polls
    pauses = []
    for _ in range(6):
        job = await room.service.poll(job)
        assert job.next_poll_at_s is not None
        pauses.append(round(job.next_poll_at_s - room.clock.now_s))
    factors = [2.0 * 2.0 ** (polls + number) for number in range(6)]
    assert pauses == [min(20, round(pause)) for pause in factors]
    room.clock.now_s = begun_s + SETTINGS.slow_after_s + 60
    job = await room.service.poll(job)
    assert job.next_poll_at_s is not None
    assert round(job.next_poll_at_s - room.clock.now_s) == 300
    assert not job.status.is_final
    await room.gateway.check_books(open_requests=1)


async def test_the_last_word_closes_job_and_books_once(room: Room) -> None:
    job = await room.submit("A cat [[sandbox: job_s=0]]")
    done = await room.service.poll(job)
    assert done.status is JobStatus.COMPLETED
    assert done.next_poll_at_s is None
    view = await room.service.view(done, public_base_url="https://ai.example.org")
    assert view.urls[0].startswith("https://ai.example.org/imgrslt/")
    assert view.completed_at_s is not None
    row = await room.gateway.last_row()
    assert (row.state, row.outcome) == ("settled", "completed")
    again = await room.service.poll(job)  # by somebody who had not heard of it
    assert again == done
    assert (await room.gateway.last_row()).charge_nano_usd == row.charge_nano_usd
    await room.gateway.check_books()


async def test_a_question_that_fails_leaves_the_job_as_it_was(room: Room) -> None:
    job = await room.submit()
    for fault in ("status=500", "status=429", "hangup", "html=502", "garbage"):
        room.gateway.fault(fault, method="GET")
        asked = await room.service.poll(job)
        assert (asked.status, asked.refusals) == (job.status, 0)
        assert asked.next_poll_at_s is not None
    await room.gateway.check_books(open_requests=1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("leads_away", [True, False])
async def test_a_question_that_is_sent_elsewhere_is_not_asked_there(
    room: Room, status: int, leads_away: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Least of all with the credential. It says nothing about the job, which is asked for again at its own place."""
    caplog.set_level("INFO", logger="bitmesh_proxy")
    job = await room.submit()
    known = room.gateway.app[keys.ACCESS][job.provider]
    routes: dict[str, Answering] = {}
    async with serving({}) as elsewhere, serving(routes) as provider:
        path = f"/videos/{job.provider_job_id}"
        routes[path] = redirect(elsewhere.url(path) if leads_away else path, status=status)
        access = replace(known, roots=dict.fromkeys(known.roots, provider.url("")), is_sandbox=False)
        asked = await service_of(room.gateway, room.clock, access={job.provider: access}).poll(job)
        assert [(method, path) for method, path, _ in provider.requests] == [("GET", path)]
        assert elsewhere.requests == []
    assert (asked.status, asked.refusals) == (job.status, 0)
    assert asked.next_poll_at_s is not None
    assert asked.next_poll_at_s > room.clock.now_s
    assert f"a job could not be polled: provider_error ({status})" in caplog.text
    await room.gateway.check_books(open_requests=1)
    assert not (await room.service.poll(asked)).status.is_final


async def test_a_job_that_its_provider_does_not_know_so_often_is_lost(room: Room) -> None:
    job = await room.submit()
    room.gateway.fault("status=404", method="GET", times=LOST_AFTER_REFUSALS - 1)
    for number in range(1, LOST_AFTER_REFUSALS):
        job = await room.service.poll(job)
        assert (job.refusals, job.status.is_final) == (number, False)
    job = await room.service.poll(job)
    assert job.refusals == 0, "it is there after all: counted from the start"
    room.gateway.fault("status=404", method="GET", times=LOST_AFTER_REFUSALS)
    for _ in range(LOST_AFTER_REFUSALS):
        job = await room.service.poll(job)
    assert job.status is JobStatus.FAILED
    row = await room.gateway.last_row()
    assert (row.state, row.outcome, row.charge_nano_usd) == ("released", "job_failed", 0)
    await room.gateway.check_books()


@pytest.mark.parametrize(
    ("status", "is_about_it"), [(400, True), (500, True), (429, False), (503, False), (400, False)]
)
async def test_an_error_that_names_the_job_so_often_is_its_end(room: Room, status: int, is_about_it: bool) -> None:
    job = await room.submit()
    known = room.gateway.app[keys.ACCESS][job.provider]
    video = known.provider.video
    assert video is not None
    asked: list[str] = []

    def names_job(job_id: str, answer: Mapping[str, object]) -> bool:
        asked.append(job_id)
        return is_about_it and "error" in answer

    provider = replace(known.provider, video=replace(video, names_job=names_job))
    service = service_of(room.gateway, room.clock, access={job.provider: replace(known, provider=provider)})
    room.gateway.fault(f"status={status}", method="GET", times=LOST_AFTER_REFUSALS)
    for _ in range(LOST_AFTER_REFUSALS):
        assert not job.status.is_final
        job = await service.poll(job)
    assert job.status.is_final is is_about_it
    assert set(asked) <= {job.provider_job_id}
    if is_about_it:
        row = await room.gateway.last_row()
        assert (row.state, row.outcome, row.charge_nano_usd) == ("released", "job_failed", 0)
    await room.gateway.check_books(open_requests=0 if is_about_it else 1)


def service_that_hears(room: Room, job: Job, *states: JobState) -> JobService:
    """A service that is told one thing after the other when it asks how a job is doing."""
    told = iter(states)
    known = room.gateway.app[keys.ACCESS][job.provider]
    video = known.provider.video
    assert video is not None
    provider = replace(known.provider, video=replace(video, read_poll=lambda _: next(told)))
    return service_of(room.gateway, room.clock, access={job.provider: replace(known, provider=provider)})


UNUSABLE = {
    "no link": (),
    "blanks": (MediaOutput(kind="video", url="https://cdn.example.org/my clip.mp4"),),
    "a password": (MediaOutput(kind="video", url="https://user:word@cdn.example.org/clip.mp4"),),
    "no clip": (MediaOutput(kind="video", data=b"<html>"),),
}


@pytest.mark.parametrize("outputs", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_job_that_is_done_without_a_clip_has_failed_in_the_end(
    room: Room, outputs: tuple[MediaOutput, ...]
) -> None:
    job = await room.submit()
    done = JobState(provider_job_id=job.provider_job_id, status=JobStatus.COMPLETED, outputs=outputs)
    service = service_that_hears(room, job, *[done] * LOST_AFTER_REFUSALS)
    for number in range(1, LOST_AFTER_REFUSALS):
        job = await service.poll(job)
        assert (job.refusals, job.status.is_final) == (number, False)
        assert job.next_poll_at_s is not None
        assert job.next_poll_at_s > room.clock.now_s
    job = await service.poll(job)
    view = await service.view(job, public_base_url="")
    assert (job.status, view.state.error_code, view.urls) == (JobStatus.FAILED, "no_result", [])
    row = await room.gateway.last_row()
    assert (row.state, row.outcome, row.charge_nano_usd) == ("released", "job_failed", 0)
    await room.gateway.check_books()


async def test_a_clip_of_googles_that_cannot_be_read_ends_its_job_as_failed(room: Room) -> None:
    job = await room.submit(model="google/veo-2")
    assert job.provider == "gemini"
    read_poll = video_dialect().read_poll
    samples = [{"video": {"bytesBase64Encoded": "AAAAIGZ0eXA"}}]  # the end is missing
    done = {"done": True, "response": {"generateVideoResponse": {"generatedSamples": samples}}}
    body = orjson.dumps({"name": job.provider_job_id, **done})
    known = room.gateway.app[keys.ACCESS]["gemini"]
    assert known.provider.video is not None
    provider = replace(known.provider, video=replace(known.provider.video, read_poll=lambda _: read_poll(body)))
    service = service_of(room.gateway, room.clock, access={"gemini": replace(known, provider=provider)})
    for _ in range(LOST_AFTER_REFUSALS):
        job = await service.poll(job)
    view = await service.view(job, public_base_url="")
    assert (job.status, view.state.error_code) == (JobStatus.FAILED, "no_result")
    assert view.state.error_message == "The provider says that it is done, but gives no clip that can be read."
    row = await room.gateway.last_row()
    assert (row.state, row.outcome, row.charge_nano_usd) == ("released", "job_failed", 0)
    await room.gateway.check_books()


async def test_a_job_whose_answer_is_larger_than_is_taken_has_failed_in_the_end(room: Room) -> None:
    """It would be fetched again and again, and never get smaller."""
    job = await room.submit()
    attempts = Attempts(room.gateway.app[keys.UPSTREAM], max_answer_bytes=20)
    service = service_of(room.gateway, room.clock, attempts=attempts)
    for number in range(1, LOST_AFTER_REFUSALS):
        job = await service.poll(job)
        assert (job.refusals, job.status.is_final) == (number, False)
    job = await service.poll(job)
    view = await service.view(job, public_base_url="")
    assert (job.status, view.state.error_code) == (JobStatus.FAILED, "answer_too_large")
    row = await room.gateway.last_row()
    assert (row.state, row.outcome, row.charge_nano_usd) == ("released", "job_failed", 0)
    await room.gateway.check_books()


NO_LAST_WORD = ["", "html=200", "garbage", "status=401", "status=403", "status=500", "hangup"]


@pytest.mark.parametrize("fault", NO_LAST_WORD, ids=lambda fault: fault or "still running")
async def test_a_job_of_which_nobody_says_how_it_ended_is_given_up_in_the_end(room: Room, fault: str) -> None:
    job = await room.submit()
    if fault:
        room.gateway.fault(fault, method="GET", times=100)
    room.clock.now_s = job.created_at_s + SETTINGS.give_up_after_s - 1
    for _ in range(LOST_AFTER_REFUSALS + 1):
        job = await room.service.poll(job)
        assert (job.refusals, job.status.is_final) == (0, False)
    room.clock.now_s += 2
    for number in range(1, LOST_AFTER_REFUSALS):
        job = await room.service.poll(job)
        assert (job.refusals, job.status.is_final) == (number, False)
        assert job.next_poll_at_s == pytest.approx(room.clock.now_s + SETTINGS.slow_poll_s, abs=0.01)
    job = await room.service.poll(job)
    view = await room.service.view(job, public_base_url="")
    assert (job.status, view.state.error_code) == (JobStatus.FAILED, "job_timed_out")
    assert view.state.error_message == "The provider has not said in time how this job ended."
    row = await room.gateway.last_row()
    assert (row.state, row.outcome, row.charge_nano_usd) == ("released", "job_failed", 0)
    await room.gateway.check_books()


async def test_a_last_word_counts_however_late(room: Room) -> None:
    job = await room.submit("A cat [[sandbox: job_s=0]]")
    room.gateway.fault("status=500", method="GET")
    room.clock.now_s += 10 * SETTINGS.give_up_after_s  # nobody has asked for so long
    assert not (job := await room.service.poll(job)).status.is_final
    assert (await room.service.poll(job)).status is JobStatus.COMPLETED
    await room.gateway.check_books()


async def test_a_job_whose_offer_is_gone_waits_for_it_and_is_given_up_in_the_end(room: Room) -> None:
    job = await room.submit()
    service = service_of(room.gateway, room.clock, access={})
    for _ in range(LOST_AFTER_REFUSALS + 1):
        job = await service.poll(job)
    assert (job.refusals, job.status.is_final) == (0, False)
    room.clock.now_s += SETTINGS.give_up_after_s + 1
    for _ in range(LOST_AFTER_REFUSALS):
        job = await service.poll(job)
    assert job.status is JobStatus.FAILED
    await room.gateway.check_books()


async def test_an_answer_that_we_stumble_over_is_not_asked_for_again_at_once(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    job = await room.submit()
    service = service_that_hears(room, job)  # nothing: that is an error of the dialect's
    job = await service.poll(job)
    assert job.next_poll_at_s is not None
    assert job.next_poll_at_s > room.clock.now_s
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        "what a provider said of a job cannot be understood"
    ]
    await room.gateway.check_books(open_requests=1)


async def test_a_link_may_come_after_the_word(room: Room) -> None:
    job = await room.submit()
    link = MediaOutput(kind="video", url="http://127.0.0.1:9/clip.mp4")
    done = JobState(provider_job_id=job.provider_job_id, status=JobStatus.COMPLETED)
    service = service_that_hears(room, job, done, replace(done, outputs=(link,)))
    assert not (await service.poll(job)).status.is_final
    job = await service.poll(job)
    assert job.status is JobStatus.COMPLETED
    assert len((await service.view(job, public_base_url="")).urls) == 1
    assert (await room.gateway.last_row()).outcome == "completed"
    await room.gateway.check_books()


async def test_a_failed_job_has_failed_whatever_it_left(room: Room) -> None:
    job = await room.submit()
    failed = JobState(
        provider_job_id=job.provider_job_id, status=JobStatus.FAILED, outputs=UNUSABLE["blanks"], error_message="No."
    )
    assert (await service_that_hears(room, job, failed).poll(job)).status is JobStatus.FAILED
    await room.gateway.check_books()


async def test_who_asks_at_the_same_moment_shares_one_question(room: Room) -> None:
    job = await room.submit()
    before = len(room.gateway.upstream_calls())
    room.gateway.fault("stall=0.1", method="GET")
    answers = await asyncio.gather(*(room.service.poll(job) for _ in range(10)))
    assert len(set(map(id, answers))) == 1
    assert len(room.gateway.upstream_calls()) == before + 1


async def test_who_leaves_while_asking_spoils_it_for_nobody(room: Room) -> None:
    job = await room.submit("A cat [[sandbox: job_s=0]]")
    room.gateway.fault("stall=0.2", method="GET")
    leaving = asyncio.create_task(room.service.poll(job))
    staying = asyncio.create_task(room.service.poll(job))
    await asyncio.sleep(0.05)
    leaving.cancel()
    assert (await staying).status is JobStatus.COMPLETED
    assert leaving.cancelled()


async def test_a_key_has_room_for_so_many(room: Room) -> None:
    for _ in range(SETTINGS.max_open_per_key - 1):
        await room.submit()
    assert not await is_full(room)
    job = await room.submit("A cat [[sandbox: job_s=0]]")
    with pytest.raises(RateLimited) as refused:
        async with room.service.place(room.gateway.key.id, "req_one"):
            pass
    assert refused.value.retry_after_s == SETTINGS.max_poll_s
    await room.service.poll(job)
    assert not await is_full(room)


async def test_a_job_that_is_being_handed_in_takes_a_place_once(room: Room) -> None:
    key_id, place = room.gateway.key.id, room.service.place
    async with place(key_id, "req_one"), place(key_id, "req_two"):
        async with place(key_id, "req_three"):
            assert await is_full(room)
            async with place("key_other", "req_four"):  # each key has its own
                pass
        job = await room.submit()
        assert await is_full(room)
    async with place(key_id, "req_five"):
        assert not await is_full(room)
        assert job.request_id not in await places(room), "its row stands for it"
    assert await places(room) == []


async def test_who_is_cancelled_while_a_place_is_taken_leaves_none(room: Room) -> None:
    async def enter() -> None:
        async with room.service.place(room.gateway.key.id, "req_one"):
            raise AssertionError("was cancelled before")

    entering = asyncio.create_task(enter())
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert await places(room) == []


async def places(room: Room) -> list[str]:
    """The requests that have a place without a job."""
    return [row[0] for row in await room.gateway.app[keys.DATABASE].read("SELECT request_id FROM job_places")]


async def is_full(room: Room) -> bool:
    """Is there no place left for a further job of the key?"""
    try:
        async with room.service.place(room.gateway.key.id, "req_further"):
            return False
    except RateLimited:
        return True


async def test_a_job_belongs_to_its_account(room: Room) -> None:
    job = await room.submit()
    assert (await room.service.get(room.gateway.account_id, job.provider_job_id)).id == job.id
    with pytest.raises(NotFound):
        await room.service.get("acct_somebody", job.provider_job_id)


def test_facts_hold_what_the_price_needs_and_nothing_that_was_said() -> None:
    call = VideoCall(
        model="m",
        prompt="a secret plan",
        width=640,
        height=360,
        seconds="5",
        quality="high",
        frames=(Frame(media=PICTURE),),
        references=(PICTURE, PICTURE),
        options={"resolution": "720p", "mood": "dark"},
        test=True,
    )
    facts = facts_of(call)
    assert facts == {
        "width": 640,
        "height": 360,
        "seconds": "5",
        "quality": "high",
        "resolution": "720p",
        "test": True,
        "images_in": 3,
    }


async def test_what_is_priced_at_the_end_is_what_was_asked(room: Room) -> None:
    job = await room.submit()
    call = VideoCall(model=job.model_id, prompt="x", seconds="5", references=(PICTURE, PICTURE), test=True)
    kept = await room.store.get(room.gateway.account_id, job.provider_job_id)
    assert kept is not None
    priced = call_of(replace(kept, facts=facts_of(call)))
    assert (priced.seconds, priced.test, len(priced.references)) == ("5", True, 2)
    assert priced.prompt == ""
