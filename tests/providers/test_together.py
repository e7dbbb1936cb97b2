"""What we send to Together is what Together publishes, for every operation; what it answers is read as it comes."""

from __future__ import annotations

from typing import Any

import orjson
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
    Operation,
    SpeechCall,
    TranscriptionCall,
    VideoCall,
)
from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.providers.together import PROVIDER
from tests.dialects.offers import make_offer
from tests.providers.chat_options import CALL, CONVERSATIONS, OPTIONS
from tests.providers.contracts import sent_json, violations

PNG = Media(kind="image", data=b"\x89PNG...", media_type="image/png")


LINK = Media(kind="image", url="https://example.org/cat.png")


def request_of(call: Call, **offer: Any) -> UpstreamRequest:
    dialect = PROVIDER.dialect_for(call.operation)
    build = dialect.submit if call.operation is Operation.VIDEO else dialect.request
    request: UpstreamRequest = build(call, make_offer(call.operation, **offer))
    return request


def chat_body(options: dict[str, Any], messages: list[dict[str, Any]] | None = None, *, stream: bool = False) -> Any:
    call = ChatCall(model="m", messages=messages or CONVERSATIONS[0], options=options, stream=stream)
    return sent_json(request_of(call))


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in OPTIONS.items()}),
    st.sampled_from(CONVERSATIONS),
    st.booleans(),
)
def test_every_chat_keeps_the_schema(options: dict[str, Any], messages: list[dict[str, Any]], stream: bool) -> None:
    request = request_of(ChatCall(model="m", messages=messages, options=options, stream=stream))
    assert violations("together", request) == []


def test_what_together_has_beyond_openai_passes() -> None:
    options = {"repetition_penalty": 1.1, "top_k": 40, "min_p": 0.1, "context_length_exceeded_behavior": "truncate"}
    assert chat_body(options).items() >= options.items()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"logprobs": True}, {"logprobs": 1}),
        ({"logprobs": False, "top_logprobs": 3}, {}),
        ({"logprobs": 5}, {"logprobs": 5}),
        ({"reasoning_effort": "none"}, {"reasoning": {"enabled": False}}),
        ({"reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}),
        ({"user": "u", "parallel_tool_calls": True, "stream_options": {"include_usage": True}}, {}),
    ],
)
def test_what_together_wants_in_another_form(options: dict[str, Any], expected: dict[str, Any]) -> None:
    body = chat_body(options)
    assert {name: value for name, value in body.items() if name not in ("model", "messages")} == expected


def test_a_stream_is_asked_for_without_options_since_usage_comes_unasked() -> None:
    assert chat_body({}, stream=True)["stream"] is True
    assert "stream_options" not in chat_body({}, stream=True)
    assert PROVIDER.chat is not None
    assert not PROVIDER.chat.adds_usage_chunk


def test_the_callers_messages_are_not_changed_in_place() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "tool_calls": [CALL]},
    ]
    before = orjson.dumps(messages)
    body = chat_body({}, messages)
    assert orjson.dumps(messages) == before
    assert body["messages"][0] == {"role": "system", "content": "a"}
    assert body["messages"][1]["tool_calls"] == [{**CALL, "index": 0}]


def image(**fields: Any) -> ImageCall:
    return ImageCall(model="m", prompt="A cat", **fields)


@pytest.mark.parametrize(
    "call",
    [
        image(),
        image(count=4, width=1024, height=768, steps=20, seed=7, output_format="PNG", response_format="b64_json"),
        image(options={"negative_prompt": "dogs", "guidance_scale": 3.5, "size": "512x512", "user": "u"}),
        image(images=(LINK,), quality="high"),
        image(images=(LINK, PNG), response_format="url"),
    ],
)
def test_every_picture_keeps_the_schema(call: ImageCall) -> None:
    request = request_of(call)
    assert violations("together", request) == []
    assert (request.root, request.path) == ("default", "/images/generations")


def video(**fields: Any) -> VideoCall:
    return VideoCall(model="m", prompt="A cat runs", **fields)


@pytest.mark.parametrize(
    "call",
    [
        video(),
        video(
            width=1366,
            height=768,
            seconds="5",
            fps=24,
            steps=30,
            seed=7,
            guidance_scale=6.0,
            output_format="WEBM",
            output_quality=20,
            negative_prompt="dogs",
            options={"generate_audio": True, "resolution": "720p", "ratio": "16:9", "unknown": 1},
        ),
        video(frames=(Frame(media=LINK), Frame(media=PNG, position="last"), Frame(media=PNG, position="48"))),
        video(references=(LINK, PNG)),
    ],
)
def test_every_clip_keeps_the_schema(call: VideoCall) -> None:
    request = request_of(call, default_seconds=5)
    assert violations("together", request) == []
    assert (request.root, request.path) == ("v2", "/videos")


def test_a_clip_is_polled_under_v2() -> None:
    assert PROVIDER.video is not None
    request = PROVIDER.video.poll("a/b", make_offer(Operation.VIDEO))
    assert (request.method, request.root, request.path) == ("GET", "v2", "/videos/a%2Fb")
    assert violations("together", request) == []


@pytest.mark.parametrize(
    "call",
    [
        SpeechCall(model="m", text="Hello", voice="tara"),
        SpeechCall(
            model="m",
            text="Hello",
            voice="tara",
            output_format="mp3",
            speed=2,
            instructions="x",
            options={"sample_rate": 24000, "bit_rate": 64000, "language": "de", "response_encoding": "pcm_s16le"},
        ),
    ],
)
def test_every_speech_keeps_the_schema(call: SpeechCall) -> None:
    assert violations("together", request_of(call)) == []


def test_speech_is_wav_unless_asked_otherwise() -> None:
    assert PROVIDER.speech is not None
    assert PROVIDER.speech.media_type(SpeechCall(model="m", text="x"), {}) == "audio/wav"


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "timestamp_granularities": ["word"]}])
def test_every_transcription_keeps_the_schema(options: dict[str, Any]) -> None:
    sound = Media(kind="audio", data=b"RIFF", media_type="audio/wav")
    call = TranscriptionCall(model="m", audio=sound, language="de", response_format="verbose_json", options=options)
    translation = TranscriptionCall(model="m", audio=sound, into_english=True, prompt="p", response_format="json")
    for each in (call, translation):
        assert violations("together", request_of(each, upstream_model="openai/whisper-large-v3")) == []


def test_every_embedding_keeps_the_schema() -> None:
    for inputs in (["one"], ["one", "two"]):
        call = EmbeddingCall(model="m", inputs=inputs, options={"dimensions": 8, "user": "u"})
        assert violations("together", request_of(call)) == []


@pytest.mark.parametrize(
    ("url", "media_id"),
    [
        ("https://api.together.ai/shrt/DwlaBdSakNRFlBxN", "DwlaBdSakNRFlBxN"),
        ("https://api.together.xyz/shrt/a1", "a1"),
        ("https://api.together.ai/shrt/", None),
        ("https://api.together.ai/shrt/a/b", None),
        ("https://api.together.ai/shrt/a?x=1", None),
        ("https://api.together.ai.evil.test/shrt/a", None),
        ("http://api.together.ai/shrt/a", None),
        ("https://evil.test/https://api.together.ai/shrt/a", None),
        ("https://api.together.ai/imgproxy/x/format:jpeg/y", None),
    ],
)
def test_short_links_are_recognised_strictly(url: str, media_id: str | None) -> None:
    assert PROVIDER.short_url is not None
    match = PROVIDER.short_url.fullmatch(url)
    assert (match[1] if match else None) == media_id


def test_a_403_for_an_input_that_is_too_long_is_the_callers() -> None:
    body = orjson.dumps({"error": {"message": "Input is too long", "type": "invalid_request_error"}})
    assert PROVIDER.read_error(403, {}, body).status == 400
    assert PROVIDER.read_error(402, {}, body).status == 502
