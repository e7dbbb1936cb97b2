"""Looking after processes: who is replaced, who is killed, and that nobody is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.journeys.processes import PATIENTLY

pytestmark = PATIENTLY

ROOT = Path(__file__).parent.parent.parent

#: Children that say their name and number and do nothing until they are told to end. Those that are named in the
#: arguments end at their start.
SCRIPT = """
import logging, os, select, signal, sys, time
from functools import partial
from bitmesh_proxy import service_manager
from bitmesh_proxy.cli.children import BEAT, READY, WELCOME, Child
from bitmesh_proxy.cli.supervisor import Supervisor

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # a line at a time, whoever else speaks

def run(name, lines):
    if name in sys.argv:
        return 78
    told = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append("stop"))
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    say(name, os.getpid(), "again" if lines.is_replacement else "first")
    if name == os.environ.get("SLOW"):
        os.write(lines.reports, BEAT)
        open(os.environ["GATE"]).close()
    os.write(lines.reports, READY)
    while not told:
        ready, _, _ = select.select([lines.orders, woken], [], [], lines.beat_interval_s)
        if lines.orders in ready:
            order = os.read(lines.orders, 1)
            say(name, "is told to welcome" if order == WELCOME else "is alone")
            if order != WELCOME:
                break
        os.write(lines.reports, BEAT) if not ready else None
    say(name, "ends")
    return 0

leaps_s = []  # the clock goes on while this process does not
signal.signal(signal.SIGUSR1, lambda number, frame: leaps_s.append(3600.0))
logging.basicConfig(stream=sys.stdout, format="log %(message)s", level="INFO")
interval_s = service_manager.watchdog_interval_s()
def child(name, seat=None):
    return Child(name=name, run=partial(run, name), seat=seat, beat_interval_s=interval_s and interval_s / 2)
def note_death(child):
    say("dead", child.name)
    if "PAUSED_AT_FIRST_DEATH" in os.environ and not leaps_s:
        leaps_s.append(3600.0)
supervisor = Supervisor(
    [child("sandbox")],
    [child("one", 0), child("two", 1)],
    sockets=[],
    on_death=note_death,
    watchdog_interval_s=interval_s,
    stop_patience_s=float(os.environ.get("STOP_PATIENCE_S", 60)),
    clock=lambda: time.monotonic() + sum(leaps_s),
)
sys.exit(supervisor.run())
"""


class Running:
    """A supervisor and what it and its children have said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    def until(self, word: str) -> str:
        """Read lines up to one that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if line.startswith(word):
                return self.said[-1]
        raise AssertionError(f"never said {word!r}: {self.said}")

    def rest(self) -> list[str]:
        """All that is said up to the end of the last process."""
        assert self.process.stdout is not None
        return [line.rstrip() for line in self.process.stdout]


@contextmanager
def supervised(*failing: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *failing],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        process.communicate()


def pid_in(line: str) -> int:
    return int(line.split()[1])


def test_one_after_the_other_and_back() -> None:
    with supervised() as running:
        running.until("one is told to welcome")
        assert [line.split()[0] for line in running.said[:3]] == ["sandbox", "one", "two"]
        running.process.send_signal(signal.SIGTERM)
        rest = running.rest()
        assert running.process.wait() == 0
        assert rest[0].startswith("log draining")
        ends = [line for line in rest if line.endswith("ends")]
        assert ends[-1] == "sandbox ends", "running answers may need it"
        assert sorted(ends) == ["one ends", "sandbox ends", "two ends"]


def test_one_that_dies_is_replaced_and_nobody_else() -> None:
    with supervised() as running:
        victim = pid_in(running.until("one"))
        running.until("one is told to welcome")
        os.kill(victim, signal.SIGKILL)
        running.until("dead one")
        assert "killed by SIGKILL; another one comes in 0.1 s" in running.until("log one")
        again = running.until("one")
        assert again.endswith("again")
        assert pid_in(again) != victim
        running.process.send_signal(signal.SIGINT)
        assert [line for line in running.rest() if "first" in line or "again" in line or "welcome" in line] == []
        assert running.process.wait() == 0


@pytest.mark.parametrize(("failing", "before"), [("one", ["sandbox"]), ("two", ["sandbox", "one"])])
def test_a_start_that_fails_is_the_end_of_all(failing: str, before: list[str]) -> None:
    with supervised(failing) as running:
        said = running.rest()
        assert running.process.wait() == 78
        assert [line.split()[0] for line in said if line.endswith("first")] == before
        assert f"log {failing} did not start: exit status 78" in said
        assert [line.split()[0] for line in said if line.endswith("ends")] == before[::-1]


def test_one_that_stands_still_does_not_hold_up_the_end_for_ever() -> None:
    with supervised(env={"STOP_PATIENCE_S": "0.3"}) as running:
        victim = pid_in(running.until("one"))
        running.until("one is told to welcome")
        os.kill(victim, signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        rest = running.rest()
        assert rest.count("log one has not come to its end for 0.3 s and is killed") == 1
        assert "dead one" in rest
        assert "two ends" in rest
        assert rest[-1] == "dead sandbox"
        assert running.process.wait() == 1


def test_children_end_when_the_supervisor_is_killed() -> None:
    with supervised() as running:
        running.until("one is told to welcome")
        running.process.kill()
        # The pipe's end comes when the last of them has ended.
        assert sorted(line for line in running.rest() if "alone" in line) == [
            "one is alone", "sandbox is alone", "two is alone"
        ]  # fmt: skip


def test_one_that_stands_still_is_killed_and_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        with supervised(env=env) as running:
            stopped = pid_in(running.until("two"))
            assert manager.recv(100) == b"READY=1\nSTATUS=2 workers"
            assert manager.recv(100) == b"WATCHDOG=1"
            time.sleep(0.1)
            os.kill(stopped, signal.SIGSTOP)
            assert "two has stood still for 1.0 s" in running.until("log")
            assert running.until("two").endswith("again")
            running.process.send_signal(signal.SIGTERM)
            running.rest()
            assert running.process.wait() == 0
        manager.settimeout(0)
        told = [b"WATCHDOG=1"]
        while told[-1] == b"WATCHDOG=1":
            told.append(manager.recv(100))
        assert told[-1] == b"STOPPING=1"


def test_who_was_paused_with_all_its_children_takes_none_for_dead(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"}
        with supervised(env=env) as running:
            running.until("one is told to welcome")
            assert manager.recv(100) == b"READY=1\nSTATUS=2 workers"
            running.process.send_signal(signal.SIGUSR1)
            assert manager.recv(100) == b"WATCHDOG=1"
            running.process.send_signal(signal.SIGTERM)
            assert [line for line in running.rest() if "stood still" in line or line.endswith("again")] == []
            assert running.process.wait() == 0


def test_a_pause_within_a_turn_is_a_pause_too(tmp_path: Path) -> None:
    with supervised(env={"WATCHDOG_USEC": "60000000", "PAUSED_AT_FIRST_DEATH": "1"}) as running:
        victim = pid_in(running.until("one"))
        running.until("one is told to welcome")
        os.kill(victim, signal.SIGKILL)
        running.until("dead one")
        assert running.until("one").endswith("again")
        running.process.send_signal(signal.SIGTERM)
        assert [line for line in running.said + running.rest() if "stood still" in line] == []
        assert running.process.wait() == 0


def test_for_one_whose_start_goes_on_more_time_is_asked(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "SLOW": "one", "GATE": str(tmp_path / "gate")}
        with supervised(env=env) as running:
            assert manager.recv(100) == b"EXTEND_TIMEOUT_USEC=60000000"
            (tmp_path / "gate").write_text("")
            assert manager.recv(100) == b"READY=1\nSTATUS=2 workers"
            running.process.send_signal(signal.SIGTERM)
            running.rest()
            assert running.process.wait() == 0
