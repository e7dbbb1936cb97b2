"""OpenAI's clips as jobs: refused where they cannot be, polled until they are there."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bitmesh_proxy.calls import (
    Frame,
    JobStatus,
    Media,
    MediaOutput,
    Operation,
    Usage,
    VideoCall,
)
from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.dialects.openai_videos import dialect
from bitmesh_proxy.errors import InvalidRequest, UpstreamBroken
from tests.dialects.offers import make_offer

DIALECT = dialect()


def request_of(call: VideoCall, upstream_model: str) -> UpstreamRequest:
    return DIALECT.submit(call, make_offer(Operation.VIDEO, upstream_model))


PNG = Media(kind="image", data=b"\x89PNG...", media_type="image/png")


LINK = Media(kind="image", url="https://example.org/cat.png")


def video(**fields: Any) -> VideoCall:
    return VideoCall(model="m", prompt="A cat runs", **fields)


@pytest.mark.parametrize("frames", [(Frame(media=PNG, position="last"),), (Frame(media=PNG), Frame(media=LINK))])
def test_what_a_clip_cannot_take_is_refused(frames: tuple[Frame, ...]) -> None:
    with pytest.raises(InvalidRequest):
        request_of(video(frames=frames), "sora-2")


def test_a_clip_is_polled_until_it_is_there() -> None:
    poll = DIALECT.poll("video_1/../x", make_offer(Operation.VIDEO))
    assert poll.path == "/videos/video_1%2F..%2Fx"
    base = {"id": "video_1", "object": "video", "model": "sora-2", "seconds": "8", "size": "1280x720"}

    def read(**fields: Any) -> Any:
        return DIALECT.read_poll(orjson.dumps({**base, **fields}))

    queued = DIALECT.read_submit(orjson.dumps({**base, "status": "queued", "progress": 0}))
    assert (queued.status, queued.progress_percent, queued.outputs) == (JobStatus.QUEUED, 0, ())
    assert read(status="in_progress", progress=40).progress_percent == 40
    assert read(status="a word of tomorrow").status is JobStatus.IN_PROGRESS
    done = read(status="completed", progress=100)
    assert done.outputs == (
        MediaOutput(kind="video", path="/videos/video_1/content", media_type="video/mp4", needs_credential=True),
    )
    assert done.usage == Usage(duration_ms=8000)
    for absurd in ("1e999999999", "1e999990", -8, None, [8]):
        assert read(status="completed", seconds=absurd).usage == Usage()
    failed = read(status="failed", error={"code": "moderation_blocked", "message": "No."})
    assert (failed.status, failed.error_code, failed.error_message) == (JobStatus.FAILED, "moderation_blocked", "No.")
    with pytest.raises(UpstreamBroken):
        DIALECT.read_poll(b'{"status":"completed"}')
