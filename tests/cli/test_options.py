"""Where settings come from, and how a wrong one ends the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from bitmesh_proxy.cli.main import main
from bitmesh_proxy.cli.options import OrWord, fail, given
from tests.cli.conftest import Run, json_of


def test_a_wrong_key_ends_with_78_and_names_it(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text("[http]\nprot = 1\n")
    for arguments in (["--config", str(config), "account", "list"], ["account", "list", "--config", str(config)]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 78
        assert "prot" in result.output
        assert str(config) in result.output


def test_the_data_directory_may_stand_on_either_side(run: Run, tmp_path: Path) -> None:
    run("account", "create", "here")
    other = str(tmp_path / "other")
    run("account", "create", "there", "--data-dir", other)
    assert [each["name"] for each in json_of(run("account", "list", "--json"))] == ["here"]
    assert [each["name"] for each in json_of(run("account", "list", "--json", "--data-dir", other))] == ["there"]


def test_the_environment_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITMESH_HTTP__PORT", "many")
    assert "BITMESH_HTTP__PORT" in run("account", "list", status=78).output


@pytest.mark.parametrize("command", [["account", "list", "--json"], ["key", "list", "--json"], ["usage", "--json"]])
def test_a_variable_that_sets_nothing_is_named_beside_the_output(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    run("account", "list")  # the database is made
    assert run(*command).stderr == ""
    monkeypatch.setenv("BITMESH_HTTP_PORT", "3001")
    result = run(*command)
    assert json_of(result) == []
    assert result.stderr == (
        "bitmesh-proxy: warning: BITMESH_HTTP_PORT in the environment is not a setting, and changes nothing: is"
        " BITMESH_HTTP__PORT meant?\n"
    )


def test_a_word_stands_for_nothing_and_anything_else_is_the_types() -> None:
    either = OrWord(click.IntRange(0), "default")
    assert (either.convert("default", None, None), either.convert("7", None, None)) == (None, 7)
    for text in ("none", "-1"):
        with pytest.raises(click.UsageError):
            either.convert(text, None, None)


def test_what_was_not_said_is_not_given() -> None:
    @click.command()
    @click.option("--one", type=OrWord(click.INT))
    @click.option("--many", multiple=True)
    @click.option("--other", default="x")
    @click.pass_context
    def command(ctx: click.Context, /, **options: Any) -> None:
        click.echo(repr(given(ctx, options)))

    for arguments, said in (([], {}), (["--one", "none"], {"one": None}), (["--other", "x"], {"other": "x"})):
        assert CliRunner().invoke(command, arguments).output == f"{said!r}\n"
    assert "[INTEGER|none]" in CliRunner().invoke(command, ["--help"]).output


def test_a_message_is_one_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail("one\ntwo\x1b[2J")
    assert capsys.readouterr().err == "bitmesh-proxy: one\ntwo\\x1b[2J\n"
