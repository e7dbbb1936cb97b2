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
            *("--allow-model", "openai/gpt-oss-120b", "--allow-model", "a"),
        )
    )["id"]
    shown = json_of(run("key", "show", key_id, "--json"))
    assert shown["bound_model"] == "openai/gpt-oss-120b"
    assert shown["allowed_models"] == ["a", "openai/gpt-oss-120b"]
    assert (shown["rate_per_minute"], shown["max_concurrent"]) == (30, 2)
    assert (shown["budget_day_usd"], shown["budget_month_usd"]) == ("1.5", "20")
    assert shown["expires_at_s"] == 1_893_456_000.0
    assert "openai/gpt-oss-120b" in run("key", "show", key_id).output


def test_the_list_says_which_keys_still_open_the_door(run: Run) -> None:
    run("account", "create", "acme")
    made = {
        name: json_of(run("key", "create", "--json", "--name", name, *more))["id"]
        for name, more in {"lasting": (), "past": (), "stopped": ("--expires", "1d")}.items()
    }
    run("key", "change", made["past"], "--expires", "2020-01-01")
    run("key", "disable", made["stopped"])
    states = {line.split()[1]: line.split()[-3] for line in run("key", "list").output.splitlines()[1:]}
    assert states == {"lasting": "on", "past": "expired", "stopped": "off"}


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


def test_a_key_is_switched_on_again(run: Run) -> None:
    run("account", "create", "acme")
    key_id = json_of(run("key", "create", "--json"))["id"]
    run("key", "disable", key_id)
    run("account", "disable", "acme")
    assert "is on, but its account is off." in run("key", "enable", key_id).output
    run("account", "enable", "acme")
    assert run("key", "enable", key_id).output == f"Key {key_id} is on.\n"
    assert not json_of(run("key", "show", key_id, "--json"))["is_disabled"]


BOUND = "openai/gpt-oss-20b"
NAMED_SO, ALIAS = "anthropic/claude-opus-5-5", "claude-opus-5-5"
LIMITS = ("--bound-model", "--allow-model", "--rate-per-minute", "--max-concurrent", "--budget-day", "--budget-month")


def test_what_a_key_may_do_is_changed(run: Run) -> None:
    run("account", "create", "acme")
    key_id = json_of(run("key", "create", "--json", "--budget-day", "1", "--max-concurrent", "3"))["id"]
    before = json_of(run("key", "show", key_id, "--json"))
    changed = json_of(run("key", "change", key_id, "--json", "--budget-day", "2.5", "--name", "backend"))
    assert changed == {**before, "budget_day_usd": "2.5", "name": "backend"}
    values = (BOUND, BOUND, "0", "1", "0", "20")
    options = [each for pair in zip(LIMITS, values, strict=True) for each in pair]
    changed = json_of(run("key", "change", key_id, "--json", *options, "--allow-model", "a", "--expires", "2030-01-01"))
    assert changed == {
        **before,
        "name": "backend",
        "bound_model": BOUND,
        "allowed_models": ["a", BOUND],
        "rate_per_minute": 0,
        "max_concurrent": 1,
        "budget_day_usd": "0",
        "budget_month_usd": "20",
        "expires_at_s": 1_893_456_000.0,
    }
    assert json_of(run("key", "show", key_id, "--json")) == changed
    shown = run("key", "show", key_id).output
    assert f"a, {BOUND}" in shown
    assert "2030-01-01 00:00:00" in shown


def test_a_limit_is_taken_away_by_a_word(run: Run) -> None:
    run("account", "create", "acme")
    key_id = json_of(run("key", "create", "--json"))["id"]
    before = json_of(run("key", "show", key_id, "--json"))
    values = (BOUND, BOUND, "5", "1", "1", "20")
    words = ("none", "none", "default", "default", "none", "none")
    for each in (values, words):
        options = [part for pair in zip(LIMITS, each, strict=True) for part in pair]
        run("key", "change", key_id, *options, "--expires", "30d" if each is values else "none")
    assert json_of(run("key", "show", key_id, "--json")) == before


def test_a_key_is_not_bound_to_a_model_that_it_may_not_use(run: Run) -> None:
    run("account", "create", "acme")
    words = f"('{BOUND}') is not among those that it may use: 'openai/gpt-oss-120b'"
    bind, narrow = ("--bound-model", BOUND), ("--allow-model", "openai/gpt-oss-120b")
    assert words in run("key", "create", *bind, *narrow, status=1).stderr
    assert json_of(run("key", "list", "--json")) == []
    for first, second in ((bind, narrow), (narrow, bind), ((), (*bind, *narrow))):
        key = json_of(run("key", "create", "--json", *first))["id"]
        before = json_of(run("key", "show", key, "--json"))
        assert words in run("key", "change", key, *second, status=1).stderr
        assert json_of(run("key", "show", key, "--json")) == before
        run("key", "change", key, *second, "--allow-model", BOUND)


def test_one_name_of_a_model_allows_another(run: Run) -> None:
    run("account", "create", "acme")
    made = json_of(run("key", "create", "--json", "--bound-model", ALIAS, "--allow-model", NAMED_SO))
    run("key", "change", made["id"], "--bound-model", NAMED_SO)
    run("key", "change", made["id"], "--allow-model", ALIAS)


def test_a_change_that_cannot_be_is_refused(run: Run) -> None:
    run("account", "create", "acme")
    key_id = json_of(run("key", "create", "--json"))["id"]
    assert "there is nothing to change" in run("key", "change", key_id, status=1).output
    assert "No such key: key_x" in run("key", "change", "key_x", "--name", "x", status=1).output
    for option, value in (
        ("--budget-day", "-1"),
        ("--rate-per-minute", "none"),
        ("--rate-per-minute", "9" * 20),
        ("--max-concurrent", "9" * 20),
        ("--bound-model", ""),
        ("--allow-model", " "),
        ("--name", "x" * 201),
        ("--expires", "soon"),
        ("--expires", "9" * 20 + "d"),
    ):
        assert f"Invalid value for '{option}'" in run("key", "change", key_id, option, value, status=2).output
    for option, value in (("--budget-day", "-1"), ("--bound-model", ""), ("--allow-model", " "), ("--name", "x" * 201)):
        assert f"Invalid value for '{option}'" in run("key", "create", option, value, status=2).output
    both = run("key", "change", key_id, "--allow-model", "none", "--allow-model", "x", status=2)
    assert "none stands for any model, and alone" in both.output
    assert json_of(run("key", "show", key_id, "--json"))["allowed_models"] is None


def test_a_key_that_would_never_work_is_not_made(run: Run) -> None:
    run("account", "create", "acme")
    for moment in ("0d", "2020-01-01"):
        said = run("key", "create", "--expires", moment, status=2).output
        assert "Invalid value for --expires" in said
        assert "is over" in said
    assert json_of(run("key", "list", "--json")) == []


def test_people_read_yes_or_no(run: Run) -> None:
    run("account", "create", "acme")
    key_id = json_of(run("key", "create", "--json"))["id"]
    assert "is_disabled          no\n" in run("key", "show", key_id).output
    run("key", "disable", key_id)
    assert "is_disabled          yes\n" in run("key", "show", key_id).output


def test_what_does_not_exist_is_said(run: Run) -> None:
    assert "there is no account yet" in run("key", "create", status=1).output
    run("account", "create", "acme")
    assert "no key has the id 'key_x'" in run("key", "show", "key_x", status=1).output
    assert "No such key: key_x" in run("key", "disable", "key_x", status=1).output
    assert "No such key: key_x" in run("key", "rotate", "key_x", status=1).output
    assert "is no date" in run("key", "create", "--expires", "tomorrow", status=2).output
    assert "No such key: key_x" in run("key", "enable", "key_x", status=1).output
