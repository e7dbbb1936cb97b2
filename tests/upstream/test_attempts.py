"""One attempt at one offer. What becomes of callers and books, the journeys show; here is what they do not reach."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.journeys.gateway import Gateway, running_gateway

SPEECH = {"model": "gpt-4o-mini-tts", "input": "Hello there. " * 40, "voice": "alloy", "response_format": "wav"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path) as running:
        yield running


async def test_sound_that_breaks_off_is_cut_and_no_words_are_put_into_it(gateway: Gateway) -> None:
    """An error event in the middle of a sound would be noise, and a clean end would be a lie."""
    gateway.fault("break_after=3")
    async with gateway.http.post(
        gateway.url + "/v1/openai/audio/speech", json=SPEECH, headers=gateway.bearer
    ) as answer:
        assert answer.status == 200
        assert answer.content_type.startswith("audio/")
        received = b""
        try:
            async for chunk in answer.content.iter_any():
                received += chunk
        except aiohttp.ClientPayloadError:
            pass
        else:
            pytest.fail("it ended as if it were whole")
    assert received.startswith(b"RIFF")
    assert b"upstream_broken" not in received
    row = await gateway.last_row()
    assert (row.state, row.outcome) == ("settled", "upstream_broken")
    assert row.charge_nano_usd > 0
    await gateway.check_books()


async def test_a_page_is_no_sound(gateway: Gateway) -> None:
    """Nor is it paid for as one."""
    gateway.fault("html=200")
    answer = await gateway.post("/v1/audio/speech", SPEECH)
    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_broken")
    row = await gateway.last_row()
    assert (row.outcome, row.charge_nano_usd) == ("upstream_broken", 0)
    await gateway.check_books()


async def test_an_error_body_that_never_ends_does_not_hide_the_status(gateway: Gateway) -> None:
    """The status alone is enough: the provider's own, though its words break off."""
    gateway.fault("status=429 retry_after=3 break_after=1")
    body = {"model": "openai/gpt-oss-120b", "messages": [{"role": "user", "content": "Hello"}]}
    answer = await gateway.post("/chat", body)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert answer.json["error"]
    await gateway.check_books()
