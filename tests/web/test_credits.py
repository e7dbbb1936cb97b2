"""What is left and what was used, as the books have it."""

from __future__ import annotations

from pathlib import Path

from bitmesh_proxy import keys
from bitmesh_proxy.storage.keys import KeyStore
from tests.journeys.gateway import bearer, chat, running_gateway


async def test_sums_come_from_the_books(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", credit_usd="2.5") as gateway:
        second = await gateway.new_key(name="second")
        for key in (gateway.key, gateway.key, second):
            answer = await gateway.post("/v1/chat/completions", chat(max_tokens=3), headers=bearer(key))
            assert answer.status == 200
        await KeyStore(gateway.app[keys.DATABASE]).disable(second.id)
        balance = await gateway.balance()
        answer = await gateway.get("/v1/credits?by_api_key=true")
        assert answer.json["total_deposits"] == "2.5000"
        assert answer.json["remaining_credits"] == f"{balance / 10**9:.4f}"
        first_line, second_line = answer.json["usage_by_api_key"]
        assert (first_line["total_requests"], first_line["is_active"]) == (2, True)
        assert (second_line["api_key_id"], second_line["api_key_name"]) == (second.id, "second")
        assert (second_line["total_requests"], second_line["is_active"]) == (1, False)
        assert first_line["created_at"].endswith("Z")
        assert "usage_by_api_key" not in (await gateway.get("/v1/credits")).json
        tested = await gateway.post("/v1/auth/test", None)
        assert tested.json == {"success": True, "credits": balance // 100_000}


async def test_only_a_key_learns_of_its_account(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        for method, path in (("GET", "/v1/credits"), ("POST", "/v1/auth/test")):
            answer = await gateway.call(method, path, headers={"Authorization": "Bearer wrong"})
            assert (answer.status, answer.json["error"]["type"]) == (401, "authentication_error")
        bad = await gateway.get("/v1/credits?by_api_key=some")
        assert (bad.status, bad.json["error"]["param"]) == (400, "by_api_key")
        wrong_method = await gateway.get("/v1/auth/test")
        assert (wrong_method.status, wrong_method.headers["Allow"]) == (405, "OPTIONS,POST")
