"""OpenAI's routes for sound, vectors, edits and clips, from the caller to the ledger."""

from __future__ import annotations

import base64
import io
import json
import struct
import wave
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

from bitmesh_proxy.calls import Basis
from tests.journeys.gateway import IMAGE_MODEL, VIDEO_MODEL, Gateway, bearer, eventually, running_gateway

pytestmark = pytest.mark.journey

EDIT_MODEL = "openai/gpt-image-2"


def png(color: str = "red", side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), color).save(file, "PNG")
    return file.getvalue()


def wav(seconds: float = 1.5) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(struct.pack("<h", 0) * int(8000 * seconds))
    return file.getvalue()


def form(*parts: tuple[str, str | bytes]) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in parts:
        if isinstance(value, bytes):
            data.add_field(name, value, filename="upload.bin", content_type="application/octet-stream")
        else:
            data.add_field(name, value)
    return data


# ---------------------------------------------------------------- vectors and verdicts


@pytest.mark.parametrize("prefix", ["/v1", "/v1/openai"])
@pytest.mark.parametrize("given", ["one text", ["one", "two"], [1, 2, 3], [[1, 2], [3]]])
async def test_embeddings_pass_through_and_are_charged_by_their_tokens(
    gateway: Gateway, prefix: str, given: Any
) -> None:
    body = {"model": "text-embedding-3-small", "input": given, "dimensions": 8, "encoding_format": "base64"}
    answer = await gateway.post(f"{prefix}/embeddings", body)
    assert answer.status == 200, answer.json
    is_many = isinstance(given, list) and not isinstance(given[0], int)
    assert len(answer.json["data"]) == (len(given) if is_many else 1)
    assert len(base64.b64decode(answer.json["data"][0]["embedding"])) == 8 * 4
    row = await gateway.last_row()
    assert (row.endpoint, row.input_tokens, row.basis) == (
        "embedding",
        answer.json["usage"]["prompt_tokens"],
        Basis.MEASURED,
    )
    await gateway.check_books()


@pytest.mark.parametrize("given", [None, "", [], [""], 5, [1.5], [[]], [1, "a"]])
async def test_what_cannot_be_embedded_is_refused(gateway: Gateway, given: Any) -> None:
    answer = await gateway.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": given})
    assert (answer.status, answer.json["error"]["param"]) == (400, "input")


@pytest.mark.parametrize("given", ["I will kill you", ["fine"], [{"type": "text", "text": "You idiot"}]])
async def test_a_moderation_needs_no_model(gateway: Gateway, given: Any) -> None:
    answer = await gateway.post("/v1/moderations", {"input": given})
    assert (answer.status, len(answer.json["results"])) == (200, 1)
    assert answer.json["results"][0]["flagged"] is ("fine" not in json.dumps(given))
    row = await gateway.last_row()
    assert (row.endpoint, row.outcome) == ("moderation", "completed")
    await gateway.check_books()


# ---------------------------------------------------------------- sound


async def test_speech_comes_as_bytes(gateway: Gateway) -> None:
    body = {"model": "tts-1", "input": "Good morning", "voice": "alloy", "response_format": "wav"}
    answer = await gateway.post("/v1/audio/speech", body)
    assert (answer.status, answer.headers["Content-Type"], answer.body[:4]) == (200, "audio/wav", b"RIFF")
    row = await gateway.last_row()
    assert (row.endpoint, row.characters, row.outcome) == ("speech", len("Good morning"), "completed")
    assert row.charge_nano_usd == len("Good morning") * 15_000
    await gateway.check_books()


async def test_a_transcript_without_figures_costs_what_the_sound_is_long(gateway: Gateway) -> None:
    """Not what its size would make of it, had it been compressed."""
    charges = []
    for response_format in ("json", "text"):
        data = form(("file", wav(3.0)), ("model", "whisper-1"), ("response_format", response_format))
        assert (await gateway.call("POST", "/v1/audio/transcriptions", data=data)).status == 200
        row = await gateway.last_row()
        charges.append(row.charge_nano_usd)
    assert charges[1] == pytest.approx(charges[0], rel=0.01)
    await gateway.check_books()


@pytest.mark.parametrize(
    ("response_format", "content_type", "start"),
    [
        ("json", "application/json", b"{"),
        ("verbose_json", "application/json", b"{"),
        ("text", "text/plain", b""),
        ("srt", "text/plain", b"1\n"),
        ("vtt", "text/plain", b"WEBVTT"),
    ],
)
@pytest.mark.parametrize("endpoint", ["transcription", "translation"])
async def test_a_transcript_comes_as_asked(
    gateway: Gateway, endpoint: str, response_format: str, content_type: str, start: bytes
) -> None:
    data = form(("file", wav()), ("model", "whisper-1"), ("response_format", response_format), ("temperature", "0"))
    answer = await gateway.call("POST", f"/v1/audio/{endpoint}s", data=data)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith(content_type)
    assert answer.body.startswith(start)
    assert answer.body.strip()
    row = await gateway.last_row()
    assert (row.endpoint, row.outcome) == (endpoint, "completed")
    assert row.duration_ms > 0
    assert row.charge_nano_usd > 0
    await gateway.check_books()


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("model", "whisper-1")], "file"),
        ([("file", b"no sound at all"), ("model", "whisper-1")], "file"),
        ([("file", wav()), ("model", "whisper-1"), ("temperature", "hot")], "temperature"),
        ([("file", wav()), ("model", "whisper-1"), ("timestamp_granularities[]", "year")], "timestamp_granularities"),
        ([("file", wav()), ("model", "whisper-1"), ("stream", "true")], "stream"),
    ],
)
async def test_a_bad_transcription_is_refused(gateway: Gateway, parts: list[Any], param: str) -> None:
    for path in ("transcriptions", "translations"):
        answer = await gateway.call("POST", f"/v1/audio/{path}", data=form(*parts))
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert await gateway.books.rows() == []


async def test_a_model_that_does_not_translate_is_not_asked_to(gateway: Gateway) -> None:
    data = form(("file", wav()), ("model", "gpt-4o-transcribe"))
    answer = await gateway.call("POST", "/v1/audio/translations", data=data)
    assert (answer.status, answer.json["error"]["param"]) == (400, "model")
    assert gateway.upstream_calls("/audio/") == []
    assert await gateway.books.rows() == []


# ---------------------------------------------------------------- edits


@pytest.mark.parametrize("prefix", ["/v1", "/v1/openai"])
async def test_an_edit_takes_a_form(gateway: Gateway, prefix: str) -> None:
    data = form(
        ("model", EDIT_MODEL), ("prompt", "In blue"), ("image[]", png()), ("image[]", png("green")),
        ("mask", png("white")), ("n", "1"), ("response_format", "b64_json"),
    )  # fmt: skip
    answer = await gateway.call("POST", f"{prefix}/images/edits", data=data)
    assert answer.status == 200, answer.json
    assert base64.b64decode(answer.json["data"][0]["b64_json"]).startswith(b"\x89PNG")
    (sent,) = gateway.upstream_calls("/images/edits")
    assert [file["content_type"] for file in sent.body["image"]] == ["image/png", "image/png"]
    assert sent.body["prompt"] == "In blue"
    row = await gateway.last_row()
    assert (row.endpoint, row.outcome, answer.json["cost"]) == ("image_edit", "completed", row.charge_nano_usd / 10**9)
    await gateway.check_books()


async def test_an_edit_takes_json(gateway: Gateway) -> None:
    uri = "data:image/jpeg;base64," + base64.b64encode(png()).decode()  # says JPEG and is PNG
    body = {"model": EDIT_MODEL, "prompt": "In blue", "images": [{"image_url": uri}], "response_format": "url"}
    answer = await gateway.post("/v1/images/edits", body)
    assert answer.status == 200, answer.json
    assert set(answer.json["data"][0]) == {"url", "revised_prompt"}
    await gateway.check_books()


async def test_what_one_provider_has_no_words_for_another_one_makes(gateway: Gateway) -> None:
    body = {"model": "black-forest-labs/FLUX.2-pro", "prompt": "A lantern", "size": "256x256", "response_format": "url"}
    usual = await gateway.post("/v1/images/generations", body)
    assert (usual.status, usual.headers["X-Bitmesh-Provider"]) == (200, "together")
    webp = await gateway.post("/v1/images/generations", {**body, "output_format": "webp"})  # not from Together
    assert (webp.status, webp.headers["X-Bitmesh-Provider"]) == (200, "runware"), webp.json
    assert len(gateway.upstream_calls()) == 2
    await gateway.check_books()


async def test_what_no_provider_has_words_for_is_refused_by_name(gateway: Gateway) -> None:
    body = {"model": "black-forest-labs/FLUX.2-pro", "prompt": "A lantern", "output_format": "tiff"}
    answer = await gateway.post("/image", body)
    assert (answer.status, answer.json) == (400, {"error": "This model makes jpeg and png pictures."})
    assert gateway.upstream_calls() == []
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.charge_nano_usd) == ("released", "unsupported_value", 0)
    await gateway.check_books()


async def test_who_could_at_another_time_is_heard_rather_than_who_never_can(gateway: Gateway) -> None:
    body = {
        "model": "google/gemini-3-pro-image",
        "prompt": "A lantern",
        "output_format": "png",
    }  # Google takes no format
    gateway.fault("status=429", times=2)
    answer = await gateway.post("/v1/images/generations", body)
    assert (answer.status, answer.json["error"]["type"]) == (429, "rate_limit_error"), answer.json
    assert len(gateway.upstream_calls()) == 2
    row = await gateway.last_row()
    assert (row.state, row.http_status, row.charge_nano_usd) == ("released", 429, 0)
    await gateway.check_books()


async def test_a_result_of_ours_is_an_input_like_any_other(gateway: Gateway) -> None:
    made = await gateway.post(
        "/v1/images/generations", {"model": IMAGE_MODEL, "prompt": "A lantern", "size": "256x256"}
    )
    url = made.json["data"][0]["url"]
    answer = await gateway.post("/v1/images/edits", {"model": EDIT_MODEL, "prompt": "In blue", "image": url})
    assert answer.status == 200, answer.json
    missing = url[:-4] + "zzzz"
    answer = await gateway.post("/v1/images/edits", {"model": EDIT_MODEL, "prompt": "In blue", "image": missing})
    assert (answer.status, answer.json["error"]["param"]) == (400, "image")
    await gateway.check_books()


@pytest.mark.parametrize(
    ("parts", "status", "param"),
    [
        ([("model", EDIT_MODEL), ("prompt", "x")], 400, "image"),
        ([("model", EDIT_MODEL), ("prompt", "x"), ("image", b"<svg/>")], 400, "image"),
        ([("model", EDIT_MODEL), ("prompt", "x"), ("image", b"")], 400, "image"),
        ([("model", EDIT_MODEL), ("prompt", "x")] + [("image[]", png())] * 17, 400, "image"),
        ([("model", EDIT_MODEL), ("prompt", "x"), ("image", png() + b"\0" * 5000)], 413, "image"),
        ([("model", "openai/dall-e-3"), ("prompt", "x"), ("image", png())], 400, "image"),
    ],
)
async def test_bad_uploads_are_refused(tmp_path: Path, parts: list[Any], status: int, param: str) -> None:
    async with running_gateway(tmp_path / "data", {"uploads": {"max_image_bytes": 5000}}) as gateway:
        answer = await gateway.call("POST", "/v1/images/edits", data=form(*parts))
        assert (answer.status, answer.json["error"]["param"]) == (status, param), answer.json
        assert await gateway.books.rows() == []


# ---------------------------------------------------------------- clips


@pytest.mark.parametrize("is_form", [True, False])
async def test_a_clip_from_its_order_to_its_bytes(gateway: Gateway, is_form: bool) -> None:
    fields = {"model": VIDEO_MODEL, "prompt": "A cat"}
    if is_form:
        made = await gateway.call("POST", "/v1/videos", data=form(*fields.items()))
    else:
        made = await gateway.post("/v1/videos", fields)
    assert (made.status, made.json["object"]) == (200, "video"), made.json
    assert made.json["status"] in ("queued", "in_progress")
    video_id = made.json["id"]
    early = await gateway.call("DELETE", f"/v1/videos/{video_id}")
    assert early.status == 409
    status = made.json
    while status["status"] not in ("completed", "failed"):
        status = (await gateway.get(f"/v1/openai/videos/{video_id}")).json
    assert (status["status"], status["progress"], status["error"]) == ("completed", 100, None)
    whole = await gateway.get(f"/v1/videos/{video_id}/content")
    part = await gateway.get(f"/v1/videos/{video_id}/content", headers={"Range": "bytes=4-7"})
    assert (whole.status, part.status, part.body) == (200, 206, b"ftyp")
    assert whole.body[4:8] == b"ftyp"
    listed = (await gateway.get("/v1/videos")).json
    assert ([each["id"] for each in listed["data"]], listed["has_more"]) == ([video_id], False)
    row = await gateway.last_row()
    assert (row.endpoint, row.outcome) == ("video", "completed")
    gone = await gateway.call("DELETE", f"/v1/videos/{video_id}")
    assert gone.json == {"id": video_id, "object": "video.deleted", "deleted": True}
    assert (await gateway.get(f"/v1/videos/{video_id}")).status == 404
    assert (await gateway.call("GET", status["url"].removeprefix(gateway.url))).status == 404
    await gateway.check_books()


@pytest.mark.parametrize("prefix", ["/v1", "/v1/openai"])
async def test_who_asks_for_the_head_of_a_clip_gets_that(gateway: Gateway, prefix: str) -> None:
    made = await gateway.post(f"{prefix}/videos", {"model": VIDEO_MODEL, "prompt": "A cat"})
    path = f"{prefix}/videos/{made.json['id']}"
    early = await gateway.call("HEAD", f"{path}/content?variant=thumbnail")
    assert (early.status, early.body) == (400, b"")
    while (await gateway.get(path)).json["status"] != "completed":
        pass
    first = await gateway.call("HEAD", f"{path}/content")
    whole = await gateway.get(f"{path}/content")
    assert first.headers["Content-Length"] == str(len(whole.body))
    for headers in ({}, {"Range": "bytes=4-7"}):  # a range is a matter of GET (RFC 9110, section 14.2)
        head = await gateway.call("HEAD", f"{path}/content", headers=headers)
        assert (head.status, head.body) == (200, b"")
        for name in ("Content-Type", "Content-Length", "Accept-Ranges", "ETag", "X-Content-Type-Options"):
            assert head.headers[name] == whole.headers[name]
    assert (await gateway.call("HEAD", f"{path}x/content")).status == 404
    await gateway.check_books()


async def test_clips_are_listed_in_pages_and_only_to_their_owner(gateway: Gateway) -> None:
    ids = [(await gateway.post("/v1/videos", {"model": VIDEO_MODEL, "prompt": "x"})).json["id"] for _ in range(3)]
    first = (await gateway.get("/v1/videos?limit=2")).json
    assert ([each["id"] for each in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    second = (await gateway.get(f"/v1/videos?limit=2&after={first['last_id']}")).json
    assert ([each["id"] for each in second["data"]], second["has_more"]) == ([ids[0]], False)
    oldest = (await gateway.get("/v1/videos?order=asc&limit=1")).json
    assert oldest["data"][0]["id"] == ids[0]
    for query, param in (("limit=0", "limit"), ("order=up", "order")):
        bad = await gateway.get(f"/v1/videos?{query}")
        assert (bad.status, bad.json["error"]["param"]) == (400, param)
    assert (await gateway.get("/v1/videos?after=nothing")).status == 404


@pytest.mark.parametrize("path", ["/v1/openai/videos/generations", "/v1/videos/generations"])
async def test_the_older_route_answers_with_the_clip(gateway: Gateway, path: str) -> None:
    answer = await gateway.post(path, {"model": VIDEO_MODEL, "prompt": "A cat", "seconds": "auto", "size": "auto"})
    assert answer.status == 200, answer.json
    (item,) = answer.json["data"]
    clip = await gateway.call("GET", item["url"].removeprefix(gateway.url))
    assert (clip.status, clip.body[4:8]) == (200, b"ftyp")
    row = await gateway.last_row()
    assert answer.json["cost"] == row.charge_nano_usd / 10**9 > 0
    assert float(answer.headers["X-Bitmesh-Cost"]) == answer.json["cost"]
    assert answer.json["latency"] > 0
    await gateway.check_books()


async def test_a_long_answer_is_kept_alive_by_spaces(tmp_path: Path) -> None:
    changes = {
        "answers": {"keep_alive_after_s": 0.05, "keep_alive_interval_s": 0.05},
        "sandbox": {"job_duration_s": 0.6},
    }
    async with running_gateway(tmp_path / "data", changes) as gateway:
        url = f"{gateway.url}/v1/openai/videos/generations"
        body = {"model": VIDEO_MODEL, "prompt": "A cat"}
        async with gateway.http.post(url, json=body, headers=gateway.bearer) as answer:
            text = await answer.text()
        assert (answer.status, text[0], text.lstrip()[0]) == (200, " ", "{")
        assert json.loads(text)["data"][0]["url"]
        body["prompt"] = "A cat [[sandbox: fail]]"
        async with gateway.http.post(url, json=body, headers=gateway.bearer) as answer:
            failed = await answer.json()
        assert (answer.status, set(failed)) == (200, {"error"})  # the head had gone out
        row = await gateway.last_row()
        assert (row.outcome, row.charge_nano_usd) == ("job_failed", 0)
        await gateway.check_books()


async def test_errors_come_as_success_only_behind_the_setting(tmp_path: Path) -> None:
    body = {"model": IMAGE_MODEL, "prompt": "A lantern"}
    for is_on, status in ((False, 402), (True, 200)):
        changes = {"answers": {"legacy_errors_as_ok": is_on}}
        async with running_gateway(tmp_path / f"data-{is_on}", changes, credit_usd="0") as gateway:
            answer = await gateway.post("/v1/openai/images/generations", body)
            assert (answer.status, answer.json["error"]["code"]) == (status, "insufficient_balance")
            plain = await gateway.post("/v1/images/generations", body)
            assert plain.status == 402
            bad = await gateway.post("/v1/openai/images/generations", {**body, "n": "many"})
            assert (bad.status, bad.json["error"]["param"]) == (400, "n")
            await gateway.check_books()


async def test_who_leaves_a_held_answer_leaves_the_clip_to_its_end(gateway: Gateway) -> None:
    url = f"{gateway.url}/v1/openai/videos/generations"
    with pytest.raises(TimeoutError):
        await gateway.http.post(
            url,
            json={"model": VIDEO_MODEL, "prompt": "A cat"},
            headers=bearer(gateway.key),
            timeout=aiohttp.ClientTimeout(total=0.1),
        )
    await eventually(lambda: bool(gateway.upstream_calls("/videos")), "the clip was ordered")
    row = await gateway.last_row()
    assert (row.outcome, row.charge_nano_usd > 0) == ("completed", True)
    await gateway.check_books()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": VIDEO_MODEL}, "prompt"),
        ({"model": VIDEO_MODEL, "prompt": ""}, "prompt"),
        ({"model": VIDEO_MODEL, "prompt": "x", "seconds": 0}, "seconds"),
        ({"model": VIDEO_MODEL, "prompt": "x", "seconds": "1e9"}, "seconds"),
        ({"model": VIDEO_MODEL, "prompt": "x", "seconds": True}, "seconds"),
        ({"model": VIDEO_MODEL, "prompt": "x", "size": [1]}, "size"),
        ({"model": VIDEO_MODEL, "prompt": "x", "input_reference": {"file_id": "file-1"}}, "input_reference"),
        ({"model": VIDEO_MODEL, "prompt": "x", "response_format": "b64_json"}, "response_format"),
        ({"model": IMAGE_MODEL, "prompt": "x"}, "model"),
    ],
)
async def test_a_bad_order_of_a_clip_is_refused(gateway: Gateway, body: dict[str, Any], param: str) -> None:
    answer = await gateway.post("/v1/videos", body)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert await gateway.books.rows() == []


# ---------------------------------------------------------------- links of callers


async def test_a_link_is_fetched_for_providers_that_take_none(tmp_path: Path) -> None:
    fetched: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        fetched.append(request.path)
        body = png() if request.path == "/picture" else b"<html>"
        return web.Response(body=body, content_type="image/png")

    app = web.Application()
    app.router.add_get("/{name}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    provider = {"name": "local", "kind": "openai_compatible", "base_urls": {"default": "http://127.0.0.1:9/v1"}}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "local.toml").write_text(ROWS)
    body = {"model": "local/painter", "prompt": "In blue", "image": f"{origin}/picture"}
    catalogue = {"extra_dirs": [str(tmp_path / "models")]}
    try:
        for trusted, is_fetched in (([], False), ([origin], True)):
            changes = {"uploads": {"trusted_origins": trusted}, "catalogue": catalogue, "providers": [provider]}
            async with running_gateway(tmp_path / f"data-{is_fetched}", changes) as gateway:
                answer = await gateway.post("/v1/images/edits", body)
                assert (fetched == ["/picture"]) is is_fetched
                # Fetched or not: nothing listens where this provider should be.
                assert (answer.status, answer.json["error"]["param"]) != (200, "image")
                if not is_fetched:
                    assert (answer.status, answer.json["error"]["param"]) == (400, "image")
                    continue
                page = await gateway.post("/v1/images/edits", {**body, "image": f"{origin}/page"})
                assert (page.status, page.json["error"]["param"]) == (400, "image")
                await gateway.check_books()
    finally:
        await runner.cleanup()


ROWS = """
[[model]]
id = "local/painter"
operation = "image"
inputs = ["text", "image"]
outputs = ["image"]

[[offer]]
model = "local/painter"
provider = "local"
upstream_model = "painter"
usd_per_image = "0.01"
max_images_in = 1
"""
