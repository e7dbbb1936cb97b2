"""``serve --workers``: what it says when it cannot. What it serves, the journeys show."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitmesh_proxy.cli.workers import check
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.startup import StartError
from tests.journeys.processes import PATIENTLY, ROOT, run, serving

pytestmark = [pytest.mark.journey, PATIENTLY]

TWO = ("--workers", "2", "--port", "0")


def test_what_cannot_be_divided_is_a_fault_of_the_configuration() -> None:
    tree: dict[str, Any] = {"http": {"workers": 3}, "providers": [{"name": "openai", "max_concurrent": 2}]}
    with pytest.raises(StartError, match="max_concurrent"):
        check(load_settings(environ={}, overrides=tree))
    check(load_settings(environ={}, overrides={**tree, "http": {"workers": 2}}))


def test_a_data_directory_that_cannot_be_is_said_once_and_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "data", "serve", *TWO)
    assert done.returncode == 78, done.stderr
    assert done.stderr.count("bitmesh-proxy: ") == 1
    assert "Traceback" not in done.stderr


def test_a_broken_catalogue_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("[[model]]\n")
    done = run(tmp_path / "data", "serve", *TWO, env={"BITMESH_CATALOGUE__DIR": str(tmp_path)})
    assert done.returncode == 78, done.stderr
    assert "broken.toml" in done.stderr


def test_a_port_that_cannot_be_is_said_in_a_line(tmp_path: Path) -> None:
    done = run(tmp_path / "data", "serve", "--workers", "2", "--host", "192.0.2.1", "--port", "0")
    assert done.returncode == 1, done.stderr
    assert "cannot listen on 192.0.2.1" in done.stderr
    assert "Traceback" not in done.stderr


async def test_it_introduces_itself_once(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", arguments=["--workers", "3"]) as served:
        assert served.text().count("listens on") == 1
        assert served.text().count("bearer token") == 1
        served.process.send_signal(signal.SIGTERM)
        assert await served.ended() == 0
        assert "Traceback" not in served.text()


def test_one_process_loads_nothing_of_what_several_need() -> None:
    script = (
        "import sys\n"
        "import bitmesh_proxy.cli.serve\n"
        "print([name for name in sys.modules if name.startswith('bitmesh_proxy.') and any(\n"
        "    word in name for word in ('shared', 'worker', 'supervisor', 'children', 'elsewhere'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
