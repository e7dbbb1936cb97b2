"""Who comes too often, or with too much at once, is told when to come again."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import orjson
import pytest

from tests.journeys.gateway import (
    CHAT_MODEL,
    Gateway,
    bearer,
    chat,
    eventually,
    image,
    raw_call,
    running_gateway,
    until,
)

pytestmark = pytest.mark.journey


async def assert_refused(gateway: Gateway, path: str, headers: dict[str, str]) -> None:
    answer = await gateway.get(path, headers=headers)
    assert answer.status == 429
    assert set(answer.json) == {"error"}
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["RateLimit-Remaining"] == "0"
    assert int(answer.headers["RateLimit-Limit"]) >= 1
    assert int(answer.headers["RateLimit-Reset"]) >= 1


@pytest.mark.both_ways
async def test_an_address_has_a_bucket_before_anybody_is_authenticated(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"limits": {"address_per_minute": 2, "address_burst": 2}}) as gateway:
        wrong = {"Authorization": "Bearer bm_wrong"}
        assert [(await gateway.get("/test", headers=wrong)).status for _ in range(2)] == [401, 401]
        await assert_refused(gateway, "/test", {})
        # Another address, as a trusted proxy says it, has a bucket of its own.
        other = await gateway.get("/test", headers={"X-Forwarded-For": "203.0.113.9"})
        assert other.status == 200
        assert (await gateway.get("/health")).status == 200, "probes are not limited"


@pytest.mark.both_ways
async def test_a_key_has_a_bucket(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"limits": {"key_per_minute": 60, "key_burst": 2}}) as gateway:
        answers = [await gateway.get("/test") for _ in range(2)]
        assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["1", "0"]
        assert answers[0].headers["RateLimit-Limit"] == "60"
        await assert_refused(gateway, "/test", {})
        slow = bearer(await gateway.new_key(rate_per_minute=1))
        assert (await gateway.get("/test", headers=slow)).status == 200
        await assert_refused(gateway, "/test", slow)


async def test_a_refused_response_is_told_in_its_own_words(tmp_path: Path) -> None:
    """Which are those of its body, although nobody reads that any more."""
    bodies = {
        "rate_limit_error": {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "hi"}]},
        "too_many_requests": {"model": CHAT_MODEL, "input": "hi"},
    }
    path = "/v1/responses"
    async with running_gateway(tmp_path, {"limits": {"endpoint_per_minute": {"responses": 1}}}) as gateway:
        assert (await gateway.post(path, bodies["too_many_requests"])).status == 200
        for wanted, body in bodies.items():
            plain, data = await gateway.post(path, body), orjson.dumps(body)
            assert (plain.status, plain.json["error"]["type"]) == (429, wanted)
            length = {"Content-Length": str(len(data))}
            async with raw_call(gateway, "POST", path, headers=length) as (reader, writer):
                writer.write(data)  # the head is there before it
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 429 ")
                told = await reader.readuntil(b"}}")
                assert orjson.loads(told)["error"]["type"] == wanted
        form = aiohttp.FormData({"model": CHAT_MODEL, "messages": "[]"}, default_to_multipart=True)
        refused = await gateway.call("POST", path, data=form)
        assert (refused.status, refused.json["error"]["type"]) == (429, "rate_limit_error")
        await gateway.check_books()


@pytest.mark.both_ways
async def test_an_endpoint_has_a_bucket_for_each_key(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"limits": {"endpoint_per_minute": {"image": 1}}}) as gateway:
        assert (await gateway.post("/image", image())).status == 200
        refused = await gateway.post("/v1/image", image())
        assert (refused.status, len(gateway.upstream_calls())) == (429, 1)
        assert refused.headers["Retry-After"]
        assert (await gateway.post("/chat", chat())).status == 200
        other = bearer(await gateway.new_key())
        assert (await gateway.post("/image", image(), headers=other)).status == 200
        await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("own", [None, 2])
async def test_a_key_has_so_many_calls_under_way_and_gets_its_place_back(tmp_path: Path, own: int | None) -> None:
    async with running_gateway(tmp_path, {"limits": {"key_max_concurrent": 2 if own is None else 64}}) as gateway:
        key = bearer(await gateway.new_key(max_concurrent=own))
        gateway.fault("tokens=20 stall_after=2:60", times=2)
        body = orjson.dumps(chat(stream=True, max_tokens=20))
        async with (
            raw_call(gateway, "POST", "/chat", body, headers=key),
            raw_call(gateway, "POST", "/chat", body, headers=key),
        ):
            await eventually(lambda: len(gateway.upstream_calls()) == 2, "two calls are under way")
            refused = await gateway.get("/test", headers=key)
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert (await gateway.get("/test")).status == 200, "other keys have places of their own"

        async def is_let_in() -> bool:
            return (await gateway.get("/test", headers=key)).status == 200

        await until(is_let_in, "there is room again")
        assert {row.outcome for row in await gateway.books.rows()} <= {"caller_left", None}
        await gateway.last_row()
        await gateway.check_books()
