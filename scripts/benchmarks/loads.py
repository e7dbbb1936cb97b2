"""One run of the load generator against one target, and what came of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scripts.benchmarks.processes import Cores, busy_s, cpu_s, resident_kib

#: Beyond its own time a run gets this long before it is given up.
GRACE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is measured: ``pid`` is None where its CPU time cannot be known (a peer on its own)."""

    name: str
    url: str
    path: str
    pid: int | None = None  # with its family
    helper_pid: int | None = None  # of what stands between it and the provider: its time is nobody else's
    headers: Sequence[str] = ()
    body: str | None = None
    requests_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run. Times in milliseconds, as ``load`` prints them; ``cpu_s`` is the target's own."""

    answers: int
    failures: int
    answers_per_s: float
    megabytes_per_s: float
    megabytes: float
    events: int
    unsent: int = 0  # at a fixed rate: due, but every connection was taken
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    first_byte_ms: Mapping[str, float] = field(default_factory=dict)
    lateness_ms: Mapping[str, float] = field(default_factory=dict)
    load_cpu_s: float = 0.0
    cpu_s: float | None = None
    resident_kib_before: int = 0
    resident_kib_peak: int = 0
    #: CPU time that anything else took on the two cores, the host included, in parts of one core.
    others: float = 0.0

    @property
    def cpu_us_per_answer(self) -> float | None:
        """CPU time of the target for each answer."""
        return _per(self.cpu_s, self.answers)

    @property
    def cpu_us_per_event(self) -> float | None:
        """CPU time of the target for each chunk of a stream."""
        return _per(self.cpu_s, self.events)

    @property
    def cpu_us_per_megabyte(self) -> float | None:
        """CPU time of the target for each megabyte."""
        return _per(self.cpu_s, self.megabytes)


def _per(cpu: float | None, count: float) -> float | None:
    return cpu * 1e6 / count if cpu is not None and count else None


def parse_output(text: str) -> Run:
    """What ``load`` printed: one JSON object."""
    said: dict[str, Any] = json.loads(text)
    return Run(
        answers=said["s2"],
        failures=said["errors"] + said["s4"] + said["s5"],
        answers_per_s=said["rps"],
        megabytes_per_s=said["mbps"],
        megabytes=said["bytes"] / 1e6,
        events=said["events"],
        unsent=said["unsent"],
        latency_ms=said.get("lat", {}),
        first_byte_ms=said.get("ttfb", {}),
        lateness_ms=said.get("chunk", {}),
        load_cpu_s=said["load_cpu"],
    )


def run_load(program: Path, target: Target, options: Sequence[str], *, cores: Cores, provider_pid: int) -> Run:
    """Run ``load`` against a target. Raises RuntimeError with its words when it fails."""
    command = ["taskset", "-c", str(cores.load), str(program), target.url + target.path, *options]
    for header in target.headers:
        command += ["-H", header]
    if target.body is not None:
        command += ["-b", target.body]
    if target.requests_file is not None:
        command += ["--requests", str(target.requests_file)]
    began_s, before_s, others_before_s = time.monotonic(), cpu_s(target.pid), _others_s(target, cores, provider_pid)
    resident = peak = resident_kib(target.pid) if target.pid else 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + GRACE_S + _duration_s(options)
    try:
        while process.poll() is None and time.monotonic() < end_s:
            if target.pid:
                peak = max(peak, resident_kib(target.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    finally:
        if process.poll() is None:
            process.kill()
    output, errors = process.communicate()
    used_s = cpu_s(target.pid) - before_s
    others_s, elapsed_s = _others_s(target, cores, provider_pid) - others_before_s, time.monotonic() - began_s
    if process.returncode:
        raise RuntimeError(f"{target.name}: load ended with {process.returncode}: {errors.strip()[:300]}")
    run = parse_output(output)
    return replace(
        run,
        cpu_s=used_s if target.pid else None,
        resident_kib_before=resident,
        resident_kib_peak=peak,
        others=max(0.0, others_s - run.load_cpu_s) / elapsed_s,
    )


def _others_s(target: Target, cores: Cores, provider_pid: int) -> float:
    """CPU time on both cores that is neither the target's, nor the provider's or its helper's, nor this program's."""
    theirs_s = sum(cpu_s(pid) for pid in (target.pid, target.helper_pid, provider_pid))
    return busy_s(cores.both) - theirs_s - time.process_time()


def _duration_s(options: Sequence[str]) -> float:
    return sum(float(options[at + 1]) for at, option in enumerate(options) if option in ("-d", "-w"))
