"""Programs under measurement: built, started on a core of their own, watched, and ended. Linux only.

CPU times are the kernel's per-process clocks (clock_getcpuclockid(3)), which count every thread to the nanosecond;
memory is the resident set of /proc/PID/statm. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LAST_WORDS_CHARS = 300


class Missing(Exception):
    """Something that a measurement needs is not on this machine. The message says what, and how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Where things run: the load and the provider on one, what is measured on the other."""

    load: int
    measured: int

    @property
    def both(self) -> tuple[int, ...]:
        """Both, for what is more than one process."""
        return tuple(sorted({self.load, self.measured}))

    @classmethod
    def pick(cls) -> Cores:
        """The first and the last core this process may use; the same one on a machine with a single core."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(load=usable[0], measured=usable[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The compiled C programs."""

    load: Path
    upstream: Path


def build(directory: Path) -> Tools:
    """Compile ``load`` and ``upstream`` into ``directory``, unless it has them. Raises Missing without a C compiler."""
    return Tools(load=_build("load", directory), upstream=_build("upstream", directory))


def _build(name: str, directory: Path) -> Path:
    source = HERE / f"{name}.c"
    program = directory / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if program.exists():
        return program
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise Missing("no C compiler (cc): the load generator and the provider are C programs. Install gcc or clang.")
    directory.mkdir(parents=True, exist_ok=True)
    made = program.with_name(f"{program.name}.{os.getpid()}")  # another run may be compiling it, too
    command = [compiler, "-O2", "-w", "-o", str(made), str(source), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        raise Missing(f"{name}.c does not compile: {built.stderr.strip()[:500]}")
    made.replace(program)
    return program


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running program with a port."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.name = name
        self._log = log
        self.process = process
        self.url = url

    @property
    def pid(self) -> int:
        """Of the first process; its children are counted with it."""
        return self.process.pid

    def last_words(self) -> str:
        """What it wrote last, on one line."""
        return " ".join(self._log.read_text(encoding="utf-8", errors="replace")[-LAST_WORDS_CHARS:].split())

    def wait_ready(self, patience_s: float = READY_TIMEOUT_S) -> None:
        """Until the port takes connections. Raises Missing when the program ends or takes too long."""
        port = int(self.url.rsplit(":", 1)[1])
        end_s = time.monotonic() + patience_s
        while time.monotonic() < end_s:
            if self.process.poll() is not None:
                raise Missing(f"{self.name} ended at once with status {self.process.returncode}: {self.last_words()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.005)
        raise Missing(f"{self.name} does not listen: {self.last_words()}")

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
    name: str,
    command: Sequence[str],
    port: int,
    *,
    on: Sequence[int],
    log: Path,
    environ: Mapping[str, str] | None = None,
    patience_s: float = READY_TIMEOUT_S,
) -> Iterator[Server]:
    """Run ``command`` on these cores until the block is left. Raises Missing when it does not come up."""
    server = spawn(name, command, port, on=on, log=log, environ=environ)
    try:
        server.wait_ready(patience_s)
        yield server
    finally:
        server.stop()


def spawn(
    name: str,
    command: Sequence[str],
    port: int,
    *,
    on: Sequence[int],
    log: Path,
    environ: Mapping[str, str] | None = None,
) -> Server:
    """Start ``command`` on these cores; whoever calls this ends it."""
    pinned = ["taskset", "-c", ",".join(map(str, on)), *command]
    with log.open("ab") as output:
        process = subprocess.Popen(pinned, stdout=output, stderr=output, env=environ, stdin=subprocess.DEVNULL)
    return Server(name, process, f"http://127.0.0.1:{port}", log)


@contextmanager
def mock_provider(program: Path, directory: Path, cores: Cores, *, port: int | None = None) -> Iterator[Server]:
    """The provider that answers at once: ``upstream.c``. Any free port unless one is given."""
    port = port or free_port()
    command = [str(program), str(port)]
    with started("the provider", command, port, on=[cores.load], log=directory / "upstream.log") as server:
        yield server


@contextmanager
def nginx(directory: Path, upstream: Server, *, on: int, **places: str) -> Iterator[Server]:
    """nginx in front of ``upstream``, on one core; its files are in ``directory``.

    ``places``: what ``nginx.conf.in`` has between @, in small letters, where it is not plain HTTP on both sides. Raises
    Missing where nginx is not installed.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise Missing("nginx is not installed: the columns that compare with it stay empty.")
    port = free_port()
    given = {"upstream_port": upstream.url.rsplit(":", 1)[1], "port": str(port), "dir": str(directory)}
    plain = {"ssl": "", "server": "", "scheme": "http", "proxy": ""}
    text = (HERE / "nginx.conf.in").read_text(encoding="utf-8")
    for name, value in {**given, **plain, **places}.items():
        text = text.replace(f"@{name.upper()}@", value)
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "nginx.conf"
    config.write_text(text, encoding="utf-8")
    command = [program, "-c", str(config), "-p", str(directory), "-e", str(directory / "nginx.err")]
    with started("nginx", command, port, on=[on], log=directory / "nginx.log") as server:
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


def cpu_s(pid: int | None) -> float:
    """CPU time of the process and its living descendants so far; 0 of none."""
    total = 0.0
    for member in family(pid) if pid else ():
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


def listening_pid(port: int) -> int | None:
    """The process that listens on a port of 127.0.0.1, of a family its eldest; None if there is none of this user's."""
    inodes = {
        f"socket:[{fields[9]}]"
        for table in ("tcp", "tcp6")
        for fields in _fields_of(Path("/proc/net") / table)
        if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port
    }
    holders = {int(process.name) for process in Path("/proc").iterdir() if process.name.isdigit() and inodes}
    holders = {pid for pid in holders if _holds(pid, inodes)}
    eldest = [pid for pid in holders if not any(pid in family(other) for other in holders - {pid})]
    return min(eldest, default=None)


def _fields_of(table: Path) -> Iterator[list[str]]:
    with contextlib.suppress(OSError):
        yield from (line.split() for line in table.read_text().splitlines()[1:])


def _holds(pid: int, links: Collection[str]) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor) in links:
                    return True
    return False


def busy_s(cores: Collection[int]) -> float:
    """How long these cores have worked so far, for whomever, time stolen by the host included."""
    names = {f"cpu{core}" for core in cores}
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name in names:
            user, nice, system, _idle, _waiting, irq, softirq, stolen = (int(word) for word in rest.split()[:8])
            total += user + nice + system + irq + softirq + stolen
    return total / os.sysconf("SC_CLK_TCK")


def stolen_share(before: Sequence[int], after: Sequence[int]) -> float:
    """The share of CPU time that the hypervisor took between two ``cpu_ticks``."""
    total = sum(after) - sum(before)
    return (after[7] - before[7]) / total if total > 0 else 0.0


def cpu_ticks() -> list[int]:
    """The first eight figures of the first line of /proc/stat; the eighth is stolen time (proc(5))."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
