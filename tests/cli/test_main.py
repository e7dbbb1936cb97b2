"""Every command is there, explains itself, and loads nothing it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from bitmesh_proxy.cli.main import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_an_unknown_command_is_refused_by_name() -> None:
    result = CliRunner().invoke(main, ["sevre"])
    assert result.exit_code == 2
    assert "sevre" in result.output


def test_a_look_at_keys_loads_no_server_and_no_sandbox() -> None:
    code = "import sys, bitmesh_proxy.cli.key; print(any(name in sys.modules for name in ('PIL', 'aiohttp.web')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
