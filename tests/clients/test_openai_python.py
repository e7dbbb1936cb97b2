"""The official Python client, both of it, against the whole gateway. Each test ends by checking the books."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import openai
import pytest

from tests.clients import openai_clients
from tests.clients.files import png, wav
from tests.journeys.gateway import CHAT_MODEL, IMAGE_MODEL, VIDEO_MODEL, Gateway

pytestmark = pytest.mark.clients

T = TypeVar("T")
QUESTION: Any = [{"role": "user", "content": "What is a gateway?"}]
#: The client warns that OpenAI itself has ended clips and variations.
warnings_are_expected = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(params=["/v1", "/v1/openai"])
def base_path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(gateway: Gateway, base_path: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai_clients.asynchronous(gateway.url + base_path, gateway.key.token) as client:
        yield client


async def in_thread(gateway: Gateway, use: Callable[[openai.OpenAI], T]) -> T:
    """Run code with the synchronous client beside the gateway's loop."""

    def run() -> T:
        with openai_clients.synchronous(gateway.url + "/v1", gateway.key.token) as client:
            return use(client)

    return await asyncio.to_thread(run)


# ---------------------------------------------------------------- chat


async def test_chat_whole(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    answer = await client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    row = await gateway.last_row()
    assert (row.input_tokens, row.output_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    await gateway.check_books()


@pytest.mark.parametrize("model", [CHAT_MODEL, "gpt-4o-mini"])
@pytest.mark.parametrize("is_asked", [True, False])
async def test_chat_streamed(client: openai.AsyncOpenAI, gateway: Gateway, model: str, is_asked: bool) -> None:
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if is_asked else {}
    stream = await client.chat.completions.create(
        model=model, messages=QUESTION, max_completion_tokens=8, stream=True, **more
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert is_asked or all(chunk.choices for chunk in chunks)
    if is_asked:
        assert chunks[-1].usage is not None
    row = await gateway.last_row()
    assert (row.outcome, row.output_tokens) == ("completed", 8)
    await gateway.check_books()


async def test_chat_with_the_stream_helper_and_the_synchronous_client(gateway: Gateway) -> None:
    def use(client: openai.OpenAI) -> tuple[str | None, str]:
        whole = client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, max_tokens=4)
        with client.chat.completions.stream(model="gpt-4o-mini", messages=QUESTION) as stream:
            said = [event.type for event in stream]
            final = stream.get_final_completion()
        assert said[-1] == "content.done"
        return whole.choices[0].message.content, final.choices[0].message.content or ""

    assert all(await in_thread(gateway, use))
    await gateway.check_books()


async def test_chat_with_a_picture_and_tools(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    parts: Any = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": uri}}]
    answer = await client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": parts}], max_completion_tokens=8
    )
    assert answer.choices[0].message.content
    tool: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    answer = await client.chat.completions.create(
        model="gpt-4o-mini", messages=QUESTION, tools=[tool], tool_choice="required"
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    await gateway.check_books()


# ---------------------------------------------------------------- pictures


async def test_pictures_are_made(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    answer = await client.images.generate(model=IMAGE_MODEL, prompt="A lantern", size="256x256", n=1)
    assert answer.data is not None
    assert base64.b64decode(answer.data[0].b64_json or "")
    assert (answer.data[0].url or "").startswith(gateway.url)
    linked = await client.images.generate(model="dall-e-3", prompt="A lantern", response_format="url", quality="hd")
    assert linked.data is not None
    assert linked.data[0].b64_json is None
    assert linked.data[0].url
    await gateway.check_books()


async def test_pictures_are_streamed(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    stream = await client.images.generate(model="gpt-image-2", prompt="A lantern", stream=True, partial_images=1)
    events = [event async for event in stream]
    assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
    assert (await gateway.last_row()).images == 1
    await gateway.check_books()


async def test_pictures_are_edited(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    one = await client.images.edit(model="gpt-image-2", image=png(), prompt="In blue")
    several = await client.images.edit(
        model="gpt-image-2", image=[png(), png("green")], mask=png("white"), prompt="In blue"
    )
    for answer in (one, several):
        assert answer.data is not None
        assert base64.b64decode(answer.data[0].b64_json or "").startswith(b"\x89PNG")
    assert [len(sent.body["image"]) for sent in gateway.upstream_calls("/images/edits")] == [1, 2]
    await gateway.check_books()


@warnings_are_expected
async def test_pictures_with_the_synchronous_client(gateway: Gateway) -> None:
    def use(client: openai.OpenAI) -> None:
        made = client.images.generate(model=IMAGE_MODEL, prompt="A lantern", size="256x256")
        edited = client.images.edit(model="gpt-image-2", image=("a.png", png(), "image/png"), prompt="In blue")
        assert made.data
        assert edited.data
        with pytest.raises(openai.BadRequestError):
            client.images.create_variation(model="dall-e-2", image=png())

    await in_thread(gateway, use)
    await gateway.check_books()


# ---------------------------------------------------------------- clips


@warnings_are_expected
async def test_clips_are_made_watched_fetched_and_deleted(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    video = await client.videos.create_and_poll(model=VIDEO_MODEL, prompt="A cat", poll_interval_ms=50)
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (await client.videos.retrieve(video.id)).id == video.id
    content = await client.videos.download_content(video.id)
    assert (await content.aread())[4:8] == b"ftyp"
    assert [each.id async for each in client.videos.list()] == [video.id]
    assert (await client.videos.delete(video.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.videos.retrieve(video.id)
    assert (await gateway.last_row()).outcome == "completed"
    await gateway.check_books()


@warnings_are_expected
async def test_clips_with_the_synchronous_client(gateway: Gateway) -> None:
    def use(client: openai.OpenAI) -> None:
        video = client.videos.create_and_poll(
            model="ByteDance/Seedance-1.0-lite",
            prompt="A cat",
            input_reference=png(side=256),
            poll_interval_ms=50,
        )
        assert video.status == "completed"
        assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"
        with pytest.raises(openai.BadRequestError):
            client.videos.remix(video.id, prompt="A dog")

    await in_thread(gateway, use)
    await gateway.check_books()


# ---------------------------------------------------------------- sound, vectors, verdicts


async def test_speech(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    whole = await client.audio.speech.create(model="tts-1", voice="alloy", input="Good morning", response_format="wav")
    assert whole.content.startswith(b"RIFF")
    async with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input="Good morning", response_format="mp3"
    ) as streamed:
        assert b"".join([piece async for piece in streamed.iter_bytes()])
    await gateway.check_books()


async def test_transcriptions(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    whole = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav()))
    assert whole.text
    verbose = await client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", wav()), response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert verbose.words
    plain = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav()), response_format="srt")
    assert "-->" in str(plain)
    await gateway.check_books()


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's word, with whisper-1's end in sight
async def test_translations(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    whole = await client.audio.translations.create(model="whisper-1", file=("a.wav", wav()), prompt="Names: Ueli")
    assert whole.text
    verbose = await client.audio.translations.create(
        model="whisper-1", file=("a.wav", wav()), response_format="verbose_json", temperature=0.5
    )
    assert (verbose.language, bool(verbose.segments)) == ("english", True)
    plain = await client.audio.translations.create(model="whisper-1", file=("a.wav", wav()), response_format="vtt")
    assert "-->" in str(plain)
    with pytest.raises(openai.BadRequestError, match="does not translate"):
        await client.audio.translations.create(model="gpt-4o-transcribe", file=("a.wav", wav()))
    await gateway.check_books()


async def test_embeddings_and_moderations(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    # The client asks for base64 and unpacks it by itself.
    vectors = await client.embeddings.create(model="text-embedding-3-small", input=["one", "two"], dimensions=16)
    assert [len(each.embedding) for each in vectors.data] == [16, 16]
    verdict = await client.moderations.create(input="I will kill you")
    assert verdict.results[0].flagged
    await gateway.check_books()


# ---------------------------------------------------------------- models and errors


async def test_models(client: openai.AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]
    assert CHAT_MODEL in {model.id for model in listed}
    assert all(model.owned_by for model in listed)
    assert (await client.models.retrieve("openai/dall-e-3")).id == "openai/dall-e-3"
    assert (await client.models.retrieve("dall-e-3")).id == "openai/dall-e-3"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("no/such")


async def test_errors_are_the_clients_own(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model=CHAT_MODEL, messages=[], temperature=0)
    assert (bad.value.param, bad.value.code, bad.value.type) == (
        "messages",
        "invalid_value",
        "invalid_request_error",
    )
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="no/such", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").chat.completions.create(model=CHAT_MODEL, messages=QUESTION)
    gateway.fault("status=429")
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION)
    gateway.fault("status=500")
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION)
    await gateway.check_books()


async def test_the_client_tries_again_by_itself(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    gateway.fault("status=503", times=1)
    answer = await client.with_options(max_retries=2).chat.completions.create(model=CHAT_MODEL, messages=QUESTION)
    assert answer.choices[0].message.content
    charged = [row for row in await gateway.books.rows() if row.charge_nano_usd]
    assert len(charged) == 1
    await gateway.check_books()


async def test_who_stops_reading_pays_for_what_was_delivered(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    stream = await client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Go on for long [[sandbox: interval_ms=20]]"}],
        max_tokens=400,
        stream=True,
    )
    async for _ in stream:
        break
    await stream.close()
    row = await gateway.last_row()
    assert row.state == "settled"
    assert row.output_tokens < 400
    await gateway.check_books()
