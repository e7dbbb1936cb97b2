"""What we send to OpenAI is what OpenAI publishes, for every operation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    EmbeddingCall,
    Frame,
    ImageCall,
    Media,
    ModerationCall,
    Operation,
    SpeechCall,
    TranscriptionCall,
    VideoCall,
)
from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.providers.openai import PROVIDER
from tests.dialects.cuts import sample
from tests.dialects.offers import make_offer
from tests.providers.chat_options import CONVERSATIONS, OPTIONS
from tests.providers.contracts import sent_json, violations

PNG = Media(kind="image", data=b"\x89PNG...", media_type="image/png")


JPEG_URI = Media(kind="image", url="data:image/jpeg;base64,/9j/4A==")


LINK = Media(kind="image", url="https://example.org/cat.png")


def request_of(call: Call, upstream_model: str = "gpt-image-2", **offer: Any) -> UpstreamRequest:
    dialect = PROVIDER.dialect_for(call.operation)
    build = dialect.submit if call.operation is Operation.VIDEO else dialect.request
    request: UpstreamRequest = build(call, make_offer(call.operation, upstream_model, **offer))
    return request


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in OPTIONS.items()}),
    st.sampled_from(CONVERSATIONS),
    st.booleans(),
)
def test_every_chat_keeps_the_schema(options: dict[str, Any], messages: list[dict[str, Any]], stream: bool) -> None:
    call = ChatCall(model="m", messages=messages, options=options, stream=stream)
    request = request_of(call, "gpt-5.4")
    assert violations("openai", request) == []
    assert "max_tokens" not in sent_json(request)


def image(**fields: Any) -> ImageCall:
    return ImageCall(model="m", prompt="A cat", **fields)


@pytest.mark.parametrize(
    "call",
    [
        image(),
        image(count=3, width=1536, height=1024, quality="high", output_format="webp"),
        image(response_format="b64_json", seed=1, steps=20, stream=True, options={"partial_images": 2}),
        image(options={"background": "transparent", "moderation": "low", "user": "u", "unknown": 1}),
        image(images=(PNG,)),
        image(images=(PNG, JPEG_URI), mask=PNG, quality="low", options={"input_fidelity": "high", "moderation": "low"}),
        image(images=(LINK,)),
        image(images=(LINK, PNG), mask=PNG, width=1024, height=1536, options={"input_fidelity": "low"}),
    ],
)
def test_every_picture_keeps_the_schema(call: ImageCall) -> None:
    request = request_of(call)
    assert violations("openai", request) == []
    assert request.path == ("/images/edits" if call.images else "/images/generations")


def video(**fields: Any) -> VideoCall:
    return VideoCall(model="m", prompt="A cat runs", **fields)


@pytest.mark.parametrize(
    "call",
    [
        video(),
        video(seconds="8", width=1280, height=720, fps=24, seed=1, negative_prompt="dogs"),
        video(frames=(Frame(media=PNG),)),
        video(frames=(Frame(media=LINK, position=0),), seconds="4"),
        video(references=(JPEG_URI,)),
    ],
)
def test_every_clip_keeps_the_schema(call: VideoCall) -> None:
    assert violations("openai", request_of(call, "sora-2", default_seconds=4, default_size="720x1280")) == []


@pytest.mark.parametrize(
    "call",
    [
        SpeechCall(model="m", text="Hello", voice="alloy"),
        SpeechCall(
            model="m",
            text="Hello",
            voice="nova",
            output_format="opus",
            speed=1.5,
            instructions="Whisper",
            options={"stream_format": "sse", "language": "en"},
        ),
    ],
)
def test_every_speech_keeps_the_schema(call: SpeechCall) -> None:
    assert violations("openai", request_of(call, "gpt-4o-mini-tts")) == []


SOUND = Media(kind="audio", data=b"RIFF", media_type="audio/wav")


def transcription(**fields: Any) -> TranscriptionCall:
    return TranscriptionCall(model="m", audio=SOUND, **fields)


@pytest.mark.parametrize(
    "call",
    [
        transcription(),
        transcription(
            language="de",
            prompt="Names: Ueli",
            response_format="verbose_json",
            options={
                "temperature": 0.2,
                "timestamp_granularities": ["word", "segment"],
                "include": ["logprobs"],
                "chunking_strategy": {"type": "server_vad"},
                "unknown": 1,
            },
        ),
        transcription(options={"chunking_strategy": "auto"}),
        transcription(into_english=True),
        transcription(
            into_english=True, prompt="Names: Ueli", response_format="vtt", options={"temperature": 0.2, "unknown": 1}
        ),
    ],
)
def test_every_transcription_keeps_the_schema(call: TranscriptionCall) -> None:
    assert violations("openai", request_of(call, "gpt-4o-transcribe")) == []


@pytest.mark.parametrize(
    "inputs", [["one"], ["one", "two"], [1, 2, 3], [[1, 2], [3]]], ids=["text", "texts", "tokens", "token lists"]
)
def test_every_embedding_keeps_the_schema(inputs: Any) -> None:
    call = EmbeddingCall(model="m", inputs=inputs, options={"dimensions": 64, "encoding_format": "base64", "x": 1})
    assert violations("openai", request_of(call, "text-embedding-3-small")) == []


@pytest.mark.parametrize(
    "inputs",
    [["one"], ["one", "two"], [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": LINK.url}}]],
)
def test_every_moderation_keeps_the_schema(inputs: Any) -> None:
    assert violations("openai", request_of(ModerationCall(model="m", inputs=inputs), "omni-moderation-latest")) == []


def test_a_clip_is_polled_and_fetched_where_openai_publishes_it() -> None:
    assert PROVIDER.video is not None
    poll = PROVIDER.video.poll("video_1", make_offer(Operation.VIDEO))
    assert violations("openai", poll) == []
    (output,) = PROVIDER.video.read_poll(b'{"id":"video_1","status":"completed"}').outputs
    assert output.needs_credential
    assert output.path is not None
    assert violations("openai", UpstreamRequest(method="GET", path=output.path)) == []


def test_moderation_of_a_prompt_is_a_refusal_with_openais_code() -> None:
    body = sample("openai/image_blocked.json")
    refusal = PROVIDER.read_error(400, {}, body)
    assert (refusal.status, refusal.provider_code, refusal.may_fail_over) == (400, "moderation_blocked", False)
