"""Who calls, by whichever credential; and what an attempt that fails leaves behind: nothing."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import aiohttp
import pytest

from bitmesh_proxy.storage.keys import KeyStore
from tests.auth.bitmesh_clients import authorization
from tests.journeys.gateway import Gateway, bearer, eventually, open_books, running_gateway

#: One entry for each file that this process has open.
DESCRIPTORS = Path("/proc/self/fd")


def signed(url: str, *, key: str, secret: str, nonce: str = "fa0e22d8692912ad") -> dict[str, str]:
    header, _ = authorization("POST", url, key=key, secret=secret, timestamp_s=int(time.time()), nonce=nonce)
    return {"Authorization": header, "X-Payload-Signature": "0" * 64}


async def test_an_unknown_consumer_key_is_told_what_a_wrong_secret_is_told(gateway: Gateway) -> None:
    """Or one could find out which keys exist."""
    url = gateway.url + "/chat"
    unknown = signed(url, key="ck_nobody", secret="x")
    wrong = signed(url, key=gateway.key.consumer_key, secret="x")
    answers = [await gateway.post("/chat", {}, headers=headers) for headers in (unknown, wrong)]
    assert [answer.status for answer in answers] == [401, 401]
    assert answers[0].json == answers[1].json


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="there is no /proc")
async def test_a_form_that_was_signed_wrongly_leaves_no_file_open(gateway: Gateway) -> None:
    headers = signed(gateway.url + "/chat", key=gateway.key.consumer_key, secret=gateway.key.consumer_secret)

    async def send() -> None:
        form = aiohttp.FormData()
        form.add_field("image", io.BytesIO(b"x" * 3_000_000), filename="x.png", content_type="image/png")
        answer = await gateway.call("POST", "/chat", data=form, headers=headers)
        assert (answer.status, answer.json) == (401, {"error": "The payload signature does not match."})

    await send()
    before = len(os.listdir(DESCRIPTORS))
    for _ in range(5):
        await send()
    # A connection that was closed may take a moment to go; a file that was forgotten stays.
    await eventually(lambda: len(os.listdir(DESCRIPTORS)) <= before, "no more is open than after the first")


async def test_the_moment_of_expiry_is_the_first_one_refused(gateway: Gateway) -> None:
    soon = await gateway.new_key(expires_at_s=time.time() + 3600)
    assert (await gateway.get("/test", headers=bearer(soon))).status == 200
    over = await gateway.new_key(expires_at_s=time.time())
    assert (await gateway.get("/test", headers=bearer(over))).status == 401


async def test_a_rotated_key_is_good_with_its_new_secret_only(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, open_books(tmp_path) as outside:
        assert (await gateway.get("/test")).status == 200
        await KeyStore(outside.database).rotate(gateway.key.id, token_digest=bytes(32), token_hint="abcd")
        assert (await gateway.get("/test")).status == 401
