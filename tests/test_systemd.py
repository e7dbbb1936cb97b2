"""The units are valid and stay hardened. The judge is systemd's own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bitmesh_proxy.settings import Settings

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
