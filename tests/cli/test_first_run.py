"""The first start's words: an account and a key once, secrets never in a journal, examples that are commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.app import make_app, make_runner
from bitmesh_proxy.cli.first_run import chat_example, command_line, image_example, video_example, welcome
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.storage.accounts import AccountStore

ADDRESS = "http://127.0.0.1:3000"


async def started(tmp_path: Path, *, environ: dict[str, str] | None = None, mode: str = "on") -> web.AppRunner:
    overrides = {"data": {"dir": str(tmp_path)}, "sandbox": {"mode": mode}}
    runner = make_runner(make_app(load_settings(environ={}, overrides=overrides), environ=environ or {}))
    await runner.setup()
    return runner


async def test_the_first_start_makes_a_key_and_the_second_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = await started(tmp_path)
    try:
        assert isinstance(runner.app, web.Application)
        await welcome(runner.app, ADDRESS)
        first = capsys.readouterr().out
        await welcome(runner.app, ADDRESS)
        second = capsys.readouterr().out
        (account,) = await AccountStore(runner.app[keys.DATABASE]).list()
    finally:
        await runner.cleanup()
    assert "bearer token     bm_" in first
    assert account.balance_nano_usd == 10_000_000_000
    assert "bm_" not in second
    assert f"--data-dir {shlex.quote(str(tmp_path))} key create" in second


@pytest.mark.parametrize(("environ", "mode"), [({"JOURNAL_STREAM": "8:1"}, "on"), ({}, "off")])
async def test_no_secret_is_made_for_a_journal_or_without_the_sandbox(
    environ: dict[str, str], mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = await started(tmp_path, environ=environ, mode=mode)
    try:
        assert isinstance(runner.app, web.Application)
        await welcome(runner.app, ADDRESS)
        assert await AccountStore(runner.app[keys.DATABASE]).list() == ()
    finally:
        await runner.cleanup()
    assert "bm_" not in capsys.readouterr().out


@pytest.fixture
def full() -> Iterator[TextIO]:
    """An output that takes nothing."""
    with open("/dev/full", "w") as output:
        yield output


async def test_no_secret_is_made_that_nobody_could_see(
    tmp_path: Path, full: TextIO, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = await started(tmp_path)
    try:
        assert isinstance(runner.app, web.Application)
        monkeypatch.setattr("sys.stdout", full)
        await welcome(runner.app, ADDRESS)
        assert await AccountStore(runner.app[keys.DATABASE]).list() == ()
    finally:
        await runner.cleanup()
    assert "standard output takes nothing: No space left on device" in caplog.text


def test_commands_are_those_of_the_program_that_runs_on_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a clone").mkdir()
    program = tmp_path / "a clone" / "bitmesh-proxy"
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    begun = shlex.split(command_line("a clone/bitmesh-proxy", Path(".data")))
    assert begun == [str(program), "--data-dir", str(tmp_path / ".data")]
    assert shlex.split(command_line("/lib/bitmesh_proxy/__main__.py", tmp_path))[0] == "bitmesh-proxy"
    monkeypatch.setenv("PATH", str(program.parent))
    assert shlex.split(command_line(str(program), tmp_path)) == ["bitmesh-proxy", "--data-dir", str(tmp_path)]


@pytest.mark.parametrize("example", [chat_example, image_example])
def test_examples_are_commands_that_a_shell_reads(example: object) -> None:
    assert callable(example)
    words = shlex.split(example(ADDRESS, "bm_token").replace("\\\n", " "))
    assert words[0] == "curl"
    assert "Authorization: Bearer bm_token" in words


def test_the_clip_is_handed_in_and_asked_for() -> None:
    text = video_example(ADDRESS, "bm_token")
    assert text.startswith("ID=$(curl")
    assert f"{ADDRESS}/video/$ID" in text
