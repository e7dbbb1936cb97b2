"""Pictures through ``/imgrslt``: how fast they pass, and what a slow reader costs."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from typing import Any

from scripts.benchmarks.bench import Bench, Work, figures
from scripts.benchmarks.gateway import IMAGE_MODEL
from scripts.benchmarks.loads import Target
from scripts.benchmarks.processes import Server
from scripts.benchmarks.table import Bar, Row

MIB = 1 << 20
COPIES_BYTES = 4 << 30


def media_server(bench: Bench, *, is_caching: bool) -> Server:
    """A gateway that hands out pictures: fetched anew for every caller, or from its copy on disk."""
    name = "media-kept" if is_caching else "media-passed"
    cache_bytes = COPIES_BYTES if is_caching else 0
    installation = bench.installations.make(name, sandbox=True, cache_bytes=cache_bytes)
    return bench.stack.enter_context(installation.running())


def media(bench: Bench, server: Server, *, size_bytes: int, way: str) -> Work:
    """Four callers who read as fast as they can."""
    work = f"media, {size_bytes // MIB} MiB, {way}"
    speed = Row(work=work, unit="MB/s", bars=[Bar(limit=1, is_least=True)])
    cpu = Row(work=work, unit="CPU us/MB")
    targets = [*bench.beside(f"/bytes/{size_bytes}"), _picture(bench, server, size_bytes)]
    options = ["-c", "4", "-d", "0.5" if bench.is_quick else "1", "-w", "0.2"]

    def measure(number: int) -> None:
        runs = bench.round(targets, options, number)
        speed.add(figures(runs, lambda run: run.megabytes_per_s))
        cpu.add(figures(runs, lambda run: run.cpu_us_per_megabyte))

    return Work(name="media", rows=[speed, cpu], measure=measure)


def slow_readers(bench: Bench, server: Server, *, count: int = 50) -> Work:
    """Callers who take 200 KB a second of 100 MiB: what is held for each of them in the meantime?"""
    row = Row(work=f"media, 100 MiB, {count} readers at 200 KB/s", unit="KiB/stream", bars=[Bar(limit=1024, of="us")])
    targets: Sequence[Target] = [
        target
        for target in (*bench.beside(f"/bytes/{100 * MIB}"), _picture(bench, server, 100 * MIB))
        if target.pid is not None
    ]
    seconds = "2" if bench.is_quick else "6"

    def measure(number: int) -> None:
        runs = bench.round(targets, ["-c", str(count), "-d", seconds, "--slow", "200000", "--rcvbuf", "65536"], number)
        row.add(figures(runs, lambda run: (run.resident_kib_peak - run.resident_kib_before) / count))

    return Work(name="slow", rows=[row], measure=measure, once=True)


def _picture(bench: Bench, server: Server, size_bytes: int) -> Target:
    """A result of so many bytes, asked for as callers do."""
    name, _, value = bench.installations.key.bearer.partition(": ")
    wanted = {"model": IMAGE_MODEL, "prompt": f"mock:size={size_bytes}", "width": 512, "height": 512}
    request = urllib.request.Request(  # noqa: S310 - our own server on 127.0.0.1
        f"{server.url}/image", json.dumps(wanted).encode(), {name: value, "Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        link = _first_link(json.load(answer))
    return Target(name="us", url=server.url, path=link[link.index("/imgrslt/") :], pid=server.pid)


def _first_link(value: Any) -> str:
    """The first text in a JSON value that leads to a result."""
    if isinstance(value, str):
        return value if "/imgrslt/" in value else ""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_first_link, inner)), "")
