"""``account``: making, crediting, listing, and the faults people make."""

from __future__ import annotations

from pathlib import Path

from bitmesh_proxy.cli.account import MOST_LISTED
from bitmesh_proxy.cli.books import with_database
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from tests.cli.conftest import Run, json_of


def test_an_account_is_made_credited_and_listed(run: Run) -> None:
    made = json_of(run("account", "create", "acme", "--credit", "2.5", "--json"))
    assert made["name"] == "acme"
    assert made["balance_nano_usd"] == 2_500_000_000
    assert "balance 2.75 USD" in run("account", "credit", "acme", "0.25", "--note", "invoice 7").output
    listed = json_of(run("account", "list", "--json"))
    assert [(each["id"], each["balance_usd"], each["available_usd"]) for each in listed] == [
        (made["id"], "2.75", "2.75")
    ]
    table = run("account", "list").output.splitlines()
    assert table[0].split()[:3] == ["ID", "NAME", "BALANCE"]
    assert made["id"] in table[1]


def test_what_is_no_amount_is_refused_and_nothing_is_entered(run: Run) -> None:
    run("account", "create", "acme", "--credit", "1")
    assert "not a decimal amount" in run("account", "credit", "acme", "ten", status=2).output
    assert "finer than a nano-dollar" in run("account", "credit", "acme", "0.0000000001", status=2).output
    assert "a credit must be more than nothing" in run("account", "credit", "acme", "0", status=1).output
    assert json_of(run("account", "list", "--json"))[0]["balance_usd"] == "1"


def test_an_account_whose_first_payment_is_refused_is_not_made(run: Run) -> None:
    for amount in ("-5", "9000000000"):
        assert "a credit must be more" in run("account", "create", "acme", "--credit", amount, status=1).output
    assert json_of(run("account", "list", "--json")) == []


def test_an_account_needs_a_name(run: Run) -> None:
    for name in ("", " "):
        assert "an account needs a name" in run("account", "create", name, status=1).output
    assert json_of(run("account", "list", "--json")) == []


def test_a_name_has_its_bound(run: Run) -> None:
    run("account", "create", "ä" * 200)
    assert "201 characters, and a name has 200 at most" in run("account", "create", "x" * 201, status=2).output
    assert [each["name"] for each in json_of(run("account", "list", "--json"))] == ["ä" * 200]


def test_an_unknown_or_ambiguous_account_is_named(run: Run) -> None:
    assert "there is no account yet" in run("account", "credit", "acme", "1", status=1).output
    run("account", "create", "other")
    run("account", "create", "twin")
    run("account", "create", "twin")
    said = run("account", "credit", "twin", "1", status=1).output
    assert "names several accounts" in said
    assert said.count("(twin)") == 2
    assert "(other)" not in said
    said = run("account", "credit", "nobody", "1", status=1).output
    assert "no account has the id or name 'nobody'" in said
    assert said.count("(twin)") == 2
    assert "(other)" in said


def test_of_many_accounts_an_error_names_some(run: Run, data_dir: Path) -> None:
    async def create(database: Database) -> None:
        for number in range(MOST_LISTED + 3):
            await AccountStore(database).create(f"n{number}")

    with_database(load_settings(environ={}, overrides={"data": {"dir": str(data_dir)}}), create)
    said = run("account", "credit", "nobody", "1", status=1).output
    assert said.count("acct_") == MOST_LISTED
    assert said.endswith(", and 3 more: bitmesh-proxy account list\n")


def test_a_name_does_nothing_to_the_terminal(run: Run) -> None:
    name = "a\nb\x1b[31m"
    said = [
        run("account", "create", name).output,
        run("account", "disable", name).output,
        run("account", "enable", name).output,
        run("account", "credit", "other", "1", status=1).output,
    ]
    assert [(line.count("\n"), "\x1b" in line, "(a\\nb\\x1b[31m)" in line) for line in said] == [(1, False, True)] * 4


def test_what_is_no_text_is_refused_in_a_line(run: Run) -> None:
    assert run("account", "create", "\udcff", status=1).output == "bitmesh-proxy: not UTF-8: '\\udcff'\n"


def test_a_mistake_is_made_good_by_a_counter_entry(run: Run) -> None:
    account_id = json_of(run("account", "create", "acme", "--credit", "50", "--json"))["id"]
    said = run("account", "correct", "acme", "--by", "-45", "--note", "5 was meant").output
    assert said == f"Corrected {account_id} by -45 USD; balance 5 USD.\n"
    assert (
        "does not have that much free"
        in run("account", "correct", "acme", "--by", "-6", "--note", "x", status=1).output
    )
    for amount, note in (("0", "x"), ("1", " ")):
        said = run("account", "correct", "acme", "--by", amount, "--note", note, status=1).output
        assert "a correction needs an amount and a note" in said
    assert "Missing option '--note'" in run("account", "correct", "acme", "--by", "1", status=2).output
    assert json_of(run("account", "list", "--json"))[0]["balance_usd"] == "5"


def test_an_account_is_switched_off_and_on(run: Run) -> None:
    account_id = json_of(run("account", "create", "acme", "--json"))["id"]
    key_id = json_of(run("key", "create", "--json"))["id"]
    assert run("account", "disable", "acme").output == f"Account {account_id} (acme) is off.\n"
    assert json_of(run("key", "show", key_id, "--json"))["is_disabled"]
    assert " off " in run("account", "list").output
    assert run("account", "enable", account_id).output == f"Account {account_id} (acme) is on.\n"
    assert not json_of(run("key", "show", key_id, "--json"))["is_disabled"]
    assert " on " in run("account", "list").output


def test_a_statement_says_what_was_paid_and_what_is_left(run: Run) -> None:
    made = json_of(run("account", "create", "acme", "--credit", "50", "--json"))
    run("account", "create", "other", "--credit", "7")
    run("account", "correct", "acme", "--by", "-45", "--note", "5 was meant")
    said = json_of(run("account", "statement", "acme", "--json"))
    assert (said["id"], said["balance_usd"], said["used_usd"]) == (made["id"], "5", "0")
    assert [(each["kind"], each["amount_usd"], each["note"]) for each in said["payments"]] == [
        ("credit", "50", "opening credit"),
        ("correction", "-45", "5 was meant"),
    ]
    lines = [line.split() for line in run("account", "statement", made["id"]).output.splitlines()]
    assert lines[0] == ["WHEN", "WHAT", "USD", "NOTE"]
    assert [line[2:] for line in lines[1:3]] == [
        ["credit", "50", "opening", "credit"],
        ["correction", "-45", "5", "was", "meant"],
    ]
    assert lines[3:] == [["used", "0"], ["balance", "5"]]
    assert "no account has the id or name 'x'" in run("account", "statement", "x", status=1).output
