from __future__ import annotations

from pathlib import Path

import pytest

from bitmesh_proxy.money import format_usd
from tests.endpoints.responses.specification import violations
from tests.journeys.gateway import CHAT_MODEL, IMAGE_MODEL, running_gateway

PATH = "/v1/responses/compact"


async def test_a_summary_is_a_call_like_any_other(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        answer = await gateway.post(PATH, {"model": CHAT_MODEL, "input": "I am Ada.", "instructions": "Rhyme."})
        assert violations("CompactResource", answer.json) == []
        row = await gateway.last_row()
        assert row.endpoint == "responses_compact"
        assert answer.json["usage"]["total_cost"] == row.charge_nano_usd / 10**9 > 0
        assert answer.headers["X-Bitmesh-Cost"] == format_usd(row.charge_nano_usd)
        assert answer.headers["X-Bitmesh-Provider"] == row.provider
        assert answer.headers["OpenResponses-Version"]
        (sent,) = gateway.upstream_calls("/chat/completions")
        assert "Rhyme." in sent.body["messages"][0]["content"]
        await gateway.check_books()


async def test_a_model_that_does_not_speak_is_not_asked(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        given = [{"role": "user", "content": "A lake"}, {"role": "assistant", "content": "Which?"}]
        answer = await gateway.post(PATH, {"model": IMAGE_MODEL, "input": given})
        assert violations("CompactResource", answer.json) == []
        assert answer.json["usage"]["total_tokens"] == 0
        assert "X-Bitmesh-Cost" not in answer.headers
        assert gateway.upstream_calls() == []
        items = [*answer.json["output"], {"role": "user", "content": "Go on"}]
        await gateway.post("/v1/responses", {"model": CHAT_MODEL, "input": items})
        read = gateway.upstream_calls("/chat/completions")[-1].body["messages"][1]["content"]
        assert "assistant: Which?" in read


async def test_a_conversation_is_compacted_from_where_it_is(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        first = (await gateway.post("/v1/responses", {"model": CHAT_MODEL, "input": "One"})).json
        answer = await gateway.post(PATH, {"model": CHAT_MODEL, "input": "Two", "previous_response_id": first["id"]})
        kept = [item["content"][0]["text"] for item in answer.json["output"] if item["type"] == "message"]
        assert kept == ["One", "Two"]


@pytest.mark.parametrize("body", [{"input": "x"}, {"model": CHAT_MODEL}, {"model": "no/such", "input": "x"}])
async def test_what_is_wrong_is_said(tmp_path: Path, body: dict[str, str]) -> None:
    async with running_gateway(tmp_path) as gateway:
        answer = await gateway.post(PATH, body)
        assert answer.status in (400, 404)
        assert answer.json["error"]["param"]


async def test_a_failed_summary_is_an_error(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.fault("status=500", times=3)
        answer = await gateway.post(PATH, {"model": CHAT_MODEL, "input": "x"})
        assert answer.status >= 500
        await gateway.last_row()
        await gateway.check_books()
