"""Tables are aligned; nothing is cut."""

from __future__ import annotations

import pytest

from bitmesh_proxy.cli.tables import print_json, print_table, shown


def test_columns_are_as_wide_as_their_content(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME", "USD"], [("a", 1), ("longer", 12.5), (None, "")], right=["USD"])
    assert capsys.readouterr().out == "NAME     USD\na          1\nlonger  12.5\n\n"


def test_what_a_terminal_would_act_on_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME", "ÄGE"], [("a\nb\x1b[2J", "é → \\"), ("\t", 1)])
    assert capsys.readouterr().out == "NAME         ÄGE\na\\nb\\x1b[2J  é → \\\n\\t           1\n"


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, "é"]})
    assert capsys.readouterr().out == '{\n  "a": [\n    1,\n    "é"\n  ]\n}\n'


def test_a_text_is_shown_as_it_is_unless_a_terminal_would_act_on_it() -> None:
    assert shown("Zoë 😀") == "Zoë 😀"
    assert shown("a\x1b[31m\udcff") == "a\\x1b[31m\\udcff"
