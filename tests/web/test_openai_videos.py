"""Routes of clips: what they refuse, and that a clip belongs to its account."""

from __future__ import annotations

from pathlib import Path

from bitmesh_proxy import keys
from bitmesh_proxy.cli.new_key import create_key
from bitmesh_proxy.storage.accounts import AccountStore
from tests.journeys.gateway import VIDEO_MODEL, bearer, running_gateway


async def test_a_clip_belongs_to_its_account(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        made = await gateway.post("/v1/videos", {"model": VIDEO_MODEL, "prompt": "x"})
        path = f"/v1/videos/{made.json['id']}"
        other = await AccountStore(gateway.app[keys.DATABASE]).create("other")
        stranger = bearer(await create_key(gateway.app[keys.DATABASE], gateway.settings, account_id=other.id))
        for method, suffix in (("GET", ""), ("GET", "/content"), ("DELETE", ""), ("POST", "/remix")):
            answer = await gateway.call(method, path + suffix, headers=stranger)
            assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
        assert (await gateway.get("/v1/videos", headers=stranger)).json["data"] == []
        assert (await gateway.get(f"/v1/videos?after={made.json['id']}", headers=stranger)).status == 404


async def test_what_cannot_be_had_of_a_clip(tmp_path: Path) -> None:
    changes = {"sandbox": {"job_duration_s": 60.0}}
    async with running_gateway(tmp_path / "data", changes) as gateway:
        made = await gateway.post("/v1/videos", {"model": VIDEO_MODEL, "prompt": "x"})
        path = f"/v1/videos/{made.json['id']}"
        for method, suffix, status, param, code in (
            ("GET", "/content", 404, None, "not_found"),
            ("GET", "/content?variant=smell", 400, "variant", "invalid_value"),
            ("GET", "/content?variant=thumbnail", 400, "variant", "unsupported_parameter"),
            ("POST", "/remix", 400, "id", "unsupported_parameter"),
            ("DELETE", "", 409, "id", "still_running"),
        ):
            answer = await gateway.call(method, path + suffix)
            error = answer.json["error"]
            assert (answer.status, error["param"], error["code"]) == (status, param, code), suffix


async def test_a_held_answer_is_not_held_for_ever(tmp_path: Path) -> None:
    changes = {"sandbox": {"job_duration_s": 60.0}, "answers": {"max_held_s": 0.1}}
    async with running_gateway(tmp_path / "data", changes) as gateway:
        answer = await gateway.post("/v1/openai/videos/generations", {"model": VIDEO_MODEL, "prompt": "x"})
        assert (answer.status, answer.json["error"]["code"]) == (504, "upstream_timeout")
        (clip,) = (await gateway.get("/v1/videos")).json["data"]
        assert clip["id"] in answer.json["error"]["message"]
        assert clip["status"] in ("queued", "in_progress")
        await gateway.check_books(open_requests=1)


async def test_a_clip_that_fails_is_an_error_of_the_older_route(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        body = {"model": VIDEO_MODEL, "prompt": "x [[sandbox: fail]]"}
        answer = await gateway.post("/v1/openai/videos/generations", body)
        assert answer.status == 502
        assert answer.json["error"]["message"]
        assert (await gateway.last_row()).charge_nano_usd == 0
        await gateway.check_books()
