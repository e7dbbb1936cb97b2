"""What the middlewares take a request for that matched no route."""

from __future__ import annotations

import pytest

from tests.journeys.gateway import Gateway


@pytest.mark.parametrize("path", ["/nowhere", "/", "/v1/imgrslt/a/b", "/v1/test/"])
async def test_outside_of_other_vocabularies_errors_are_bitmeshs(gateway: Gateway, path: str) -> None:
    answer = await gateway.get(path)
    assert (answer.status, answer.json) == (404, {"error": "Not found"})


async def test_under_v1_an_unknown_place_answers_in_openais_words(gateway: Gateway) -> None:
    answer = await gateway.get("/v1/nowhere")
    assert answer.status == 404
    assert answer.json["error"]["type"] == "not_found"


async def test_nowhere_needs_no_key(gateway: Gateway) -> None:
    assert (await gateway.get("/nowhere", headers={"Authorization": ""})).status == 404
