"""``serve``: what it says when it cannot, and how it ends. What it serves, the journeys show."""

from __future__ import annotations

import asyncio
import os
import pty
import resource
import signal
import socket
import sqlite3
from pathlib import Path

import aiohttp
import pytest

from bitmesh_proxy.cli.process import MANY_FILES
from tests.first_start import make_older_database
from tests.journeys.processes import PATIENTLY, run, serving

pytestmark = [pytest.mark.journey, PATIENTLY]


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["--port", "70000"], 2, "--port"),
        (["--config", "nowhere.toml"], 2, "nowhere.toml"),
        (["--host", "192.0.2.1", "--port", "0"], 1, "192.0.2.1"),
        (["--host", "a..b", "--port", "0"], 1, "cannot listen on a..b:0"),
        (["--host", "a..b", "--port", "0", "--workers", "2"], 1, "cannot listen on a..b:0"),
        (["--help"], 0, "SIGTERM"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(tmp_path: Path, arguments: list[str], status: int, word: str) -> None:
    done = run(tmp_path / "data", "serve", *arguments)
    assert done.returncode == status, done.stderr
    assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_directory_that_cannot_be_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "data", "serve", "--port", "0")
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", ["media", "bitmesh-proxy.db.instances"])
def test_a_directory_in_it_that_cannot_be_is_named(tmp_path: Path, name: str, workers: str) -> None:
    (tmp_path / name).write_text("")
    done = run(tmp_path, "serve", "--port", "0", "--workers", workers)
    assert done.returncode == 78, done.stderr
    assert f"{tmp_path / name}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot listen" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_database_that_somebody_has_locked_is_worth_another_try(tmp_path: Path, workers: str) -> None:
    """systemd starts us again, unless the status says that somebody has to mend the configuration."""
    assert run(tmp_path, "account", "create", "acme").returncode == 0
    intruder = sqlite3.connect(tmp_path / "bitmesh-proxy.db", isolation_level=None)
    try:
        intruder.execute("BEGIN IMMEDIATE")
        env = {"BITMESH_DATA__BUSY_TIMEOUT_S": "0.1"}
        done = run(tmp_path, "serve", "--port", "0", "--workers", workers, env=env)
    finally:
        intruder.close()
    assert done.returncode == 1, done.stderr
    assert f"{tmp_path / 'bitmesh-proxy.db'}: The books cannot be written at the moment." in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("Traceback")]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_of_the_sandbox_is_not_taken_for_our_own(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        env = {"BITMESH_SANDBOX__PORT": str(port)}
        done = run(tmp_path, "serve", "--port", "0", "--workers", workers, env=env)
    assert done.returncode == 78, done.stderr
    assert f"sandbox.port: cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_sandbox_cannot_be_where_callers_come(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    env = {"BITMESH_SANDBOX__PORT": port}
    done = run(tmp_path, "serve", "--port", port, "--workers", workers, env=env)
    assert done.returncode == 78, done.stderr
    assert f"sandbox.port: must not be http.port ({port})" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_start_that_brings_the_database_up_to_date_asks_for_time(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    await asyncio.to_thread(make_older_database, tmp_path / "data" / "bitmesh-proxy.db")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        async with serving(tmp_path / "data", env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as served:
            await served.until_it_says("is brought up to date: from schema")
            assert manager.recv(100) == b"EXTEND_TIMEOUT_USEC=60000000"
            assert manager.recv(100) == b"READY=1"


async def test_without_sandbox_and_accounts_it_says_what_to_do_next(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", arguments=["--no-sandbox"]) as served:
        assert "account create" in served.text()
        assert "bearer token" not in served.text()
        served.process.send_signal(signal.SIGINT)
        assert await served.ended() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_variable_that_sets_nothing_is_named_once(tmp_path: Path, workers: str) -> None:
    env = {"BITMESH_HTTP_WORKERS": "3"}
    async with serving(tmp_path / "data", arguments=["--workers", workers], env=env) as served:
        served.process.send_signal(signal.SIGTERM)
        assert await served.ended() == 0
        assert served.text().count("BITMESH_HTTP_WORKERS in the environment is not a setting") == 1
        assert served.text().count("BITMESH_HTTP__WORKERS") == 1


async def test_a_credential_that_is_not_where_the_settings_say_is_named_and_nobody_is_played(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text("[[providers]]\nname = 'openai'\ncredential = 'credential:opneai'\n")
    async with serving(tmp_path / "data", arguments=["--config", str(config)]) as served:
        assert "provider openai: there is nothing at credential:opneai" in served.text()
        assert "(live)" in served.text()


async def test_it_takes_as_many_files_as_it_may_have(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        async with serving(tmp_path / "data") as served:
            assert resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE) == (min(hard, MANY_FILES), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_the_second_start_makes_no_second_account(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as served:
        assert "bearer token" in served.text()
        served.process.send_signal(signal.SIGTERM)
        assert await served.ended() == 0
    async with serving(tmp_path / "data", name="again.log") as served:
        assert "bearer token" not in served.text()
        assert "key create" in served.text()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_wish_to_read_settings_anew_is_answered_and_does_not_end_it(tmp_path: Path, workers: str) -> None:
    async with serving(tmp_path / "data", arguments=["--workers", workers]) as served:
        served.process.send_signal(signal.SIGHUP)
        async with aiohttp.ClientSession() as http, http.get(served.url + "/health") as answer:
            assert answer.status == 200
        served.process.send_signal(signal.SIGTERM)
        assert await served.ended() == 0
        assert served.text().count("SIGHUP changes nothing") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_it_ends_in_order_when_its_terminal_is_closed(tmp_path: Path, workers: str) -> None:
    ours, its = pty.openpty()
    async with serving(tmp_path / "data", arguments=["--workers", workers], terminal=its) as served:
        os.close(its)
        os.close(ours)
        assert await served.ended() == 0
        assert "draining" in served.text()
