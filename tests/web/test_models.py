"""``GET /v1/models`` over HTTP: public, filtered, by id with slashes raw or escaped."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.endpoints.models import ModelList
from bitmesh_proxy.web.models import ListedModels
from tests.journeys.gateway import running_gateway

NOBODY = {"Authorization": ""}


async def test_the_list_and_its_filters(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        for prefix in ("/v1", "/v1/openai"):
            whole = await gateway.get(f"{prefix}/models", headers=NOBODY)
            assert (whole.status, whole.json["object"]) == (200, "list")
            images = (await gateway.get(f"{prefix}/models?type=image&sort=name&limit=3", headers=NOBODY)).json["data"]
            assert len(images) == 3
            assert all("image" in model["output"] for model in images)
            assert [model["id"].casefold() for model in images] == sorted(model["id"].casefold() for model in images)
        for query, param in (("limit=0", "limit"), ("type=x", "type"), ("sort=a&sort=b", "sort"), ("free=2", "free")):
            bad = await gateway.get(f"/v1/models?{query}", headers=NOBODY)
            assert (bad.status, bad.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize("name", ["openai/dall-e-3", "openai%2Fdall-e-3", "openai%2fdall-e-3", "dall-e-3"])
async def test_one_model_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        for prefix in ("/v1", "/v1/openai"):
            answer = await gateway.get(f"{prefix}/models/{name}", headers=NOBODY)
            assert (answer.status, answer.json["id"]) == (200, "openai/dall-e-3")
        missing = await gateway.get("/v1/models/no/such/model", headers=NOBODY)
        error = missing.json["error"]
        assert (missing.status, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_the_list_is_made_once_and_not_by_the_loop() -> None:
    made_by: list[threading.Thread] = []

    def make() -> ModelList:
        made_by.append(threading.current_thread())
        return ModelList.build(Catalogue.build([]), available=(), markup_nano=1)

    listed = ListedModels(make)
    assert made_by == []
    first, *others = await asyncio.gather(*(listed.get() for _ in range(3)))
    assert all(other is first for other in [*others, await listed.get()])
    assert len(made_by) == 1
    assert made_by[0] is not threading.current_thread()


async def test_a_list_that_could_not_be_made_is_made_when_next_asked_for() -> None:
    lists = [ModelList.build(Catalogue.build([]), available=(), markup_nano=1)]

    def make() -> ModelList:
        if len(lists) == 1:
            lists.append(lists[0])
            raise LookupError("once")
        return lists[0]

    listed = ListedModels(make)
    with pytest.raises(LookupError):
        await listed.get()
    assert await listed.get() is lists[0]
