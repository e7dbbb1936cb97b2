"""Faults from outside over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import HTTPForbidden

from bitmesh_proxy.sandbox.control import show
from tests.sandbox.callers import Caller


async def test_a_fault_is_added_shown_and_used_up(caller: Caller) -> None:
    fault = {"directives": "status=503", "times": 2, "path": "/openai/*", "method": "GET"}
    answer = await caller.post("/_control", {"faults": [fault]})
    assert answer.status == 200
    assert answer.json["faults"] == [{**fault, "directives": {"status": 503}}]
    assert (await caller.get("/together/v1/models")).status == 200
    assert [(await caller.get("/openai/v1/models")).status for _ in range(3)] == [503, 503, 200]
    assert (await caller.get("/_control")).json["faults"] == []


async def test_faults_are_dropped(caller: Caller) -> None:
    await caller.post("/_control", {"faults": [{"directives": "hangup"}]})
    answer = await caller.post("/_control", {"clear": True, "faults": [{"directives": "drip"}]})
    assert [fault["directives"] for fault in answer.json["faults"]] == [{"drip": True}]


async def test_requests_are_shown_newest_first_without_our_own(caller: Caller) -> None:
    await caller.get("/openai/v1/models")
    await caller.get("/together/v1/models")
    shown = (await caller.get("/_control")).json["requests"]
    assert [request["path"] for request in shown] == ["/together/v1/models", "/openai/v1/models"]
    assert shown[0]["headers"]["authorization"] == "***"


@pytest.mark.parametrize(
    "wanted",
    [
        [],
        {"fault": []},
        {"faults": {}, "clear": True, "x": 1},
        {"faults": ["drip"]},
        {"faults": [{}]},
        {"faults": [{"directives": "stutus=1"}]},
        {"faults": [{"directives": "drip", "times": 0}]},
        {"faults": [{"directives": "drip", "times": "2"}]},
        {"faults": [{"directives": "drip", "paths": "*"}]},
        {"faults": [{"directives": 7}]},
    ],
)
async def test_what_is_not_understood_changes_nothing(caller: Caller, wanted: Any) -> None:
    await caller.post("/_control", {"faults": [{"directives": "drip"}]})
    answer = await caller.post("/_control", wanted)
    assert answer.status == 400
    assert answer.body.startswith(b"not understood: ")
    assert len((await caller.get("/_control")).json["faults"]) == 1


async def test_too_many_faults_are_refused(caller: Caller) -> None:
    answer = await caller.post("/_control", {"faults": [{"directives": "drip"}] * 1001})
    assert answer.status == 400
    assert (await caller.get("/_control")).json["faults"] == []


async def test_a_web_page_cannot_send_it(caller: Caller) -> None:
    answer = await caller.post("/_control", data=b'{"clear": true}', headers={"Content-Type": "text/plain"})
    assert answer.status == 415


async def test_from_another_machine_it_is_forbidden() -> None:
    """A request made by hand: the tests' own addresses are all loopback."""
    for address in ("192.0.2.7", "", "no address"):
        request = make_mocked_request("GET", "/_control").clone(remote=address)
        with pytest.raises(HTTPForbidden):
            await show(request)
