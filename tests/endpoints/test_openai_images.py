"""Requests for pictures, and answers with them."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from bitmesh_proxy.calls import ImageCall, Media, MediaOutput, MediaResult, Usage
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.endpoints.endpoint import MadePictures
from bitmesh_proxy.endpoints.openai_images import parse_edit, parse_generation, render, render_events
from bitmesh_proxy.errors import InvalidRequest, MissingParameter
from bitmesh_proxy.money import NanoUsd

CALLER = Caller(account_id="acc_1", key_id="key_1")
CONTEXT = RequestContext(
    request_id="req_1", address="127.0.0.1", public_base_url="http://here", received_at_s=1_700_000_000.5, started_s=1.0
)
LINK = "https://example.org/a.png"
PICTURE = Media(kind="image", url=LINK)


def test_everything_arrives() -> None:
    body = {
        "model": "m", "prompt": "p", "n": 2, "size": "64x32", "quality": "hd", "response_format": "url",
        "output_format": "jpg", "stream": False, "seed": 5, "steps": 7, "background": "auto", "user": "u", "own": 1,
        "image": LINK, "images": [{"image_url": LINK}], "mask": [LINK], "test": True,
    }  # fmt: skip
    assert parse_generation(body, CALLER) == ImageCall(
        model="m",
        prompt="p",
        count=2,
        width=64,
        height=32,
        steps=7,
        seed=5,
        quality="hd",
        images=(PICTURE, PICTURE),
        mask=PICTURE,
        response_format="url",
        output_format="jpeg",
        options={"background": "auto", "user": "u", "own": 1},
    )


@pytest.mark.parametrize(
    ("asked", "response_format", "with_links"),
    [
        (None, "b64_json", True),
        ("url", "url", False),
        ("b64_json", "b64_json", False),
        ("b64_ephemeral",) * 2 + (False,),
    ],
)
def test_nobody_asking_for_a_form_gets_both(asked: str | None, response_format: str, with_links: bool) -> None:
    call = parse_generation({"model": "m", "prompt": "p", "response_format": asked}, CALLER)
    assert (call.response_format, call.with_links) == (response_format, with_links)


def test_automatic_is_the_same_as_nothing_said() -> None:
    said = parse_generation({"model": "m", "prompt": "p", "size": "auto", "quality": "auto", "n": None}, CALLER)
    assert said == parse_generation({"model": "m", "prompt": "p"}, CALLER)


def test_a_picture_may_stand_without_words_but_nothing_may_not() -> None:
    assert parse_edit({"model": "m", "image": LINK}, CALLER).prompt == ""
    for body, error, param in (
        ({"model": "m"}, MissingParameter, "prompt"),
        ({"model": "m", "prompt": ""}, InvalidRequest, "prompt"),
    ):
        with pytest.raises(error) as caught:
            parse_generation(body, CALLER)
        assert caught.value.param == param
    with pytest.raises(MissingParameter) as caught:
        parse_edit({"model": "m", "prompt": "p"}, CALLER)
    assert caught.value.param == "image"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ["p"]), ("prompt", "p" * 32_001), ("n", 11), ("n", "2"), ("quality", "best"), ("size", "1x"),
        ("response_format", "raw"), ("output_format", "gif"), ("output_compression", 101), ("background", "blue"),
        ("moderation", "none"), ("style", "dull"), ("input_fidelity", 1), ("stream", "yes"), ("partial_images", 4),
        ("seed", 1.5), ("steps", 0), ("guidance_scale", -1), ("negative_prompt", 5), ("user", 7), ("image", 5),
        ("images", [{"file_id": "f"}]), ("mask", [LINK, LINK]), ("mask", LINK),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_generation({"model": "m", "prompt": "p", field: value}, CALLER)
    assert caught.value.param == field


def made(**more: Any) -> MadePictures:
    output = MediaOutput(kind="image", data=b"bytes", revised_prompt="rp")
    usage = Usage(input_tokens=10, image_input_tokens=4, output_tokens=20, images=1)
    return replace(
        MadePictures(
            call=ImageCall(model="m", prompt="p"),
            result=MediaResult(outputs=(output,), usage=usage),
            urls=("http://here/imgrslt/1",),
            context=CONTEXT,
            latency_ms=12,
            charge_nano_usd=NanoUsd(40_000_000),
        ),
        **more,
    )


def test_an_answer_says_what_it_cost() -> None:
    assert render(made()) == {
        "created": 1_700_000_000,
        "data": [{"b64_json": "Ynl0ZXM=", "url": "http://here/imgrslt/1", "revised_prompt": "rp"}],
        "usage": {
            "input_tokens": 10,
            "output_tokens": 20,
            "total_tokens": 30,
            "input_tokens_details": {"text_tokens": 6, "image_tokens": 4},
        },
        "latency": 12,
        "cost": 0.04,
    }


def test_what_the_provider_says_of_the_picture_comes_through_and_nothing_else_does() -> None:
    raw = {"created": 5, "size": "64x64", "usage": {"input_tokens": 1, "x": 2}, "id": "secret", "data": [{"url": "no"}]}
    result = MediaResult(outputs=(MediaOutput(kind="image"),), usage=Usage(images=1), raw=raw)
    answer = render(made(result=result, urls=(None,)))
    assert answer == {
        "created": 5,
        "data": [{"revised_prompt": None}],
        "size": "64x64",
        "usage": {"input_tokens": 1, "x": 2},
        "latency": 12,
        "cost": 0.04,
    }


@pytest.mark.parametrize(("images", "kind"), [((), "image_generation"), ((PICTURE,), "image_edit")])
def test_a_finished_answer_can_be_written_as_a_stream(images: tuple[Media, ...], kind: str) -> None:
    outputs = tuple(MediaOutput(kind="image", data=data) for data in (b"one", b"two"))
    stream = render_events(
        made(
            call=ImageCall(model="m", prompt="p", images=images),
            result=MediaResult(outputs=outputs, usage=Usage(images=2)),
            urls=(None, None),
        )
    )
    events = [orjson.loads(event.partition(b"data: ")[2]) for event in stream.split(b"\n\n") if event]
    assert stream.count(b"event: " + kind.encode() + b".completed\n") == 2
    assert [base64.b64decode(event["b64_json"]) for event in events] == [b"one", b"two"]
    assert ["usage" in event for event in events] == ["cost" in event for event in events] == [True, False]
    assert {event["type"] for event in events} == {f"{kind}.completed"}
