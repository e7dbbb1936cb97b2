"""Places for processes: how long until the next one comes, and that a child holds nobody else's pipe.

In processes of their own, because forking is for processes without threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent

#: A clock that is moved by hand, and children that end at once, or when they are told to.
BEGIN = """
import json, os, signal, sys, time
from bitmesh_proxy.cli.children import READY, Child

def wait_for_end(child, now_s):
    while not child.has_ended(now_s):
        time.sleep(0.005)
    child.close()

def wait_until_ready(child, now_s):
    while not child.is_ready:
        time.sleep(0.005)
        child.listen(now_s)
"""

FAILING = """
child = Child(name="c", run=lambda lines: 3)
pauses, now_s = [], 1000.0
for _ in range(12):
    child.start(now_s, siblings=[], closed=[])
    wait_for_end(child, now_s)
    pauses.append(round(child.due_s - now_s, 3))
print(json.dumps([child.how, child.starts, pauses]))
"""

PROVEN = """
def run(lines):
    os.write(lines.reports, READY)
    os.read(lines.orders, 1)
    os.kill(os.getpid(), signal.SIGKILL)

child = Child(name="c", run=run)
pauses = []
for served_s in (1.0, 1.0, 60.0, 1.0):
    child.start(0.0, siblings=[], closed=[])
    wait_until_ready(child, 0.0)
    child.order(b"x")
    wait_for_end(child, served_s)
    pauses.append(round(child.due_s - served_s, 3))
print(json.dumps([child.how, pauses]))
"""

PIPES = """
def run(lines):
    os.write(lines.reports, READY)
    return len(os.read(lines.orders, 1))  # 0: the other end is closed everywhere

first, second = Child(name="first", run=run), Child(name="second", run=run)
first.start(0.0, siblings=[second], closed=[])
second.start(0.0, siblings=[first], closed=[])
for child in (first, second):
    wait_until_ready(child, 0.0)
os.close(first.orders)
first.orders = -1
deadline = time.monotonic() + 5
while not first.has_ended(0.0) and time.monotonic() < deadline:
    time.sleep(0.005)
print(json.dumps([first.pid, first.how, bool(second.pid)]))
second.signal(signal.SIGKILL)
"""

SIGNALS = """
signal.signal(signal.SIGTERM, lambda number, frame: print("the parent's", flush=True))

def run(lines):
    os.write(lines.reports, READY)
    time.sleep(30)

child = Child(name="c", run=run)
child.start(0.0, siblings=[], closed=[])
child.signal(signal.SIGTERM)  # perhaps before it has come to itself
wait_for_end(child, 0.0)
print(json.dumps([child.how]))
"""

RAISING = """
def run(lines):
    raise RuntimeError("a fault of ours")

child = Child(name="c", run=run)
child.start(0.0, siblings=[], closed=[])
wait_for_end(child, 0.0)
print(json.dumps([child.how]))
"""


def outcome(script: str) -> list[Any]:
    done = subprocess.run([sys.executable, "-c", BEGIN + script], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_replacements_that_fail_come_ever_later() -> None:
    how, starts, pauses = outcome(FAILING)
    assert (how, starts) == ("exit status 3", 12)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


def test_one_that_has_served_for_a_minute_has_not_failed() -> None:
    assert outcome(PROVEN) == ["killed by SIGKILL", [0.1, 0.2, 0.1, 0.2]]


def test_the_end_of_its_pipe_reaches_a_child_although_there_are_others() -> None:
    assert outcome(PIPES) == [0, "exit status 0", True]


def test_a_signal_that_comes_at_its_birth_is_the_childs() -> None:
    assert outcome(SIGNALS) == ["killed by SIGTERM"]


@pytest.mark.parametrize("script", [RAISING])
def test_a_child_that_raises_ends_there(script: str) -> None:
    assert outcome(script) == ["exit status 1"]
