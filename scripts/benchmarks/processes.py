"""Programs under measurement: built, started on a core of their own, watched, and ended. Linux only.

CPU times are the kernel's per-process clocks (clock_getcpuclockid(3)), which count every thread to the nanosecond;
memory is the resident set of /proc/PID/statm. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


class Missing(Exception):
    """Something that a measurement needs is not on this machine. The message says what, and how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Where things run: the load and the provider on one, what is measured on the other."""

    load: int
    measured: int

    @classmethod
    def pick(cls) -> Cores:
        """The first and the last core this process may use; the same one on a machine with a single core."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(load=usable[0], measured=usable[-1])


def build(directory: Path) -> None:
    """Compile ``load`` and ``upstream`` into ``directory``. Raises Missing without a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise Missing("no C compiler (cc): the load generator and the provider are C programs. Install gcc or clang.")
    for name in ("load", "upstream"):
        command = [compiler, "-O2", "-w", "-o", str(directory / name), str(HERE / f"{name}.c"), "-lm"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode:
            raise Missing(f"{name}.c does not compile: {built.stderr.strip()[:500]}")


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running program with a port."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], url: str) -> None:
        self.name = name
        self.process = process
        self.url = url

    @property
    def pid(self) -> int:
        """Of the first process; its children are counted with it."""
        return self.process.pid

    def wait_ready(self) -> None:
        """Until the port takes connections. Raises Missing when the program ends or takes too long."""
        port = int(self.url.rsplit(":", 1)[1])
        end_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < end_s:
            if self.process.poll() is not None:
                raise Missing(f"{self.name} ended at once with status {self.process.returncode}.")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.005)
        raise Missing(f"{self.name} does not listen.")

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and after a while SIGKILL."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def started(
    name: str, command: Sequence[str], port: int, *, core: int, log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run ``command`` on one core until the block is left. Raises Missing when it does not come up."""
    server = spawn(name, command, port, core=core, log=log, environ=environ)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def spawn(
    name: str, command: Sequence[str], port: int, *, core: int, log: Path, environ: Mapping[str, str] | None = None
) -> Server:
    """Start ``command`` on one core; whoever calls this ends it."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=output, stderr=output, env=environ, stdin=subprocess.DEVNULL
        )
    return Server(name, process, f"http://127.0.0.1:{port}")


@contextmanager
def mock_provider(directory: Path, cores: Cores, *, port: int | None = None) -> Iterator[Server]:
    """The provider that answers at once: ``upstream.c``. Any free port unless one is given."""
    port = port or free_port()
    command = [str(directory / "upstream"), str(port)]
    with started("the provider", command, port, core=cores.load, log=directory / "upstream.log") as server:
        yield server


@contextmanager
def nginx(directory: Path, upstream: Server, cores: Cores) -> Iterator[Server]:
    """The yardstick. Raises Missing where nginx is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise Missing("nginx is not installed: the columns that compare with it stay empty.")
    port = free_port()
    text = (HERE / "nginx.conf.in").read_text(encoding="utf-8")
    for name, value in {
        "@UPSTREAM_PORT@": upstream.url.rsplit(":", 1)[1],
        "@PORT@": str(port),
        "@DIR@": str(directory),
    }.items():
        text = text.replace(name, value)
    config = directory / "nginx.conf"
    config.write_text(text, encoding="utf-8")
    command = [program, "-c", str(config), "-p", str(directory), "-e", str(directory / "nginx.err")]
    with started("nginx", command, port, core=cores.measured, log=directory / "nginx.log") as server:
        yield server


def family(pid: int) -> list[int]:
    """A process and its living descendants."""
    found, todo = [], [pid]
    while todo:
        found.append(current := todo.pop())
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{current}/task").iterdir():
                todo += [int(child) for child in (thread / "children").read_text().split()]
    return found


def cpu_s(pid: int) -> float:
    """CPU time of the process and its living descendants so far."""
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~member << 3) | 2)  # CPUCLOCK_SCHED of another process
    return total


def resident_kib(pid: int) -> int:
    """Memory of the process and its descendants that is in RAM."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * PAGE_KIB
    return total


def stolen_share(before: Sequence[int], after: Sequence[int]) -> float:
    """The share of CPU time that the hypervisor took between two ``cpu_ticks``."""
    total = sum(after) - sum(before)
    return (after[7] - before[7]) / total if total > 0 else 0.0


def cpu_ticks() -> list[int]:
    """The first eight figures of the first line of /proc/stat; the eighth is stolen time (proc(5))."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
