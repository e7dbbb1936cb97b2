"""Any server that speaks OpenAI's protocol, from its address alone."""

from __future__ import annotations

import pytest

from bitmesh_proxy.calls import ChatCall, Frame, ImageCall, Media, Operation, VideoCall
from bitmesh_proxy.errors import InvalidRequest
from bitmesh_proxy.providers.openai_compatible import make
from tests.dialects.offers import make_offer
from tests.providers.contracts import sent_form, sent_json

SERVER = make("local", title="Our own vLLM", base_urls={"default": "http://10.0.0.5:8000/v1/"})


def test_it_is_made_from_its_address() -> None:
    assert SERVER.roots == {"default": "http://10.0.0.5:8000/v1"}
    assert (SERVER.name, SERVER.title) == ("local", "Our own vLLM")
    assert make("other", base_urls={"default": "https://x.test"}).title == "other"


@pytest.mark.parametrize(
    "base_urls", [{}, {"v2": "http://x.test"}, {"default": "x.test/v1"}, {"default": "file:///etc"}]
)
def test_an_address_that_is_none_is_refused(base_urls: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"providers\.local\.base_urls\.default"):
        make("local", base_urls=base_urls)


def test_fields_of_local_engines_pass() -> None:
    assert SERVER.chat is not None
    options = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.2, "max_tokens": 5, "chat_template_kwargs": {}}
    call = ChatCall(model="m", messages=[{"role": "user", "content": "Hi"}], options=options, stream=True)
    body = sent_json(SERVER.chat.request(call, make_offer(Operation.CHAT, "qwen3")))
    assert body.items() >= options.items()
    assert body["stream_options"] == {"include_usage": True}


def test_pictures_are_sent_as_bytes_and_asked_for_as_bytes() -> None:
    assert SERVER.image is not None
    assert not SERVER.image.takes_image_urls
    offer = make_offer(Operation.IMAGE, "flux")
    plain = ImageCall(model="m", prompt="A cat", seed=7, steps=4, response_format="b64_ephemeral")
    body = sent_json(SERVER.image.request(plain, offer))
    steps = {"steps": 4, "num_inference_steps": 4}
    assert body == {"model": "flux", "prompt": "A cat", "seed": 7, **steps, "response_format": "b64_json"}
    linked = ImageCall(model="m", prompt="A cat", response_format="url")
    assert sent_json(SERVER.image.request(linked, offer))["response_format"] == "b64_json"
    refusing = make_offer(Operation.IMAGE, "flux", options={"refuses": ["response_format"]})
    assert "response_format" not in sent_json(SERVER.image.request(linked, refusing))
    edit = ImageCall(model="m", prompt="A dog", images=(Media(kind="image", data=b"\x89PNG"),))
    assert sent_form(SERVER.image.request(edit, offer))["image"] == [b"\x89PNG"]


def test_a_clip_is_a_form_with_all_that_servers_of_diffusion_models_know() -> None:
    assert SERVER.video is not None
    call = VideoCall(
        model="m",
        prompt="A cat",
        width=1280,
        height=720,
        seconds="5",
        fps=16,
        steps=40,
        seed=7,
        guidance_scale=4.5,
        negative_prompt="dogs",
        options={"num_inference_steps": 20, "unheard_of": 1},
    )
    assert sent_form(SERVER.video.submit(call, make_offer(Operation.VIDEO, "wan"))) == {
        "model": [b"wan"],
        "prompt": [b"A cat"],
        "size": [b"1280x720"],
        "seconds": [b"5"],
        "fps": [b"16"],
        "steps": [b"40"],
        "num_inference_steps": [b"20"],
        "seed": [b"7"],
        "guidance_scale": [b"4.5"],
        "negative_prompt": [b"dogs"],
    }
    picture = Media(kind="image", data=b"\x89PNG", media_type="image/png")
    begun = VideoCall(model="m", prompt="A cat", frames=(Frame(media=picture),))
    assert sent_form(SERVER.video.submit(begun, make_offer(Operation.VIDEO, "wan")))["input_reference"] == [b"\x89PNG"]
    with pytest.raises(InvalidRequest):
        SERVER.video.submit(VideoCall(model="m", prompt="A cat", width=1280), make_offer(Operation.VIDEO, "wan"))
