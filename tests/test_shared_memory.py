"""Words that all processes see, and a lock that dies with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.shared_memory import SharedMemory

ROOT = Path(__file__).parent.parent

ADD_SLOWLY = """
import sys
from bitmesh_proxy.shared_memory import SharedMemory
memory = SharedMemory(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    with memory.locked():
        seen = memory.words[0]
        for _ in range(20):  # long enough that somebody else would come in between
            pass
        memory.words[0] = seen + 1
"""

HOLD = """
import sys, time
from bitmesh_proxy.shared_memory import SharedMemory
memory = SharedMemory(int(sys.argv[1]))
memory.lock()
memory.words[1] = 7
print("held", flush=True)
time.sleep(60)
"""


FORK = """
import os, sys, time
from bitmesh_proxy.shared_memory import SharedMemory
memory = SharedMemory(int(sys.argv[1]))
memory.lock()
child = os.fork()
if child == 0:
    memory.lock()
    memory.words[2] = memory.words[3]
    memory.unlock()
    os._exit(0)
time.sleep(0.1)
memory.words[3] = 11
memory.unlock()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create(100, name="test")
    yield made
    made.close()


def start(script: str, memory: SharedMemory, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that is given the memory and nothing else of ours."""
    return subprocess.Popen(
        [sys.executable, "-c", script, str(memory.descriptor), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        pass_fds=[memory.descriptor],
    )


def test_it_begins_with_nothing_in_it_and_holds_whole_words(memory: SharedMemory) -> None:
    assert len(memory.words) >= 100
    assert not any(memory.words)
    memory.words[99] = 2**64 - 1
    assert memory.words[99] == 2**64 - 1
    with pytest.raises(ValueError, match="format"):
        memory.words[0] = 2**64


def test_only_one_process_at_a_time(memory: SharedMemory) -> None:
    processes = [start(ADD_SLOWLY, memory, "5000") for _ in range(3)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert memory.words[0] == 15_000


def test_a_lock_is_free_when_its_holder_is_killed(memory: SharedMemory) -> None:
    process = start(HOLD, memory)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with memory.locked():
        assert memory.words[1] == 7


def test_a_holder_that_is_stopped_keeps_nobody_waiting_for_ever(
    memory: SharedMemory, caplog: pytest.LogCaptureFixture
) -> None:
    process = start(HOLD, memory)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.send_signal(signal.SIGSTOP)
    for _ in range(100):  # only the first of them waits
        with pytest.raises(Unavailable):
            memory.lock()
    assert len(caplog.records) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    memory.lock()
    memory.unlock()


def test_a_lock_that_the_kernel_refuses_is_refused_and_no_more(memory: SharedMemory) -> None:
    """As for want of memory (ENOLCK). What keeps threads apart must not stay taken: the next one would never wake."""
    works = memory.lock_descriptor
    memory.lock_descriptor = os.open("/", os.O_PATH)  # flock(2) takes none of these
    for _ in range(2):
        with pytest.raises(Unavailable):
            memory.lock()
    os.close(memory.lock_descriptor)
    memory.lock_descriptor = -1
    assert memory.threads.acquire(blocking=False)
    with pytest.raises(ValueError, match="descriptor"):
        memory.unlock()
    memory.lock_descriptor = works
    with memory.locked():
        pass


def test_a_forked_child_has_a_lock_of_its_own(memory: SharedMemory) -> None:
    """What it inherits is the parent's: it would neither keep the parent out nor be kept out by it."""
    process = start(FORK, memory)
    process.communicate()
    assert process.returncode == 0
    assert memory.words[2] == 11


def test_closing_twice_does_nothing() -> None:
    memory = SharedMemory.create(1, name="test")
    descriptor = memory.descriptor
    memory.close()
    memory.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)
