"""A worker by itself, with the pipes of a supervisor: it says when it serves, and ends with its orders."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from bitmesh_proxy.cli.children import BEAT, READY, WELCOME
from bitmesh_proxy.cli.worker_process import cores_of
from bitmesh_proxy.storage.database import DATABASE_NAME
from tests.first_start import make_older_database
from tests.journeys.processes import PATIENCE_S, PATIENTLY, environment

pytestmark = [pytest.mark.journey, PATIENTLY]

ROOT = Path(__file__).parent.parent.parent

#: As ``workers.py`` puts one together.
SCRIPT = """
import os, sys
from pathlib import Path
from bitmesh_proxy.startup import offered_by
from bitmesh_proxy.cli.process import reserve
from bitmesh_proxy.cli.children import Lines
from bitmesh_proxy.cli.worker_process import Callers, run_sandbox, run_worker
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.worker import Doors, Memories, Worker

settings = load_settings(overrides={"data": {"dir": sys.argv[1]}})
lines = Lines(orders=int(sys.argv[2]), reports=int(sys.argv[3]), beat_interval_s=0.05, is_replacement=False)
callers = Callers([], reserve("127.0.0.1", 0))
print(callers.url, flush=True)
if sys.argv[4] == "sandbox":
    (own,) = reserve("127.0.0.1", 0)
    sys.exit(run_sandbox(settings, own, callers, lines))
worker = Worker(
    seat=0, seats=1, memories=Memories.create(1), doors=Doors.open(1),
    catalogue=offered_by(settings, os.environ), sandbox_url="http://127.0.0.1:9"
)
sys.exit(run_worker(settings, worker, callers, lines))
"""


@pytest.mark.parametrize("kind", ["worker", "worker of an older database", "sandbox"])
def test_it_says_that_it_serves_and_ends_when_nobody_gives_orders(tmp_path: Path, kind: str) -> None:
    if kind == "worker of an older database":
        make_older_database(tmp_path / DATABASE_NAME)
    orders, order = os.pipe()
    report, reports = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(orders), str(reports), kind],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[orders, reports],
    )
    for descriptor in (orders, reports):
        os.close(descriptor)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if kind == "worker of an older database":
            assert os.read(report, 1) == BEAT
        assert os.read(report, 1) == READY
        assert os.read(report, 1) == BEAT
        if kind != "sandbox":
            os.write(order, WELCOME)
            assert process.stdout.readline().startswith(f"bitmesh-proxy listens on {url} (sandbox")
            with urllib.request.urlopen(url + "/ready", timeout=PATIENCE_S) as answer:
                assert answer.status == 200
        else:
            with pytest.raises(OSError, match="refused"):
                urllib.request.urlopen(url, timeout=5)
        os.close(order)
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        os.close(report)


@pytest.mark.parametrize(
    ("seats", "cores", "places"),
    [
        (2, {0, 1}, [{0}, {1}]),
        (2, {3, 5}, [{3}, {5}]),
        (3, {0, 1}, [{0}, {1}, {0}]),
        (2, {7}, [{7}, {7}]),
        (2, {0, 1, 2}, [{0, 1, 2}, {0, 1, 2}]),
    ],
)
def test_each_has_a_core_where_none_is_over(seats: int, cores: set[int], places: list[set[int]]) -> None:
    assert [cores_of(seat, seats=seats, cores=cores) for seat in range(seats)] == places
