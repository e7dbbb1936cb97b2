"""Balances, budgets and crowds: nobody spends what is not there, and nobody is called for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.calls import Basis
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.accounts import AccountStore
from tests.journeys.gateway import bearer, chat, image, running_gateway, video
from tests.journeys.scripted import MODEL, TOKEN_NANO_USD, Script, at, scripted, with_more

pytestmark = pytest.mark.journey


@pytest.mark.both_ways
async def test_two_hundred_at_once_against_a_balance_for_seven(tmp_path: Path) -> None:
    """Every call is held at its upper bound until it ends, so that while all run exactly seven fit."""
    async with running_gateway(tmp_path, credit_usd="0") as gateway:
        async with running_gateway(tmp_path / "elsewhere") as elsewhere:
            await elsewhere.post("/chat", chat())
            hold = (await elsewhere.last_row()).hold_nano_usd
        await AccountStore(gateway.app[keys.DATABASE]).credit(gateway.account_id, NanoUsd(7 * hold + hold // 2))
        gateway.fault("stall=1", times=200)
        answers = await asyncio.gather(*(gateway.post("/chat", chat()) for _ in range(200)))
        assert Counter(answer.status for answer in answers) == {200: 7, 402: 193}
        assert all(answer.json["error"] for answer in answers if answer.status == 402)
        assert len(gateway.upstream_calls()) == 7
        rows = await gateway.books.rows()
        assert [row.outcome for row in rows] == ["completed"] * 7
        spent = sum(row.charge_nano_usd for row in rows)
        assert await gateway.balance() == 7 * hold + hold // 2 - spent
        await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize(("path", "body"), [("/chat", chat()), ("/image", image()), ("/video", video())])
async def test_without_money_no_call_is_made(tmp_path: Path, path: str, body: dict[str, object]) -> None:
    async with running_gateway(tmp_path, credit_usd="0") as gateway:
        answer = await gateway.post(path, body)
        assert answer.status == 402
        assert "balance" in answer.json["error"].lower()
        assert gateway.upstream_calls() == []
        assert await gateway.books.rows() == []
        await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("period", ["day", "month"])
async def test_a_budget_ends_a_key_and_leaves_the_others(tmp_path: Path, period: str) -> None:
    async with running_gateway(tmp_path) as gateway:
        await gateway.post("/chat", chat(), headers=bearer(await gateway.new_key()))
        first = await gateway.last_row()
        limited = await gateway.new_key(**{f"budget_{period}_nano_usd": NanoUsd(first.hold_nano_usd)})
        assert (await gateway.post("/chat", chat(), headers=bearer(limited))).status == 200
        refused = await gateway.post("/chat", chat(), headers=bearer(limited))
        assert refused.status == 402
        assert "budget" in refused.json["error"].lower()
        assert (await gateway.post("/chat", chat())).status == 200
        assert len(gateway.upstream_calls()) == 3
        await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("model", ["openai/gpt-oss-120b", "claude-haiku-4-5", "google/gemini-2.5-flash"])
@pytest.mark.parametrize(
    "limits",
    [
        {"max_tokens": 500, "max_output_tokens": 1},
        {"max_tokens": 500, "max_completion_tokens": 1},
        {"max_tokens": 1, "max_completion_tokens": 500},
    ],
)
async def test_a_limit_that_the_provider_does_not_heed_lowers_no_price(
    tmp_path: Path, path: str, model: str, limits: dict[str, object]
) -> None:
    async with running_gateway(tmp_path) as gateway:
        assert (await gateway.post(path, chat("hi", model=model, **limits))).status == 200
        row = await gateway.last_row()
        assert row.charge_nano_usd == row.cost_nano_usd > 0
        await gateway.check_books()


@pytest.mark.both_ways
async def test_who_asks_for_more_than_all_money_is_refused_alone(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        limited = bearer(await gateway.new_key(budget_day_nano_usd=NanoUsd(10**9)))
        bodies = [chat(n=most) for most in (2**45, 2**55, 2**63 - 1)]
        asked = [gateway.post("/chat", body, headers=headers) for body in bodies for headers in (limited, {})]
        answers = await asyncio.gather(*asked, *(gateway.post("/chat", chat()) for _ in range(10)))
        assert [answer.status for answer in answers] == [402] * 6 + [200] * 10
        assert len(gateway.upstream_calls()) == 10
        await gateway.check_books()


@pytest.mark.both_ways
async def test_markup_is_what_the_account_pays_on_top(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"billing": {"markup": "1.5"}}) as gateway:
        answer = await gateway.post("/chat", chat())
        row = await gateway.last_row()
        assert row.cost_nano_usd > 0
        assert row.charge_nano_usd == -(-row.cost_nano_usd * 3 // 2)
        assert float(answer.headers["X-Bitmesh-Cost"]) == pytest.approx(row.charge_nano_usd / 1e9)
        await gateway.check_books()


def priced_answer(cost: str) -> Script:
    """A provider that says what each call cost, as OpenRouter does."""
    usage = f'{{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"cost":{cost},"cost_details":{{}}}}'

    async def script(request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            choice = '{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}'
            return web.Response(
                text=f'{{"id":"c-1","choices":[{choice}],"usage":{usage}}}', content_type="application/json"
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in (
            '{"id":"c-1","choices":[{"index":0,"delta":{"content":"Hello"}}]}',
            '{"id":"c-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
            f'{{"id":"c-1","choices":[],"usage":{usage}}}',
            "[DONE]",
        ):
            await response.write(f"data: {event}\n\n".encode())
        return response

    return script


@pytest.mark.both_ways
@pytest.mark.parametrize(
    ("cost", "basis", "cost_nano_usd"),
    [("0.0000021", Basis.REPORTED, 2_100), ("0", Basis.REPORTED, 0), ("-1", Basis.MEASURED, 5 * TOKEN_NANO_USD)],
)
async def test_what_a_provider_says_that_a_call_cost_is_what_it_costs(
    tmp_path: Path, cost: str, basis: Basis, cost_nano_usd: int
) -> None:
    """If it is to be taken at its word, and that can be read."""
    async with scripted(priced_answer(cost)) as upstream:
        settings = with_more(at(tmp_path / "rows", one=upstream.url), billing={"markup": "1.5"})
        settings["providers"][0]["takes_reported_cost"] = True
        async with running_gateway(tmp_path / "data", settings) as gateway:
            say = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
            respond = {"model": MODEL, "input": "Hello", "max_output_tokens": 16}
            for path, body in (("/chat", say), ("/v1/responses", respond)):
                for stream in (False, True):
                    answer = await gateway.post(path, {**body, "stream": stream})
                    assert answer.status == 200
                    row = await gateway.last_row()
                    assert (row.basis, row.cost_nano_usd) == (basis, cost_nano_usd)
                    assert row.charge_nano_usd == cost_nano_usd * 3 // 2
                    assert (row.input_tokens, row.output_tokens) == (3, 2)
            await gateway.check_books()


@pytest.mark.both_ways
async def test_no_word_of_a_provider_is_charged_beyond_the_hold(tmp_path: Path) -> None:
    """And none at all, but for those who are to be taken at their word."""
    async with scripted(priced_answer("3.0")) as upstream:
        settings = at(tmp_path / "rows", one=upstream.url)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        async with running_gateway(tmp_path / "data", settings) as gateway:
            await gateway.post("/chat", body)
            row = await gateway.last_row()
            assert (row.basis, row.cost_nano_usd) == (Basis.MEASURED, 5 * TOKEN_NANO_USD)
        settings["providers"][0]["takes_reported_cost"] = True
        async with running_gateway(tmp_path / "more", settings) as gateway:
            await gateway.post("/chat", body)
            row = await gateway.last_row()
            assert (row.basis, row.cost_nano_usd, row.charge_nano_usd) == (Basis.REPORTED, 3 * 10**9, row.hold_nano_usd)
            await gateway.check_books()


async def test_a_key_has_a_bounded_number_of_clips_under_way(tmp_path: Path) -> None:
    changes = {"jobs": {"max_open_per_key": 1, "first_poll_s": 5.0, "max_poll_s": 5.0}}
    async with running_gateway(tmp_path, changes) as gateway:
        assert (await gateway.post("/video", video())).status == 200
        refused = await gateway.post("/video", video())
        assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
        assert len([each for each in gateway.upstream_calls() if each.method == "POST"]) == 1
        await gateway.check_books(open_requests=1)


async def test_clips_that_are_handed_in_at_once_are_no_more_than_that(tmp_path: Path) -> None:
    changes = {"jobs": {"max_open_per_key": 2, "first_poll_s": 5.0, "max_poll_s": 5.0}}
    async with running_gateway(tmp_path, changes) as gateway:
        answers = await asyncio.gather(*(gateway.post("/video", video()) for _ in range(6)))
        assert Counter(answer.status for answer in answers) == {200: 2, 429: 4}
        assert len(gateway.upstream_calls()) == 2
        await gateway.check_books(open_requests=2)
