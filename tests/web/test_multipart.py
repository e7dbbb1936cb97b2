"""Forms over a real socket: what arrives, what is refused, and that nothing stays on disk."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pytest_aiohttp.plugin import AiohttpServer

from bitmesh_proxy.context import Surface
from bitmesh_proxy.errors import GatewayError
from bitmesh_proxy.web.error_formats import render_error
from bitmesh_proxy.web.multipart import BLOCK_BYTES, Form, FormLimits, read_form
from tests.journeys.gateway import running_gateway

MAX_BYTES = 4 * 1024 * 1024
LIMITS = FormLimits(
    max_parts=6,
    max_name_characters=32,
    max_field_bytes=100_000,
    max_fields_bytes=150_000,
    memory_file_bytes=64 * 1024,
)


class Forms:
    """A server that reads forms, and what it saw of them."""

    def __init__(self, spool_dir: Path) -> None:
        self.spool_dir = spool_dir
        self.max_bytes = MAX_BYTES
        self.timeout_s = 5.0
        self.kept: list[Form] = []
        self.refused: list[int] = []
        self.url = ""
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        try:
            form = await read_form(
                request, max_bytes=self.max_bytes, timeout_s=self.timeout_s, spool_dir=self.spool_dir, limits=LIMITS
            )
        except GatewayError as error:
            self.refused.append(error.status)
            rendered = render_error(error, Surface.BITMESH, "")
            return web.Response(status=rendered.status, headers=rendered.headers, body=rendered.body)
        async with form:
            self.kept.append(form)
            files = [
                {
                    "name": each.name,
                    "filename": each.filename,
                    "media_type": each.media_type,
                    "size": each.size_bytes,
                    "on_disk": not isinstance(each.file, io.BytesIO),
                    "start": (await each.read())[:8].decode("latin-1"),
                    "length": sum([len(block) async for block in each.chunks()]),
                }
                for each in form.files
            ]
            return web.Response(body=orjson.dumps({"fields": form.fields, "files": files}))


@pytest.fixture
async def forms(aiohttp_server: AiohttpServer, tmp_path: Path) -> Forms:
    forms = Forms(tmp_path)
    app = web.Application()
    app.router.add_post("/", forms.handle)
    server: TestServer = await aiohttp_server(app, auto_decompress=False)
    assert server.port is not None
    forms.url, forms.port = str(server.make_url("/")), server.port
    return forms


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def send(session: aiohttp.ClientSession, forms: Forms, data: Any, **headers: str) -> tuple[int, Any]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.post(forms.url, data=data, headers=sent) as response:
        return response.status, json.loads(await response.read())


def form_of(*fields: tuple[str, Any], **files: bytes) -> aiohttp.FormData:
    data = aiohttp.FormData(fields, default_to_multipart=True)
    for name, content in files.items():
        data.add_field(name, io.BytesIO(content), filename=f"{name}.bin", content_type="image/PNG; x=1")
    return data


def raw_form(*parts: bytes, end: bytes = b"--B--\r\n") -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + end


RAW = {"Content_Type": "multipart/form-data; boundary=B"}


async def test_fields_come_in_order_and_as_often_as_sent(session: aiohttp.ClientSession, forms: Forms) -> None:
    fields = [("speech_models[1]", "b"), ("speech_models[0]", "a"), ("x", "ä\r\n /"), ("x", ""), ("a[b][c]", "1")]
    status, body = await send(session, forms, form_of(*fields))
    assert status == 200
    assert body == {"fields": [list(field) for field in fields], "files": []}


async def test_small_files_stay_in_memory_and_large_ones_do_not(session: aiohttp.ClientSession, forms: Forms) -> None:
    small = b"small\r\n--\x00\xff"
    large = b"large" + bytes(range(256)) * (BLOCK_BYTES // 100)
    status, body = await send(session, forms, form_of(("a", "1"), image=small, mask=large, empty=b""))
    assert status == 200
    common = {"media_type": "image/png"}
    assert body["files"] == [
        {
            "name": "image",
            "filename": "image.bin",
            "size": len(small),
            "length": len(small),
            "on_disk": False,
            "start": small[:8].decode("latin-1"),
            **common,
        },
        {
            "name": "mask",
            "filename": "mask.bin",
            "size": len(large),
            "length": len(large),
            "on_disk": True,
            "start": large[:8].decode("latin-1"),
            **common,
        },
        {"name": "empty", "filename": "empty.bin", "size": 0, "length": 0, "on_disk": False, "start": "", **common},
    ]


@pytest.mark.parametrize("size", [LIMITS.memory_file_bytes, LIMITS.memory_file_bytes + 1])
async def test_the_limit_of_memory_is_exact(session: aiohttp.ClientSession, forms: Forms, size: int) -> None:
    _, body = await send(session, forms, form_of(image=b"x" * size))
    assert body["files"][0]["on_disk"] is (size > LIMITS.memory_file_bytes)
    assert body["files"][0]["length"] == size


async def test_nothing_has_a_name_on_disk_and_closed_files_are_gone(
    session: aiohttp.ClientSession, forms: Forms
) -> None:
    await send(session, forms, form_of(image=b"x" * 500_000))
    assert os.listdir(forms.spool_dir) == []
    assert all(each.file.closed for each in forms.kept[0].files)
    await forms.kept[0].close()


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\pictures\\\\cat.png", "cat.png"),
        ("dir/", "file"),
        ("a\tb.png", "ab.png"),
        ("x" * 400 + ".png", "x" * 251 + ".png"),
    ],
)
async def test_a_filename_is_only_a_name(
    session: aiohttp.ClientSession, forms: Forms, filename: str, kept: str
) -> None:
    part = f'Content-Disposition: form-data; name="f"; filename="{filename}"\r\n\r\nx'.encode()
    status, body = await send(session, forms, raw_form(part), **RAW)
    assert status == 200
    assert body["files"][0]["filename"] == kept
    assert body["files"][0]["media_type"] == "application/octet-stream"


# ---------------------------------------------------------------- refusals

FIELD = b'Content-Disposition: form-data; name="a"\r\n'


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "The multipart body is malformed."),
        (b"nothing of the kind", 400, "The multipart body is malformed."),
        (raw_form(FIELD + b"\r\nx", end=b""), 400, "The multipart body is malformed."),
        (b"--B\r\n" + FIELD, 400, "The multipart body is malformed."),
        (raw_form(b"no header line\r\n\r\nx"), 400, "The multipart body is malformed."),
        (raw_form(b"X: " + b"y" * 10_000 + b"\r\n" + FIELD + b"\r\nx"), 400, "The multipart body is malformed."),
        (raw_form(b"X: y\r\n" * 200 + FIELD + b"\r\nx"), 400, "The multipart body is malformed."),
        (raw_form(b"Content-Disposition: form-data\r\n\r\nx"), 400, "A part of the form has no name."),
        (raw_form(b'Content-Disposition: form-data; name=""\r\n\r\nx'), 400, "A part of the form has no name."),
        (
            raw_form(b'Content-Disposition: form-data; name="' + b"n" * 33 + b'"\r\n\r\nx'),
            400,
            "The name of a part of the form is too long.",
        ),
        (raw_form(FIELD + b"\r\n\xff"), 400, "The field 'a' is not valid UTF-8: byte 0."),
        (
            raw_form(FIELD + b"Content-Transfer-Encoding: base64\r\n\r\neA=="),
            400,
            "A part of the form has a Content-Transfer-Encoding; send it as it is.",
        ),
        (
            raw_form(b"Content-Type: multipart/mixed; boundary=C\r\n\r\n--C\r\n\r\nx\r\n--C--"),
            400,
            "The form holds a form.",
        ),
        (raw_form(*[FIELD + b"\r\nx"] * 7), 400, "The form has more than 6 parts."),
        (raw_form(FIELD + b"\r\n" + b"x" * 100_001), 413, "The fields of the form are too large."),
        (raw_form(*[FIELD + b"\r\n" + b"x" * 80_000] * 2), 413, "The fields of the form are too large."),
    ],
)
async def test_what_is_refused(
    session: aiohttp.ClientSession, forms: Forms, body: bytes, status: int, says: str
) -> None:
    assert await send(session, forms, body, **RAW) == (status, {"error": says})
    assert forms.kept == []


@pytest.mark.parametrize(
    "odd", [b"; form-data", b"form-data; name", b"form-data;; a='", b'form-data; name="x"; filename*=a']
)
async def test_odd_dispositions_leave_no_warning(tmp_path: Path, odd: bytes) -> None:
    async with running_gateway(tmp_path) as gateway:  # where a warning is an error, that would be ours
        answer = await gateway.call(
            "POST",
            "/v1/audio/transcriptions",
            data=raw_form(b"Content-Disposition: " + odd + b"\r\n\r\nx"),
            headers={"Content-Type": RAW["Content_Type"]},
        )
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 415),
        ("multipart/mixed; boundary=B", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=" + "B" * 80, 400),
    ],
)
async def test_other_content_types(
    session: aiohttp.ClientSession, forms: Forms, content_type: str, status: int
) -> None:
    assert (await send(session, forms, raw_form(FIELD + b"\r\nx"), Content_Type=content_type))[0] == status


async def test_a_compressed_form_is_415(session: aiohttp.ClientSession, forms: Forms) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", forms.port)
    writer.write(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n--"
    )
    assert b" 415 " in await reader.readline()
    await close(writer)


async def test_a_declared_size_over_the_limit_is_413(session: aiohttp.ClientSession, forms: Forms) -> None:
    forms.max_bytes = 1000
    status, body = await send(session, forms, form_of(image=b"x" * 1000))
    assert (status, body) == (413, {"error": "The request body is larger than 1000 bytes."})


async def test_an_undeclared_size_is_counted(session: aiohttp.ClientSession, forms: Forms) -> None:
    forms.max_bytes = 1_000_000

    async def endless() -> AsyncIterator[bytes]:
        yield raw_form(end=b"--B\r\n" + b'Content-Disposition: form-data; name="f"; filename="f"\r\n\r\n')
        while True:
            yield b"x" * 65_536

    with suppress(aiohttp.ClientError):  # a client that cannot write any more may not come to read why
        await send(session, forms, endless(), **RAW)
    assert forms.refused == [413]
    assert os.listdir(forms.spool_dir) == []


async def test_a_form_that_does_not_come_is_408(forms: Forms) -> None:
    forms.timeout_s = 0.2
    reader, writer = await asyncio.open_connection("127.0.0.1", forms.port)
    writer.write(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        b"Content-Length: 1000\r\n\r\n--B\r\n"
    )
    assert b" 408 " in await reader.readline()
    await close(writer)


async def test_no_room_on_disk_is_503(session: aiohttp.ClientSession, forms: Forms) -> None:
    forms.spool_dir = forms.spool_dir / "gone"
    status, body = await send(session, forms, form_of(image=b"x" * 500_000))
    assert (status, body) == (503, {"error": "There is no room for the upload."})
    assert (await send(session, forms, form_of(image=b"x")))[0] == 200


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
