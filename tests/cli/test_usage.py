"""``usage``: sums by key, model and day, as table, JSON and CSV."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bitmesh_proxy.storage.months import sum_up
from tests.cli.conftest import Run, enter_request, json_of


def fill(run: Run, data_dir: Path) -> tuple[str, str]:
    account_id = json_of(run("account", "create", "acme", "--credit", "1", "--json"))["id"]
    key_id = json_of(run("key", "create", "--json"))["id"]
    for number, model in enumerate(("a/one", "a/one", "b/two")):
        enter_request(
            data_dir,
            account_id=account_id,
            key_id=key_id,
            request_id=f"req_{number}",
            model=model,
            started_at_s=1_795_000_000.0 + 86_400 * number,
        )
    enter_request(
        data_dir, account_id=account_id, key_id=key_id, request_id="req_test", is_live=False, charge_nano_usd=0
    )
    return account_id, key_id


def test_sums_by_model_and_in_all_forms(run: Run, data_dir: Path) -> None:
    fill(run, data_dir)
    by_model = {line["model"]: line for line in json_of(run("usage", "--json"))}
    assert by_model["a/one"]["requests"] == 2
    assert by_model["a/one"]["input_tokens"] == 20
    assert by_model["a/one"]["charge_usd"] == "0.000003"
    assert by_model["b/two"]["charge_usd"] == "0.0000015"
    lines = run("usage", "--csv").output.splitlines()
    assert lines[0].startswith("model,requests,failed,")
    assert len(lines) == 4
    assert "a/one" in run("usage").output


def test_filters_and_groups(run: Run, data_dir: Path) -> None:
    _, key_id = fill(run, data_dir)
    by_day = json_of(run("usage", "--by", "day", "--live", "--json"))
    assert [line["requests"] for line in by_day] == [1, 1, 1]
    assert json_of(run("usage", "--by", "key", "--test", "--json")) == [
        {
            "key": key_id,
            "requests": 1,
            "failed": 0,
            "input_tokens": 10,
            "output_tokens": 5,
            "images": 0,
            "characters": 0,
            "seconds": 0.0,
            "cost_usd": "0.0000015",
            "charge_usd": "0",
        }
    ]
    since = run("usage", "--by", "model", "--since", "2026-11-20", "--json")
    assert [line["model"] for line in json_of(since)] == ["b/two"]
    assert json_of(run("usage", "--key", key_id, "--model", "b/two", "--json"))[0]["requests"] == 1
    assert "no key has the id 'key_other'" in run("usage", "--key", "key_other", "--json", status=1).output
    assert json_of(run("usage", "--account", "acme", "--model", "b/two", "--json"))[0]["requests"] == 1


def test_what_is_known_by_month_only_is_said(run: Run, data_dir: Path) -> None:
    """On standard error: what a program reads stays as it is."""
    fill(run, data_dir)
    note = "Calls up to 2026-11-19 are known by month only, and count where their month begins.\n"
    assert run("usage", "--by", "day").stderr == ""
    with sqlite3.connect(data_dir / "bitmesh-proxy.db", isolation_level=None) as connection:
        sum_up(connection, before_ms=1_795_100_000_000)
    connection.close()
    by_day = run("usage", "--by", "day", "--json")
    assert [line["day"] for line in json_of(by_day)] == ["2026-11", "2026-11-18", "2026-11-20"]
    assert by_day.stderr == note
    for arguments, is_said in (
        ((), False),
        (("--by", "month"), False),
        (("--since", "2026-11-01"), False),
        (("--since", "2026-11-02"), True),
        (("--until", "2026-11-18T12:00"), True),
        (("--until", "2026-12-15"), False),
    ):
        assert run("usage", *arguments).stderr == (note if is_said else ""), arguments


def test_what_is_said_twice_is_one_column(run: Run, data_dir: Path) -> None:
    fill(run, data_dir)
    assert run("usage", "--by", "key", "--by", "key", "--csv").output == run("usage", "--by", "key", "--csv").output


def test_what_cannot_be_meant_is_refused(run: Run) -> None:
    assert "--json and --csv" in run("usage", "--json", "--csv", status=2).output
    assert "--since is not before" in run("usage", "--since", "1d", "--until", "3d", status=2).output
    run("usage", "--since", "3d", "--until", "1d")
