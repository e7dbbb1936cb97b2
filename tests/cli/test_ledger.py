"""``ledger prune``: what would go, what goes, and what must not."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bitmesh_proxy.settings import LEAST_LEDGER_KEEP_S
from tests.cli.conftest import Run, enter_request, json_of

DAY_S = 86_400.0


def day(days_ago: float) -> str:
    return datetime.fromtimestamp(time.time() - days_ago * DAY_S, UTC).strftime("%Y-%m-%d")


def fill(run: Run, data_dir: Path, days: Sequence[int], *, left_open: int | None = None) -> None:
    """Calls of so many days ago, in that order."""
    account_id = json_of(run("account", "create", "acme", "--credit", "1", "--json"))["id"]
    key_id = json_of(run("key", "create", "--json"))["id"]
    for each in days:
        enter_request(
            data_dir,
            account_id=account_id,
            key_id=key_id,
            request_id=f"req_{each}",
            started_at_s=time.time() - each * DAY_S,
            charge_nano_usd=None if each == left_open else 1000 + abs(each),
        )


@pytest.fixture
def filled(run: Run, data_dir: Path) -> Path:
    fill(run, data_dir, (500, 401, 100, 1))
    return data_dir


def requests(data_dir: Path) -> list[str]:
    with sqlite3.connect(data_dir / "bitmesh-proxy.db") as connection:
        found = [row[0] for row in connection.execute("SELECT id FROM requests ORDER BY number")]
    connection.close()
    return found


def books(run: Run) -> str:
    (verdict,) = [each["verdict"] for each in json_of(run("doctor", "--offline", "--json")) if each["check"] == "books"]
    return str(verdict)


def test_a_dry_run_changes_nothing(run: Run, filled: Path) -> None:
    assert run("ledger", "prune", "--dry-run").output == f"2 requests up to {day(401)} would be summed up by month.\n"
    assert len(requests(filled)) == 4


def test_old_calls_become_sums_and_totals_stay(run: Run, filled: Path) -> None:
    def totals() -> list[object]:
        reports = [
            json_of(run("usage", "--by", by, "--json")) for by in ("key", "model", "month", "outcome", "account")
        ]
        return [*reports, run("account", "list").output, run("account", "statement", "acme").output]

    before = totals()
    assert run("ledger", "prune").output == f"2 requests up to {day(401)} have been summed up by month.\n"
    assert requests(filled) == ["req_100", "req_1"]
    assert run("ledger", "prune").output == "0 requests have been summed up by month.\n"
    assert run("ledger", "prune", "--before", "70d").output.startswith("1 requests up to")
    assert requests(filled) == ["req_1"]
    assert totals() == before
    assert books(run) == "ok"


def test_what_is_still_counted_stays(run: Run, filled: Path) -> None:
    refused = run("ledger", "prune", "--before", "62d", status=1)
    assert "--before: rows of the last 63 days stay" in refused.output
    assert "--before" in run("ledger", "prune", "--before", "soon", status=2).output
    assert len(requests(filled)) == 4
    run("ledger", "prune", "--before", f"{LEAST_LEDGER_KEEP_S / DAY_S:.0f}d")
    assert requests(filled) == ["req_1"]


def test_who_keeps_all_rows_has_to_say_until_when(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITMESH_LEDGER__KEEP_S", "0")
    assert "keeps all rows" in run("ledger", "prune", status=1).output
    run("ledger", "prune", "--before", "450d")
    assert requests(filled) == ["req_401", "req_100", "req_1"]


def test_an_open_call_that_holds_up_others_is_named(run: Run, data_dir: Path) -> None:
    fill(run, data_dir, (450, 430, 420, 1), left_open=430)
    held_up = f"Request req_430 is open since {day(430)}: what came after it stays.\n"
    said = run("ledger", "prune", "--dry-run").output
    assert said == f"1 requests up to {day(450)} would be summed up by month.\n{held_up}"
    assert run("ledger", "prune").output.endswith(held_up)
    assert requests(data_dir) == ["req_430", "req_420", "req_1"]
    found = {each["check"]: each for each in json_of(run("doctor", "--offline", "--json"))}
    assert found["ledger"]["verdict"] == "warning"
    assert "req_430 is open for longer than ledger.keep_s and keeps all rows behind it" in found["ledger"]["detail"]


def finding(run: Run, check: str) -> tuple[str, str]:
    (found,) = [each for each in json_of(run("doctor", "--offline", "--json")) if each["check"] == check]
    return found["verdict"], found["detail"]


def test_a_call_that_began_later_than_those_behind_it_is_named(run: Run, data_dir: Path) -> None:
    fill(run, data_dir, (450, 120, 430, 420, 1))
    held_up = f"Request req_120 began on {day(120)}, later than what came after it (was the clock wrong?):"
    said = run("ledger", "prune", "--dry-run").output
    assert said == f"1 requests up to {day(450)} would be summed up by month.\n{held_up} that stays with it.\n"
    assert run("ledger", "prune").output.endswith(f"{held_up} that stays with it.\n")
    assert requests(data_dir) == ["req_120", "req_430", "req_420", "req_1"]
    verdict, detail = finding(run, "ledger")
    assert verdict == "warning"
    assert f"; req_120 began on {day(120)}, later than rows behind it that are older than ledger.keep_s" in detail
    assert f"and keeps them until {day(120 - 400)} (was the clock wrong?" in detail
    assert (
        run("ledger", "prune", "--before", "119d").output
        == f"3 requests up to {day(120)} have been summed up by month.\n"
    )
    assert finding(run, "ledger")[0] == "ok"


def test_a_call_of_the_future_goes_with_those_behind_it_and_is_named(run: Run, data_dir: Path) -> None:
    fill(run, data_dir, (450, -900, 430, -20, 1))
    assert run("ledger", "prune", "--dry-run").output == f"3 requests up to {day(430)} would be summed up by month.\n"
    assert run("ledger", "prune").output == f"3 requests up to {day(430)} have been summed up by month.\n"
    assert requests(data_dir) == ["req_-20", "req_1"]
    verdict, detail = finding(run, "ledger")
    assert verdict == "warning"
    assert f"; rows that say they began later than now: 1, the first is req_-20 on {day(-20)} (see that" in detail
    assert books(run) == "ok"


def test_an_open_call_of_the_future_that_holds_up_others_is_named(run: Run, data_dir: Path) -> None:
    fill(run, data_dir, (450, -20, 430, 1), left_open=-20)
    assert run("ledger", "prune").output.endswith(
        f"Request req_-20 is open since {day(-20)}: what came after it stays.\n"
    )
    assert requests(data_dir) == ["req_-20", "req_430", "req_1"]
    said = f"; req_-20 is open, says that it began on {day(-20)}, and keeps older rows behind it; "
    assert said in finding(run, "ledger")[1]


def test_the_file_becomes_smaller_on_demand(run: Run, filled: Path) -> None:
    with sqlite3.connect(filled / "bitmesh-proxy.db") as connection:
        connection.execute("CREATE TABLE ballast AS SELECT hex(randomblob(2000000)) AS text")
        connection.execute("DROP TABLE ballast")
    connection.close()
    found = re.search(r"took ([0-9.]+) MiB and takes ([0-9.]+) MiB", run("ledger", "prune", "--vacuum").output)
    assert found is not None
    assert float(found[1]) > 3.5
    assert float(found[2]) < 1
    assert books(run) == "ok"


def test_doctor_says_how_far_rows_go_back(run: Run, filled: Path) -> None:
    late = f"rows since {day(500)}; 2 rows are older than ledger.keep_s (a running service sums them up)"
    assert finding(run, "ledger") == ("warning", late)
    run("ledger", "prune")
    assert finding(run, "ledger") == ("ok", f"rows since {day(100)}, calls up to {day(401)} are summed up by month")


@pytest.mark.parametrize("days", [(-20, -900, 100, 1), (100, -900, 1)])
def test_doctor_says_how_far_rows_go_back_whatever_a_wrong_clock_left_first(
    run: Run, data_dir: Path, days: Sequence[int]
) -> None:
    fill(run, data_dir, days)
    verdict, detail = finding(run, "ledger")
    assert verdict == "warning"
    assert detail.startswith(f"rows since {day(100)}; rows that say they began later than now: ")


def test_doctor_says_when_all_rows_are_of_the_future(run: Run, data_dir: Path) -> None:
    run("account", "list")  # the database is made
    assert finding(run, "ledger") == ("ok", "no rows yet")
    fill(run, data_dir, (-20, -900))
    verdict, detail = finding(run, "ledger")
    assert verdict == "warning"
    said = "no row that says it began before now; rows that say they began later than now: 2, the first is req_-20 on"
    assert detail.startswith(f"{said} {day(-20)} (see that the clock is right")
