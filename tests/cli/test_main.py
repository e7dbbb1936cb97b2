"""Every command is there, explains itself, and loads nothing it does not need."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import orjson
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


def test_output_that_nobody_can_take_ends_with_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bitmesh_proxy", "--data-dir", str(tmp_path), "account", "list", "--json"]
    subprocess.run(command, capture_output=True, check=True)  # the database is made
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "bitmesh-proxy: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_whose_standard_streams_are_closed_serves_all_the_same(tmp_path: Path, workers: str) -> None:
    """And no socket or file of ours gets into their places."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        options = ["--data-dir", str(tmp_path / "data"), "serve", "--port", "0", "--workers", workers]
        process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "bitmesh_proxy", *options],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            assert manager.recv(4096).startswith(b"READY=1")
        finally:
            process.terminate()
            assert process.wait(30) == 0


def test_whose_output_nobody_can_take_serves_all_the_same(tmp_path: Path) -> None:
    options = ["--data-dir", str(tmp_path), "serve", "--port", "0", "--workers", "2"]
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "bitmesh_proxy", *options], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.stderr is not None
    try:
        assert "standard output takes nothing: No space left on device" in process.stderr.readline()
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    assert "Traceback" not in said


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_name_that_the_terminal_cannot_show_is_shown_as_its_escape(tmp_path: Path, encoding: str) -> None:
    def run(*arguments: str) -> bytes:
        command = [sys.executable, "-m", "bitmesh_proxy", "--data-dir", str(tmp_path), *arguments]
        env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        done = subprocess.run(command, capture_output=True, env=env, check=True)
        assert done.stderr == b""
        return done.stdout

    run("account", "create", "Zoë 名")
    listed = run("account", "list")
    assert (b"Zo\xeb \\u540d" if encoding == "latin-1" else "Zoë 名".encode()) in listed
    assert orjson.loads(run("account", "list", "--json"))[0]["name"] == "Zoë 名"


def test_a_user_without_a_home_is_asked_for_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(path: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("STATE_DIRECTORY", "XDG_DATA_HOME", "BITMESH_CONFIG", "BITMESH_DATA__DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", classmethod(nowhere))
    for command in (["key", "list"], ["doctor", "--offline"]):
        result = CliRunner().invoke(main, command)
        assert (result.exit_code, result.exception.__class__) == (78, SystemExit)
        assert "--data-dir" in result.output


def test_a_credential_that_cannot_be_read_ends_with_a_line(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text(f"[[providers]]\nname = 'openai'\ncredential = 'file:{tmp_path}/nowhere'\n")
    result = CliRunner().invoke(main, ["--config", str(config), "model", "show", "dall-e-3"])
    assert (result.exit_code, result.exception.__class__) == (78, SystemExit)
    assert "nowhere" in result.output


def test_a_look_at_keys_loads_no_server_and_no_sandbox() -> None:
    code = "import sys, bitmesh_proxy.cli.key; print(any(name in sys.modules for name in ('PIL', 'aiohttp.web')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
