"""What a key may do, and that a change of it counts with the next request, in whatever process it was made."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from bitmesh_proxy.storage.keys import KeyStore
from tests.journeys.gateway import CHAT_MODEL, Gateway, bearer, chat, image, open_books, running_gateway
from tests.journeys.processes import run

pytestmark = pytest.mark.journey

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.mark.both_ways
async def test_a_bound_key_speaks_to_its_model_only(gateway: Gateway) -> None:
    bound = bearer(await gateway.new_key(bound_model=CHAT_MODEL))
    answer = await gateway.post("/chat", {"messages": MESSAGES}, headers=bound)
    assert answer.status == 200
    assert answer.json["model"] == CHAT_MODEL
    refused = await gateway.post("/chat", {"messages": MESSAGES, "model": CHAT_MODEL}, headers=bound)
    assert (refused.status, refused.json) == (
        422,
        {"error": "Validation failed", "errors": {"model": ["The model field is prohibited."]}},
    )
    unbound = await gateway.post("/chat", {"messages": MESSAGES})
    assert (unbound.status, unbound.json["errors"]) == (422, {"model": ["The model field is required."]})
    elsewhere = await gateway.post("/image", {"prompt": "A lantern"}, headers=bound)
    assert elsewhere.status in (400, 404)
    assert elsewhere.json["error"]
    await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize(
    ("path", "model", "alias", "body"),
    [
        ("/v1/chat/completions", "openai/gpt-4o-mini", "gpt-4o-mini", {"messages": MESSAGES}),
        ("/v1/chat/completions", "anthropic/claude-haiku-5-5", "claude-haiku-5-5", {"messages": MESSAGES}),
        ("/v1/images/generations", "openai/gpt-image-1-mini", "gpt-image-1-mini", {"prompt": "A lantern"}),
        ("/v1/embeddings", "openai/text-embedding-3-small", "text-embedding-3-small", {"input": "Hello"}),
        ("/v1/audio/speech", "openai/tts-1", "tts-1", {"input": "Hello", "voice": "alloy"}),
        ("/v1/responses", "openai/gpt-4o-mini", "gpt-4o-mini", {"input": "Hello"}),
        ("/v1/responses", "openai/gpt-4o-mini", "gpt-4o-mini", {"messages": MESSAGES}),
        ("/v1/responses/compact", "openai/gpt-4o-mini", "gpt-4o-mini", {"input": "Hello"}),
    ],
)
async def test_a_bound_key_may_call_its_model_by_any_of_its_names(
    gateway: Gateway, path: str, model: str, alias: str, body: dict[str, Any]
) -> None:
    for bound_to in (model, alias):
        bound = bearer(await gateway.new_key(bound_model=bound_to))
        for name in ({}, {"model": model}, {"model": alias}, {"model": alias.upper()}):
            answer = await gateway.post(path, {**body, **name}, headers=bound)
            assert answer.status == 200, (bound_to, name, answer.body)
        refused = await gateway.post(path, {**body, "model": CHAT_MODEL}, headers=bound)
        assert (refused.status, refused.json["error"]["param"]) == (400, "model")
        assert bound_to in refused.json["error"]["message"]
    assert {row.model for row in await gateway.books.rows()} == {model}
    await gateway.check_books()


async def test_models_that_a_key_may_not_use_are_not_there_for_it(gateway: Gateway) -> None:
    chats_only = bearer(await gateway.new_key(allowed_models=[CHAT_MODEL]))
    assert (await gateway.post("/chat", chat(), headers=chats_only)).status == 200
    refused = await gateway.post("/image", image(), headers=chats_only)
    assert refused.status == 404
    unknown = await gateway.post("/chat", {"messages": MESSAGES, "model": "nobody/knows"})
    assert unknown.status == 404
    assert "nobody/knows" in unknown.json["error"]
    assert len(gateway.upstream_calls()) == 1
    await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer bm_wrong"},
        {"Authorization": "Basic dTpw"},
        {"Authorization": "OAuth nonsense"},
        {"Authorization": "Bearer"},
    ],
)
async def test_whoever_has_no_key_is_told_so_and_nothing_else(gateway: Gateway, headers: dict[str, str]) -> None:
    answer = await gateway.post("/chat", chat(), headers=headers)
    assert answer.status == 401
    assert set(answer.json) == {"error"}
    assert answer.headers["WWW-Authenticate"]
    assert gateway.upstream_calls() == []


async def test_the_other_header_for_a_token_does_too(gateway: Gateway) -> None:
    async with gateway.http.get(gateway.url + "/test", headers={"x-api-key": gateway.key.token}) as answer:
        assert (answer.status, await answer.json()) == (200, {"message": "you are the man"})


@pytest.mark.both_ways
async def test_an_expired_key_is_refused(gateway: Gateway) -> None:
    late = await gateway.new_key(expires_at_s=time.time() - 1)
    answer = await gateway.get("/test", headers=bearer(late))
    assert (answer.status, answer.json) == (401, {"error": "This API key has expired."})


@pytest.mark.both_ways
async def test_a_key_switched_off_through_another_connection_stops_with_the_next_request(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, open_books(tmp_path) as outside:
        assert (await gateway.get("/test")).status == 200
        await KeyStore(outside.database).disable(gateway.key.id)
        answer = await gateway.get("/test")
        assert (answer.status, answer.json) == (401, {"error": "This API key has been switched off."})
        await KeyStore(outside.database).enable(gateway.key.id)
        assert (await gateway.get("/test")).status == 200


async def test_the_command_line_switches_a_key_off_while_the_gateway_runs(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        assert (await gateway.get("/test")).status == 200
        done = await asyncio.to_thread(run, tmp_path, "key", "disable", gateway.key.id)
        assert done.returncode == 0, done.stderr
        assert (await gateway.get("/test")).status == 401
        await gateway.check_books()
