"""Every command is there, explains itself, and loads nothing it does not need."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from bitmesh_proxy.cli.main import COMMANDS, main
from bitmesh_proxy.cli.options import common_options


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize("group", [[], ["account"], ["key"], ["ledger"], ["model"]])
def test_a_list_of_commands_cuts_no_sentence(group: list[str]) -> None:
    listed = CliRunner().invoke(main, [*group, "--help"]).output.partition("Commands:")[2].splitlines()[1:]
    assert listed
    assert [line for line in listed if not line.endswith(".") or line.endswith("..")] == []


def test_options_say_the_same_before_and_behind_the_commands_name() -> None:
    behind = click.command()(common_options(lambda: None))
    said = {each.name: each.help for each in main.params if isinstance(each, click.Option)}
    assert {each.name: each.help for each in behind.params if isinstance(each, click.Option)}.items() <= said.items()


def test_an_unknown_command_is_refused_by_name() -> None:
    result = CliRunner().invoke(main, ["sevre"])
    assert result.exit_code == 2
    assert "sevre" in result.output


def test_a_look_at_keys_loads_no_server_and_no_sandbox() -> None:
    code = "import sys, bitmesh_proxy.cli.key; print(any(name in sys.modules for name in ('PIL', 'aiohttp.web')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
