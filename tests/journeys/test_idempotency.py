"""``Idempotency-Key`` over the wire: one call, one answer, one charge."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.journeys.gateway import Gateway, bearer, chat, eventually, image, raw_call, running_gateway, video

pytestmark = pytest.mark.journey

KEY = {"Idempotency-Key": "order-66"}


@pytest.mark.parametrize(("path", "body"), [("/chat", chat()), ("/image", image()), ("/video", video())])
async def test_a_repetition_gets_the_same_answer_and_costs_nothing(
    gateway: Gateway, path: str, body: dict[str, object]
) -> None:
    first = await gateway.post(path, body, headers=KEY)
    again = await gateway.post(path, body, headers=KEY)
    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["X-Bitmesh-First-Request-Id"] == first.headers["X-Request-Id"]
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert "Idempotent-Replayed" not in first.headers
    assert len([each for each in gateway.upstream_calls() if each.method == "POST"]) == 1
    await gateway.last_row()
    assert len(await gateway.books.rows()) == 1
    await gateway.check_books()


async def test_the_same_key_for_something_else_is_a_conflict(gateway: Gateway) -> None:
    assert (await gateway.post("/chat", chat("one"), headers=KEY)).status == 200
    answer = await gateway.post("/chat", chat("two"), headers=KEY)
    assert (answer.status, answer.json) == (
        409,
        {"error": "This Idempotency-Key was already used for another request."},
    )
    other = await gateway.new_key()
    assert (await gateway.post("/chat", chat("two"), headers={**KEY, **bearer(other)})).status == 200
    await gateway.check_books()


async def test_a_stream_is_not_replayed_but_named(gateway: Gateway) -> None:
    first = await gateway.post("/chat", chat(stream=True), headers=KEY)
    again = await gateway.post("/chat", chat(stream=True), headers=KEY)
    assert (first.status, again.status) == (200, 409)
    assert first.headers["X-Request-Id"] in again.json["error"]
    assert len(gateway.upstream_calls()) == 1
    await gateway.check_books()


async def test_a_stream_that_its_caller_left_is_not_made_again(gateway: Gateway) -> None:
    gateway.fault("tokens=20 stall_after=3:60")
    body = orjson.dumps(chat(stream=True, max_tokens=20))
    async with raw_call(gateway, "POST", "/chat", body, headers=KEY) as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"\n\n")
    row = await gateway.last_row()
    assert row.outcome == "caller_left"
    again = await gateway.call("POST", "/chat", data=body, headers={**KEY, "Content-Type": "application/json"})
    assert again.status == 409
    assert row.request_id in again.json["error"]
    await gateway.check_books()


async def test_duplicates_at_the_same_moment_make_one_call(gateway: Gateway) -> None:
    gateway.fault("stall=0.2")
    answers = await asyncio.gather(*(gateway.post("/chat", chat(), headers=KEY) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 19
    assert len(gateway.upstream_calls()) == 1
    assert len(await gateway.books.rows()) == 1
    await gateway.check_books()


async def test_a_caller_who_left_finds_the_answer_when_he_comes_again(gateway: Gateway) -> None:
    gateway.fault("stall=0.3")
    body = orjson.dumps(chat())
    async with raw_call(gateway, "POST", "/chat", body, headers=KEY):
        await eventually(lambda: bool(gateway.upstream_calls()), "the upstream is called")
    again = await gateway.call("POST", "/chat", data=body, headers={**KEY, "Content-Type": "application/json"})
    assert again.status == 200
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(gateway.upstream_calls()) == 1
    assert [row.outcome for row in await gateway.books.rows()] == ["completed"]
    await gateway.check_books()


async def test_a_failed_call_may_simply_be_tried_again(gateway: Gateway) -> None:
    gateway.fault("status=500")
    assert (await gateway.post("/chat", chat(), headers=KEY)).status == 500
    assert (await gateway.post("/chat", chat(), headers=KEY)).status == 200
    assert [row.outcome for row in await gateway.books.rows()] == ["provider_error", "completed"]
    await gateway.check_books()


async def test_a_refused_call_leaves_the_key_free(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, credit_usd="0") as gateway:
        assert (await gateway.post("/chat", chat(), headers=KEY)).status == 402
        assert (await gateway.post("/chat", chat(test=True), headers=KEY)).status == 200
        await gateway.check_books()


@pytest.mark.parametrize("value", ["", "x" * 256, "tab\there"])
async def test_what_cannot_be_a_key_is_refused(gateway: Gateway, value: str) -> None:
    answer = await gateway.post("/chat", chat(), headers={"Idempotency-Key": value})
    assert answer.status == 400
    assert "Idempotency-Key" in answer.json["error"]
    assert gateway.upstream_calls() == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat", chat()),
        ("/image", image()),
        ("/v1/chat/completions", chat()),
        ("/v1/responses", {"model": chat()["model"], "input": "hello"}),
    ],
)
async def test_two_keys_in_one_request_are_refused(gateway: Gateway, path: str, body: dict[str, object]) -> None:
    async def post(*values: str) -> tuple[int, Any]:
        headers = [*gateway.bearer.items(), *[("Idempotency-Key", value) for value in values]]
        async with gateway.http.post(gateway.url + path, headers=headers, json=body) as answer:
            return answer.status, await answer.json()

    status, said = await post("order-66", "order-67")
    assert status == 400, said
    error = said["error"]
    message = error if isinstance(error, str) else error["message"]
    assert message == "The request carries more than one Idempotency-Key."
    assert isinstance(error, str) or (error["type"], error["param"]) == ("invalid_request_error", "Idempotency-Key")
    assert isinstance(error, str) == (not path.startswith("/v1/"))
    assert gateway.upstream_calls() == []
    assert (await post("order-66", "order-66"))[0] == 200
    assert len([each for each in gateway.upstream_calls() if each.method == "POST"]) == 1
    await gateway.check_books()


async def test_an_answer_is_replayed_after_a_restart(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        first = await gateway.post("/chat", chat(), headers=KEY)
        headers = {**gateway.bearer, **KEY}
    async with running_gateway(tmp_path) as gateway:
        again = await gateway.post("/chat", chat(), headers=headers)
        assert (again.status, again.body) == (200, first.body)
        assert gateway.upstream_calls() == []
        await gateway.check_books()


async def test_an_answer_too_large_to_be_kept_is_named(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"idempotency": {"max_answer_bytes": 10}}) as gateway:
        assert (await gateway.post("/chat", chat(), headers=KEY)).status == 200
        assert (await gateway.post("/chat", chat(), headers=KEY)).status == 409
        assert len(gateway.upstream_calls()) == 1
        await gateway.check_books()
