from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import ImageCall, Operation, SpeechCall, TranscriptionCall, VideoCall
from bitmesh_proxy.endpoints.responses.media_calls import call_for
from bitmesh_proxy.errors import InvalidRequest, UnsupportedParameter, UnsupportedValue
from tests.endpoints.responses.making import TOOLS, a_request

LINKS = [f"https://a.test/{number}.png" for number in range(4)]
WAV = {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,UklGRg=="}}


def picture(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "input_image", "image_url": LINKS[number], **more}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def made(number: int) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "output_text", "text": "![image](x)"}, picture(number)]}


def image_call(**fields: Any) -> ImageCall:
    call = call_for(a_request(**fields), Operation.IMAGE)
    assert isinstance(call, ImageCall)
    return call


def links_of(call: ImageCall) -> list[Any]:
    return [media.url for media in call.images]


def test_a_picture_gets_the_text_and_every_wish() -> None:
    call = image_call(
        messages=[{"role": "user", "content": "A lake"}],
        size="1024x768",
        quality="hd",
        max_items=3,
        response_format="b64_json",
        seed=-1,
        steps=4,
        output_format="webp",
        guidance=3.5,
    )
    assert (call.prompt, call.width, call.height, call.quality, call.count) == ("A lake", 1024, 768, "hd", 3)
    assert (call.response_format, call.seed, call.steps, call.output_format) == ("b64_json", -1, 4, "webp")
    assert call.options == {"guidance": 3.5}


def test_the_whole_conversation_and_all_its_pictures_go_in() -> None:
    said = {"role": "assistant", "content": "Which style?"}
    request = [{"role": "system", "content": "Oil only."}, user("A lake", picture(0)), said, user("Blue", picture(1))]
    call = image_call(input=request, instructions="No people.")
    assert call.prompt == "No people.\n\nOil only.\n\nA lake\n\nWhich style?\n\nBlue"
    assert links_of(call) == LINKS[:2]


def test_the_next_turn_edits_what_the_last_one_made() -> None:
    context = a_request(input=[user("A lake", picture(0)), made(1), user("Blue"), made(2), made(3)]).items
    call = call_for(a_request(input="Bluer"), Operation.IMAGE, context)
    assert isinstance(call, ImageCall)
    assert links_of(call) == LINKS[2:]
    assert call.prompt == "A lake\n\nBlue\n\nBluer"


def test_a_context_that_made_nothing_gives_all_its_pictures() -> None:
    context = a_request(input=[user("Look", picture(0)), user("and", picture(1))]).items
    call = call_for(a_request(input="Mix them"), Operation.IMAGE, context)
    assert isinstance(call, ImageCall)
    assert links_of(call) == LINKS[:2]


def test_a_mask_is_no_picture() -> None:
    call = image_call(input=[user("Hat", picture(0), picture(1, mask=True))])
    assert links_of(call) == LINKS[:1]
    assert call.mask is not None
    assert call.mask.url == LINKS[1]
    beside = image_call(input=[user("Hat", picture(0))], mask=LINKS[2]).mask
    assert beside is not None
    assert beside.url == LINKS[2]


def video_call(**fields: Any) -> VideoCall:
    call = call_for(a_request(**fields), Operation.VIDEO)
    assert isinstance(call, VideoCall)
    return call


def test_one_picture_begins_a_clip_and_several_are_its_references() -> None:
    one = video_call(input=[user("Go", picture(0))], seconds=5, size="1280x720", max_items=1)
    assert (one.seconds, one.width, one.height) == ("5", 1280, 720)
    assert [(frame.media.url, frame.position) for frame in one.frames] == [(LINKS[0], "first")]
    two = video_call(input=[user("Go", picture(0), picture(1))])
    assert [media.url for media in two.references] == LINKS[:2]
    assert two.frames == ()


def test_speech_says_this_turns_words() -> None:
    call = call_for(
        a_request(input="Good day", instructions="Cheerfully.", voice="alloy", speed=1.5, format="wav"),
        Operation.SPEECH,
        a_request(input="Not this").items,
    )
    assert isinstance(call, SpeechCall)
    assert (call.text, call.instructions, call.voice) == ("Good day", "Cheerfully.", "alloy")
    assert (call.output_format, call.speed) == ("wav", 1.5)


def test_a_sound_becomes_text() -> None:
    call = call_for(a_request(input=[user("Names: Ada", WAV)], language="en"), Operation.TRANSCRIPTION)
    assert isinstance(call, TranscriptionCall)
    assert (call.audio.url, call.audio.media_type) == ("data:audio/wav;base64,UklGRg==", "audio/wav")
    assert (call.prompt, call.language) == ("Names: Ada", "en")


IMAGE, VIDEO, SPEECH, TRANSCRIPTION = Operation.IMAGE, Operation.VIDEO, Operation.SPEECH, Operation.TRANSCRIPTION


@pytest.mark.parametrize(
    ("operation", "fields", "param"),
    [
        (IMAGE, {"seconds": 5}, "seconds"),
        (IMAGE, {"tools": TOOLS}, "tools"),
        (IMAGE, {"temperature": 1}, "temperature"),
        (IMAGE, {"reasoning": {"effort": "low"}}, "reasoning"),
        (IMAGE, {"max_output_tokens": 16}, "max_output_tokens"),
        (IMAGE, {"text": {"format": {"type": "json_object"}}}, "text.format"),
        (IMAGE, {"input": [user("x", WAV)]}, "input"),
        (IMAGE, {"input": [user("x", {"type": "input_video", "video_url": LINKS[0]})]}, "input"),
        (VIDEO, {"max_items": 2}, "max_items"),
        (VIDEO, {"mask": LINKS[0]}, "mask"),
        (VIDEO, {"input": [user("x", {"type": "input_file", "file_url": "https://a.test/a.pdf"})]}, "input"),
        (SPEECH, {"size": "1x1"}, "size"),
        (SPEECH, {"quality": "hd"}, "quality"),
        (SPEECH, {"messages": [user("x", picture(0))]}, "messages"),
        (TRANSCRIPTION, {"seconds": 5}, "seconds"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_take_is_refused_by_name(operation: Operation, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        call_for(a_request(**fields), operation)
    assert raised.value.param == param


@pytest.mark.parametrize("form", ["b64_json", "b64_ephemeral"])
def test_a_clip_is_never_promised_as_base64(form: str) -> None:
    with pytest.raises(UnsupportedValue) as raised:
        call_for(a_request(input="A cat", response_format=form), VIDEO)
    assert raised.value.param == "response_format"
    assert isinstance(call_for(a_request(input="A cat", response_format="url"), VIDEO), VideoCall)


@pytest.mark.parametrize("operation", [IMAGE, VIDEO, SPEECH, TRANSCRIPTION])
def test_something_to_work_from_is_needed(operation: Operation) -> None:
    with pytest.raises(InvalidRequest) as raised:
        call_for(a_request(input=[user(" ")]), operation)
    assert raised.value.param == "input"


def test_models_of_vectors_give_no_responses() -> None:
    with pytest.raises(UnsupportedValue) as raised:
        call_for(a_request(), Operation.EMBEDDING)
    assert raised.value.param == "model"
