"""What offers refuse of a call, and that they say which field."""

from __future__ import annotations

from typing import Any

import pytest

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
from bitmesh_proxy.catalogue.fitting import Refusal, refusals
from bitmesh_proxy.catalogue.offer import Abilities
from tests.catalogue.making import make_offer

PICTURE = Media(kind="image", url="https://example.org/a.png")
SOUND = Media(kind="audio", data=b"x")


def chat(*parts: Any, stream: bool = False, **options: Any) -> ChatCall:
    content: Any = list(parts) if parts else "hello"
    return ChatCall(model="m", messages=[{"role": "user", "content": content}], options=options, stream=stream)


def image(**fields: Any) -> ImageCall:
    return ImageCall(model="m", prompt="a cat", **fields)


def video(**fields: Any) -> VideoCall:
    return VideoCall(model="m", prompt="a cat", **fields)


def refused(call: Call, **abilities: Any) -> list[Refusal]:
    more = {name: abilities.pop(name) for name in ("default_seconds", "quality_map") if name in abilities}
    return list(refusals(make_offer(operation=call.operation, abilities=Abilities(**abilities), **more), call))


@pytest.mark.parametrize(
    ("call", "abilities", "param", "is_value"),
    [
        (chat(tools=[{"type": "function"}]), {}, "tools", False),
        (chat(stream=True), {"streams": False}, "stream", False),
        (chat({"type": "image_url", "image_url": {"url": "x"}}), {}, "messages", False),
        (chat({"type": "input_audio", "input_audio": {}}), {"images_in_chat": True}, "messages", False),
        (chat({"type": "file", "file": {}}), {"images_in_chat": True, "audio_in_chat": True}, "messages", False),
        (chat({"type": "video_url"}), {"images_in_chat": True, "files_in_chat": True}, "messages", False),
        (
            chat({"type": "image_url"}, {"type": "image_url"}, {"type": "image_url"}),
            {"images_in_chat": True, "max_images_in": 2},
            "messages",
            True,
        ),
        (image(images=(PICTURE,)), {}, "image", False),
        (image(images=(PICTURE, PICTURE)), {"max_images_in": 1}, "image", True),
        (image(images=(PICTURE,), mask=PICTURE), {"max_images_in": 1}, "mask", False),
        (image(count=2), {}, "n", True),
        (image(width=512, height=512), {"sizes": ("1024x1024",)}, "size", True),
        (image(width=1025, height=1024), {"max_pixels": 1024 * 1024}, "size", True),
        (image(quality="ultra"), {"qualities": ("low", "high")}, "quality", True),
        (video(frames=(Frame(media=PICTURE),)), {}, "image", False),
        (video(frames=(Frame(media=PICTURE),), references=(PICTURE,)), {"max_images_in": 1}, "image", True),
        (video(frames=(Frame(media=PICTURE, position="last"),)), {"max_images_in": 1}, "last_frame", False),
        (video(width=640, height=480), {"sizes": ("1280x720",)}, "size", True),
        (video(seconds="7"), {"seconds": (5, 10)}, "seconds", True),
        (video(seconds="16"), {"max_seconds": 15}, "seconds", True),
        (video(seconds="soon"), {}, "seconds", True),
        (SpeechCall(model="m", text="x" * 11), {"max_characters": 10}, "input", True),
        (TranscriptionCall(model="m", audio=SOUND, into_english=True), {}, "model", True),
    ],
)
def test_a_field_that_the_offer_does_not_take_is_named(
    call: Call, abilities: dict[str, Any], param: str, is_value: bool
) -> None:
    (refusal,) = refused(call, **abilities)
    assert (refusal.param, refusal.is_value) == (param, is_value)


@pytest.mark.parametrize(
    ("call", "abilities"),
    [
        (chat(), {}),
        (chat(tools=[]), {}),
        (chat(stream=True, tools=[{"type": "function"}]), {"tools": True}),
        (chat({"type": "text", "text": "hi"}), {}),
        (chat({"type": "image_url"}, {"type": "image_url"}), {"images_in_chat": True}),
        (chat({"type": "input_audio"}, {"type": "file"}), {"audio_in_chat": True, "files_in_chat": True}),
        (image(), {}),
        (image(width=333, height=77), {}),
        (image(width=1024, height=1024), {"max_pixels": 1024 * 1024}),
        (image(images=(PICTURE,), mask=PICTURE, count=4), {"max_images_in": 1, "mask": True, "max_count": 4}),
        (image(quality="anything"), {}),
        (image(quality="auto"), {"qualities": ("low",)}),
        (image(quality="hd"), {"qualities": ("low", "high"), "quality_map": {"hd": "high"}}),
        (image(stream=True), {"streams": False}),  # what the provider does not stream, we do
        (video(frames=(Frame(media=PICTURE, position="last"),)), {"max_images_in": 1, "last_frame": True}),
        (video(seconds="5"), {"seconds": (4, 6), "rounds_seconds_up": True}),
        (video(), {"seconds": (4, 6)}),
        (SpeechCall(model="m", text="x" * 10), {"max_characters": 10}),
        (TranscriptionCall(model="m", audio=SOUND), {}),
        (TranscriptionCall(model="m", audio=SOUND, into_english=True), {"translates": True}),
        (EmbeddingCall(model="m", inputs=["a"]), {}),
        (ModerationCall(model="m", inputs=["a"]), {}),
    ],
)
def test_a_call_within_the_abilities_is_taken_whole(call: Call, abilities: dict[str, Any]) -> None:
    assert refused(call, **abilities) == []


def test_all_that_is_refused_is_said() -> None:
    call = image(images=(PICTURE,), mask=PICTURE, count=3, width=1, height=1)
    assert [refusal.param for refusal in refused(call, sizes=("1024x1024",))] == ["image", "mask", "n", "size"]


def test_a_refused_value_comes_with_the_values_that_are_taken() -> None:
    assert "1024x1024, 512x512" in refused(image(width=1, height=1), sizes=("1024x1024", "512x512"))[0].reason
    assert "5, 10" in refused(video(seconds="7"), seconds=(5, 10))[0].reason
    known = refused(image(quality="x"), qualities=("low", "high"), quality_map={"hd": "high"})[0].reason
    assert "auto, low, high, hd" in known


def test_another_kind_of_work_is_refused_by_the_model() -> None:
    (refusal,) = refusals(make_offer(operation=Operation.VIDEO), image())
    assert refusal.param == "model"


def test_messages_of_any_shape_are_looked_through_without_a_fault() -> None:
    messages: list[dict[str, Any]] = [
        {},
        {"content": None},
        {"content": 5},
        {"content": ["x", None, {}, {"type": "odd"}, {"type": []}, {"type": {}}, {"type": 1}]},
    ]
    assert refusals(make_offer(), ChatCall(model="m", messages=messages)) == ()
