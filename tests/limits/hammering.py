"""Processes that all hammer one shared memory at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bitmesh_proxy.shared_memory import SharedMemory

ROOT = Path(__file__).parent.parent.parent


def start(script: str, memory: SharedMemory, number: int) -> subprocess.Popen[bytes]:
    """One that runs ``script``, which gets the memory's descriptor and the number, and has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(memory.descriptor), str(number)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[memory.descriptor],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def let_go(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Begin: by now all are there."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
