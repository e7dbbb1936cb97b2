"""The main line, end to end: chat whole and streamed, pictures, clips, and calls that are not charged."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.calls import Basis
from bitmesh_proxy.cli.new_key import create_key
from bitmesh_proxy.storage.accounts import AccountStore
from tests.journeys.gateway import (
    IMAGE_MODEL,
    PATIENCE_S,
    VIDEO_MODEL,
    Gateway,
    bearer,
    chat,
    image,
    running_gateway,
    video,
)

pytestmark = pytest.mark.journey

#: The catalogue's row of the model: 0.15 and 0.60 USD for a million tokens, in nano-dollars for one.
INPUT_NANO_USD, OUTPUT_NANO_USD = 150, 600


@pytest.mark.both_ways
async def test_a_whole_chat_is_the_providers_answer_and_is_charged_by_its_usage(gateway: Gateway) -> None:
    answer = await gateway.post("/chat", chat(top_p=0.5))
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"]
    usage = answer.json["usage"]
    charge = usage["prompt_tokens"] * INPUT_NANO_USD + usage["completion_tokens"] * OUTPUT_NANO_USD
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.http_status, row.basis) == ("settled", "completed", 200, Basis.MEASURED)
    assert (row.charge_nano_usd, row.cost_nano_usd, row.is_live) == (charge, charge, True)
    assert (row.endpoint, row.provider, row.provider_request_id) == ("chat", "together", answer.json["id"])
    assert (row.input_tokens, row.output_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row.request_id == answer.headers["X-Request-Id"]
    assert (row.address, row.key_id) == ("127.0.0.1", gateway.key.id)
    assert row.hold_nano_usd >= charge
    assert row.total_ms is not None
    assert row.first_byte_ms is not None
    assert await gateway.balance() == 10 * 10**9 - charge
    (sent,) = gateway.upstream_calls("/chat/completions")
    assert sent.body["top_p"] == 0.5
    await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("path", ["/chat", "/v1/chat"])
async def test_a_streamed_chat_arrives_byte_for_byte(gateway: Gateway, path: str) -> None:
    """Odd line ends and comments, split anywhere, are none of our business."""
    gateway.fault("crlf comments split=7")
    answer = await gateway.post(path, chat(stream=True))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    assert answer.body.startswith(b": ")
    assert answer.body.endswith(b"data: [DONE]\r\n\r\n")
    assert b"data: {" in answer.body
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.basis) == ("settled", "completed", Basis.MEASURED)
    assert row.charge_nano_usd == row.input_tokens * INPUT_NANO_USD + 8 * OUTPUT_NANO_USD
    await gateway.check_books()


@pytest.mark.both_ways
async def test_answers_name_the_program_and_no_versions(gateway: Gateway) -> None:
    """Of it, or of what it is made of."""
    for answer in (
        await gateway.post("/chat", chat()),
        await gateway.post("/chat", chat(stream=True)),
        await gateway.post("/chat", {}),
        await gateway.post("/image", image()),
        await gateway.get("/nowhere"),
        await gateway.get("/health"),
    ):
        assert answer.headers["Server"] == "bitmesh-proxy"


async def test_a_picture_is_served_under_our_own_address(gateway: Gateway) -> None:
    answer = await gateway.post("/image", image(n=2))
    assert answer.status == 200
    urls = [item["url"] for item in answer.json["data"]]
    assert len(set(urls)) == 2
    assert all(url.startswith(f"{gateway.url}/imgrslt/") for url in urls)
    path = urls[0].removeprefix(gateway.url)
    whole = await gateway.get(path, headers={"Authorization": ""})
    assert (whole.status, whole.headers["Content-Type"]) == (200, "image/jpeg")
    assert whole.body.startswith(b"\xff\xd8\xff")
    head = await gateway.call("HEAD", path)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(whole.body)), b"")
    part = await gateway.get(f"/v1{path}", headers={"Range": "bytes=6-9"})
    assert (part.status, part.body) == (206, b"JFIF")
    assert part.headers["Content-Range"] == f"bytes 6-9/{len(whole.body)}"
    missing = await gateway.get("/imgrslt/doesnotexist0000")
    assert (missing.status, missing.body) == (404, b"Resource not found")
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.model, row.images) == ("settled", "completed", IMAGE_MODEL, 2)
    assert 0 < row.charge_nano_usd <= row.hold_nano_usd
    await gateway.check_books()


async def test_a_clip_is_followed_to_its_end_by_its_owner_and_charged_once(gateway: Gateway) -> None:
    submitted = await gateway.post("/video", video())
    assert submitted.status == 200
    job_id = submitted.json["id"]
    deadline = time.monotonic() + PATIENCE_S
    while (shown := await gateway.get(f"/video/{job_id}")).json["status"] != "completed":
        assert shown.status == 200
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    url = shown.json["outputs"]["video_url"]
    assert url.startswith(f"{gateway.url}/imgrslt/")
    clip = await gateway.get(url.removeprefix(gateway.url))
    assert (clip.status, clip.headers["Content-Type"]) == (200, "video/mp4")
    assert clip.body[4:8] == b"ftyp"
    assert (await gateway.get(f"/v1/video/{job_id}")).json == shown.json
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.model, row.basis) == ("settled", "completed", VIDEO_MODEL, Basis.REPORTED)
    assert row.charge_nano_usd == round(shown.json["outputs"]["cost"] * 10**9)
    assert row.provider_request_id == job_id
    await gateway.check_books()


async def test_a_clip_that_nobody_asks_for_is_ended_and_charged_all_the_same(gateway: Gateway) -> None:
    assert (await gateway.post("/video", video())).status == 200
    row = await gateway.last_row()
    assert (row.state, row.outcome) == ("settled", "completed")
    assert row.charge_nano_usd > 0
    await gateway.check_books()


async def test_a_clip_under_way_survives_a_restart(tmp_path: Path) -> None:
    """Of the providers, too, where they are played."""
    async with running_gateway(tmp_path) as gateway:
        submitted = await gateway.post("/video", video(prompt="A lantern [[sandbox: job_s=0.5]]"))
        assert submitted.json["status"] == "queued"
        key = gateway.key
    async with running_gateway(tmp_path) as again:
        again.key = key
        await again.last_row()
        shown = await again.get(f"/video/{submitted.json['id']}")
        assert shown.json["status"] == "completed"
        clip = await again.get(urlsplit(shown.json["outputs"]["video_url"]).path)
        assert (clip.status, clip.body[4:8]) == (200, b"ftyp")
        await again.check_books()


async def test_a_clip_that_fails_costs_nothing(gateway: Gateway) -> None:
    submitted = await gateway.post("/video", video("A cat [[sandbox: fail]]"))
    row = await gateway.last_row()
    assert (row.state, row.outcome, row.charge_nano_usd) == ("released", "job_failed", 0)
    shown = await gateway.get(f"/video/{submitted.json['id']}")
    assert (shown.status, shown.json["status"]) == (200, "failed")
    assert shown.json["error"]
    await gateway.check_books()


async def test_anothers_clip_is_not_there(gateway: Gateway) -> None:
    job_id = (await gateway.post("/video", video())).json["id"]
    database = gateway.app[keys.DATABASE]
    other = await AccountStore(database).create("somebody else")
    stranger = await create_key(database, gateway.settings, account_id=other.id)
    answer = await gateway.get(f"/video/{job_id}", headers=bearer(stranger))
    assert (answer.status, answer.json) == (404, {"error": "Video job not found"})
    await gateway.last_row()
    await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize(("path", "body"), [("/chat", chat(test=True)), ("/image", image(test=True))])
async def test_a_test_call_is_made_and_recorded_but_not_charged(
    gateway: Gateway, path: str, body: dict[str, object]
) -> None:
    assert (await gateway.post(path, body)).status == 200
    assert "test" not in gateway.upstream_calls()[0].body
    row = await gateway.last_row()
    assert (row.is_live, row.hold_nano_usd, row.charge_nano_usd) == (False, 0, 0)
    assert row.cost_nano_usd > 0
    assert await gateway.balance() == 10 * 10**9
    await gateway.check_books()


async def test_a_test_clip_is_not_charged_at_its_end(gateway: Gateway) -> None:
    assert (await gateway.post("/video", video(test=True))).status == 200
    row = await gateway.last_row()
    assert (row.is_live, row.charge_nano_usd, row.outcome) == (False, 0, "completed")
    assert row.cost_nano_usd > 0
    await gateway.check_books()
