"""OpenAI's routes: under both prefixes, for keys only, each counted under its endpoint's name."""

from __future__ import annotations

from pathlib import Path

from bitmesh_proxy.context import Surface
from bitmesh_proxy.web.openai import routes
from bitmesh_proxy.web.route import OPENAI_PREFIXES, Access
from tests.journeys.gateway import IMAGE_MODEL, running_gateway


def test_every_route_stands_under_both_prefixes_and_needs_a_key() -> None:
    table = routes()
    paths = {route.path for route in table}
    for prefix in OPENAI_PREFIXES:
        for path in ("chat/completions", "embeddings", "moderations"):
            assert f"{prefix}/{path}" in paths
        for path in ("audio/speech", "audio/transcriptions", "audio/translations"):
            assert f"{prefix}/{path}" in paths
        for path in ("images/generations", "images/edits", "images/variations"):
            assert f"{prefix}/{path}" in paths
    assert {(route.surface, route.access, route.method) for route in table} == {(Surface.OPENAI, Access.KEY, "POST")}


async def test_one_limit_holds_for_an_endpoint_under_all_its_paths(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", {"limits": {"endpoint_per_minute": {"image": 1}}}) as gateway:
        body = {"model": IMAGE_MODEL, "prompt": "A lantern", "size": "256x256"}
        statuses = [
            (await gateway.post(path, body)).status
            for path in ("/v1/images/generations", "/v1/openai/images/generations", "/v1/images/edits")
        ]
        assert statuses == [200, 429, 429]


async def test_variations_say_what_to_do_instead(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        answer = await gateway.post("/v1/images/variations", {})
        assert (answer.status, answer.json["error"]["code"]) == (400, "unsupported_parameter")
        assert "images/edits" in answer.json["error"]["message"]


async def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        answer = await gateway.post("/v1/embeddings", {"model": IMAGE_MODEL, "input": "x"})
        assert (answer.status, answer.json["error"]["param"]) == (400, "model")
