"""What pages of other origins are told, about what there is and what there is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journeys.gateway import Gateway, running_gateway

PAGE = "https://app.example.org"
ASKED = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


async def test_without_origins_there_are_no_cross_origin_answers(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"http": {"cors_origins": []}}) as gateway:
        asked = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}
        assert (await gateway.call("OPTIONS", "/chat", headers=asked)).status == 405
        answer = await gateway.get("/test", headers={"Origin": "https://app.example.org"})
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_origins_may_be_named(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"http": {"cors_origins": ["https://app.example.org"]}}) as gateway:
        for origin, allowed in ("https://app.example.org", True), ("https://evil.example.org", False):
            answer = await gateway.get("/test", headers={"Origin": origin})
            assert ("Access-Control-Allow-Origin" in answer.headers) is allowed


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("POST", "/v1/nowhere", 404), ("DELETE", "/chat", 405), ("PUT", "/v1/models", 405)],
)
async def test_a_page_can_read_what_there_is_not(gateway: Gateway, method: str, path: str, status: int) -> None:
    before = await gateway.call("OPTIONS", path, headers=ASKED | {"Access-Control-Request-Method": method})
    assert (before.status, before.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    assert before.headers["Access-Control-Allow-Methods"] == method
    assert before.headers["Access-Control-Allow-Headers"].lower() == ASKED["Access-Control-Request-Headers"]
    answer = await gateway.call(method, path, headers={"Origin": PAGE})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, PAGE)
    assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]
    assert "error" in answer.json


async def test_pages_of_others_are_told_nothing_about_what_there_is_not(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"http": {"cors_origins": [PAGE]}}) as gateway:
        others = ASKED | {"Origin": "https://evil.example.org"}
        for path, refusal in ("/nowhere", 404), ("/chat", 403):
            before = await gateway.call("OPTIONS", path, headers=others)
            assert (before.status, "Access-Control-Allow-Origin" in before.headers) == (refusal, False)
        answer = await gateway.get("/nowhere", headers={"Origin": others["Origin"]})
        assert (answer.status, "Access-Control-Allow-Origin" in answer.headers) == (404, False)


@pytest.mark.parametrize("missing", ["Origin", "Access-Control-Request-Method"])
async def test_options_that_is_no_question_of_a_page_says_what_a_place_can_do(gateway: Gateway, missing: str) -> None:
    headers = {name: value for name, value in ASKED.items() if name != missing}
    for path, methods in ("/chat", "OPTIONS,POST"), ("/v1/imgrslt/x", "GET,HEAD,OPTIONS"):
        answer = await gateway.call("OPTIONS", path, headers=headers)
        assert (answer.status, answer.headers["Allow"], answer.body) == (204, methods, b"")
        assert ("Access-Control-Allow-Origin" in answer.headers) is (missing != "Origin")
    assert (await gateway.call("OPTIONS", "/nowhere", headers=headers)).status == 404


@pytest.mark.parametrize("headers", [{}, {"Origin": PAGE}])
async def test_caches_know_that_answers_name_the_page(gateway: Gateway, headers: dict[str, str]) -> None:
    for path in "/v1/models", "/imgrslt/x", "/nowhere":
        assert (await gateway.get(path, headers=headers)).headers["Vary"] == "Origin"
