from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bitmesh_proxy.billing import usage as counting
from bitmesh_proxy.billing.usage import (
    complete_usage,
    max_output_tokens,
    prompt_size,
    tokens_of,
    usage_bound,
    usage_delivered,
)
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
    Usage,
    VideoCall,
)
from bitmesh_proxy.catalogue.offer import Abilities
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.money import NanoUsd
from tests.billing.offers import chat, chat_offer, offer

MODEL = "maker/model"
PICTURE = Media(kind="image", url="https://example.test/a.png")
VIDEO = offer(Operation.VIDEO, Price(second_nano_usd=1), default_seconds=5, abilities=Abilities(max_seconds=10))
CALLS: tuple[Call, ...] = (
    chat("Tell me a story."),
    ImageCall(model=MODEL, prompt="a cat"),
    VideoCall(model=MODEL, prompt="a cat"),
    SpeechCall(model=MODEL, text="Hello"),
    TranscriptionCall(model=MODEL, audio=Media(kind="audio", data=b"x" * 100)),
    EmbeddingCall(model=MODEL, inputs=["a"]),
    ModerationCall(model=MODEL, inputs=["a"]),
)


def bound(call: Call, **changes: Any) -> Usage:
    return usage_bound(call, chat_offer(**changes), default_max_output_tokens=4096)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call.operation))
def test_no_call_is_nothing(call: Call) -> None:
    """An unmetered call would be free, and a sent one is never."""
    for usage in (bound(call), usage_delivered(call, VIDEO, output_characters=0)):
        units = (usage.input_tokens, usage.images, usage.characters, usage.duration_ms)
        assert any(units)
    assert usage_delivered(call, VIDEO, output_characters=0).is_estimated


@given(st.text(max_size=300), st.text(max_size=300))
def test_bound_is_above_two_tokens_for_each_four_bytes_and_above_the_estimate(system: str, text: str) -> None:
    call = ChatCall(
        model=MODEL,
        messages=[{"role": "system", "content": system}, {"role": "user", "content": [{"type": "text", "text": text}]}],
    )
    at_most = bound(call).input_tokens
    assert at_most * 2 >= len((system + text).encode("utf-8", "surrogatepass"))
    assert at_most >= usage_delivered(call, chat_offer(), output_characters=0).input_tokens >= 1


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["role", "content", "name", "type"]), st.none() | st.text(max_size=5) | st.integers(0, 3)
        ),
        max_size=4,
    )
)
def test_common_messages_are_counted_as_all_others(messages: list[dict[str, Any]]) -> None:
    counted = prompt_size(ChatCall(model=MODEL, messages=messages))
    assert counted == prompt_size(ChatCall(model=MODEL, messages=[MappingProxyType(each) for each in messages]))


def test_everything_that_a_model_reads_is_counted() -> None:
    plain = prompt_size(chat("Hello"))
    tool = {"type": "function", "function": {"name": "f", "description": "d" * 1000, "parameters": {"n": 5}}}
    with_tools = prompt_size(chat("Hello", options={"tools": [tool], "temperature": 1, "stop": ["x" * 500]}))
    assert 1000 < with_tools.text_bytes - plain.text_bytes < 1100
    called = ChatCall(
        model=MODEL,
        messages=[{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "a" * 700}}]}],
    )
    assert prompt_size(called).text_bytes > 700


def test_pictures_count_as_pictures_however_they_come() -> None:
    data = "data:image/png;base64," + "A" * 1_000_000
    parts = [
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "input_image", "image_url": data},
        {"type": "text", "text": "What is this?"},
    ]
    call = ChatCall(model=MODEL, messages=[{"role": "user", "content": parts}])
    size = prompt_size(call)
    assert (size.pictures, size.text_bytes < 100) == (2, True)
    usage = bound(call)
    assert (usage.images, usage.image_input_tokens) == (2, 2 * counting.IMAGE_TOKENS_AT_MOST)
    assert bound(call, options={"image_tokens_at_most": 100}).image_input_tokens == 200
    delivered = usage_delivered(call, chat_offer(), output_characters=0)
    assert 0 < delivered.image_input_tokens < usage.image_input_tokens


PDF = "data:application/pdf;base64,"
WINDOW = counting.WINDOW_TOKENS_AT_MOST


@pytest.mark.parametrize(
    ("parts", "changes", "tokens"),
    [
        ([{"type": "file", "file": {"file_data": PDF + "A" * 1000}}], {}, 100_000),
        ([{"type": "file", "file": {"file_data": PDF + "A" * 600_000}}], {}, 300_000),
        ([{"type": "file", "file": {"file_data": PDF + "A" * 600_000}}] * 2, {}, 600_000),
        ([{"type": "file", "file": {"file_data": PDF + "A" * 9_000_000}}], {}, WINDOW),
        ([{"type": "file", "file": {"file_data": PDF + "A" * 9_000_000}}], {"context_tokens": 200_000}, 200_000),
        ([{"type": "file", "file": {"file_data": PDF}}], {"context_tokens": 8_000}, 8_000),
        ([{"type": "file", "file": {"file_url": "https://example.test/a.pdf"}}], {}, 100_000),
        ([{"type": "file", "file": {"file_id": "file-1"}}], {"options": {"file_tokens_at_most": 400_000}}, 400_000),
        ([{"type": "file", "file": {"file_data": PDF}}], {"options": {"file_tokens_at_most": 1000}}, 1000),
        ([{"type": "document", "source": {"type": "text", "data": "ö" * 200_000}}], {}, 200_000),
        ([{"type": "input_audio", "input_audio": {"data": "A" * 3_000_000, "format": "mp3"}}], {}, 100_000),
        ([{"type": "input_audio", "input_audio": {"data": "A" * 8_000_000, "format": "mp3"}}], {}, 200_000),
        ([{"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + "A" * 8_000_000}}], {}, 200_000),
        ([{"type": "file", "file": {"file_data": "data:audio/mpeg;base64," + "A" * 8_000_000}}], {}, 200_000),
    ],
)
def test_files_and_sounds_are_bounded_by_their_size_and_the_window(
    parts: list[dict[str, Any]], changes: dict[str, Any], tokens: int
) -> None:
    usage = bound(ChatCall(model=MODEL, messages=[{"role": "user", "content": parts}]), **changes)
    assert 0 <= usage.input_tokens - tokens < 100


def test_who_says_that_a_document_is_a_sound_holds_no_less_for_it() -> None:
    part = {"type": "file", "note": "data:audio/", "file": {"file_data": PDF + "A" * 600_000}}
    assert bound(ChatCall(model=MODEL, messages=[{"role": "user", "content": [part]}])).input_tokens > 300_000


@pytest.mark.parametrize(
    ("options", "limit", "tokens"),
    [
        ({}, None, 4096),
        ({}, 1000, 1000),
        ({"max_tokens": 50}, None, 50),
        ({"max_tokens": 5000}, 1000, 1000),
        ({"max_completion_tokens": 20, "max_tokens": 50}, None, 50),
        ({"max_completion_tokens": 50, "max_tokens": 20}, 1000, 50),
        ({"max_completion_tokens": 5000, "max_tokens": 20}, 1000, 1000),
        ({"max_output_tokens": 1}, None, 4096),
        ({"max_tokens": True}, None, 4096),
        ({"max_tokens": None}, 7, 7),
        ({"max_tokens": 0}, 7, 7),
    ],
)
def test_output_is_bounded_by_caller_then_model_then_default(
    options: dict[str, Any], limit: int | None, tokens: int
) -> None:
    assert max_output_tokens(chat(options=options), chat_offer(max_output_tokens=limit), 4096) == tokens


def test_each_choice_may_be_as_long() -> None:
    assert bound(chat(options={"n": 3, "max_tokens": 10})).output_tokens == 30
    assert bound(chat(options={"n": None, "max_tokens": 10})).output_tokens == 10


def test_what_is_predicted_is_an_answer_too() -> None:
    """OpenAI bills the part that the model did not say, however short its answer may be."""
    prediction = {"type": "content", "content": "x" * 10_000}
    assert bound(chat(options={"max_tokens": 10, "prediction": prediction})).output_tokens >= 5_010
    assert bound(chat(options={"max_tokens": 10, "prediction": prediction, "n": 2})).output_tokens >= 10_020
    assert bound(chat(options={"max_tokens": 10, "prediction": None})).output_tokens < 20


def test_delivered_text_is_rounded_up_to_tokens() -> None:
    assert [tokens_of(characters) for characters in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert usage_delivered(chat(), chat_offer(), output_characters=41).output_tokens == 11


@pytest.mark.parametrize(
    ("seconds", "abilities", "default", "at_most_ms", "delivered_ms"),
    [
        ("5", Abilities(), None, 5000, 5000),
        ("2.5", Abilities(), None, 2500, 2500),
        (None, Abilities(), 8, 8000, 8000),
        (None, Abilities(max_seconds=12), None, 12_000, 5000),
        (None, Abilities(seconds=(4, 6, 8)), None, 8000, 5000),
        (None, Abilities(), None, 60_000, 5000),
        ("5", Abilities(seconds=(4, 6, 8), rounds_seconds_up=True), None, 6000, 6000),
    ],
)
def test_length_of_a_clip(
    seconds: str | None, abilities: Abilities, default: int | None, at_most_ms: int, delivered_ms: int
) -> None:
    video = offer(Operation.VIDEO, Price(second_nano_usd=1), abilities=abilities, default_seconds=default)
    call = VideoCall(model=MODEL, prompt="a cat", seconds=seconds, frames=(Frame(media=PICTURE),))
    assert usage_bound(call, video, default_max_output_tokens=1).duration_ms == at_most_ms
    assert usage_delivered(call, video, output_characters=0).duration_ms == delivered_ms


def test_length_of_a_sound() -> None:
    def ms(**changes: Any) -> tuple[int, int]:
        audio = Media(kind="audio", **changes.pop("media", {}))
        call = TranscriptionCall(model=MODEL, audio=audio, **changes)
        return bound(call).duration_ms, usage_delivered(call, VIDEO, output_characters=0).duration_ms

    assert ms(duration_s=1.5, media={"data": b"x"}) == (1500, 1500)
    assert ms(duration_s=1.5, media={"data": b"x" * 80_000}) == (80_000, 1500), "what is held stays on the safe side"
    assert ms(media={"data": b"x" * 80_000}) == (80_000, 10_000)
    assert ms(claimed_s=900.5, media={"data": b"x" * 80_000}) == (900_500, 10_000), "for the hold alone"
    assert ms(claimed_s=1.0, media={"data": b"x" * 80_000}) == (80_000, 10_000)
    assert ms(claimed_s=1e12, media={"data": b"x" * 80_000}) == (4 * 3600 * 1000, 10_000)
    assert ms(media={"url": "https://example.test/a.mp3"}) == (4 * 3600 * 1000, 5000)


def test_inputs_of_embeddings() -> None:
    def tokens(inputs: Any) -> int:
        return bound(EmbeddingCall(model=MODEL, inputs=inputs)).input_tokens

    assert tokens([1, 2, 3]) == 3
    assert tokens([[1, 2], [3]]) == 3
    assert tokens(["x" * 100]) == 58
    assert tokens([]) == 0


def test_figures_of_the_provider_stand() -> None:
    tokens = Usage(input_tokens=5, output_tokens=6)
    assert complete_usage(tokens, chat(), chat_offer(), output_characters=0) is tokens
    reported = Usage(reported_cost_nano_usd=NanoUsd(7))
    assert complete_usage(reported, chat(), chat_offer(), output_characters=0) is reported
    picture = offer(Operation.IMAGE, Price(image_nano_usd=5))
    two = Usage(images=2, input_tokens=9)
    assert complete_usage(two, ImageCall(model=MODEL, prompt="a"), picture, output_characters=0) is two


def test_what_the_provider_does_not_say_is_estimated() -> None:
    nothing = complete_usage(Usage(), chat("Hello there"), chat_offer(), output_characters=40)
    assert (nothing.is_estimated, nothing.output_tokens) == (True, 10)
    assert nothing.input_tokens > 0
    assert complete_usage(None, chat("Hello there"), chat_offer(), output_characters=40) == nothing
    half = Usage(output_tokens=6, reasoning_tokens=2)
    without_prompt = complete_usage(half, chat("Hello there"), chat_offer(), output_characters=400)
    assert without_prompt == replace(half, input_tokens=nothing.input_tokens, is_estimated=True)
    cached = Usage(cached_input_tokens=900, output_tokens=6)
    assert complete_usage(cached, chat("Hello"), chat_offer(), output_characters=4).input_tokens == 900
    half = Usage(input_tokens=9)
    without_text = complete_usage(half, chat("Hello there"), chat_offer(), output_characters=40)
    assert without_text == Usage(input_tokens=9, output_tokens=10, is_estimated=True)
    assert complete_usage(half, chat("Hello there"), chat_offer(), output_characters=0) is half  # there was no text
    picture = offer(Operation.IMAGE, Price(image_nano_usd=5))
    images = complete_usage(
        Usage(input_tokens=9), ImageCall(model=MODEL, prompt="a", count=3), picture, output_characters=0
    )
    assert (images.images, images.input_tokens, images.is_estimated) == (3, 9, True)


def test_a_count_of_a_picture_that_cannot_be_read_is_not_free() -> None:
    price = Price(input_nano_usd_per_million=5, output_nano_usd_per_million=30, image_nano_usd=9)
    both = offer(Operation.IMAGE, price)
    call = ImageCall(model=MODEL, prompt="four cats", images=(PICTURE,), count=2)
    without_picture = complete_usage(Usage(images=2, input_tokens=9), call, both, output_characters=0)
    assert without_picture == Usage(images=2, is_estimated=True), "by the picture, as where no tokens are named"
    half = Usage(images=2, output_tokens=4000, image_output_tokens=4000)
    without_prompt = complete_usage(half, call, both, output_characters=0)
    assert without_prompt == replace(half, input_tokens=1003, image_input_tokens=1000, is_estimated=True)
    whole = Usage(images=2, input_tokens=9, output_tokens=4000)
    assert complete_usage(whole, call, both, output_characters=0) is whole
    of_prompt = offer(Operation.IMAGE, Price(input_nano_usd_per_million=5, image_nano_usd=9))
    prompt_alone = Usage(images=2, input_tokens=9)
    assert complete_usage(prompt_alone, call, of_prompt, output_characters=0) is prompt_alone


def test_an_unreadable_count_of_what_was_embedded_is_estimated() -> None:
    vectors = offer(Operation.EMBEDDING, Price(input_nano_usd_per_million=5))
    call = EmbeddingCall(model=MODEL, inputs=("x" * 400,))
    guessed = complete_usage(Usage(output_tokens=3), call, vectors, output_characters=0)
    assert guessed == Usage(input_tokens=108, output_tokens=3, is_estimated=True)
    named = Usage(input_tokens=90)
    assert complete_usage(named, call, vectors, output_characters=0) is named
