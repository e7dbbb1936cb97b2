"""The units are valid and stay hardened, and the program says what they count on: that it is ready, alive, stopping."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitmesh_proxy.settings import Settings
from tests.journeys.processes import PATIENCE_S, PATIENTLY

UNITS = Path(__file__).parent.parent / "systemd"
SERVICE = UNITS / "bitmesh-proxy.service"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def settings_of(unit: Path) -> dict[str, list[str]]:
    """Key → its values in order; sections play no part, since no key stands in two of them here."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@needs_systemd
def test_systemd_finds_no_fault_in_the_units() -> None:
    done = run("systemd-analyze", "verify", SERVICE, UNITS / "bitmesh-proxy.socket")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_service_is_exposed_to_little() -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", SERVICE)
    level = re.search(r"Overall exposure level for bitmesh-proxy.service: ([0-9.]+)", done.stdout)
    assert level is not None, done.stdout + done.stderr
    assert float(level[1]) <= 1.5, done.stdout


def test_streams_end_before_systemd_loses_patience() -> None:
    timeout_s = float(settings_of(SERVICE)["TimeoutStopSec"][0].removesuffix("s"))
    assert timeout_s > Settings().http.shutdown_timeout_s


def test_the_socket_is_where_the_settings_say() -> None:
    http = Settings().http
    assert settings_of(UNITS / "bitmesh-proxy.socket")["ListenStream"] == [f"{http.host}:{http.port}"]


#: What a service manager does between fork and exec: the socket becomes descriptor 3, the variables name the process.
EXEC_AS_SYSTEMD_DOES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), WATCHDOG_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "bitmesh_proxy", "serve"])
"""


@contextmanager
def started_by_a_manager(
    directory: Path, listener: socket.socket, *, workers: int, watchdog_us: int
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, started as by the units, and ended whatever happens."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(UNITS.parent),
        "STATE_DIRECTORY": str(directory / "state"),
        "CACHE_DIRECTORY": str(directory / "cache"),
        "NOTIFY_SOCKET": str(directory / "notify"),
        "WATCHDOG_USEC": str(watchdog_us),
        "BITMESH_HTTP__WORKERS": str(workers),
    }
    for name in ("state", "cache"):
        (directory / name).mkdir()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", EXEC_AS_SYSTEMD_DOES, str(listener.fileno())],
            cwd=directory,
            env=environ,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(manager: socket.socket, word: bytes) -> list[bytes]:
    """Every line that the manager was told up to ``word``; fails by its socket's timeout."""
    told: list[bytes] = []
    while word not in told:
        told += manager.recv(4096).split(b"\n")
    return told


@pytest.mark.journey
@PATIENTLY
@pytest.mark.parametrize(("workers", "watchdog_us"), [(1, 200_000), (2, 3_000_000)])
def test_started_by_a_manager_it_says_when_it_is_ready_alive_and_stopping(
    tmp_path: Path, workers: int, watchdog_us: int
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        with started_by_a_manager(tmp_path, listener, workers=workers, watchdog_us=watchdog_us) as process:
            assert b"WATCHDOG=1" not in wait_for(manager, b"READY=1")
            wait_for(manager, b"WATCHDOG=1")
            wait_for(manager, b"WATCHDOG=1")
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/ready"
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                assert json.load(answer)["status"] == "ready"
            process.send_signal(signal.SIGTERM)
            wait_for(manager, b"STOPPING=1")
            assert process.wait(timeout=PATIENCE_S) == 0, (tmp_path / "log").read_text()
    assert list((tmp_path / "state").glob("*.db"))
