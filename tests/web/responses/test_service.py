"""What comes before the pipeline, and what is found afterwards."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bitmesh_proxy import keys
from bitmesh_proxy.calls import ChatCall, ImageCall
from bitmesh_proxy.errors import InvalidRequest, ModelNotFound, NotFound
from bitmesh_proxy.storage.responses import StoredResponse
from tests.journeys.gateway import CHAT_MODEL, IMAGE_MODEL, Gateway, running_gateway
from tests.web.responses.examples import CALLER, CONTEXT, NOON_S


async def test_a_call_fits_its_model(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        responses = gateway.app[keys.RESPONSES]
        chat = await responses.prepare({"model": CHAT_MODEL, "input": "x" * 40}, CALLER, CONTEXT)
        picture = await responses.prepare({"model": IMAGE_MODEL, "input": "x"}, CALLER, CONTEXT)
        assert isinstance(chat.call, ChatCall)
        assert isinstance(picture.call, ImageCall)
        assert chat.input_tokens == 10
        assert [item["content"][0]["text"] for item in chat.items] == ["x" * 40]
        with pytest.raises(ModelNotFound):
            await responses.prepare({"model": "no/such", "input": "x"}, CALLER, CONTEXT)


async def test_a_bound_key_names_no_model(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        bound = replace(CALLER, bound_model=CHAT_MODEL)
        prepared = await gateway.app[keys.RESPONSES].prepare({"input": "x"}, bound, CONTEXT)
        assert prepared.call.model == CHAT_MODEL
        assert prepared.asked == {"model": CHAT_MODEL}  # enough to finish it later


def stored(**more: Any) -> StoredResponse:
    fields: dict[str, Any] = {
        "id": "resp_1",
        "account_id": CALLER.account_id,
        "status": "in_progress",
        "body": {"id": "resp_1", "status": "in_progress", "output": [], "error": None},
        "input_items": [],
        "request_id": "req_1",
        "created_at_s": NOON_S,
        "instance": 77,
    }
    return StoredResponse(**{**fields, **more})


async def register(gateway: Gateway) -> None:
    """Let the process that ``stored`` names live."""
    await gateway.app[keys.DATABASE].write(
        lambda connection: (
            connection.execute(
                "INSERT INTO instances (number, pid, lock_name, started_at_ms) VALUES (77, 1, 'x', 0)"
            ).rowcount
        )
    )


async def test_what_a_dead_process_worked_on_was_interrupted(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        responses = gateway.app[keys.RESPONSES]
        await responses.store.save(stored(created_at_s=now_s()))
        found = await responses.get(CALLER, "resp_1", CONTEXT)
        assert (found.status, found.body["error"]["code"]) == ("failed", "interrupted")
        assert (await responses.get(CALLER, "resp_1", CONTEXT)).status == "failed"


async def test_what_another_process_works_on_is_under_way(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        responses = gateway.app[keys.RESPONSES]
        await register(gateway)
        await responses.store.save(stored(created_at_s=now_s(), is_background=True))
        assert (await responses.get(CALLER, "resp_1", CONTEXT)).body["status"] == "in_progress"
        assert (await responses.cancel(CALLER, "resp_1", CONTEXT)).status == "cancelled"


async def test_only_what_is_there_and_in_the_background_is_cancelled(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        responses = gateway.app[keys.RESPONSES]
        with pytest.raises(NotFound):
            await responses.cancel(CALLER, "resp_9", CONTEXT)
        body = {"id": "resp_1", "status": "completed", "output": []}
        await responses.store.save(stored(created_at_s=now_s(), status="completed", body=body))
        with pytest.raises(InvalidRequest):
            await responses.cancel(CALLER, "resp_1", CONTEXT)


async def test_what_ends_while_it_is_cancelled_has_ended(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        responses = gateway.app[keys.RESPONSES]
        await register(gateway)
        queued = stored(created_at_s=now_s(), is_background=True)
        completed = replace(queued, status="completed", body={"id": "resp_1", "status": "completed", "output": []})
        await responses.store.save(queued)
        # The end is in the writer's queue before the other one, which has seen the response under way.
        ended, shown = await asyncio.gather(
            responses.store.finish(completed), responses.cancel(CALLER, "resp_1", CONTEXT)
        )
        assert (ended, shown.status, shown.body["status"]) == (True, "completed", "completed")


def now_s() -> float:
    """A moment that the store does not take for long ago."""
    return time.time()
