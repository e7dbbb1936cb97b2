"""The body of a request, read once and within its bounds."""

from __future__ import annotations

import io
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.errors import UnsupportedMediaType
from bitmesh_proxy.web.received import Received, receive
from tests.journeys.gateway import running_gateway
from tests.web.extra_routes import add


async def echo(request: web.Request) -> web.StreamResponse:
    received = await receive(request, request.app[keys.SETTINGS].http)
    form = received.form
    body = {
        "raw": len(received.raw),
        "fields": [list(each) for each in form.fields] if form else None,
        "files": [[each.name, each.filename, each.size_bytes] for each in form.files] if form else None,
    }
    await received.close()
    await received.close()  # twice does no harm
    return web.json_response(body)


def prepare(app: web.Application) -> None:
    add(app, "/echo", echo)


async def test_json_comes_as_bytes_and_forms_as_fields_and_files(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"http": {"max_body_bytes": 1000}}, prepare=prepare) as gateway:
        assert (await gateway.get("/echo")).json == {"raw": 0, "fields": None, "files": None}
        assert (await gateway.post("/echo", {"a": 1})).json["raw"] == 8
        form = aiohttp.FormData()
        form.add_field("a", "1")
        form.add_field("image", io.BytesIO(b"x" * 2_000_000), filename="x.png", content_type="image/png")
        answer = await gateway.call("POST", "/echo", data=form)
        assert answer.json == {"raw": 0, "fields": [["a", "1"]], "files": [["image", "x.png", 2_000_000]]}


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"x" * 1001, "application/json", 413),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b"--x", "multipart/form-data; boundary=y", 400),
    ],
)
async def test_what_cannot_be_taken_is_refused(tmp_path: Path, data: bytes, content_type: str, status: int) -> None:
    async with running_gateway(tmp_path, {"http": {"max_body_bytes": 1000}}, prepare=prepare) as gateway:
        answer = await gateway.call("POST", "/echo", data=io.BytesIO(data), headers={"Content-Type": content_type})
        assert answer.status == status
        assert answer.json["error"]


async def test_an_object_is_parsed_from_bytes_only() -> None:
    assert await Received(raw=b'{"a":1}').json_object(5) == {"a": 1}
    with pytest.raises(UnsupportedMediaType):
        await Received(form=object()).json_object(5)  # type: ignore[arg-type]  # any form will do
