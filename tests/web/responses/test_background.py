"""Bounds of background work, its end, and who may end it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bitmesh_proxy import keys
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.web.middlewares import MAX_LOOKS
from bitmesh_proxy.web.responses import background as background_module
from tests.journeys.gateway import CHAT_MODEL, VIDEO_MODEL, Gateway, bearer, chat, eventually, running_gateway

PATH = "/v1/responses"
SLOW = "[[sandbox: stall=30]] Hello"


async def background(gateway: Gateway, given: str, model: str = CHAT_MODEL, **more: Any) -> Any:
    answer = await gateway.post(PATH, {"model": model, "input": given, "background": True, **more})
    return answer.json


async def test_background_work_has_its_bound(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"responses": {"max_background": 1}}) as gateway:
        first = await background(gateway, SLOW)
        assert first["status"] == "queued"
        assert (await background(gateway, "more"))["error"]["code"] == "rate_limit_exceeded"
        await gateway.post(f"{PATH}/{first['id']}/cancel", {})
        assert (await background(gateway, "more"))["status"] == "queued"


async def test_the_bound_holds_for_many_at_once_and_for_deleted_ones(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"responses": {"max_background": 2}}) as gateway:
        answers = await asyncio.gather(*(background(gateway, f"{SLOW} {number}") for number in range(8)))
        begun = [answer["id"] for answer in answers if "id" in answer]
        assert len(begun) == 2
        for response_id in begun:
            assert (await gateway.call("DELETE", f"{PATH}/{response_id}")).status == 200
        assert (await background(gateway, "more"))["error"]["code"] == "rate_limit_exceeded"


async def test_a_run_is_one_of_the_calls_that_its_key_has_under_way(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        key = bearer(await gateway.new_key(max_concurrent=1))
        body = {"model": CHAT_MODEL, "input": SLOW, "background": True}
        begun = (await gateway.post(PATH, {**body, "stream": False}, headers=key)).json
        await eventually(lambda: bool(gateway.upstream_calls()), "it is under way")
        for path, more in ((PATH, body), ("/chat", chat()), (PATH, {**body, "background": False})):
            refused = await gateway.post(path, more, headers=key)
            assert (refused.status, "Retry-After" in refused.headers) == (429, True)
        assert (await gateway.post("/chat", chat())).status == 200, "other keys have places of their own"
        path = f"{PATH}/{begun['id']}"
        for looked_at in (path, f"{path}/input_items"):
            assert (await gateway.get(looked_at, headers=key)).status == 200
        assert (await gateway.post(f"{path}/cancel", {}, headers=key)).json["status"] == "cancelled"
        assert (await gateway.post("/chat", chat(), headers=key)).status == 200
        await gateway.check_books()


async def test_a_run_that_is_followed_can_be_asked_for_and_cancelled(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        key = bearer(await gateway.new_key(max_concurrent=1))
        body = {"model": CHAT_MODEL, "input": SLOW, "background": True, "stream": True}
        async with gateway.http.post(gateway.url + PATH, json=body, headers=key) as first:
            frame = (await first.content.readuntil(b"\n\n")).decode()
            path = f"{PATH}/{json.loads(frame.partition('data: ')[2])['response']['id']}"
            async with gateway.http.get(f"{gateway.url}{path}?stream=true", headers=key) as second:
                assert await second.content.readuntil(b"\n\n")
                assert (await gateway.get(path, headers=key)).json["status"] == "in_progress"
                assert (await gateway.post(f"{path}/cancel", {}, headers=key)).json["status"] == "cancelled"
                assert (await second.content.read()).endswith(b"data: [DONE]\n\n")
            assert (await first.content.read()).endswith(b"data: [DONE]\n\n")
        assert (await gateway.post("/chat", chat(), headers=key)).status == 200


async def test_looking_has_its_bound_too(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        response = (await gateway.post(PATH, {"model": CHAT_MODEL, "input": "Hello"})).json
        path, slots = f"{PATH}/{response['id']}", gateway.app[keys.CONCURRENCY_LIMIT]
        with ExitStack() as stack:
            for _ in range(MAX_LOOKS):
                stack.enter_context(slots.enter(f"{gateway.key.id} looks", MAX_LOOKS))
            assert (await gateway.get(path)).status == 429
            assert (await gateway.post("/chat", chat())).status == 200
        assert (await gateway.get(path)).status == 200


@pytest.mark.parametrize(
    ("given", "model", "status"),
    [
        ("Hello", CHAT_MODEL, "completed"),
        ("[[sandbox: status=400]] Hello", CHAT_MODEL, "failed"),
        ("[[sandbox: break_after=1]] Hello", CHAT_MODEL, "failed"),
        ("A cat [[sandbox: job_s=0.1]]", VIDEO_MODEL, "completed"),
        ("A cat [[sandbox: job_s=0.1 fail]]", VIDEO_MODEL, "failed"),
    ],
)
async def test_a_run_gives_its_place_back_once_however_it_ends(
    tmp_path: Path, given: str, model: str, status: str
) -> None:
    async with running_gateway(tmp_path) as gateway:
        made = await gateway.new_key(max_concurrent=1)
        answer = await gateway.post(PATH, {"model": model, "input": given, "background": True}, headers=bearer(made))
        slots = gateway.app[keys.CONCURRENCY_LIMIT]
        await eventually(lambda: slots.running(made.id) == 0, "its place is free")
        assert (await gateway.get(f"{PATH}/{answer.json['id']}")).json["status"] == status
        assert (await gateway.post("/chat", chat(), headers=bearer(made))).status == 200
        assert slots.running(made.id) == 0
        await gateway.check_books()


async def test_a_run_that_does_not_begin_leaves_its_place_to_its_request(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"responses": {"max_background": 1}}) as gateway:
        made = await gateway.new_key(max_concurrent=2)
        slots = gateway.app[keys.CONCURRENCY_LIMIT]
        body = {"model": CHAT_MODEL, "input": SLOW, "background": True}
        begun = await gateway.post(PATH, body, headers=bearer(made))
        for _ in range(3):
            refused = await gateway.post(PATH, body, headers=bearer(made))
            assert refused.json["error"]["code"] == "rate_limit_exceeded"
        assert slots.running(made.id) == 1
        await gateway.post(f"{PATH}/{begun.json['id']}/cancel", {})
        assert slots.running(made.id) == 0


async def test_what_cannot_be_kept_is_not_begun(tmp_path: Path) -> None:
    changes = {"data": {"dir": str(tmp_path), "busy_timeout_s": 0.2}, "responses": {"max_background": 1}}
    async with running_gateway(tmp_path, changes) as gateway:
        with closing(sqlite3.connect(tmp_path / "bitmesh-proxy.db", isolation_level=None)) as intruder:
            intruder.execute("BEGIN IMMEDIATE")
            assert (await background(gateway, "Hello"))["error"]["code"] == "unavailable"
        assert gateway.upstream_calls() == []
        assert (await background(gateway, "Hello"))["status"] == "queued"


async def test_a_background_response_takes_no_idempotency_key(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        body = {"model": CHAT_MODEL, "input": "x", "background": True}
        answer = await gateway.post(PATH, body, headers={"Idempotency-Key": "k"})
        assert (answer.status, answer.json["error"]["param"]) == (400, "Idempotency-Key")


async def test_stopping_ends_what_waits_for_a_model_and_leaves_jobs_alone(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        responses = gateway.app[keys.RESPONSES]
        chat = await background(gateway, SLOW)
        clip = await background(gateway, "A cat [[sandbox: job_s=0.5]]", VIDEO_MODEL)
        await eventually(lambda: len(gateway.upstream_calls()) >= 2, "both are under way")

        async def status_of(response: Any) -> str:
            return str((await gateway.get(f"{PATH}/{response['id']}")).json["status"])

        async with asyncio.timeout(5):
            for _ in range(200):
                stored = await responses.store.get(gateway.account_id, clip["id"])
                if stored is not None and stored.job_id is not None:
                    break
                await asyncio.sleep(0.02)
            await responses.background.close(0.05)
        assert await status_of(chat) == "failed"
        async with asyncio.timeout(5):
            while (now := await status_of(clip)) != "completed":
                assert now == "in_progress"
                await asyncio.sleep(0.05)


async def test_what_another_process_cancels_stops_here(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        queued = await background(gateway, SLOW)
        await eventually(lambda: bool(gateway.upstream_calls()), "it is under way")
        store = gateway.app[keys.RESPONSES].store
        stored = await store.get(gateway.account_id, queued["id"])
        assert stored is not None
        assert await store.finish(replace(stored, status="cancelled", body={**stored.body, "status": "cancelled"}))
        assert (await gateway.last_row()).outcome == "caller_left"
        assert (await gateway.get(f"{PATH}/{queued['id']}")).json["status"] == "cancelled"
        await gateway.check_books()


async def test_a_look_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_module, "CANCEL_LOOK_S", 0.01)
    async with running_gateway(tmp_path) as gateway:
        answers: list[str | Exception] = [Unavailable("locked"), StorageError("torn"), "cancelled"]

        def status_of(*_: object) -> str:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(gateway.app[keys.RESPONSES].store, "status_of", status_of)
        await background(gateway, SLOW)
        assert (await gateway.last_row()).outcome == "caller_left"
        assert not answers
        await gateway.check_books()


async def test_a_deleted_background_response_stays_deleted(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        response = await background(gateway, "[[sandbox: stall=0.2]] Hello")
        path = f"{PATH}/{response['id']}"
        assert (await gateway.call("DELETE", path)).status == 200
        await gateway.last_row()
        await asyncio.sleep(0.05)
        assert (await gateway.get(path)).status == 404


async def test_only_background_streams_can_be_followed(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        whole = await background(gateway, "Hello")
        answer = await gateway.get(f"{PATH}/{whole['id']}?stream=true")
        assert (answer.status, answer.json["error"]["param"]) == (400, "stream")
