"""Readiness, watchdog and handed-over sockets, over real unix sockets and real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitmesh_proxy.service_manager import listen_sockets, notify, watchdog_interval_s


@contextmanager
def manager_at(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(2)
        yield listener


def test_notify_reaches_a_socket_in_the_file_system(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager_at(path) as manager:
        assert notify(b"READY=1\nSTATUS=Serving", environ={"NOTIFY_SOCKET": path})
        assert manager.recv(1024) == b"READY=1\nSTATUS=Serving"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's own")
def test_notify_reaches_an_abstract_socket() -> None:
    name = f"bitmesh-proxy-test-{os.getpid()}"
    with manager_at(f"\0{name}") as manager:
        assert notify(b"STOPPING=1", environ={"NOTIFY_SOCKET": f"@{name}"})
        assert manager.recv(1024) == b"STOPPING=1"


def test_notify_without_a_manager_does_nothing(tmp_path: Path) -> None:
    assert not notify(b"READY=1", environ={})
    assert not notify(b"READY=1", environ={"NOTIFY_SOCKET": ""})
    assert not notify(b"READY=1", environ={"NOTIFY_SOCKET": "vsock:2:1234"})
    assert not notify(b"READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "nobody")})


def test_notify_gives_up_on_a_manager_that_no_longer_reads(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager_at(path):
        told = [notify(b"x" * 4096, environ={"NOTIFY_SOCKET": path}) for _ in range(2000)]
    assert told[0]
    assert not told[-1]


LISTENER = """
import json, os, socket, subprocess, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="http")
os.environ["LISTEN_PID"] = str(os.getpid()) if sys.argv[2] == "ours" else "1"
from bitmesh_proxy.service_manager import listen_sockets
sockets = listen_sockets()
child = subprocess.run(
    [sys.executable, "-c", "import os; os.fstat(3)"], close_fds=False, capture_output=True
)
print(json.dumps({
    "ports": [s.getsockname()[1] for s in sockets],
    "blocking": [s.getblocking() for s in sockets],
    "again": len(listen_sockets()),
    "left": [name for name in os.environ if name.startswith("LISTEN_")],
    "child_has_it": child.returncode == 0,
}))
"""


def started_with_socket(listener: socket.socket, whose: str) -> dict[str, object]:
    fd = listener.fileno()
    done = subprocess.run(
        [sys.executable, "-c", LISTENER, str(fd), whose], pass_fds=[fd], capture_output=True, check=True
    )
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_a_socket_handed_over_is_taken_once_and_kept_from_children() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert started_with_socket(listener, "ours") == {
            "ports": [listener.getsockname()[1]],
            "blocking": [False],
            "again": 0,
            "left": [],
            "child_has_it": False,
        }


def test_a_socket_meant_for_another_process_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer = started_with_socket(listener, "another's")
    assert answer["ports"] == []
    assert answer["left"] == []
    assert answer["child_has_it"]


@pytest.mark.parametrize("count", ["", "many", "-1"])
def test_a_senseless_count_hands_over_nothing(count: str) -> None:
    assert listen_sockets(environ={"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}) == []


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_asks(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ=environ) == interval_s
