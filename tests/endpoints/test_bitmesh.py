"""Every field of the Bitmesh documents: what is refused, in whose words, and how what passes arrives in a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bitmesh_proxy.calls import ChatCall, Frame, ImageCall, Media, VideoCall
from bitmesh_proxy.context import Caller
from bitmesh_proxy.endpoints.bitmesh import parse_chat, parse_image, parse_video
from bitmesh_proxy.errors import ValidationFailed

FREE = Caller(account_id="acc_1", key_id="key_1")
BOUND = Caller(account_id="acc_1", key_id="key_2", bound_model="vendor/bound")

CHAT: dict[str, Any] = {"model": "vendor/m", "messages": [{"role": "user", "content": "hi"}]}
IMAGE: dict[str, Any] = {"model": "vendor/m", "prompt": "a cat"}
VIDEO: dict[str, Any] = {"model": "vendor/m", "prompt": "a cat runs"}

Parse = Callable[[dict[str, Any], Caller], object]
BODIES: dict[Parse, dict[str, Any]] = {parse_chat: CHAT, parse_image: IMAGE, parse_video: VIDEO}


def errors_of(parse: Parse, body: dict[str, Any], caller: Caller = FREE) -> dict[str, list[str]]:
    with pytest.raises(ValidationFailed) as caught:
        parse(body, caller)
    assert caught.value.status == 422
    return {name: list(messages) for name, messages in caught.value.fields.items()}


def must_be_an_integer(name: str) -> list[tuple[Any, list[str]]]:
    message = f"The {name} field must be an integer."
    return [("x", [message]), (1.5, [message]), ([1], [message]), (True, [message])]


# ---------------------------------------------------------------- the model rule


@pytest.mark.parametrize("parse", BODIES)
def test_a_free_key_has_to_name_the_model(parse: Parse) -> None:
    body = {name: value for name, value in BODIES[parse].items() if name != "model"}
    assert errors_of(parse, body) == {"model": ["The model field is required."]}
    nothing: tuple[Any, ...] = (None, "", "  ", [])
    for model in nothing:
        assert errors_of(parse, {**body, "model": model}) == {"model": ["The model field is required."]}
    assert errors_of(parse, {**body, "model": 5}) == {"model": ["The model field must be a string."]}


@pytest.mark.parametrize("parse", BODIES)
def test_a_bound_key_must_not(parse: Parse) -> None:
    body = BODIES[parse]
    assert errors_of(parse, body, BOUND) == {"model": ["The model field is prohibited."]}
    assert errors_of(parse, {**body, "model": "vendor/bound"}, BOUND) == {"model": ["The model field is prohibited."]}
    for model in ({"model": None}, {"model": ""}):  # Laravel counts these as not sent
        parse({**body, **model}, BOUND)


def test_the_bound_model_is_the_calls() -> None:
    assert parse_chat({"messages": CHAT["messages"]}, BOUND).model == "vendor/bound"
    assert parse_image({"prompt": "x"}, BOUND).model == "vendor/bound"
    assert parse_video({"prompt": "x"}, BOUND).model == "vendor/bound"


@pytest.mark.parametrize("caller", [FREE, BOUND])
def test_every_failing_field_comes_at_once(caller: Caller) -> None:
    body = {
        "model": 1,
        "messages": [{"role": "boss"}, {"content": "x"}],
        "max_tokens": 0,
        "temperature": 3,
        "test": "no",
    }
    assert list(errors_of(parse_chat, body, caller)) == [
        "model",
        "max_tokens",
        "temperature",
        "test",
        "messages.0.role",
        "messages.1.role",
        "messages.0.content",
    ]


# ---------------------------------------------------------------- chat


@pytest.mark.parametrize(
    ("field", "value", "messages"),
    [
        ("messages", None, ["The messages field is required."]),
        ("messages", [], ["The messages field is required."]),
        ("messages", "hi", ["The messages field must be an array."]),
        ("messages", {"role": "user"}, ["The messages field must be an array."]),
        ("max_tokens", 0, ["The max tokens field must be at least 1."]),
        ("max_tokens", "0", ["The max tokens field must be at least 1."]),
        *[("max_tokens", *row) for row in must_be_an_integer("max tokens")],
        ("temperature", -0.1, ["The temperature field must be between 0 and 2."]),
        ("temperature", 2.1, ["The temperature field must be between 0 and 2."]),
        ("temperature", "2.1", ["The temperature field must be between 0 and 2."]),
        ("temperature", "hi", ["The temperature field must be a number."]),
        ("repetition_penalty", -1, ["The repetition penalty field must be at least 0."]),
        ("repetition_penalty", [1], ["The repetition penalty field must be a number."]),
        ("frequency_penalty", -2.5, ["The frequency penalty field must be between -2 and 2."]),
        ("frequency_penalty", 3, ["The frequency penalty field must be between -2 and 2."]),
        ("presence_penalty", 2.01, ["The presence penalty field must be between -2 and 2."]),
        ("max_completion_tokens", "0", ["The max completion tokens field must be at least 1."]),
        *[("max_completion_tokens", *row) for row in must_be_an_integer("max completion tokens")],
        ("n", 0, ["The n field must be at least 1."]),
        *[("n", *row) for row in must_be_an_integer("n")],
        ("test", "yes", ["The test field must be true or false."]),
        ("stream", 2, ["The stream field must be true or false."]),
    ],
)
def test_chat_refuses(field: str, value: Any, messages: list[str]) -> None:
    assert errors_of(parse_chat, {**CHAT, field: value}) == {field: messages}


ROLE_MISSING = ["The messages.0.role field is required."]
CONTENT_MISSING = ["The messages.0.content field is required."]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("hi", {"messages.0.role": ROLE_MISSING, "messages.0.content": CONTENT_MISSING}),
        ({}, {"messages.0.role": ROLE_MISSING, "messages.0.content": CONTENT_MISSING}),
        ({"role": "user"}, {"messages.0.content": CONTENT_MISSING}),
        ({"role": "user", "content": " "}, {"messages.0.content": CONTENT_MISSING}),
        ({"role": "user", "content": []}, {"messages.0.content": CONTENT_MISSING}),
        ({"role": "user", "content": None, "tool_calls": [{"id": "c"}]}, {"messages.0.content": CONTENT_MISSING}),
        ({"role": "assistant", "content": None, "tool_calls": []}, {"messages.0.content": CONTENT_MISSING}),
        ({"role": "user", "content": 5}, {"messages.0.content": ["The messages.0.content field must be a string."]}),
        ({"role": "user", "content": {"a": 1}}, {
            "messages.0.content": ["The messages.0.content field must be a string."],
        }),
        ({"role": "user", "content": ["x"]}, {
            "messages.0.content.0.type": ["The messages.0.content.0.type field is required."],
        }),
        ({"role": "user", "content": [{"type": "text", "text": "x"}, {"text": "y"}]}, {
            "messages.0.content.1.type": ["The messages.0.content.1.type field is required."],
        }),
        ({"role": "developer", "content": "x"}, {"messages.0.role": ["The selected messages.0.role is invalid."]}),
        ({"role": "User", "content": "x"}, {"messages.0.role": ["The selected messages.0.role is invalid."]}),
        ({"role": 1, "content": "x"}, {
            "messages.0.role": [
                "The messages.0.role field must be a string.",
                "The selected messages.0.role is invalid.",
            ],
        }),
    ],
)  # fmt: skip
def test_chat_refuses_messages(message: Any, expected: dict[str, list[str]]) -> None:
    assert errors_of(parse_chat, {**CHAT, "messages": [message]}) == expected


def test_chat_passes_on_what_it_knows_and_what_it_does_not() -> None:
    body = {
        **CHAT,
        "stream": "1",
        "test": 0,
        "max_tokens": "5",
        "temperature": "0.5",
        "repetition_penalty": 1,
        "frequency_penalty": -2,
        "presence_penalty": 2.0,
        "n": "3",
        "max_completion_tokens": 7.0,
        "top_p": 0.9,
        "stop": ["\n"],
        "tools": [{"type": "function"}],
        "response_format": {"type": "json_object"},
        "user": None,
    }
    assert parse_chat(body, FREE) == ChatCall(
        model="vendor/m",
        messages=CHAT["messages"],
        stream=True,
        test=False,
        options={
            "max_tokens": 5,
            "temperature": 0.5,
            "repetition_penalty": 1,
            "frequency_penalty": -2,
            "presence_penalty": 2.0,
            "n": 3,
            "max_completion_tokens": 7,
            "top_p": 0.9,
            "stop": ["\n"],
            "tools": [{"type": "function"}],
            "response_format": {"type": "json_object"},
        },
    )


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_an_optional_field_that_is_empty_was_not_sent(nothing: Any) -> None:
    names = (
        "max_tokens",
        "temperature",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "max_completion_tokens",
        "n",
        "stream",
        "test",
    )
    assert parse_chat({**CHAT, **dict.fromkeys(names, nothing)}, FREE) == parse_chat(CHAT, FREE)


def test_messages_reach_the_call_as_they_came() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "  indented\n"},
        {"role": " user ", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}], "name": "n"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    call = parse_chat({**CHAT, "messages": messages}, FREE)
    assert [dict(message) for message in call.messages] == [messages[0], {**messages[1], "role": "user"}, *messages[2:]]
    assert call.messages[0] is messages[0]


def test_the_model_is_trimmed() -> None:
    assert parse_chat({**CHAT, "model": " vendor/m\n"}, FREE).model == "vendor/m"


# ---------------------------------------------------------------- image


@pytest.mark.parametrize(
    ("field", "value", "messages"),
    [
        ("prompt", "", ["The prompt field is required."]),
        ("prompt", 5, ["The prompt field must be a string."]),
        *[
            (field, *row)
            for field in ("width", "height", "steps", "n")
            for row in [(0, [f"The {field} field must be at least 1."]), *must_be_an_integer(field)]
        ],
        *[("seed", *row) for row in must_be_an_integer("seed")],
        ("test", 3, ["The test field must be true or false."]),
        ("reference_images", "https://a.test/x.png", ["The reference images field must be an array."]),
    ],
)
def test_image_refuses(field: str, value: Any, messages: list[str]) -> None:
    assert errors_of(parse_image, {**IMAGE, field: value}) == {field: messages}


@pytest.mark.parametrize(
    ("link", "messages"),
    [
        (None, ["The reference_images.0 field is required."]),
        (7, ["The reference_images.0 field must be a string.", "The reference_images.0 field must be a valid URL."]),
        ("/etc/passwd", ["The reference_images.0 field must be a valid URL."]),
        ("file:///etc/passwd", ["The reference_images.0 field must be a valid URL."]),
    ],
)
def test_image_refuses_links(link: Any, messages: list[str]) -> None:
    body = {**IMAGE, "reference_images": [link, "https://a.test/x.png"]}
    assert errors_of(parse_image, body) == {"reference_images.0": messages}


def test_image_arrives() -> None:
    body = {
        **IMAGE,
        "width": "512",
        "height": 768.0,
        "steps": 4,
        "seed": -7,
        "n": "2",
        "test": True,
        "reference_images": ["https://a.test/x.png", "data:image/png;base64,AAAA"],
        "quality": "high",
        "output_format": "png",
        "guidance_scale": 3.5,
        "response_format": "base64",
        "stream": True,
        "negative_prompt": None,
    }
    assert parse_image(body, FREE) == ImageCall(
        model="vendor/m",
        prompt="a cat",
        count=2,
        width=512,
        height=768,
        steps=4,
        seed=-7,
        quality="high",
        output_format="png",
        images=(
            Media(kind="image", url="https://a.test/x.png"),
            Media(kind="image", url="data:image/png;base64,AAAA"),
        ),
        response_format="url",
        options={"guidance_scale": 3.5},
        test=True,
    )


@pytest.mark.parametrize(
    ("sides", "expected"),
    [({}, (None, None)), ({"width": 512}, (512, 1024)), ({"height": 512}, (1024, 512)), ({"width": ""}, (None, None))],
)
def test_a_picture_has_both_sides_or_neither(sides: dict[str, Any], expected: tuple[int | None, int | None]) -> None:
    call = parse_image({**IMAGE, **sides}, FREE)
    assert (call.width, call.height) == expected


# ---------------------------------------------------------------- video


@pytest.mark.parametrize(
    ("field", "value", "messages"),
    [
        ("prompt", "   ", ["The prompt field is required."]),
        ("prompt", "x" * 32001, ["The prompt field must not be greater than 32000 characters."]),
        *[
            (field, *row)
            for field, name in (
                ("width", "width"),
                ("height", "height"),
                ("fps", "fps"),
                ("output_quality", "output quality"),
            )
            for row in [(0, [f"The {name} field must be at least 1."]), *must_be_an_integer(name)]
        ],
        ("steps", 9, ["The steps field must be between 10 and 50."]),
        ("steps", 51, ["The steps field must be between 10 and 50."]),
        ("steps", 10.5, ["The steps field must be an integer."]),
        ("seed", "x", ["The seed field must be an integer."]),
        ("seconds", 5, ["The seconds field must be a string."]),
        ("seconds", "soon", ["The seconds field format is invalid."]),
        ("seconds", "0", ["The seconds field format is invalid."]),
        ("seconds", "0.0", ["The seconds field format is invalid."]),
        ("seconds", "-5", ["The seconds field format is invalid."]),
        ("seconds", "1e9", ["The seconds field format is invalid."]),
        ("seconds", "123456", ["The seconds field format is invalid."]),
        ("guidance_scale", -0.5, ["The guidance scale field must be at least 0."]),
        ("guidance_scale", "much", ["The guidance scale field must be a number."]),
        ("output_format", "mp4", ["The selected output format is invalid."]),
        ("output_format", 4, ["The output format field must be a string.", "The selected output format is invalid."]),
        ("negative_prompt", 1, ["The negative prompt field must be a string."]),
        ("frame_images", "x", ["The frame images field must be an array."]),
        ("reference_images", {"a": "b"}, ["The reference images field must be an array."]),
        ("test", "true", ["The test field must be true or false."]),
    ],
)
def test_video_refuses(field: str, value: Any, messages: list[str]) -> None:
    assert errors_of(parse_video, {**VIDEO, field: value}) == {field: messages}


WITH_FRAMES = "field is required when frame images is present."


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ({}, {
            "frame_images.0.input_image": [f"The frame_images.0.input_image {WITH_FRAMES}"],
            "frame_images.0.frame": [f"The frame_images.0.frame {WITH_FRAMES}"],
        }),
        ({"input_image": 5, "frame": 0}, {
            "frame_images.0.input_image": ["The frame_images.0.input_image field must be a string."],
        }),
        ({"input_image": "u", "frame": 1.5}, {
            "frame_images.0.frame": [
                "The frame_images.0.frame field must be a string.",
                "The selected frame_images.0.frame is invalid.",
            ],
        }),
        ({"input_image": "u", "frame": True}, {
            "frame_images.0.frame": [
                "The frame_images.0.frame field must be a string.",
                "The selected frame_images.0.frame is invalid.",
            ],
        }),
        ({"input_image": "u", "frame": "middle"}, {
            "frame_images.0.frame": ["The selected frame_images.0.frame is invalid."],
        }),
        ({"input_image": "u", "frame": -1}, {
            "frame_images.0.frame": ["The selected frame_images.0.frame is invalid."],
        }),
    ],
)  # fmt: skip
def test_video_refuses_frames(frame: Any, expected: dict[str, list[str]]) -> None:
    assert errors_of(parse_video, {**VIDEO, "frame_images": [frame]}) == expected


def test_video_refuses_references() -> None:
    assert errors_of(parse_video, {**VIDEO, "reference_images": ["u", None, 3]}) == {
        "reference_images.1": ["The reference_images.1 field is required."],
        "reference_images.2": ["The reference_images.2 field must be a string."],
    }


def test_video_arrives() -> None:
    body = {
        "model": "vendor/m",
        "prompt": " x ",
        "width": 1280,
        "height": "720",
        "seconds": "5.5",
        "fps": 24,
        "steps": "10",
        "seed": 0,
        "guidance_scale": "7.5",
        "output_format": "WEBM",
        "output_quality": 20,
        "negative_prompt": "blur",
        "frame_images": [
            {"input_image": "u0", "frame": 0},
            {"input_image": "u1", "frame": "48"},
            {"input_image": "u2", "frame": " last "},
            {"input_image": "u3", "frame": "first"},
        ],
        "reference_images": ["r0", "r1"],
        "generate_audio": True,
        "test": "1",
    }
    assert parse_video(body, FREE) == VideoCall(
        model="vendor/m",
        prompt="x",
        width=1280,
        height=720,
        seconds="5.5",
        fps=24,
        steps=10,
        seed=0,
        guidance_scale=7.5,
        output_format="WEBM",
        output_quality=20,
        negative_prompt="blur",
        frames=(
            Frame(media=Media(kind="image", url="u0"), position=0),
            Frame(media=Media(kind="image", url="u1"), position=48),
            Frame(media=Media(kind="image", url="u2"), position="last"),
            Frame(media=Media(kind="image", url="u3"), position="first"),
        ),
        references=(Media(kind="image", url="r0"), Media(kind="image", url="r1")),
        options={"generate_audio": True},
        test=True,
    )


def test_the_shortest_video() -> None:
    assert parse_video({**VIDEO, "prompt": "x" * 32000, "seconds": None, "frame_images": []}, FREE) == VideoCall(
        model="vendor/m", prompt="x" * 32000
    )
