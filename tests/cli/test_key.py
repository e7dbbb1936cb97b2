"""``key``: secrets shown once, limits kept, switched off and rotated at once."""

from __future__ import annotations

from pathlib import Path

from bitmesh_proxy.auth.secrets import token_digest
from tests.cli.conftest import Run, json_of


def test_create_prints_one_object_and_keeps_no_secret(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme")
    made = json_of(run("key", "create", "--name", "backend", "--json"))
    assert sorted(made) == ["consumer_key", "consumer_secret", "id", "token"]
    kept = b"".join(path.read_bytes() for path in data_dir.iterdir() if path.is_file())
    assert made["token"].encode() not in kept
    assert made["consumer_secret"].encode() not in kept
    assert token_digest(made["token"]) in kept
    assert made["consumer_key"].encode() in kept


def test_limits_are_kept_and_shown(run: Run) -> None:
    run("account", "create", "acme")
    key_id = json_of(
        run(
            *("key", "create", "--json", "--bound-model", "openai/gpt-oss-120b", "--rate-per-minute", "30"),
            *("--max-concurrent", "2", "--budget-day", "1.5", "--budget-month", "20", "--expires", "2030-01-01"),
            *("--allow-model", "b", "--allow-model", "a"),
        )
    )["id"]
    shown = json_of(run("key", "show", key_id, "--json"))
    assert shown["bound_model"] == "openai/gpt-oss-120b"
    assert shown["allowed_models"] == ["a", "b"]
    assert (shown["rate_per_minute"], shown["max_concurrent"]) == (30, 2)
    assert (shown["budget_day_usd"], shown["budget_month_usd"]) == ("1.5", "20")
    assert shown["expires_at_s"] == 1_893_456_000.0
    assert "openai/gpt-oss-120b" in run("key", "show", key_id).output


def test_disable_and_rotate(run: Run) -> None:
    run("account", "create", "acme")
    made = json_of(run("key", "create", "--json"))
    rotated = json_of(run("key", "rotate", made["id"], "--json"))
    assert rotated["id"] == made["id"]
    assert rotated["consumer_key"] == made["consumer_key"]
    assert rotated["token"] != made["token"]
    assert rotated["consumer_secret"] != made["consumer_secret"]
    assert json_of(run("key", "show", made["id"], "--json"))["generation"] == 2
    run("key", "disable", made["id"])
    listed = json_of(run("key", "list", "--account", "acme", "--json"))
    assert [each["is_disabled"] for each in listed] == [True]
    assert " off " in run("key", "list").output


def test_what_does_not_exist_is_said(run: Run) -> None:
    assert "there is no account yet" in run("key", "create", status=1).output
    run("account", "create", "acme")
    assert "no key has the id 'key_x'" in run("key", "show", "key_x", status=1).output
    assert "No such key: key_x" in run("key", "disable", "key_x", status=1).output
    assert "No such key: key_x" in run("key", "rotate", "key_x", status=1).output
    assert "is no date" in run("key", "create", "--expires", "tomorrow", status=2).output
