"""What a request may bring, and what is refused with which status."""

from __future__ import annotations

import io

import aiohttp
import orjson
import pytest

from bitmesh_proxy.sandbox.stage import Options
from tests.sandbox.callers import Caller, calling

JSON_URL = "/openai/v1/embeddings"
FORM_URL = "/openai/v1/images/edits"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"{" * 100_000])
async def test_what_is_no_json_object_is_400(caller: Caller, data: bytes) -> None:
    answer = await caller.post(JSON_URL, data=data, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")


async def test_another_type_is_415(caller: Caller) -> None:
    answer = await caller.post(JSON_URL, data=b"<a/>", headers={"Content-Type": "text/xml"})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_content_type")


async def test_too_much_is_413() -> None:
    async with calling(Options(max_body_bytes=1000)) as caller:
        answer = await caller.post(JSON_URL, {"model": "m", "input": "x" * 2000})
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        form = aiohttp.FormData({"prompt": "x"}, default_to_multipart=True)
        form.add_field("image", bytes(2000), filename="a.png")
        answer = await caller.post(FORM_URL, data=form)
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")


async def test_large_json_is_read(caller: Caller) -> None:
    body = io.BytesIO(orjson.dumps({"model": "m", "input": "x " * 700_000, "dimensions": 4}))
    answer = await caller.post(JSON_URL, data=body, headers={"Content-Type": "application/json"})
    assert answer.json["usage"]["prompt_tokens"] > 600_000


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (b"x", "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=b"),
        (
            b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
    ],
    ids=["no name", "no boundary", "no part", "no utf-8"],
)
async def test_a_form_that_does_not_parse_is_400(caller: Caller, body: bytes, content_type: str) -> None:
    answer = await caller.post(FORM_URL, data=body, headers={"Content-Type": content_type})
    assert (answer.status, answer.error["code"]) == (400, "invalid_form")


async def test_a_forms_record_describes_its_files(caller: Caller) -> None:
    form = aiohttp.FormData({"prompt": "x", "n": "2"}, default_to_multipart=True)
    form.add_field("image[]", b"12345", filename="a.png", content_type="image/png")
    await caller.post(FORM_URL, data=form)
    assert caller.sandbox.requests[-1].body == {
        "prompt": "x",
        "n": "2",
        "image": [{"filename": "a.png", "content_type": "image/png", "size": 5}],
    }
