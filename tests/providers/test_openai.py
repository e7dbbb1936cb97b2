"""What we send to OpenAI is what OpenAI publishes, for every operation."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmesh_proxy.calls import (
    Basis,
    Call,
    ChatCall,
    EmbeddingCall,
    Frame,
    ImageCall,
    JobStatus,
    Media,
    MediaOutput,
    ModerationCall,
    Operation,
    SpeechCall,
    TranscriptionCall,
    Usage,
    VideoCall,
)
from bitmesh_proxy.errors import InvalidRequest, MissingParameter, ProviderRefused, UpstreamBroken
from bitmesh_proxy.providers.base import UpstreamRequest
from bitmesh_proxy.providers.openai import PROVIDER
from tests.dialects.cuts import sample, ways_to_cut
from tests.dialects.offers import make_offer
from tests.providers.chat_options import CONVERSATIONS, OPTIONS
from tests.providers.contracts import sent_form, sent_json, violations

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


def test_gpt_image_is_never_asked_for_a_response_format_and_dalle_is() -> None:
    call = image(response_format="url")
    assert "response_format" not in sent_json(request_of(call, "gpt-image-2"))
    request = request_of(call, "dall-e-3")
    assert sent_json(request)["response_format"] == "url"
    assert violations("openai", request) == []


def test_a_quality_is_sent_in_the_offers_words() -> None:
    words = {"hd": "high"}
    assert sent_json(request_of(image(quality="hd"), quality_map=words))["quality"] == "high"
    assert sent_json(request_of(image(quality="low"), quality_map=words))["quality"] == "low"


def test_an_edit_with_bytes_is_a_form() -> None:
    fields = sent_form(request_of(image(images=(PNG, JPEG_URI), mask=PNG)))
    assert fields["image[]"] == [b"\x89PNG...", b"\xff\xd8\xff\xe0"]
    assert fields["mask"] == [b"\x89PNG..."]
    assert "image" not in fields
    one = request_of(image(images=(JPEG_URI,))).form
    assert one is not None
    assert [(part.name, part.filename, part.media_type) for part in one if part.filename] == [
        ("image", "image.jpg", "image/jpeg")
    ]


def test_an_edit_of_a_link_is_json_so_that_nobody_here_fetches_it() -> None:
    body = sent_json(request_of(image(images=(LINK, PNG), mask=PNG)))
    assert body["images"][0] == {"image_url": "https://example.org/cat.png"}
    assert body["images"][1] == body["mask"] == {"image_url": "data:image/png;base64,iVBORy4uLg=="}


@pytest.mark.parametrize("url", ["data:image/png;base64,!!!", "data:image/png,plain"])
def test_a_data_uri_that_cannot_be_read_is_the_callers_mistake(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(image(images=(Media(kind="image", url=url),)))
    assert caught.value.param == "image"


def test_a_mask_without_a_picture_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(image(mask=PNG))
    assert caught.value.param == "mask"


def read_image(body: bytes) -> Any:
    assert PROVIDER.image is not None
    return PROVIDER.image.read(image(width=512, height=512), body)


def test_pictures_are_read_with_their_tokens() -> None:
    result = read_image(sample("openai/images.json"))
    assert result.outputs == (
        MediaOutput(kind="image", data=b"\x89PNG", media_type="image/png", width=1536, height=1024),
    )
    assert result.usage == Usage(
        input_tokens=50, image_input_tokens=40, output_tokens=1200, image_output_tokens=1196, images=1
    )
    assert result.raw["data"][0]["b64_json"] == "iVBORw=="


def test_a_link_is_a_picture_too() -> None:
    result = read_image(b'{"created":1,"data":[{"url":"https://x.test/a.png","revised_prompt":"A black cat"}]}')
    assert result.outputs == (
        MediaOutput(kind="image", url="https://x.test/a.png", width=512, height=512, revised_prompt="A black cat"),
    )
    assert result.usage == Usage(images=1)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"data":[]}',
        b'{"data":[{}]}',
        b'{"data":[{"b64_json":"!"}]}',
        b'{"data":[{"url":"x"}]}',
    ],
)
def test_what_is_no_picture_is_a_broken_upstream(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        read_image(body)


def test_a_refusal_that_came_as_a_success() -> None:
    with pytest.raises(ProviderRefused) as caught:
        read_image(b'{"error":{"code":400,"message":"Blocked"}}')
    assert caught.value.status == 400


def test_a_stream_of_pictures_is_metered_cut_anywhere() -> None:
    assert PROVIDER.image is not None
    assert PROVIDER.image.stream_meter is not None
    stream = sample("openai/images_stream.sse")
    for chunks in ways_to_cut(stream):
        meter = PROVIDER.image.stream_meter()
        for chunk in chunks:
            meter.feed(chunk)
        assert meter.is_complete
        assert meter.error is None
        assert meter.usage == Usage(
            input_tokens=100, image_input_tokens=0, output_tokens=2400, image_output_tokens=2400, images=2
        )
    meter = PROVIDER.image.stream_meter()
    meter.feed(stream[: stream.index(b"image_generation.completed")])
    assert not meter.is_complete
    meter.feed(b'\n\nevent: error\ndata: {"type":"error","error":{"message":"Blocked"}}\n\n')
    assert meter.error == "Blocked"


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


@pytest.mark.parametrize("frames", [(Frame(media=PNG, position="last"),), (Frame(media=PNG), Frame(media=LINK))])
def test_what_a_clip_cannot_take_is_refused(frames: tuple[Frame, ...]) -> None:
    with pytest.raises(InvalidRequest):
        request_of(video(frames=frames), "sora-2")


def test_a_clip_is_polled_until_it_is_there() -> None:
    dialect = PROVIDER.video
    assert dialect is not None
    poll = dialect.poll("video_1/../x", make_offer(Operation.VIDEO))
    assert poll.path == "/videos/video_1%2F..%2Fx"
    assert violations("openai", poll) == []
    base = {"id": "video_1", "object": "video", "model": "sora-2", "seconds": "8", "size": "1280x720"}

    def read(**fields: Any) -> Any:
        return dialect.read_poll(orjson.dumps({**base, **fields}))

    queued = dialect.read_submit(video(), orjson.dumps({**base, "status": "queued", "progress": 0}))
    assert (queued.status, queued.progress_percent, queued.outputs) == (JobStatus.QUEUED, 0, ())
    assert read(status="in_progress", progress=40).progress_percent == 40
    assert read(status="a word of tomorrow").status is JobStatus.IN_PROGRESS
    done = read(status="completed", progress=100)
    assert done.outputs == (
        MediaOutput(kind="video", path="/videos/video_1/content", media_type="video/mp4", needs_credential=True),
    )
    assert done.usage == Usage(duration_ms=8000)
    failed = read(status="failed", error={"code": "moderation_blocked", "message": "No."})
    assert (failed.status, failed.error_code, failed.error_message) == (JobStatus.FAILED, "moderation_blocked", "No.")
    with pytest.raises(UpstreamBroken):
        dialect.read_poll(b'{"status":"completed"}')


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


def test_speech_counts_characters_and_needs_a_voice() -> None:
    dialect = PROVIDER.speech
    assert dialect is not None
    call = SpeechCall(model="m", text="Grüße", output_format="flac")
    assert dialect.read_usage(call, {}) == Usage(characters=5, is_estimated=True)
    assert dialect.read_usage(call, {}).basis is Basis.ESTIMATED
    assert dialect.media_type(call, {"Content-Type": "application/octet-stream"}) == "audio/flac"
    assert dialect.media_type(call, {"content-type": "audio/mpeg; q=1"}) == "audio/mpeg"
    with pytest.raises(MissingParameter):
        request_of(call, "tts-1")
    assert sent_json(request_of(call, "tts-1", options={"default_voice": "alloy"}))["voice"] == "alloy"


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
    ],
)
def test_every_transcription_keeps_the_schema(call: TranscriptionCall) -> None:
    assert violations("openai", request_of(call, "gpt-4o-transcribe")) == []


@pytest.mark.parametrize(
    ("call", "body", "usage"),
    [
        (
            transcription(),
            b'{"text":"Hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":5,"total_tokens":19}}',
            Usage(input_tokens=14, output_tokens=5),
        ),
        (transcription(), b'{"text":"Hi","usage":{"type":"duration","seconds":3.5}}', Usage(duration_ms=3500)),
        (transcription(response_format="verbose_json"), b'{"text":"Hi","duration":2.25}', Usage(duration_ms=2250)),
        (transcription(duration_s=9.0), b'{"text":"Hi"}', Usage(duration_ms=9000, is_estimated=True)),
        (
            transcription(response_format="srt", duration_s=1.5),
            b"1\n00:00:00,000 --> 00:00:01,000\nHi\n",
            Usage(duration_ms=1500, is_estimated=True),
        ),
    ],
)
def test_a_transcription_is_metered(call: TranscriptionCall, body: bytes, usage: Usage) -> None:
    assert PROVIDER.transcription is not None
    assert PROVIDER.transcription.read_usage(call, body) == usage
    assert "Hi" in PROVIDER.transcription.read_text(call, body)


@pytest.mark.parametrize(
    "inputs", [["one"], ["one", "two"], [1, 2, 3], [[1, 2], [3]]], ids=["text", "texts", "tokens", "token lists"]
)
def test_every_embedding_keeps_the_schema(inputs: Any) -> None:
    call = EmbeddingCall(model="m", inputs=inputs, options={"dimensions": 64, "encoding_format": "base64", "x": 1})
    assert violations("openai", request_of(call, "text-embedding-3-small")) == []


def test_an_embedding_is_metered_however_long_it_is() -> None:
    assert PROVIDER.embedding is not None
    for length in (3, 5000):
        body = orjson.dumps(
            {
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.125] * length}],
                "model": "text-embedding-3-small",
                "usage": {"prompt_tokens": 8, "total_tokens": 8},
            }
        )
        assert PROVIDER.embedding.read_usage(body) == Usage(input_tokens=8)


@pytest.mark.parametrize(
    "inputs",
    [["one"], ["one", "two"], [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": LINK.url}}]],
)
def test_every_moderation_keeps_the_schema(inputs: Any) -> None:
    assert violations("openai", request_of(ModerationCall(model="m", inputs=inputs), "omni-moderation-latest")) == []


def test_moderation_of_a_prompt_is_a_refusal_with_openais_code() -> None:
    body = sample("openai/image_blocked.json")
    refusal = PROVIDER.read_error(400, {}, body)
    assert (refusal.status, refusal.provider_code, refusal.may_fail_over) == (400, "moderation_blocked", False)
