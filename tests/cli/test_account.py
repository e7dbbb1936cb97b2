"""``account``: making, crediting, listing, and the faults people make."""

from __future__ import annotations

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


def test_an_unknown_or_ambiguous_account_is_named(run: Run) -> None:
    assert "there is no account yet" in run("account", "credit", "acme", "1", status=1).output
    run("account", "create", "twin")
    run("account", "create", "twin")
    assert "names several accounts" in run("account", "credit", "twin", "1", status=1).output
    assert "no account has the id or name 'other'" in run("account", "credit", "other", "1", status=1).output
