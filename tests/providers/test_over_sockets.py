"""Whole exchanges over real sockets: the sandbox takes what the dialects send, and they read what it answers.

It plays from the published schemas, strictly, and was written by other hands than the dialects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    EmbeddingCall,
    Finished,
    Frame,
    ImageCall,
    JobStatus,
    Media,
    ModerationCall,
    Operation,
    SpeechCall,
    Started,
    TextDelta,
    TranscriptionCall,
    UsageReport,
    VideoCall,
)
from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.sandbox.server import Sandbox
from bitmesh_proxy.sandbox.stage import Options
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.upstream.access import ProviderAccess, sandbox_access
from bitmesh_proxy.upstream.client import Upstream
from tests.dialects.offers import make_offer

PNG_URI = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)
PICTURE = Media(kind="image", url=PNG_URI)
MESSAGES = [{"role": "user", "content": "Tell me of the sea."}]

MODELS: dict[tuple[str, Operation], str] = {
    ("openai", Operation.CHAT): "gpt-5.4-mini",
    ("openai", Operation.IMAGE): "gpt-image-2",
    ("openai", Operation.VIDEO): "sora-2",
    ("openai", Operation.SPEECH): "gpt-4o-mini-tts",
    ("openai", Operation.TRANSCRIPTION): "whisper-1",
    ("openai", Operation.EMBEDDING): "text-embedding-3-small",
    ("openai", Operation.MODERATION): "omni-moderation-latest",
    ("together", Operation.CHAT): "openai/gpt-oss-120b",
    ("together", Operation.IMAGE): "black-forest-labs/FLUX.1-schnell",
    ("together", Operation.VIDEO): "minimax/video-01-director",
    ("together", Operation.SPEECH): "canopylabs/orpheus-3b-0.1-ft",
    ("together", Operation.TRANSCRIPTION): "openai/whisper-large-v3",
    ("together", Operation.EMBEDDING): "BAAI/bge-base-en-v1.5",
}
both = pytest.mark.parametrize("name", ["openai", "together"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A way to the sandbox."""

    upstream: Upstream
    access: dict[str, ProviderAccess]

    async def ask(self, name: str, request: UpstreamRequest) -> bytes:
        async with self.upstream.open(self.access[name], request) as answer:
            body = await answer.read(50_000_000)
            assert answer.status == 200, body
            return body

    async def get(self, name: str, url: str) -> bytes:
        root = self.access[name].roots["default"]
        assert url.startswith(root)
        return await self.ask(name, UpstreamRequest(method="GET", path=url.removeprefix(root)))


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    settings = Settings()
    async with Sandbox(options=Options(is_strict=True)) as sandbox, Upstream(settings.upstream) as upstream:
        yield Line(upstream=upstream, access=sandbox_access(settings, sandbox.url))


def build(line: Line, name: str, call: Call, **offer: Any) -> UpstreamRequest:
    dialect = line.access[name].provider.dialect_for(call.operation)
    request: UpstreamRequest = dialect.request(call, make_offer(call.operation, MODELS[name, call.operation], **offer))
    return request


@both
async def test_chat_whole_and_streamed_say_the_same(line: Line, name: str) -> None:
    dialect = line.access[name].provider.chat
    assert dialect is not None
    options = {"max_tokens": 40, "temperature": 0.2, "stop": "END", "user": "u"}
    whole = await line.ask(name, build(line, name, ChatCall(model="m", messages=MESSAGES, options=options)))
    events = dialect.read_whole(whole)
    usage, request_id = dialect.read_usage(whole)
    assert usage is not None
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0
    assert UsageReport(usage=usage) in events
    assert isinstance(events[0], Started)
    assert events[0].provider_request_id == request_id

    call = ChatCall(model="m", messages=MESSAGES, options=options, stream=True)
    stream = await line.ask(name, build(line, name, call))
    meter, reader = dialect.meter(), dialect.reader()
    meter.feed(stream)
    streamed = [*reader.feed(stream), *reader.close()]
    assert [event for event in streamed if isinstance(event, Finished)] == [
        event for event in events if isinstance(event, Finished)
    ]
    assert "".join(event.text for event in streamed if isinstance(event, TextDelta)) == "".join(
        event.text for event in events if isinstance(event, TextDelta)
    )
    assert meter.is_complete
    assert meter.error is None
    assert meter.usage == usage
    assert meter.output_characters > 0


@both
@pytest.mark.parametrize("response_format", [None, "url", "b64_json"])
@pytest.mark.parametrize("images", [(), (PICTURE,), (PICTURE, PICTURE)])
async def test_pictures(line: Line, name: str, response_format: Any, images: tuple[Media, ...]) -> None:
    dialect = line.access[name].provider.image
    assert dialect is not None
    call = ImageCall(
        model="m", prompt="The sea", count=2, width=1024, height=1024, response_format=response_format, images=images
    )
    result = dialect.read(await line.ask(name, build(line, name, call)))
    assert len(result.outputs) == 2
    assert result.usage.images == 2
    for output in result.outputs:
        assert output.data is None or output.data.startswith((b"\x89PNG", b"\xff\xd8"))
        assert (output.data is None) != (output.url is None)
    if name == "openai":
        assert result.usage.image_output_tokens > 0


@both
@pytest.mark.parametrize("frames", [(), (Frame(media=PICTURE),)])
async def test_clips_from_submitting_to_their_bytes(line: Line, name: str, frames: tuple[Frame, ...]) -> None:
    dialect = line.access[name].provider.video
    assert dialect is not None
    offer = make_offer(Operation.VIDEO, MODELS[name, Operation.VIDEO], default_seconds=4)
    call = VideoCall(model="m", prompt="The sea", width=1280, height=720, frames=frames)
    state = dialect.read_submit(await line.ask(name, dialect.submit(call, offer)))
    for _ in range(5):
        if state.status.is_final:
            break
        state = dialect.read_poll(await line.ask(name, dialect.poll(state.provider_job_id, offer)))
    assert state.status is JobStatus.COMPLETED
    assert state.usage is not None
    assert state.usage.duration_ms == 4000
    (output,) = line.access[name].locate(state.outputs)
    if output.needs_credential:
        assert output.url is not None
        assert (await line.get(name, output.url))[4:8] == b"ftyp"
    if name == "together":
        assert state.usage.reported_cost_nano_usd


@both
async def test_speech_and_back(line: Line, name: str) -> None:
    provider = line.access[name].provider
    assert provider.speech is not None
    assert provider.transcription is not None
    spoken = SpeechCall(model="m", text="The sea is wide.", voice="alloy", output_format="wav")
    sound = await line.ask(name, build(line, name, spoken))
    assert sound.startswith(b"RIFF")
    heard = TranscriptionCall(
        model="m",
        audio=Media(kind="audio", data=sound, media_type="audio/wav"),
        response_format="verbose_json",
        options={"timestamp_granularities": ["segment"]},
    )
    answer = await line.ask(name, build(line, name, heard))
    assert provider.transcription.read_transcript(heard, answer).text
    assert provider.transcription.read_usage(heard, answer).duration_ms > 0


@both
async def test_vectors_are_metered(line: Line, name: str) -> None:
    dialect = line.access[name].provider.embedding
    assert dialect is not None
    for inputs in (["one"], ["one", "two"]):
        usage = dialect.read_usage(await line.ask(name, build(line, name, EmbeddingCall(model="m", inputs=inputs))))
        assert usage is not None
        assert usage.input_tokens > 0


async def test_a_verdict(line: Line) -> None:
    assert b'"flagged"' in await line.ask("openai", build(line, "openai", ModerationCall(model="m", inputs=["a", "b"])))


@both
async def test_a_refusal_is_read(line: Line, name: str) -> None:
    request = UpstreamRequest(path="/chat/completions", body=b'{"messages":7}')
    async with line.upstream.open(line.access[name], request) as answer:
        body = await answer.read(1_000_000)
        refusal = line.access[name].provider.read_error(answer.status, answer.headers, body)
    assert refusal.status == 400
    assert refusal.body is not None
    assert refusal.message
    assert not refusal.may_fail_over
