"""Work whose answer is not the provider's first word: clips, which are jobs, and speech, which comes as bytes.

Both go through the pipeline like any call; what it gives is kept here and waited for, and then told as a response.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import orjson
from msgspec.structs import replace

from bitmesh_proxy.calls import JobStatus, MediaOutput, Usage
from bitmesh_proxy.endpoints.endpoint import JobView
from bitmesh_proxy.endpoints.responses.media_parts import data_uri
from bitmesh_proxy.errors import ProviderRefused
from bitmesh_proxy.jobs.service import JobService
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.money import format_usd
from bitmesh_proxy.pipeline import Incoming, Pipeline
from bitmesh_proxy.storage.ledger import LedgerRow, LedgerStore
from bitmesh_proxy.upstream.reply import Reply
from bitmesh_proxy.web.responses.replies import CapturedReply
from bitmesh_proxy.web.responses.session import ResponseSession

#: A job's row is looked at so often by whoever waits for it (the poller asks the provider at its own pace).
JOB_LOOK_S = 0.1


class ProgressSink(Protocol):
    """Where progress goes."""

    async def write(self, data: bytes) -> None: ...


class LongWork:
    """Takes such work to its end."""

    def __init__(self, *, pipeline: Pipeline, jobs: JobService, ledger: LedgerStore, media: MediaResults) -> None:
        self._pipeline = pipeline
        self._jobs = jobs
        self._ledger = ledger
        self._media = media

    async def run_job(self, session: ResponseSession, incoming: Incoming, reply: Reply) -> None:
        """Hand the work in and wait for it. The response can be looked at meanwhile, and found when nobody waits."""
        captured = CapturedReply()
        await self._pipeline.serve(replace(incoming, finisher=session), session.endpoint(), captured)
        started = orjson.loads(captured.body)
        session.job_id = started["job_id"]
        if started["response_id"] == session.response_id:
            await session.keep()
        else:
            session.adopt(started["response_id"], request_id=captured.headers["X-Bitmesh-First-Request-Id"])
        view = await self._job_done(session, reply)
        body = await self.end_job(session, view)
        row = await self._ledger.request(session.context.request_id)
        await reply.send(200, {**captured.headers, **_cost_headers(row)}, body)

    async def _job_done(self, session: ResponseSession, sink: ProgressSink) -> JobView:
        assert session.job_id is not None
        seen: tuple[int | None, JobStatus] | None = None
        while True:
            job = await self._jobs.get(session.caller.account_id, session.job_id)
            view = await self._jobs.view(job, public_base_url=session.context.public_base_url)
            now = (view.state.progress_percent, view.state.status)
            if now != seen and (frames := session.begin_frames() + session.progress_frames(now[0], now[1].value)):
                await sink.write(frames)
            seen = now
            if view.state.status.is_final:
                return view
            await asyncio.sleep(JOB_LOOK_S)

    async def end_job(self, session: ResponseSession, view: JobView) -> bytes:
        """The end of a response whose job is over."""
        state = view.state
        if state.status is not JobStatus.COMPLETED:
            message = state.error_message or "The provider could not make this."
            code = state.error_code or f"job_{state.status.value}"
            return await session.fail(ProviderRefused(message, status=502, provider_status=502, provider_code=code))
        row = await self._ledger.request(session.context.request_id)
        outputs = [(url, output.kind, output.media_type) for url, output in zip(view.urls, state.outputs, strict=True)]
        return await session.finish_media(
            outputs, usage=state.usage or Usage(), charge_nano_usd=row.charge_nano_usd if row is not None else None
        )

    async def run_speech(self, session: ResponseSession, incoming: Incoming, reply: Reply) -> None:
        """Speech comes as bytes; here it is a link to them."""
        captured = CapturedReply()
        await self._pipeline.serve(incoming, session.endpoint(), captured)
        media_type = captured.headers.get("Content-Type", "audio/mpeg").partition(";")[0]
        url, shown_type = await self._keep_sound(session, captured.body, media_type)
        row = await self._ledger.request(session.context.request_id)
        charge = row.charge_nano_usd if row is not None else None
        body = await session.finish_media([(url, "audio", shown_type)], charge_nano_usd=charge)
        marks = {name: value for name, value in captured.headers.items() if name.startswith("X-Bitmesh-")}
        await reply.send(200, {"Content-Type": "application/json", **marks, **_cost_headers(row)}, body)

    async def _keep_sound(self, session: ResponseSession, data: bytes, media_type: str) -> tuple[str, str]:
        if session.request.media.response_format in ("b64_json", "b64_ephemeral"):
            return await asyncio.to_thread(data_uri, data, media_type), media_type
        output = MediaOutput(kind="audio", data=data, media_type=media_type)
        url = await self._media.register(
            output,
            provider="speech",
            account_id=session.caller.account_id,
            public_base_url=session.context.public_base_url,
        )
        return url, media_type


def _cost_headers(row: LedgerRow | None) -> dict[str, str]:
    """What the pipeline says of a call whose books are closed before its answer is there."""
    if row is None or row.basis is None:
        return {}
    return {
        "X-Bitmesh-Cost": format_usd(row.charge_nano_usd),
        "X-Bitmesh-Provider": row.provider or "",
        "X-Bitmesh-Request-Cost-Basis": row.basis.value,
    }
