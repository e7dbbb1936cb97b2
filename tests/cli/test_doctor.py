"""``doctor``: right books are right, and each kind of fault is seen."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from yarl import URL

from bitmesh_proxy.cli.main import main
from tests.cli.conftest import Run, enter_request, json_of
from tests.provider_answers import provider_answers


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


def test_a_variable_that_sets_nothing_is_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "environment" not in verdicts(run)
    monkeypatch.setenv("BITMESH_HTTP_PORT", "3001")
    verdict, detail = verdicts(run)["environment"]
    assert verdict == "warning"
    assert "BITMESH_HTTP_PORT " in detail
    assert "BITMESH_HTTP__PORT" in detail
    assert run("doctor", "--offline").stderr == ""  # it is said once


def test_a_balance_that_is_not_the_sum_of_its_entries_is_a_fault(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme", "--credit", "1")
    with sqlite3.connect(data_dir / "bitmesh-proxy.db") as connection:
        connection.execute("UPDATE balances SET balance_nano_usd = balance_nano_usd + 1")
    connection.close()
    verdict, detail = verdicts(run, status=1)["books"]
    assert verdict == "fault"
    assert "1.000000001" in detail


def test_a_database_that_somebody_has_changed_by_hand_is_a_fault(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme", "--credit", "1")
    with sqlite3.connect(data_dir / "bitmesh-proxy.db") as connection:
        connection.execute("CREATE INDEX of_mine ON requests (model)")
    connection.close()
    found = verdicts(run)
    assert found["schema"] == ("warning", "not made by this program: index of_mine")
    assert found["books"][0] == "ok"
    with sqlite3.connect(data_dir / "bitmesh-proxy.db") as connection:
        connection.execute("DROP TABLE request_runs")
    connection.close()
    verdict, detail = verdicts(run, status=1)["books"]
    assert verdict == "fault"
    assert detail.startswith("the database lacks the table request_runs")


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


def test_nothing_is_made_where_nothing_is(run: Run, data_dir: Path) -> None:
    found = verdicts(run)
    for check in ("data directory", "master secret", "database"):
        assert found[check][0] == "warning"
        assert found[check][1].endswith("is not there yet")
    assert not data_dir.exists()


def test_where_nobody_can_look_the_other_checks_are_made_all_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITMESH_DATA__DIR", "/" + "x" * 300)
    result = CliRunner().invoke(main, ["doctor", "--offline", "--json"])
    found = {each["check"]: each["verdict"] for each in json_of(result)}
    for check in ("data directory", "master secret", "database"):
        assert found[check] in ("fault", "warning"), "later Pythons say of such a name that it is not there"
    assert found["catalogue"] == "ok"


def test_a_file_system_that_takes_no_writes_is_a_fault_and_no_matter_of_users(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("account", "create", "acme")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    verdict, detail = verdicts(run, status=1)["data directory"]
    assert verdict == "fault"
    assert "mounted read-only" in detail
    assert "user" not in detail


def test_so_little_room_that_the_service_takes_no_work_is_a_fault(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("account", "create", "acme")
    monkeypatch.setenv("BITMESH_DATA__MIN_FREE_BYTES", str(10**15))
    verdict, detail = verdicts(run, status=1)["data directory"]
    assert verdict == "fault"
    assert "data.min_free_bytes (953674316 MiB)" in detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_the_user_may_not_write_is_a_fault(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme")
    data_dir.chmod(0o500)
    try:
        assert verdicts(run, status=1)["data directory"][0] == "fault"
    finally:
        data_dir.chmod(0o700)


def test_a_master_secret_that_was_lost_is_not_made_anew_but_said(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme")
    assert "consumer secrets" not in verdicts(run), "no key was made with it"
    run("key", "create")
    (data_dir / "master.secret").unlink()
    for _ in range(2):
        found = verdicts(run)
        assert found["master secret"] == ("warning", f"{data_dir / 'master.secret'} is not there yet")
        assert found["consumer secrets"][0] == "warning"
        assert "put that back" in found["consumer secrets"][1]
    assert not (data_dir / "master.secret").exists()


def test_a_master_secret_that_is_not_the_services_is_a_warning(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme")
    run("key", "create")
    (data_dir / "master.secret").write_bytes(b"x" * 32)
    verdict, detail = verdicts(run)["consumer secrets"]
    assert verdict == "warning"
    assert "not the service's master secret" in detail


def test_imported_secrets_that_cannot_be_opened_are_counted(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme")
    for name in ("ck_1", "ck_2"):
        command = ["--data-dir", str(data_dir), "key", "import", "--consumer-key", name]
        assert CliRunner().invoke(main, command, input="one that came").exit_code == 0
    assert "consumer secrets" not in verdicts(run)
    with closing(sqlite3.connect(data_dir / "bitmesh-proxy.db")) as connection, connection:
        connection.execute("UPDATE keys SET sealed_secret = x'00' WHERE consumer_key = 'ck_2'")
    verdict, detail = verdicts(run)["consumer secrets"]
    assert verdict == "warning"
    assert "of 2 imported secrets 1 cannot be opened" in detail


def test_a_file_that_is_no_database_is_a_fault(run: Run, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "bitmesh-proxy.db").write_bytes(b"not a database at all, but long enough to look like one" * 20)
    assert verdicts(run, status=1)["database"][0] == "fault"


def test_a_file_that_is_damaged_is_called_so(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme", "--credit", "1")
    path = data_dir / "bitmesh-proxy.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root_page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'accounts'").fetchone()[0]
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((root_page - 1) * page_bytes)
        file.write(b"x" * page_bytes)
    verdict, detail = verdicts(run, status=1)["database"]
    assert (verdict, "malformed" in detail) == ("fault", True), detail
    assert "malformed" in run("account", "list", status=1).stderr


def answered(
    run: Run, monkeypatch: pytest.MonkeyPatch, *, doctor_status: int = 0, **answer: Any
) -> dict[str, tuple[str, str]]:
    """What doctor finds when Together answers its probe like this."""
    monkeypatch.setenv("TOGETHER_API_KEY", "a-credential")
    with provider_answers() as answers:
        answers.get("https://api.together.ai/v1/models", **answer)
        found = json_of(run("doctor", "--json", status=doctor_status))
        (request,) = answers.requests[("GET", URL("https://api.together.ai/v1/models"))]
        assert request.kwargs["headers"] == {"Authorization": "Bearer a-credential"}
    return {each["check"]: (each["verdict"], each["detail"]) for each in found}


def test_a_provider_that_answers_is_fine_and_tells_the_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Date": format_datetime(datetime.now(UTC), usegmt=True)}
    found = answered(run, monkeypatch, payload={"data": []}, headers=headers)
    assert found["provider together"] == ("ok", "Together AI answers 200")
    assert found["clock"][0] == "ok"


def test_a_clock_that_is_off_is_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Date": format_datetime(datetime.now(UTC) - timedelta(minutes=5), usegmt=True)}
    verdict, detail = answered(run, monkeypatch, payload={}, headers=headers)["clock"]
    assert verdict == "warning"
    assert "against together" in detail


def test_a_provider_of_ones_own_is_called_by_its_title(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKSHOP", "a-credential")
    config = tmp_path / "x.toml"
    config.write_text(
        '[[providers]]\nname = "workshop"\nkind = "openai_compatible"\ntitle = "The machine in the workshop"\n'
        'base_urls = { default = "http://127.0.0.1:9/v1" }\ncredential = "env:WORKSHOP"\n'
    )
    found = json_of(run("doctor", "--offline", "--json", "--config", str(config)))
    details = {each["check"]: each["detail"] for each in found}
    assert details["providers"] == "not called: The machine in the workshop"


def test_a_model_that_is_over_matters_to_those_who_can_call_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("account", "create", "acme")
    run("key", "create")
    assert verdicts(run)["catalogue"][0] == "ok"
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    verdict, detail = verdicts(run)["catalogue"]
    assert verdict == "warning"
    assert detail.endswith("past their provider's end: openai/dall-e-3")


def test_a_credential_that_is_not_where_the_settings_say_is_a_warning(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text("[[providers]]\nname = 'openai'\ncredential = 'credential:opneai'\n")
    found = json_of(run("--config", str(config), "doctor", "--offline", "--json"))
    assert [(each["verdict"], each["detail"]) for each in found if each["check"] == "provider openai"] == [
        ("warning", "there is nothing at credential:opneai, where the settings say that its credential is")
    ]


def test_a_refused_credential_is_a_fault(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answered(run, monkeypatch, doctor_status=1, status=401, payload={"error": "no such key"})
    assert found["provider together"] == ("fault", "Together AI refuses the credential (401)")


def test_a_provider_that_cannot_be_reached_is_a_fault(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answered(run, monkeypatch, doctor_status=1, exception=aiohttp.ClientConnectionError("refused"))
    assert found["provider together"] == ("fault", "Together AI cannot be reached: ClientConnectionError")
