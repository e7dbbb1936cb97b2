"""The server: prefixes, the mark on every answer, the record, and who leaves."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable

import pytest
from aiohttp import ClientError, ClientSession

from bitmesh_proxy.sandbox.registry import PLAYS
from bitmesh_proxy.sandbox.server import MARK, Sandbox
from bitmesh_proxy.sandbox.stage import Options, Received
from tests.hand_clock import HandClock
from tests.sandbox.callers import SMALL, Caller, calling


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that another task is about to do; the test's own time limit ends it."""
    while not condition():  # noqa: ASYNC110 (the sandbox has no event for a test to wait for)
        await asyncio.sleep(0)


async def test_every_answer_carries_the_mark(caller: Caller) -> None:
    for answer in (
        await caller.get("/openai/v1/models"),
        await caller.get("/openai/v1/nowhere"),
        await caller.get("/nobody"),
        await caller.chat("together", "hello", stream=True),
        await caller.chat("together", "[[sandbox: html=502]]"),
    ):
        assert answer.headers[MARK] == "1"


async def test_an_unknown_path_is_refused_in_the_providers_words(caller: Caller) -> None:
    for provider in ("openai", "together"):
        answer = await caller.post(f"/{provider}/v1/nowhere", {})
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")


async def test_the_record_says_what_came(caller: Caller) -> None:
    await caller.post("/openai/v1/embeddings?trace=1", {"model": "m", "input": "x"}, headers={"X-Extra": "yes"})
    received = caller.sandbox.requests[-1]
    assert (received.method, received.path, received.query) == ("POST", "/openai/v1/embeddings", {"trace": "1"})
    assert received.headers["authorization"] == "***"
    assert received.headers["x-extra"] == "yes"
    assert received.body == {"model": "m", "input": "x"}
    assert (received.status, received.cancelled) == (200, False)
    assert received.received_at == received.ended_at == caller.clock.now_s


async def test_credentials_never_reach_the_record(caller: Caller) -> None:
    await caller.get("/openai/v1/models", headers={"x-api-key": "secret-1", "xi-api-key": "secret-2"})
    assert "secret" not in repr(caller.sandbox.requests)
    assert "some-key" not in repr(caller.sandbox.requests)


async def test_the_record_is_bounded_in_number_and_size() -> None:
    async with calling(Options(keep_requests=3, keep_body_bytes=100)) as caller:
        for number in range(5):
            await caller.get(f"/openai/v1/models?n={number}")
        assert [received.query["n"] for received in caller.sandbox.requests] == ["2", "3", "4"]
        await caller.chat("openai", "x" * 200)
        assert caller.sandbox.requests[-1].body is None


async def test_who_leaves_before_the_first_byte_is_noticed(caller: Caller) -> None:
    call = asyncio.create_task(caller.chat("openai", "[[sandbox: stall=30]]"))
    await until(lambda: caller.sandbox.requests and caller.sandbox.requests[-1].body)
    call.cancel()
    await until(lambda: caller.sandbox.requests[-1].cancelled)
    assert caller.sandbox.requests[-1].status is None


async def test_who_leaves_in_mid_stream_is_noticed(caller: Caller) -> None:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "[[sandbox: stall_after=2:30]]"}]}
    async with caller.session.post(f"{caller.sandbox.url}/together/v1/chat/completions", json=body) as response:
        assert await response.content.readline()
        assert not caller.sandbox.requests[-1].cancelled
        response.close()
        await until(lambda: caller.sandbox.requests[-1].cancelled)


async def test_who_stops_reading_a_fast_stream_is_noticed(caller: Caller) -> None:
    """Without a pause in the stream the sandbox learns it from its own write."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "[[sandbox: tokens=200000]]"}]}
    async with caller.session.post(f"{caller.sandbox.url}/openai/v1/chat/completions", json=body) as response:
        await response.content.readline()
        response.close()
        await until(lambda: caller.sandbox.requests[-1].cancelled)


async def test_one_that_is_read_to_its_end_was_not_cancelled(caller: Caller) -> None:
    await caller.chat("openai", "hello", stream=True)
    assert not caller.sandbox.requests[-1].cancelled


async def test_it_starts_and_stops_twice_and_has_no_address_in_between() -> None:
    sandbox = Sandbox()
    with pytest.raises(RuntimeError):
        _ = sandbox.url
    await sandbox.start()
    url = sandbox.url
    async with ClientSession() as session, session.get(f"{url}/openai/v1/models") as response:
        assert response.status == 401
    await sandbox.stop()
    await sandbox.stop()
    with pytest.raises(RuntimeError):
        _ = sandbox.url


async def test_a_taken_port_is_said_at_once() -> None:
    async with Sandbox() as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Sandbox(port=port).start()


async def test_stopping_does_not_wait_for_a_stalled_answer() -> None:
    async with calling() as caller:
        call = asyncio.create_task(caller.chat("openai", "[[sandbox: stall=600]]"))
        await until(lambda: caller.sandbox.requests and caller.sandbox.requests[-1].body)
    # Leaving the block closed the session and stopped the sandbox; it would run into the test's time limit otherwise.
    with pytest.raises(ClientError):
        await call


async def test_ids_follow_from_the_chance_given() -> None:
    async def first_id() -> str:
        async with Sandbox(clock=HandClock(), options=SMALL, rng=random.Random(7)) as sandbox:
            async with ClientSession(headers={"Authorization": "Bearer k"}) as session:
                body = {"model": "m", "prompt": "x", "width": 8, "height": 8}
                async with session.post(f"{sandbox.url}/together/v1/images/generations", json=body) as response:
                    answer = await response.json()
                    return str(answer["data"][0]["url"]).rpartition("/")[2]

    assert await first_id() == await first_id()


def test_a_record_begins_without_an_end() -> None:
    received = Received(method="GET", path="/", query={}, headers={}, received_at=1.0)
    assert (received.status, received.ended_at, received.cancelled) == (None, None, False)


async def test_every_play_is_mounted(caller: Caller) -> None:
    bad = {"Authorization": "Bearer bad-key"} | dict.fromkeys(("x-api-key", "x-goog-api-key", "xi-api-key"), "bad-key")
    for play in PLAYS:
        refused = play.bad_credential("bad-key").status
        for route in play.routes:
            path = re.sub(r"\{\w+\}", "x", f"/{play.name}{route.path}".replace("{extension}", "png"))
            answer = await caller.call(route.method, path, headers=bad)
            assert answer.status == (404 if route.is_public else refused), path
