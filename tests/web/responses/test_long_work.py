from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.endpoints.responses.specification import check_response
from tests.journeys.gateway import VIDEO_MODEL, Gateway, running_gateway

PATH = "/v1/responses"
SPEECH_MODEL = "openai/tts-1"


async def made(gateway: Gateway, model: str, **more: Any) -> Any:
    answer = await gateway.post(PATH, {"model": model, "input": "Good day", **more})
    assert answer.status == 200, answer.json
    check_response(answer.json)
    return answer


@pytest.mark.parametrize("model", [VIDEO_MODEL, SPEECH_MODEL])
async def test_headers_say_the_cost_as_everywhere(tmp_path: Path, model: str) -> None:
    async with running_gateway(tmp_path) as gateway:
        answer = await made(gateway, model)
        row = await gateway.last_row()
        assert float(answer.headers["X-Bitmesh-Cost"]) == answer.json["usage"]["total_cost"]
        assert answer.headers["X-Bitmesh-Provider"] == row.provider
        assert answer.headers["X-Bitmesh-Request-Cost-Basis"] == row.basis
        assert answer.headers["X-Bitmesh-Sandbox"] == "1"
        await gateway.check_books()


async def test_speech_that_breaks_off_is_an_error_and_no_half_sound(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.fault("break_after=1", times=3)
        answer = await gateway.post(PATH, {"model": SPEECH_MODEL, "input": "Good day"})
        assert answer.status >= 500
        assert answer.json["error"]["type"] == "model_error"
        await gateway.last_row()
        await gateway.check_books()


async def test_a_job_that_cannot_be_handed_in_is_an_error(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.fault("status=400")
        answer = await gateway.post(PATH, {"model": VIDEO_MODEL, "input": "A cat"})
        assert answer.status == 400
        await gateway.last_row()
        await gateway.check_books()
