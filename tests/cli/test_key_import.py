"""``key import``: callers of another installation go on with the keys and secrets that they have."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from bitmesh_proxy.auth.consumer_secrets import ConsumerSecrets
from bitmesh_proxy.cli.main import main
from tests.auth.bitmesh_clients import authorization, payload_signature
from tests.cli.conftest import Run, json_of
from tests.journeys.gateway import CHAT_MODEL, running_gateway

SECRET, OTHER = "of-old/+=\u00fc\u00df 1", "another-secret"


@pytest.fixture
def bring(data_dir: Path) -> Any:
    """Import what stands on standard input."""

    def bring(*arguments: str, said: str | bytes, status: int = 0) -> Result:
        result = CliRunner().invoke(main, ["--data-dir", str(data_dir), "key", "import", *arguments], input=said)
        assert result.exit_code == status, (result.output, result.exception)
        assert SECRET not in result.output
        return result

    return bring


def lines(*rows: dict[str, Any]) -> bytes:
    return b"\n".join(orjson.dumps({"consumer_secret": SECRET, **row}) for row in rows)


def opened(data_dir: Path) -> dict[str, str]:
    """The secrets that signatures of imported keys are checked with, by consumer key."""
    with closing(sqlite3.connect(data_dir / "bitmesh-proxy.db")) as connection:
        rows = connection.execute(
            "SELECT consumer_key, id, generation, sealed_secret FROM keys WHERE consumer_key IS NOT NULL"
        ).fetchall()
    kept = ConsumerSecrets((data_dir / "master.secret").read_bytes().strip())
    return {name: kept.of(key_id, generation, sealed) for name, key_id, generation, sealed in rows}


def test_signed_calls_of_an_imported_key_go_on_as_before(run: Run, bring: Any, data_dir: Path) -> None:
    run("account", "create", "acme", "--credit", "5")
    bring("--consumer-key", "ck_old", "--account", "acme", "--name", "from there", said=SECRET + "\n")

    async def call(url: str, key: str, secret: str) -> tuple[dict[str, str], bytes]:
        body = orjson.dumps({"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5})
        header, signature = authorization(
            "POST", url, key=key, secret=secret, timestamp_s=int(time.time()), nonce=secrets.token_hex(8)
        )
        signed = payload_signature(body, key=key, signature=signature)
        return {"Authorization": header, "X-Payload-Signature": signed, "Content-Type": "application/json"}, body

    async def play() -> None:
        async with running_gateway(data_dir) as gateway:
            for secret, status in ((SECRET, 200), (OTHER, 401), (SECRET, 200)):
                headers, body = await call(gateway.url + "/chat", "ck_old", secret)
                answer = await gateway.call("POST", "/chat", data=body, headers=headers)
                assert answer.status == status, answer.body
                if status == 200:
                    assert (await gateway.last_row()).key_id == key_id
            await gateway.check_books()

    ((key_id, name),) = [(each["id"], each["name"]) for each in json_of(run("key", "list", "--json"))]
    assert name == "from there"
    asyncio.run(play())


def test_many_are_imported_at_once_and_nothing_of_their_secrets_is_kept(
    run: Run, bring: Any, data_dir: Path, tmp_path: Path
) -> None:
    for name in ("acme", "bravo"):
        run("account", "create", name)
    file = tmp_path / "keys.csv"
    file.write_text(
        f"consumer_key,consumer_secret,account,rate_per_minute\nck_a,{SECRET},acme,\nck_b,{OTHER},bravo,5\n"
    )
    made = bring(str(file), "--rate-per-minute", "30", "--budget-day", "2", said="")
    assert "Imported 2 keys." in made.stdout
    assert "still holds the secrets" in made.stderr
    first, second = (
        json_of(run("key", "show", each["id"], "--json")) for each in json_of(run("key", "list", "--json"))
    )
    assert (first["rate_per_minute"], second["rate_per_minute"]) == (30, 5)
    assert (first["budget_day_usd"], second["budget_day_usd"]) == ("2", "2")
    assert first["account_id"] != second["account_id"]
    assert (first["has_imported_secret"], first["token_hint"], first["generation"]) == (True, None, 1)
    assert opened(data_dir) == {"ck_a": SECRET, "ck_b": OTHER}
    kept = b"".join(path.read_bytes() for path in data_dir.iterdir() if path.is_file())
    assert SECRET.encode() not in kept
    assert OTHER.encode() not in kept


def test_all_are_imported_or_none(run: Run, bring: Any) -> None:
    run("account", "create", "acme")
    bring("--consumer-key", "ck_there", said=SECRET)
    before = run("key", "list", "--json").stdout
    rows = (
        {"consumer_key": "ck_1"},
        {"consumer_key": "ck_there"},
        {"consumer_key": "ck_2", "account": "nobody"},
        {"consumer_key": "ck_3", "bound_model": "a", "allowed_models": ["b"]},
    )
    refused = bring("-", said=lines(*rows), status=1).stderr.splitlines()
    assert refused[0] == "bitmesh-proxy: nothing was imported:"
    assert [line.partition(":")[0] for line in refused[1:]] == ["line 2", "line 3", "line 4"]
    many = bring("-", said=lines(*[{"consumer_key": f"ck {n}"} for n in range(30)]), status=1).stderr.splitlines()
    assert (len(many), many[-1]) == (22, "and 10 more")
    assert run("key", "list", "--json").stdout == before


def test_a_secret_is_replaced_and_nothing_else(run: Run, bring: Any, data_dir: Path) -> None:
    run("account", "create", "acme")
    made = json_of(run("key", "create", "--json", "--name", "own"))
    bring("--consumer-key", "ck_old", "--rate-per-minute", "7", said=SECRET)
    rows = [{"consumer_key": name, "consumer_secret": OTHER} for name in (made["consumer_key"], "ck_old", "ck_new")]
    told = json_of(bring("-", "--replace", "--json", "--rate-per-minute", "9", said=lines(*rows)))
    assert [each["is_new"] for each in told] == [False, False, True]
    assert opened(data_dir) == dict.fromkeys((made["consumer_key"], "ck_old", "ck_new"), OTHER)
    own, old, new = json_of(run("key", "list", "--json"))
    assert (own["name"], own["rate_per_minute"], own["token_hint"]) == ("own", None, made["token"][-4:])
    assert [each["rate_per_minute"] for each in (old, new)] == [7, 9]
    assert [each["generation"] for each in (own, old, new)] == [2, 2, 1]
    rotated = json_of(run("key", "rotate", old["id"], "--json"))
    assert opened(data_dir)["ck_old"] == rotated["consumer_secret"]
    assert not json_of(run("key", "show", old["id"], "--json"))["has_imported_secret"]


def test_what_to_import_has_to_be_said(run: Run, bring: Any) -> None:
    run("account", "create", "acme")
    for arguments in ((), ("-", "--consumer-key", "ck_1")):
        assert "Say what to import" in bring(*arguments, said=SECRET, status=2).stderr
    for said in (b"", b"short", b"\xff" * 20):
        assert "consumer_secret: " in bring("--consumer-key", "ck_1", said=said, status=1).stderr
    assert "is over" in bring("-", "--expires", "2020-01-01", said=SECRET, status=2).stderr
    assert json_of(run("key", "list", "--json")) == []


def test_secrets_are_not_sealed_with_another_master_secret_than_the_services(
    run: Run, bring: Any, data_dir: Path
) -> None:
    run("account", "create", "acme")
    run("key", "create")
    (data_dir / "master.secret").write_bytes(b"x" * 32)
    refused = bring("--consumer-key", "ck_1", said=SECRET, status=78)
    assert "this is not the service's master secret" in refused.stderr
