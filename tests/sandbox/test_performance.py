"""A request's way through a play: credentials, bodies, schemas, and the faults before the first byte."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from bitmesh_proxy.sandbox.faults import Directives, Fault
from bitmesh_proxy.sandbox.stage import Options
from tests.journeys.gateway import eventually
from tests.sandbox.callers import Caller, assert_published, calling

PROVIDERS = ("openai", "together")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("credential", ["", "Basic abc", "Bearer", "Bearer ", "Bearer bad-key"])
async def test_no_key_or_a_bad_one_is_refused(caller: Caller, provider: str, credential: str) -> None:
    answer = await caller.get(f"/{provider}/v1/models", headers={"Authorization": credential})
    assert answer.status == 401
    assert_published(provider, "error", answer.json)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_key_is_asked_for_before_the_body_is_read(caller: Caller, provider: str) -> None:
    answer = await caller.post(f"/{provider}/v1/embeddings", data=b"{", headers={"Authorization": ""})
    assert answer.status == 401


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_model_that_nobody_has(caller: Caller, provider: str) -> None:
    answer = await caller.chat(provider, "hello", model="acme/no-such-model-7b")
    assert answer.status == 404
    assert "no-such-model" in answer.error["message"]
    assert_published(provider, "error", answer.json)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_the_schema_refuses(caller: Caller, provider: str) -> None:
    answer = await caller.post(f"/{provider}/v1/chat/completions", {"model": "m"})
    assert (answer.status, answer.error["param"]) == (400, "messages")
    answer = await caller.chat(provider, "hello", temperature="hot")
    assert (answer.status, answer.error["param"]) == (400, "temperature")
    assert_published(provider, "error", answer.json)


async def test_fields_that_nobody_knows_pass_unless_strict(caller: Caller) -> None:
    body = {"model": "m", "prompt": "x", "width": 8, "height": 8, "size": "8x8"}
    assert (await caller.post("/together/v1/images/generations", body)).status == 200
    async with calling(Options(is_strict=True)) as strict:
        answer = await strict.post("/together/v1/images/generations", body)
        assert (answer.status, answer.error["param"]) == (400, "size")
        assert (await strict.chat("openai", "hello", stream=True, stream_options={"include_usage": True})).status == 200
        answer = await strict.chat("openai", "hello", top_k=3)
        assert (answer.status, answer.error["message"]) == (400, "Unknown parameter: 'top_k'.")


async def test_closed_schemas_are_closed(caller: Caller) -> None:
    answer = await caller.post("/openai/v1/embeddings", {"model": "m", "input": "x", "extra": 1})
    assert (answer.status, answer.error["param"]) == (400, "extra")


async def test_a_large_body_is_checked_too(caller: Caller) -> None:
    answer = await caller.chat("openai", "x" * 100_000, temperature="hot")
    assert (answer.status, answer.error["param"]) == (400, "temperature")


async def test_json_for_forms_and_forms_for_json_are_refused(caller: Caller) -> None:
    answer = await caller.post("/openai/v1/audio/transcriptions", {"model": "m"})
    assert (answer.status, answer.error["message"]) == (415, "This operation takes a multipart form only")
    form = aiohttp.FormData({"model": "m"}, default_to_multipart=True)
    answer = await caller.post("/openai/v1/chat/completions", data=form)
    assert (answer.status, answer.error["message"]) == (415, "This operation takes no multipart form")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_unknown_directive_is_named(caller: Caller, provider: str) -> None:
    answer = await caller.chat(provider, "hello [[sandbox: stutus=429]]")
    assert (answer.status, answer.error["code"]) == (400, "unknown_sandbox_directive")
    assert "'stutus'" in answer.error["message"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [400, 402, 429, 500, 503, 529])
async def test_a_status_in_the_providers_shape(caller: Caller, provider: str, status: int) -> None:
    answer = await caller.chat(provider, f"hello [[sandbox: status={status} retry_after=2 code=because]]")
    assert answer.status == status
    assert answer.headers["Retry-After"] == "2"
    assert answer.error["code"] == "because"
    assert_published(provider, "error", answer.json)


async def test_an_edges_page(caller: Caller) -> None:
    answer = await caller.chat("openai", "[[sandbox: html=502]]")
    assert (answer.status, answer.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
    assert b"<h1>502 Bad Gateway</h1>" in answer.body


@pytest.mark.parametrize(
    ("provider", "code"), [("openai", "moderation_blocked"), ("together", "content_policy_violation")]
)
async def test_a_refused_prompt(caller: Caller, provider: str, code: str) -> None:
    answer = await caller.post(
        f"/{provider}/v1/images/generations", {"model": "gpt-image-1.5", "prompt": "x [[sandbox: moderated]]"}
    )
    assert 400 <= answer.status < 500
    assert answer.error["code"] == code


async def test_a_connection_closed_without_a_byte(caller: Caller) -> None:
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await caller.chat("openai", "[[sandbox: hangup]]")
    assert not caller.sandbox.requests[-1].cancelled


async def test_a_stall_comes_before_the_first_byte(caller: Caller) -> None:
    """A short one; that nothing comes before it is seen from outside in the journeys, with a clock of their own."""
    answer = await caller.chat("openai", "[[sandbox: stall=0.05]]")
    assert answer.status == 200


async def test_requests_wait_until_they_may_go_on(caller: Caller) -> None:
    faults = caller.sandbox.faults
    faults.add(Fault(directives=Directives(status=503)))
    faults.go_on = go_on = asyncio.Event()
    asking = asyncio.create_task(caller.chat("openai", "hello"))
    await eventually(lambda: len(caller.sandbox.requests) == 1, "it is there")
    assert len(faults.pending) == 1
    go_on.set()
    assert (await asking).status == 503


async def test_a_marker_for_another_provider_is_cut_out_and_ignored(caller: Caller) -> None:
    marked = "hello [[sandbox: only=together status=500]]"
    answer = await caller.chat("openai", marked)
    assert answer.status == 200
    assert "“hello”" in answer.json["choices"][0]["message"]["content"]
    assert (await caller.chat("together", marked)).status == 500


async def test_the_first_time_only(caller: Caller) -> None:
    marked = "hello [[sandbox: times=1 status=503]]"
    assert [(await caller.chat("openai", marked)).status for _ in range(3)] == [503, 200, 200]


async def test_a_pending_fault_strikes_before_the_credential(caller: Caller) -> None:
    caller.sandbox.faults.add(Fault(directives=Directives(status=503), path="/openai/*"))
    answer = await caller.get("/openai/v1/models", headers={"Authorization": ""})
    assert answer.status == 503
    assert (await caller.get("/openai/v1/models")).status == 200


async def test_a_pending_fault_wins_over_a_marker(caller: Caller) -> None:
    caller.sandbox.faults.add(Fault(directives=Directives(tokens=3)))
    answer = await caller.chat("openai", "hello [[sandbox: tokens=50 no_usage]]", stream=False)
    assert "usage" not in answer.json
    assert len(answer.json["choices"][0]["message"]["content"].split()) <= 3
