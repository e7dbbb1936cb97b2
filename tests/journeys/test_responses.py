"""``/v1/responses`` from the caller to the ledger: both vocabularies, every kind of model, streams, state, failures."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.cli.new_key import create_key
from bitmesh_proxy.storage.accounts import AccountStore
from tests.endpoints.responses.grammar import SseReader, check, events_of
from tests.endpoints.responses.specification import check_event, check_response
from tests.journeys.gateway import (
    CHAT_MODEL,
    IMAGE_MODEL,
    PATIENCE_S,
    VIDEO_MODEL,
    Answer,
    Gateway,
    bearer,
    eventually,
    running_gateway,
    until,
)

pytestmark = pytest.mark.journey

PATH = "/v1/responses"
SPEECH_MODEL = "openai/tts-1"
TRANSCRIPTION_MODEL = "openai/whisper-1"
TOOLS = [{"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}} for name in ("a", "b")]


def messages(text: str = "A serene mountain landscape at sunset", *parts: Any) -> list[Any]:
    """``messages`` as the unified document has them."""
    return [{"role": "user", "content": [{"type": "text", "text": text}, *parts] if parts else text}]


async def respond(gateway: Gateway, given: Any = "Hello", *, model: str = CHAT_MODEL, **more: Any) -> Any:
    """A whole response, held to the schema."""
    answer = await gateway.post(PATH, {"model": model, "input": given, **more})
    assert answer.status == 200, answer.json
    check_response(answer.json)
    return answer.json


async def unified(gateway: Gateway, model: str, said: Any, **more: Any) -> Any:
    """The same in the other vocabulary."""
    answer = await gateway.post(PATH, {"model": model, "messages": said, **more})
    assert answer.status == 200, answer.json
    check_response(answer.json)
    return answer.json


async def streamed(gateway: Gateway, given: Any = "Hello", *, model: str = CHAT_MODEL, **more: Any) -> list[Any]:
    """The events of a stream, held to schema and grammar."""
    answer = await gateway.post(PATH, {"model": model, "input": given, "stream": True, **more})
    assert answer.status == 200, answer.json
    return checked_events(answer)


def checked_events(answer: Answer) -> list[Any]:
    events = events_of([answer.body])
    for event in events:
        check_event(event)
    check_response(check(events))
    return events


async def fetched(gateway: Gateway, url: str) -> tuple[str, bytes]:
    async with gateway.http.get(url) as answer:
        assert answer.status == 200
        return answer.content_type, await answer.read()


def last_sent(gateway: Gateway) -> str:
    """The latest body that went upstream, whichever provider got it."""
    return json.dumps([call.body for call in gateway.upstream_calls() if call.method == "POST"][-1])


async def done(gateway: Gateway, response_id: str) -> Any:
    """A background response, once it is over."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await gateway.get(f"{PATH}/{response_id}")
            assert answer.status == 200
            check_response({**answer.json, "status": "completed"})
            if answer.json["status"] not in ("queued", "in_progress"):
                return answer.json
            await asyncio.sleep(0.05)


# ---------------------------------------------------------------- the unified document

#: The document's examples, word for word.
EXAMPLES: dict[str, tuple[dict[str, Any], str]] = {
    "text-to-image": (
        {
            "model": "openai/dall-e-3",
            "messages": [{"role": "user", "content": "A serene mountain landscape at sunset"}],
            "size": "1024x1024",
            "quality": "hd",
        },
        "image_url",
    ),
    "text-to-video": (
        {
            "model": "google/veo-2",
            "messages": [{"role": "user", "content": "A cat playing with yarn in slow motion"}],
            "size": "1280x720",
            "seconds": 5,
        },
        "video_url",
    ),
    "image-to-image": (
        {
            "model": "black-forest-labs/FLUX-2-dev",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Add cyberpunk aesthetic"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KG..."}},
                    ],
                }
            ],
        },
        "image_url",
    ),
    "image-to-video": (
        {
            "model": "google/veo-3.1",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Animate with gentle camera movement"},
                        {"type": "image_url", "image_url": {"url": "https://example.com/image.jpg"}},
                    ],
                }
            ],
            "seconds": 5,
        },
        "video_url",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_documents_examples_work_as_they_stand(gateway: Gateway, name: str) -> None:
    body, kind = EXAMPLES[name]
    answer = await gateway.post(PATH, body)
    assert answer.status == 200, answer.json
    check_response(answer.json)
    (item,) = answer.json["items"]
    assert item["content"][0]["type"] == kind
    assert (await fetched(gateway, item["content"][0][kind]["url"]))[1]
    row = await gateway.last_row()
    assert answer.json["usage"]["total_cost"] == row.charge_nano_usd / 10**9 > 0
    assert answer.headers["X-Bitmesh-Cost"]
    assert answer.headers["X-Bitmesh-Provider"] == row.provider
    await gateway.check_books()


async def test_the_documents_upload_works_as_it_stands(gateway: Gateway) -> None:
    made = await unified(gateway, IMAGE_MODEL, messages(), size="256x256")
    _, data = await fetched(gateway, made["items"][0]["content"][0]["image_url"]["url"])
    form = aiohttp.FormData()
    form.add_field("model", "qwen/qwen-image-edit")
    form.add_field("messages", '[{"role":"user","content":"Remove background"}]')
    form.add_field("image", data, filename="input.jpg")
    answer = await gateway.call("POST", PATH, data=form)
    assert answer.status == 200, answer.json
    assert answer.json["items"][0]["content"][0]["type"] == "image_url"
    await gateway.check_books()


async def test_a_picture_has_its_link_its_cost_and_its_latency(gateway: Gateway) -> None:
    response = await unified(gateway, IMAGE_MODEL, messages(), size="256x256")
    (item,) = response["items"]
    url = item["content"][0]["image_url"]["url"]
    assert (await fetched(gateway, url))[1]
    row = await gateway.last_row()
    assert response["usage"]["total_cost"] == row.charge_nano_usd / 10**9 > 0
    assert response["usage"]["latency_ms"] >= 0
    assert response["created"] == response["created_at"]
    assert response["output"][0]["content"][1] == {"type": "input_image", "image_url": url, "detail": "auto"}
    assert (row.endpoint, row.outcome) == ("responses", "completed")
    await gateway.check_books()


async def test_a_clip_is_waited_for(gateway: Gateway) -> None:
    answer = await gateway.post(PATH, {"model": VIDEO_MODEL, "messages": messages("A cat playing with yarn")})
    check_response(answer.json)
    url = answer.json["items"][0]["content"][0]["video_url"]["url"]
    assert (await fetched(gateway, url))[0] == "video/mp4"
    row = await gateway.last_row()
    assert answer.json["usage"]["total_cost"] == row.charge_nano_usd / 10**9 > 0
    await gateway.check_books()


async def test_text_models_answer_with_items_too(gateway: Gateway) -> None:
    response = await unified(gateway, CHAT_MODEL, messages("Hello"))
    assert response["items"][0]["content"] == [{"type": "text", "text": response["output"][0]["content"][0]["text"]}]
    assert response["usage"]["total_cost"] > 0
    await gateway.check_books()


async def test_a_picture_goes_in_by_link_or_as_data(gateway: Gateway) -> None:
    made = await unified(gateway, IMAGE_MODEL, messages(), size="256x256")
    content_type, data = await fetched(gateway, made["items"][0]["content"][0]["image_url"]["url"])
    inline = f"data:{content_type};base64," + base64.b64encode(data).decode()
    for link in (inline, "https://example.com/image.jpg"):
        part = {"type": "image_url", "image_url": {"url": link}}
        response = await unified(gateway, IMAGE_MODEL, messages("Add cyberpunk aesthetic", part), size="256x256")
        assert response["status"] == "completed"
        sent = last_sent(gateway)
        assert link in sent or (link is not inline and "base64," in sent)  # a link may be fetched on the way
    await gateway.check_books()


async def test_a_form_with_a_file_is_an_edit(gateway: Gateway) -> None:
    made = await unified(gateway, IMAGE_MODEL, messages(), size="256x256")
    content_type, data = await fetched(gateway, made["items"][0]["content"][0]["image_url"]["url"])
    form = aiohttp.FormData()
    form.add_field("model", IMAGE_MODEL)
    form.add_field("messages", json.dumps([{"role": "user", "content": "Remove background"}]))
    form.add_field("image", data, filename="input.gif", content_type="image/gif")  # a claim, and a wrong one
    answer = await gateway.call("POST", PATH, data=form)
    assert answer.status == 200, answer.json
    check_response(answer.json)
    sent = last_sent(gateway)
    assert f"data:{content_type};base64," in sent
    await gateway.check_books()


async def test_max_items_is_one_item_each(gateway: Gateway) -> None:
    response = await unified(gateway, IMAGE_MODEL, messages(), size="256x256", max_items=2)
    assert len(response["items"]) == len(response["output"]) == 2


@pytest.mark.parametrize("wanted", ["b64_json", "b64_ephemeral"])
async def test_pictures_as_base64_stand_in_every_url(gateway: Gateway, wanted: str) -> None:
    response = await unified(gateway, IMAGE_MODEL, messages(), size="256x256", response_format=wanted)
    url = response["items"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/")
    assert base64.b64decode(url.partition(",")[2])
    assert response["output"][0]["content"][1]["image_url"] == url
    assert url not in response["output"][0]["content"][0]["text"]


async def test_hd_is_a_quality(gateway: Gateway) -> None:
    response = await unified(gateway, "openai/dall-e-3", messages(), size="1024x1024", quality="hd")
    assert response["items"][0]["content"][0]["type"] == "image_url"
    await gateway.check_books()


async def test_speech_is_a_link_to_a_sound(gateway: Gateway) -> None:
    response = await unified(gateway, SPEECH_MODEL, messages("Good morning."), voice="alloy")
    url = response["items"][0]["content"][0]["audio_url"]["url"]
    content_type, data = await fetched(gateway, url)
    assert content_type.startswith("audio/")
    assert data
    assert response["usage"]["total_cost"] > 0
    await gateway.check_books()
    inline = await unified(gateway, SPEECH_MODEL, messages("Again."), voice="alloy", response_format="b64_json")
    assert inline["items"][0]["content"][0]["audio_url"]["url"].startswith("data:audio/")


async def test_a_sound_becomes_text(gateway: Gateway) -> None:
    spoken = await unified(gateway, SPEECH_MODEL, messages("Good morning."), voice="alloy", response_format="b64_json")
    part = spoken["items"][0]["content"][0]
    response = await unified(gateway, TRANSCRIPTION_MODEL, [{"role": "user", "content": [part]}])
    assert response["items"][0]["content"][0]["type"] == "text"
    assert response["items"][0]["content"][0]["text"]
    await gateway.check_books()


# ---------------------------------------------------------------- the standard


async def test_a_stream_says_the_same_as_a_whole_answer(gateway: Gateway) -> None:
    whole = await respond(gateway, "Tell me", store=False, tools=TOOLS, tool_choice="none")
    response = (await streamed(gateway, "Tell me", store=False, tools=TOOLS, tool_choice="none"))[-1]["response"]

    def lasting(value: Any) -> Any:
        dropped = {"id", "created", "created_at", "completed_at", "latency_ms"}
        if isinstance(value, dict):
            return {name: lasting(each) for name, each in value.items() if name not in dropped}
        return [lasting(each) for each in value] if isinstance(value, list) else value

    assert lasting(response) == lasting(whole)
    await gateway.check_books()


async def test_a_stream_begins_with_the_models_first_byte(gateway: Gateway) -> None:
    gateway.fault("stall_after=2:5")
    body = {"model": CHAT_MODEL, "input": "Hello", "stream": True}
    reader = SseReader()
    async with gateway.http.post(gateway.url + PATH, json=body, headers=gateway.bearer) as answer:
        async for chunk in answer.content.iter_any():
            reader.feed(chunk)
            if any(name == "response.output_text.delta" for name, _ in reader.frames):
                break  # long before the stall is over
    row = await gateway.last_row()
    assert row.outcome == "caller_left"
    await gateway.check_books()


async def test_a_response_is_gone_on_with_and_its_instructions_are_not(gateway: Gateway) -> None:
    first = await respond(gateway, "One", instructions="Only once.")
    second = await respond(gateway, "Two", previous_response_id=first["id"])
    await respond(gateway, "Three", previous_response_id=second["id"], instructions="Now.")
    sent = gateway.upstream_calls("/chat/completions")[-1].body["messages"]
    texts = [item["output"][0]["content"][0]["text"] for item in (first, second)]
    assert [message["content"] for message in sent] == ["Now.", "One", texts[0], "Two", texts[1], "Three"]
    assert (await gateway.get(f"{PATH}/{second['id']}")).json == second
    await gateway.check_books()


async def test_a_picture_is_edited_by_going_on(gateway: Gateway) -> None:
    first = await respond(gateway, "A lake", model=IMAGE_MODEL, size="256x256", response_format="b64_json")
    await respond(gateway, "Bluer", model=IMAGE_MODEL, size="256x256", previous_response_id=first["id"])
    assert r'"A lake\n\nBluer"' in last_sent(gateway)
    assert "data:image/" in last_sent(gateway)


async def test_tools_are_called_and_their_outputs_answered(gateway: Gateway) -> None:
    events = await streamed(gateway, "Look", tools=TOOLS)
    response = events[-1]["response"]
    (call,) = response["output"]
    assert call["type"] == "function_call"
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "seen"}
    after = await respond(gateway, [output], previous_response_id=response["id"], tools=TOOLS)
    assert after["output"][0]["type"] == "message"
    sent = gateway.upstream_calls("/chat/completions")[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]


async def test_only_allowed_tools_are_called(gateway: Gateway) -> None:
    choice = {"type": "allowed_tools", "tools": [{"type": "function", "name": "b"}], "mode": "required"}
    response = await respond(gateway, "Look", tools=TOOLS, tool_choice=choice)
    assert [item["name"] for item in response["output"]] == ["b"]
    assert [tool["name"] for tool in response["tools"]] == ["a", "b"]


async def test_a_cut_answer_is_incomplete(gateway: Gateway) -> None:
    response = await respond(gateway, "Talk", max_output_tokens=16)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    events = await streamed(gateway, "Talk", max_output_tokens=16)
    assert events[-1]["type"] == "response.incomplete"
    await gateway.check_books()


async def test_structured_output_is_asked_for(gateway: Gateway) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    wanted = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    response = await respond(gateway, "Give", text=wanted)
    assert "x" in json.loads(response["output"][0]["content"][0]["text"])


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"input": "x"}, 400, "model", "missing_required_parameter"),
        ({"model": CHAT_MODEL}, 400, "input", "missing_required_parameter"),
        ({"model": CHAT_MODEL, "input": "x", "messages": messages()}, 400, "messages", "invalid_value"),
        ({"model": "no/such", "input": "x"}, 404, "model", "model_not_found"),
        ({"model": CHAT_MODEL, "input": "x", "size": "1x1"}, 400, "size", "unsupported_parameter"),
        ({"model": IMAGE_MODEL, "input": "x", "tools": TOOLS}, 400, "tools", "unsupported_parameter"),
        ({"model": IMAGE_MODEL, "input": "x", "max_items": 99}, 400, "max_items", "unsupported_value"),
        ({"model": CHAT_MODEL, "input": "x", "previous_response_id": "resp_0"}, 400, "previous_response_id",
         "previous_response_not_found"),
        ({"model": CHAT_MODEL, "input": [{"type": "compaction", "encrypted_content": "AAAA"}]}, 400, None,
         "invalid_encrypted_content"),
        ({"model": CHAT_MODEL, "input": [{"id": "msg_nowhere"}]}, 400, "input", "invalid_value"),
        ({"model": "openai/text-embedding-3-small", "input": "x"}, 400, "model", "unsupported_value"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_wrong_is_said_before_anything_begins(
    gateway: Gateway, body: dict[str, Any], status: int, param: str | None, code: str, stream: bool
) -> None:
    answer = await gateway.post(PATH, {**body, "stream": stream})
    error = answer.json["error"]
    assert (answer.status, error["param"], error["code"]) == (status, param, code)
    assert await gateway.books.rows() == []


async def test_each_vocabulary_has_its_names_of_errors(gateway: Gateway) -> None:
    said = {}
    for name, given in (("input", "x"), ("messages", messages())):
        gateway.fault("status=500", times=3)
        answer = await gateway.post(PATH, {"model": CHAT_MODEL, name: given})
        assert answer.status >= 500
        said[name] = answer.json["error"]["type"]
    assert said == {"input": "model_error", "messages": "internal_error"}


@pytest.mark.parametrize("directive", ["error_in_stream=3", "break_after=3"])
async def test_a_stream_that_breaks_says_so_and_ends(gateway: Gateway, directive: str) -> None:
    gateway.fault(directive)
    events = await streamed(gateway, "Hello")
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    response = events[-1]["response"]
    assert response["error"]["code"]
    assert response["status"] == "failed"
    assert (await gateway.get(f"{PATH}/{response['id']}")).json["status"] == "failed"
    row = await gateway.last_row()
    assert row.outcome in ("provider_error", "upstream_broken")
    await gateway.check_books()


async def test_a_stream_that_begins_with_an_error_is_a_status_or_another_offers(gateway: Gateway) -> None:
    gateway.fault("error_in_stream=0", times=3)
    answer = await gateway.post(PATH, {"model": CHAT_MODEL, "input": "Hello", "stream": True})
    assert answer.status == 502
    assert answer.json["error"]["type"] == "model_error"
    row = await gateway.last_row()
    assert (row.charge_nano_usd, row.outcome) == (0, "provider_error")
    await gateway.check_books()


async def test_a_clip_that_fails_is_an_error_or_a_failed_response(gateway: Gateway) -> None:
    given = "A cat [[sandbox: fail]]"
    answer = await gateway.post(PATH, {"model": VIDEO_MODEL, "input": given})
    assert answer.status == 200
    check_response(answer.json)
    assert answer.json["status"] == "failed"
    assert answer.json["error"].keys() == {"code", "message"}
    unified = await gateway.post(PATH, {"model": VIDEO_MODEL, "messages": messages(given)})
    check_response(unified.json)
    assert unified.json["error"] == {**answer.json["error"], "type": "internal_error"}
    events = checked_events(await gateway.post(PATH, {"model": VIDEO_MODEL, "input": given, "stream": True}))
    assert events[-1]["type"] == "response.failed"
    assert (await gateway.last_row()).charge_nano_usd == 0
    await gateway.check_books()


# ---------------------------------------------------------------- long work


HELD = {"answers": {"keep_alive_after_s": 0.2, "keep_alive_interval_s": 0.1}}


async def test_a_whole_answer_is_held_open_with_white_space(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", HELD) as gateway:
        answer = await gateway.post(PATH, {"model": VIDEO_MODEL, "input": "A cat [[sandbox: job_s=1]]"})
        assert answer.body.startswith(b"  ")
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.body)["status"] == "completed"
        gateway.fault("stall=0.6 status=500", times=3)
        late = await gateway.post(PATH, {"model": IMAGE_MODEL, "input": "A cat", "size": "256x256"})
        assert late.status == 200
        response = json.loads(late.body)
        check_response(response)
        assert response["status"] == "failed"
        assert response["error"]["code"]
        await gateway.check_books()


async def test_a_stream_of_long_work_shows_its_progress(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", HELD) as gateway:
        body = {"model": VIDEO_MODEL, "messages": messages("A cat [[sandbox: job_s=1]]"), "stream": True}
        answer = await gateway.post(PATH, body)
        events = events_of([answer.body])
        progress = [event for event in events if event["type"] == "bitmesh:progress"]
        assert progress
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["response"]["items"][0]["content"][0]["type"] == "video_url"
        strict = await gateway.post(PATH, {"model": VIDEO_MODEL, "input": "[[sandbox: job_s=1]] A dog", "stream": True})
        checked_events(strict)
        reader = SseReader()
        reader.feed(strict.body)
        assert "keep-alive" in reader.comments
        await gateway.check_books()


@pytest.mark.parametrize(("model", "more"), [(CHAT_MODEL, {}), (IMAGE_MODEL, {"size": "256x256"}), (VIDEO_MODEL, {})])
async def test_a_background_response_is_queued_and_then_there(
    gateway: Gateway, model: str, more: dict[str, Any]
) -> None:
    queued = await respond(gateway, "A cat", model=model, background=True, **more)
    assert (queued["status"], queued["output"], queued["usage"]) == ("queued", [], None)
    response = await done(gateway, queued["id"])
    assert response["status"] == "completed"
    assert response["output"]
    assert response["background"] is True
    assert response["usage"]["total_cost"] > 0
    await gateway.check_books()


async def test_a_background_stream_can_be_left_and_followed_again(gateway: Gateway) -> None:
    body = {"model": CHAT_MODEL, "input": "[[sandbox: tokens=20 interval_ms=30]]", "stream": True, "background": True}
    reader = SseReader()
    async with gateway.http.post(gateway.url + PATH, json=body, headers=gateway.bearer) as answer:
        async for chunk in answer.content.iter_any():
            reader.feed(chunk)
            if len(reader.frames) > 5:
                break
    seen = [json.loads(data) for _, data in reader.frames]
    assert [event["type"] for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    response_id = seen[0]["response"]["id"]
    after = seen[-1]["sequence_number"]
    rest = await gateway.get(f"{PATH}/{response_id}?stream=true&starting_after={after}")
    tail = SseReader()
    tail.feed(rest.body)
    events = seen + [json.loads(data) for name, data in tail.frames if name]
    assert check(events)["status"] == "completed"
    assert (await gateway.get(f"{PATH}/{response_id}")).json == events[-1]["response"]
    await gateway.check_books()


async def test_a_background_response_can_be_cancelled(gateway: Gateway) -> None:
    given = "[[sandbox: stall=30]] Hello"
    queued = await respond(gateway, given, background=True, stream=False)
    await eventually(lambda: bool(gateway.upstream_calls("/chat/completions")), "the call is under way")
    cancelled = await gateway.post(f"{PATH}/{queued['id']}/cancel", {})
    assert cancelled.json["status"] == "cancelled"
    row = await gateway.last_row()
    assert row.outcome == "caller_left"
    assert (await gateway.get(f"{PATH}/{queued['id']}")).json["status"] == "cancelled"
    again = await gateway.post(f"{PATH}/{queued['id']}/cancel", {})
    assert again.json["status"] == "cancelled"
    foreground = await respond(gateway)
    assert (await gateway.post(f"{PATH}/{foreground['id']}/cancel", {})).status == 400
    await gateway.check_books()


async def test_a_clip_is_made_and_charged_though_its_response_is_cancelled(gateway: Gateway) -> None:
    """No provider can be told to stop; so the books may not say that nothing was made."""
    gateway.fault("status=500", method="GET", times=1000)  # it is not done before it is cancelled
    body = {"model": VIDEO_MODEL, "input": "A cat", "background": True}
    queued = (await gateway.post(PATH, body)).json

    async def is_handed_in() -> bool:
        return bool((await gateway.get("/v1/videos")).json["data"])

    await until(is_handed_in, "the clip is handed in")
    cancelled = await gateway.post(f"{PATH}/{queued['id']}/cancel", {})
    assert cancelled.json["status"] == "cancelled"
    gateway.sandbox.faults.clear()
    row = await gateway.last_row()
    assert (row.state, row.outcome) == ("settled", "completed")
    assert row.charge_nano_usd > 0
    assert (await gateway.get(f"{PATH}/{queued['id']}")).json["status"] == "cancelled"
    (clip,) = (await gateway.get("/v1/videos")).json["data"]
    assert (clip["status"], bool(clip["url"])) == ("completed", True)
    await gateway.check_books()


async def test_the_stream_of_a_cancelled_response_has_an_end(gateway: Gateway) -> None:
    body = {"model": CHAT_MODEL, "input": "[[sandbox: stall_after=3:30]] Hello", "background": True, "stream": True}
    async with gateway.http.post(gateway.url + PATH, json=body, headers=gateway.bearer) as answer:
        data = b""
        while b"output_text.delta" not in data:
            data += await answer.content.readany()
        response_id = json.loads(data.partition(b"data: ")[2].partition(b"\n")[0])["response"]["id"]
        assert (await gateway.post(f"{PATH}/{response_id}/cancel", {})).json["status"] == "cancelled"
        data += await answer.read()
    events = events_of([data])
    for event in events:
        check_event(event)
    assert check(events)["error"]["code"] == "cancelled"
    assert (await gateway.get(f"{PATH}/{response_id}")).json["status"] == "cancelled"
    await gateway.check_books()


async def test_a_clip_left_in_the_middle_can_be_gone_on_with(gateway: Gateway) -> None:
    body = {"model": VIDEO_MODEL, "input": "A cat [[sandbox: job_s=0.3]]", "stream": True}
    reader = SseReader()
    async with gateway.http.post(gateway.url + PATH, json=body, headers=gateway.bearer) as answer:
        async for chunk in answer.content.iter_any():
            reader.feed(chunk)
            if reader.frames:
                break
    response_id = json.loads(reader.frames[0][1])["response"]["id"]
    early = await gateway.post(PATH, {"model": CHAT_MODEL, "input": "x", "previous_response_id": response_id})
    assert early.status == 400
    await gateway.last_row()
    late = await gateway.post(PATH, {"model": VIDEO_MODEL, "input": "A dog", "previous_response_id": response_id})
    assert late.json["error"]["code"] == "unsupported_parameter"  # a clip is nothing that this model takes
    await gateway.check_books()


async def test_a_background_failure_is_a_failed_response(gateway: Gateway) -> None:
    gateway.fault("status=500", times=3)
    queued = await respond(gateway, background=True)
    response = await done(gateway, queued["id"])
    assert response["status"] == "failed"
    assert response["error"]["code"]
    await gateway.check_books()


async def test_a_clip_that_nobody_waited_for_is_found_later(tmp_path: Path) -> None:
    """The caller leaves, the process ends; the job came to its end in between, and the response is there."""
    async with running_gateway(tmp_path / "data") as gateway:
        body = {"model": VIDEO_MODEL, "input": "A cat [[sandbox: job_s=0.5]]", "stream": True}
        reader = SseReader()
        async with gateway.http.post(gateway.url + PATH, json=body, headers=gateway.bearer) as answer:
            async for chunk in answer.content.iter_any():
                reader.feed(chunk)
                if reader.frames:
                    break
        response_id = json.loads(reader.frames[0][1])["response"]["id"]
        assert (await gateway.get(f"{PATH}/{response_id}")).json["status"] == "in_progress"
        await gateway.last_row()
        key = gateway.key
    async with running_gateway(tmp_path / "data") as again:
        again.key = key
        response = (await again.get(f"{PATH}/{response_id}")).json
        check_response(response)
        assert response["status"] == "completed"
        assert response["items"][0]["content"][0]["type"] == "video_url"
        assert response["usage"]["total_cost"] > 0
        assert (await again.get(f"{PATH}/{response_id}")).json == response
        await again.check_books()


async def test_what_a_process_left_undone_has_failed(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", {"http": {"shutdown_timeout_s": 0.1}}) as gateway:
        queued = await respond(gateway, "[[sandbox: stall=30]] Hello", background=True)
        await eventually(lambda: bool(gateway.upstream_calls("/chat/completions")), "the call is under way")
        key = gateway.key
    async with running_gateway(tmp_path / "data") as again:
        again.key = key
        response = (await again.get(f"{PATH}/{queued['id']}")).json
        check_response(response)
        assert response["status"] == "failed"
        (row,) = await again.books.rows()
        assert (row.outcome, row.http_status) == ("interrupted", 503)
        await again.check_books()


# ---------------------------------------------------------------- state


async def test_what_is_not_stored_leaves_nothing(gateway: Gateway) -> None:
    response = await respond(gateway, store=False)
    assert response["store"] is False
    assert (await gateway.get(f"{PATH}/{response['id']}")).status == 404
    lost = await gateway.post(PATH, {"model": CHAT_MODEL, "input": "x", "previous_response_id": response["id"]})
    assert lost.json["error"]["code"] == "previous_response_not_found"


async def test_another_accounts_responses_are_not_there(gateway: Gateway) -> None:
    response = await respond(gateway)
    other = await AccountStore(gateway.app[keys.DATABASE]).create("other")
    key = await create_key(gateway.app[keys.DATABASE], gateway.settings, account_id=other.id, name="other")
    path = f"{PATH}/{response['id']}"
    for method, at in (("GET", path), ("DELETE", path), ("POST", f"{path}/cancel"), ("GET", f"{path}/input_items")):
        assert (await gateway.call(method, at, headers=bearer(key))).status == 404
    body = {"model": CHAT_MODEL, "input": "x", "previous_response_id": response["id"]}
    answer = await gateway.post(PATH, body, headers=bearer(key))
    assert answer.json["error"]["code"] == "previous_response_not_found"
    sealed = (await gateway.post(f"{PATH}/compact", {"model": CHAT_MODEL, "input": "secret"})).json["output"]
    stolen = await gateway.post(PATH, {"model": CHAT_MODEL, "input": sealed}, headers=bearer(key))
    assert stolen.json["error"]["code"] == "invalid_encrypted_content"


async def test_a_response_can_be_deleted(gateway: Gateway) -> None:
    response = await respond(gateway)
    path = f"{PATH}/{response['id']}"
    deleted = await gateway.call("DELETE", path)
    assert deleted.json == {"id": response["id"], "object": "response.deleted", "deleted": True}
    assert (await gateway.get(path)).status == 404
    assert (await gateway.call("DELETE", path)).status == 404


async def test_the_input_can_be_listed_page_by_page(gateway: Gateway) -> None:
    given = [{"role": "user", "content": str(number)} for number in range(3)]
    response = await respond(gateway, given)
    path = f"{PATH}/{response['id']}/input_items"
    first = (await gateway.get(f"{path}?order=asc&limit=2")).json
    assert [item["content"][0]["text"] for item in first["data"]] == ["0", "1"]
    assert first["has_more"] is True
    second = (await gateway.get(f"{path}?order=asc&limit=2&after={first['last_id']}")).json
    assert [item["content"][0]["text"] for item in second["data"]] == ["2"]
    assert second["has_more"] is False
    assert (await gateway.get(path)).json["data"][0]["content"][0]["text"] == "2"
    for query in ("order=up", "limit=101", "limit=x", "after=msg_0"):
        assert (await gateway.get(f"{path}?{query}")).status == 400


async def test_an_item_can_be_referred_to(gateway: Gateway) -> None:
    response = await respond(gateway, "Remember me")
    answer = response["output"][0]
    await respond(gateway, [{"type": "item_reference", "id": answer["id"]}, {"role": "user", "content": "And?"}])
    sent = gateway.upstream_calls("/chat/completions")[-1].body["messages"]
    assert [message["role"] for message in sent] == ["assistant", "user"]
    assert sent[0]["content"] == answer["content"][0]["text"]


async def test_a_compacted_conversation_goes_on(gateway: Gateway) -> None:
    history = [{"role": "user", "content": "I am Ada."}, {"role": "assistant", "content": "Noted."}]
    compacted = (await gateway.post(f"{PATH}/compact", {"model": CHAT_MODEL, "input": history})).json
    assert compacted["usage"]["total_cost"] > 0
    await respond(gateway, [*compacted["output"], {"role": "user", "content": "Who?"}])
    sent = gateway.upstream_calls("/chat/completions")[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "system", "user"]
    assert (await gateway.get(f"{PATH}/{compacted['id']}")).status == 404
    sealed = compacted["output"][-1]
    spoilt = {**sealed, "encrypted_content": "B" + sealed["encrypted_content"][1:]}
    refused = await gateway.post(PATH, {"model": CHAT_MODEL, "input": [spoilt]})
    assert refused.json["error"]["code"] == "invalid_encrypted_content"
    await gateway.check_books()


async def test_the_input_is_counted_without_a_call(gateway: Gateway) -> None:
    answer = await gateway.post(f"{PATH}/input_tokens", {"model": CHAT_MODEL, "input": "x" * 400})
    assert answer.json == {"object": "response.input_tokens", "input_tokens": 100, "estimated": True}
    assert gateway.upstream_calls() == []


async def test_what_is_too_long_is_refused_or_cut(gateway: Gateway) -> None:
    long = [{"role": "user", "content": "word " * 450_000}, {"role": "user", "content": "Still there?"}]
    raw = io.BytesIO(json.dumps({"model": CHAT_MODEL, "input": long}).encode())
    refused = await gateway.call("POST", PATH, data=raw, headers={"Content-Type": "application/json"})
    assert (refused.status, refused.json["error"]["code"]) == (400, "context_length_exceeded")
    raw = io.BytesIO(json.dumps({"model": CHAT_MODEL, "input": long, "truncation": "auto"}).encode())
    answer = await gateway.call("POST", PATH, data=raw, headers={"Content-Type": "application/json"})
    assert answer.json["truncation"] == "auto"
    sent = gateway.upstream_calls("/chat/completions")[-1].body["messages"]
    assert [message["content"] for message in sent] == ["Still there?"]


async def test_the_same_key_twice_is_one_call(gateway: Gateway) -> None:
    body = {"model": VIDEO_MODEL, "input": "A cat"}
    first, second = [await gateway.post(PATH, body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert first.json["id"] == second.json["id"]
    assert first.json["output"][0]["content"][1] == second.json["output"][0]["content"][1]
    assert len(gateway.upstream_calls("/videos")) == 1
    await gateway.check_books()


async def test_the_version_stands_in_every_answer(gateway: Gateway) -> None:
    answer = await gateway.post(PATH, {"model": CHAT_MODEL, "input": "x"}, headers={"OpenResponses-Version": "latest"})
    assert answer.headers["OpenResponses-Version"] == "2026-04-24"
    assert answer.headers["X-Bitmesh-Cost"]
    for path, body in ((PATH, {}), (f"{PATH}/compact", {"model": "no/such", "input": "x"})):
        refused = await gateway.post(path, body)
        assert refused.status >= 400
        assert refused.headers["OpenResponses-Version"] == "2026-04-24"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_picture_asked_for_twice_is_made_once(gateway: Gateway, stream: bool) -> None:
    body = {"model": IMAGE_MODEL, "input": "A cat", "size": "256x256", "stream": stream}
    first, second = [await gateway.post(PATH, body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert first.body == second.body
    assert first.headers["Content-Type"] == second.headers["Content-Type"]
    if stream:
        checked_events(second)
    assert len(await gateway.books.rows()) == 1
    await gateway.check_books()


async def test_who_leaves_a_held_answer_still_pays_for_the_picture(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", HELD) as gateway:
        gateway.fault("stall=3")
        body = {"model": IMAGE_MODEL, "input": "A cat", "size": "256x256"}
        async with gateway.http.post(gateway.url + PATH, json=body, headers=gateway.bearer) as answer:
            assert await answer.content.readexactly(2) == b"  "
        row = await gateway.last_row()
        assert row.outcome == "caller_left"
        assert row.charge_nano_usd > 0
        await gateway.check_books()


async def test_without_an_upgrade_there_is_nothing_to_get(gateway: Gateway) -> None:
    assert (await gateway.get(PATH)).status == 405
