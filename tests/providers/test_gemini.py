"""What we send to Google is what Google publishes, held to it in depth: its own schema is open."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmesh_proxy.calls import ChatCall, Frame, ImageCall, Media, Operation, VideoCall
from bitmesh_proxy.providers.gemini import PROVIDER
from tests.dialects.offers import make_offer
from tests.providers.chat_options import CONVERSATIONS, OPTIONS
from tests.providers.contracts import violations

PNG = Media(kind="image", data=b"\x89PNG", media_type="image/png")
ANSWERABLE = {**OPTIONS, "n": [1], "logprobs": [False], "top_logprobs": [0]}
WITH_DATA = [
    conversation
    for conversation in CONVERSATIONS
    if not any(isinstance(message["content"], list) and message["role"] == "user" for message in conversation)
]


@settings(max_examples=80, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in ANSWERABLE.items()}),
    st.sampled_from(WITH_DATA),
    st.booleans(),
    st.sampled_from(["level", "budget", "none"]),
)
def test_every_chat_keeps_the_schema(
    options: dict[str, Any], messages: list[dict[str, Any]], stream: bool, manner: str
) -> None:
    assert PROVIDER.chat is not None
    call = ChatCall(model="m", messages=messages, options=options, stream=stream)
    offer = make_offer(Operation.CHAT, "gemini-3.8-flash", options={"thinking": manner, "signs_thoughts": True})
    assert violations("gemini", PROVIDER.chat.request(call, offer)) == []


def test_media_in_a_conversation_keep_the_schema() -> None:
    assert PROVIDER.chat is not None
    assert not PROVIDER.chat.takes_image_urls
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
    ]
    call = ChatCall(model="m", messages=[{"role": "user", "content": parts}])
    assert violations("gemini", PROVIDER.chat.request(call, make_offer(Operation.CHAT, "gemini-3.8-flash"))) == []


@pytest.mark.parametrize("method", ["generateContent", "predict"])
@pytest.mark.parametrize(
    "fields", [{}, {"width": 1024, "height": 1024, "seed": 3}, {"width": 2048, "height": 2048, "quality": "high"}]
)
def test_every_picture_keeps_the_schema(fields: dict[str, Any], method: str) -> None:
    assert PROVIDER.image is not None
    offer = make_offer(Operation.IMAGE, "gemini-x", options={"method": method, "image_sizes": ["1K", "2K"]})
    assert violations("gemini", PROVIDER.image.request(ImageCall(model="m", prompt="A cat", **fields), offer)) == []


def test_every_clip_keeps_the_schema() -> None:
    assert PROVIDER.video is not None
    offer = make_offer(Operation.VIDEO, "veo-3.1")
    call = VideoCall(model="m", prompt="A cat", seconds="8", width=1280, height=720, frames=(Frame(media=PNG),))
    assert violations("gemini", PROVIDER.video.submit(call, offer)) == []
    assert violations("gemini", PROVIDER.video.poll("models/veo-3.1/operations/abc", offer)) == []


def test_a_key_that_google_does_not_take_is_our_trouble() -> None:
    body = (
        b'{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT",'
        b'"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}'
    )
    refusal = PROVIDER.read_error(400, {}, body)
    assert (refusal.status, refusal.body) == (502, None)
    assert PROVIDER.auth("k") == {"x-goog-api-key": "k"}
