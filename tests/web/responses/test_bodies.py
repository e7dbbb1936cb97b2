"""Bodies of every kind, at the real application: what each becomes is seen in what goes upstream."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from tests.journeys.gateway import CHAT_MODEL, IMAGE_MODEL, Gateway, running_gateway

PATH = "/v1/responses"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


async def urlencoded(gateway: Gateway, fields: Any) -> Any:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return await gateway.call("POST", PATH, data=urlencode(fields).encode(), headers=headers)


async def test_a_form_is_read_like_json(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        fields = {"model": CHAT_MODEL, "input": "Grüße & mehr", "temperature": "0.5", "store": "false"}
        answer = await urlencoded(gateway, fields)
        assert answer.status == 200, answer.json
        assert answer.json["store"] is False
        sent = gateway.upstream_calls("/chat/completions")[-1].body
        assert sent["temperature"] == 0.5
        assert sent["messages"] == [{"role": "user", "content": "Grüße & mehr"}]
        refused = await urlencoded(gateway, {"model": CHAT_MODEL, "input": "x", "temperature": "warm"})
        assert refused.json["error"]["param"] == "temperature"
        twice = await urlencoded(gateway, [("model", "a"), ("model", "b")])
        assert twice.json["error"]["param"] == "model"


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml"])
async def test_other_types_are_not_read(tmp_path: Path, content_type: str) -> None:
    async with running_gateway(tmp_path) as gateway:
        answer = await gateway.call("POST", PATH, data=b"{}", headers={"Content-Type": content_type})
        assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_media_type")


async def test_files_have_their_limits(tmp_path: Path) -> None:
    limits = {"uploads": {"max_images": 1, "max_image_bytes": 60, "max_audio_bytes": 60}}
    async with running_gateway(tmp_path, limits) as gateway:

        async def upload(*files: bytes) -> tuple[int, str | None]:
            form = aiohttp.FormData()
            form.add_field("model", IMAGE_MODEL)
            form.add_field("messages", '[{"role": "user", "content": "x"}]')
            for data in files:
                form.add_field("image", data, filename="a.png")
            answer = await gateway.call("POST", PATH, data=form)
            return answer.status, answer.json["error"]["param"]

        assert await upload(PNG) == (413, "image")
        assert await upload(b"") == (400, "image")
        assert await upload(b"no picture") == (415, None)
        assert await upload(PNG[:50], PNG[:50], PNG[:50]) == (400, "image")
        assert gateway.upstream_calls() == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"model=x&input=my+secret\xff"),
        ("multipart/form-data; boundary=B", b"--B\r\nmy secret\r\n\r\nx\r\n--B--\r\n"),
    ],
)
async def test_what_cannot_be_read_is_in_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content_type: str, body: bytes
) -> None:
    async with running_gateway(tmp_path) as gateway:
        with caplog.at_level(logging.DEBUG):
            answer = await gateway.call("POST", PATH, data=body, headers={"Content-Type": content_type})
        assert answer.status == 400
        assert "invalid_value: " in caplog.text
        assert "secret" not in caplog.text
