"""``doctor``: right books are right, and each kind of fault is seen."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.cli.conftest import Run, enter_request, json_of


def verdicts(run: Run, *, status: int = 0) -> dict[str, tuple[str, str]]:
    found = json_of(run("doctor", "--offline", "--json", status=status))
    return {each["check"]: (each["verdict"], each["detail"]) for each in found}


def test_a_fresh_installation_is_healthy(run: Run, data_dir: Path) -> None:
    account_id = json_of(run("account", "create", "acme", "--credit", "1", "--json"))["id"]
    key_id = json_of(run("key", "create", "--json"))["id"]
    enter_request(data_dir, account_id=account_id, key_id=key_id, request_id="req_1")
    found = verdicts(run)
    assert {found[name][0] for name in ("data directory", "master secret", "database", "books", "open holds")} == {"ok"}
    assert found["providers"] == ("warning", "no credential is configured: sandbox only")
    assert "CHECK" in run("doctor", "--offline").output


def test_a_balance_that_is_not_the_sum_of_its_entries_is_a_fault(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme", "--credit", "1")
    with sqlite3.connect(data_dir / "bitmesh-proxy.db") as connection:
        connection.execute("UPDATE accounts SET balance_nano_usd = balance_nano_usd + 1")
    connection.close()
    verdict, detail = verdicts(run, status=1)["books"]
    assert verdict == "fault"
    assert "1.000000001" in detail


def test_a_hold_that_a_dead_process_left_is_explained(run: Run, data_dir: Path) -> None:
    account_id = json_of(run("account", "create", "acme", "--credit", "1", "--json"))["id"]
    key_id = json_of(run("key", "create", "--json"))["id"]
    enter_request(data_dir, account_id=account_id, key_id=key_id, request_id="req_open", charge_nano_usd=None)
    verdict, detail = verdicts(run)["open holds"]
    assert verdict == "warning"
    assert "req_open" in detail
    assert "died" in detail


def test_a_master_secret_that_others_may_read_is_a_fault(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme")
    run("key", "create")
    (data_dir / "master.secret").chmod(0o644)
    assert verdicts(run, status=1)["master secret"][0] == "fault"


def test_a_file_that_is_no_database_is_a_fault(run: Run, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "bitmesh-proxy.db").write_bytes(b"not a database at all, but long enough to look like one" * 20)
    assert verdicts(run, status=1)["database"][0] == "fault"
