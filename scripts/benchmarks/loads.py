"""One run of the load generator against one target, and what came of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmarks.processes import cpu_s, cpu_ticks, resident_kib, stolen_share

#: Beyond its own time a run gets this long before it is given up.
GRACE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is measured: ``pid`` is None where its CPU time cannot be known (a peer on its own)."""

    name: str
    url: str
    path: str
    pid: int | None = None
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
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    first_byte_ms: Mapping[str, float] = field(default_factory=dict)
    lateness_ms: Mapping[str, float] = field(default_factory=dict)
    cpu_s: float | None = None
    resident_kib_before: int = 0
    resident_kib_peak: int = 0
    stolen: float = 0.0

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
        latency_ms=said.get("lat", {}),
        first_byte_ms=said.get("ttfb", {}),
        lateness_ms=said.get("chunk", {}),
    )


def run_load(program: Path, target: Target, options: Sequence[str], *, core: int) -> Run:
    """Run ``load`` against a target. Raises RuntimeError with its words when it fails."""
    command = ["taskset", "-c", str(core), str(program), target.url + target.path, *options]
    for header in target.headers:
        command += ["-H", header]
    if target.body is not None:
        command += ["-b", target.body]
    if target.requests_file is not None:
        command += ["--requests", str(target.requests_file)]
    ticks = cpu_ticks()
    before_s = cpu_s(target.pid) if target.pid else None
    resident = peak = resident_kib(target.pid) if target.pid else 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + GRACE_S + _duration_s(options)
    try:
        while process.poll() is None and time.monotonic() < end_s:
            if target.pid:
                peak = max(peak, resident_kib(target.pid))
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            process.kill()
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{target.name}: load ended with {process.returncode}: {errors.strip()[:300]}")
    run = parse_output(output)
    used_s = cpu_s(target.pid) - before_s if target.pid and before_s is not None else None
    return Run(
        **{name: getattr(run, name) for name in Run.__dataclass_fields__ if name not in _MEASURED_HERE},
        cpu_s=used_s,
        resident_kib_before=resident,
        resident_kib_peak=peak,
        stolen=stolen_share(ticks, cpu_ticks()),
    )


_MEASURED_HERE = ("cpu_s", "resident_kib_before", "resident_kib_peak", "stolen")


def _duration_s(options: Sequence[str]) -> float:
    return sum(float(options[at + 1]) for at, option in enumerate(options) if option in ("-d", "-w"))
