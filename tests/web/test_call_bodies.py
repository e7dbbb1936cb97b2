"""Bodies of calls: forms as JSON, their files within the limits, and what makes two of them the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.journeys.gateway import Gateway, running_gateway

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 500
EDITS = "/v1/images/edits"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    limits = {"uploads": {"max_images": 2, "max_image_bytes": 1000, "max_audio_bytes": 2000}}
    async with running_gateway(tmp_path / "data", limits) as running:
        yield running


def form(*files: bytes, boundary: str | None = None, **fields: str) -> aiohttp.MultipartWriter:
    writer = aiohttp.MultipartWriter("form-data", boundary=boundary)
    for name, value in fields.items():
        part = writer.append(value)
        part.set_content_disposition("form-data", name=name)
    for data in files:
        part = writer.append(data)
        part.set_content_disposition("form-data", name="image", filename="a.png")
    return writer


async def test_files_within_the_limits_only(gateway: Gateway) -> None:
    for files, status in (([PNG * 3], 413), ([b""], 400), ([PNG] * 4, 400), ([PNG] * 3, 400)):
        answer = await gateway.call("POST", EDITS, data=form(*files, model="gpt-image-2", prompt="x"))
        assert (answer.status, answer.json["error"]["param"]) == (status, "image"), answer.json
    assert await gateway.books.rows() == []


async def test_a_form_where_none_is_taken_and_json_where_a_file_is_needed(gateway: Gateway) -> None:
    answer = await gateway.call("POST", "/v1/chat/completions", data=form(model="m"))
    assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_media_type")
    answer = await gateway.post("/v1/audio/transcriptions", {"model": "whisper-1", "file": "a.wav"})
    assert (answer.status, answer.json["error"]["param"]) == (400, "file")


async def test_of_another_kind_of_form_it_is_said_which_is_taken(gateway: Gateway) -> None:
    for kind in ("multipart/mixed; boundary=x", "application/x-www-form-urlencoded"):
        answer = await gateway.call("POST", EDITS, data=b"--x--", headers={"Content-Type": kind})
        assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_media_type")
        assert "application/json, or multipart/form-data" in answer.json["error"]["message"]


async def test_the_same_form_twice_is_one_call_whatever_its_boundary(gateway: Gateway) -> None:
    fields = {"model": "black-forest-labs/FLUX-2-dev", "prompt": "x", "size": "256x256", "response_format": "url"}
    headers = {"Idempotency-Key": "k1"}

    async def post(boundary: str, **more: str) -> tuple[int, dict[str, object]]:
        data = form(boundary=boundary, **{**fields, **more})
        answer = await gateway.call("POST", "/v1/images/generations", data=data, headers=headers)
        return answer.status, answer.json

    status, first = await post("one")
    assert status == 200, first
    assert await post("two") == (200, first)
    status, other = await post("three", prompt="y")
    assert (status, other["error"]["code"]) == (409, "idempotency_conflict")  # type: ignore[index]  # an error object
    assert len(await gateway.books.rows()) == 1
    await gateway.check_books()
