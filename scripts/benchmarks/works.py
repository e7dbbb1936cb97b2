"""What is measured: each work is a function that adds one round to its rows.

Every work asks direct, nginx and us in turn, and the order turns round with each round, so that what else the machine
does falls on all alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarks.crash import answered_until_killed, settled_requests
from scripts.benchmarks.gateway import CHAT_MODEL, IMAGE_MODEL, Installation
from scripts.benchmarks.loads import Run, Target, run_load
from scripts.benchmarks.processes import Cores, Server, resident_kib
from scripts.benchmarks.signing import signed_requests
from scripts.benchmarks.table import Row

MIB = 1 << 20
OUR_CHAT = "/chat"
THEIR_CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another gateway in front of the same kind of provider. Its CPU time is known with its ``pid`` only."""

    url: str
    path: str
    pid: int | None
    headers: Sequence[str]
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every work needs."""

    load: Path
    cores: Cores
    upstream: Server
    nginx: Server | None
    gateway: Server
    installation: Installation
    peer: Peer | None = None
    warn: Callable[[str], None] = print

    def targets(self, body: str | None, *, path: str | None = None) -> list[Target]:
        """Direct, nginx, us and the peer, for a chat body or a path of the provider's own."""
        theirs = path or THEIR_CHAT
        found = [Target(name="direct", url=self.upstream.url, path=theirs, body=body)]
        if self.nginx is not None:
            found.append(Target(name="nginx", url=self.nginx.url, path=theirs, body=body, pid=self.nginx.pid))
        if path is None:
            found.append(
                Target(
                    name="us",
                    url=self.gateway.url,
                    path=OUR_CHAT,
                    body=body,
                    pid=self.gateway.pid,
                    headers=[self.installation.key.bearer],
                )
            )
            if self.peer is not None and body is not None:
                found.append(self._peer_target(self.peer, body))
        return found

    def _peer_target(self, peer: Peer, body: str) -> Target:
        adapted = json.dumps({**json.loads(body), "model": peer.model}, separators=(",", ":"))
        return Target(name="peer", url=peer.url, path=peer.path, body=adapted, pid=peer.pid, headers=peer.headers)

    def run(self, target: Target, options: Sequence[str]) -> Run:
        """One run; answers that failed are said aloud, because they make figures worthless."""
        run = run_load(self.load, target, options, core=self.cores.load)
        if run.failures:
            self.warn(f"{target.name}: {run.failures} of {run.answers + run.failures} answers failed")
        return run

    def round(self, targets: Sequence[Target], options: Sequence[str], number: int) -> dict[str, Run]:
        """All targets once, in an order that turns round."""
        ordered = targets if number % 2 == 0 else list(reversed(targets))
        return {target.name: self.run(target, options) for target in ordered}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """``measure`` adds the figures of a round (by its number) to ``rows``. ``once``: one round is enough."""

    name: str
    rows: Sequence[Row]
    measure: Callable[[int], None]
    once: bool = False


def chat_body(*, stream: bool = False, mock: str = "", model: str = CHAT_MODEL) -> str:
    """A common chat request. ``mock`` tells the provider how to answer (see ``upstream.c``)."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Write one line about the sea."},
        ],
        "temperature": 0.7,
        "max_tokens": 64,
    }
    if stream:
        body["stream"] = True
    if mock:
        body["user"] = f"mock:{mock}"
    return json.dumps(body, separators=(",", ":"))


def figures(runs: Mapping[str, Run], take: Callable[[Run], float | None]) -> dict[str, float | None]:
    """One figure of each target's run."""
    return {name: take(run) for name, run in runs.items()}


def whole_answers(bench: Bench, *, seconds: float, connections: int = 64) -> Work:
    """JSON answers of 1 KB over connections that stay open."""
    work = f"chat, 1 KB JSON, {connections} connections"
    rate = Row(work=work, unit="answers/s")
    cpu = Row(work=work, unit="CPU us/answer", bar="<= 7")
    latency = Row(work=work, unit="p99 ms")
    targets = bench.targets(chat_body())
    options = ["-c", str(connections), "-d", str(seconds), "-w", "0.3"]

    def measure(number: int) -> None:
        runs = bench.round(targets, options, number)
        rate.add(figures(runs, lambda run: run.answers_per_s))
        cpu.add(figures(runs, lambda run: run.cpu_us_per_answer))
        latency.add(figures(runs, lambda run: run.latency_ms.get("p99")))

    return Work(name="json", rows=[rate, cpu, latency], measure=measure)


def streams(bench: Bench, count: int, *, seconds: float) -> Work:
    """SSE streams with a chunk each 20 ms: when the first byte comes, how late each chunk is, what a chunk costs."""
    work = f"chat SSE, {count:,} stream{'s' if count > 1 else ''}, a chunk each 20 ms"
    first = Row(work=work, unit="first byte p50 ms", against="direct", is_difference=True)
    late = Row(work=work, unit="chunk lateness p99 ms")
    cpu = Row(work=work, unit="CPU us/chunk", bar="<= 1.6" if count > 1 else "")
    if count <= 100:
        first.bar = "<= +1"
    else:
        late.bar = "<= 3.5 and < 50 ms"
    ramp_ms = min(1000, 2 * count)
    length = int((seconds + 1) * 1000 / 20)
    targets = bench.targets(chat_body(stream=True, mock=f"chunks={length},interval=20"))
    options = ["-c", str(count), "-d", str(seconds + 2), "--once", "--ramp", str(ramp_ms)]

    def measure(number: int) -> None:
        runs = bench.round(targets, options, number)
        first.add(figures(runs, lambda run: run.first_byte_ms.get("p50")))
        late.add(figures(runs, lambda run: run.lateness_ms.get("p99")))
        cpu.add(figures(runs, lambda run: run.cpu_us_per_event))

    return Work(name=f"sse{count}", rows=[first, late, cpu], measure=measure)


def stream_memory(bench: Bench, installation: Installation, count: int) -> Work:
    """What an open stream takes: of a server that was just started, since memory once taken is rarely given back."""
    row = Row(work=f"memory, {count:,} open streams", unit="KiB/stream", against="", bar="us <= 16")
    body = chat_body(stream=True, mock="chunks=3,interval=3000")
    options = ["-c", str(count), "-d", "10", "--once", "--ramp", "2500"]

    def measure(_number: int) -> None:
        with installation.running() as server:
            target = Target(
                name="us",
                url=server.url,
                path=OUR_CHAT,
                body=body,
                pid=server.pid,
                headers=[installation.key.bearer],
            )
            bench.run(target, ["-c", "32", "-n", "200", "-d", "1"])  # what it loads and makes for its first answers
            run = bench.run(target, options)
        row.add({"us": (run.resident_kib_peak - run.resident_kib_before) / count})

    return Work(name="memory", rows=[row], measure=measure, once=True)


def signed_answers(bench: Bench, *, seconds: float, directory: Path) -> Work:
    """OAuth-signed calls beside calls with a token: the same answers, the same server."""
    row = Row(work="chat, OAuth-signed (ratio: to bearer)", unit="CPU us/answer", against="bearer", bar="<= 2.5")
    body = chat_body()
    bearer = next(target for target in bench.targets(body) if target.name == "us")
    file = directory / "signed.bin"

    def measure(number: int) -> None:
        with file.open("wb") as output:
            output.writelines(
                signed_requests(
                    int(2000 * seconds),
                    url=bench.gateway.url,
                    path=OUR_CHAT,
                    body=body.encode(),
                    key=bench.installation.key,
                    now_s=int(time.time()),
                    label=f"{number:04d}",
                )
            )
        signed = Target(name="us", url=bench.gateway.url, path=OUR_CHAT, pid=bench.gateway.pid, requests_file=file)
        options = ["-c", "16", "-d", str(seconds)]
        named = [(signed, "us"), (bearer, "bearer")]
        row.add({name: bench.run(target, options).cpu_us_per_answer for target, name in named[:: 1 - 2 * (number % 2)]})

    return Work(name="oauth", rows=[row], measure=measure)


def media(
    bench: Bench, installation: Installation, server: Server, *, size_bytes: int, seconds: float, kept: bool
) -> Work:
    """Pictures through ``/imgrslt``: fetched anew for every caller, or from the copy on disk."""
    way = "from our copy" if kept else "passed through"
    work = f"media, {size_bytes // MIB} MiB, {way}"
    speed = Row(work=work, unit="MB/s", bar=">= 1")
    cpu = Row(work=work, unit="CPU us/MB")
    request = urllib.request.Request(  # noqa: S310 - our own server on 127.0.0.1
        f"{server.url}/image",
        data=json.dumps(
            {"model": IMAGE_MODEL, "prompt": f"mock:size={size_bytes}", "width": 512, "height": 512}
        ).encode(),
        headers={"Authorization": f"Bearer {installation.key.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        said = json.load(answer)
    link = _first_link(said)
    targets = [
        *bench.targets(None, path=f"/bytes/{size_bytes}"),
        Target(name="us", url=server.url, path=link[link.index("/imgrslt/") :], pid=server.pid),
    ]
    options = ["-c", "4", "-d", str(seconds), "-w", "0.3"]

    def measure(number: int) -> None:
        runs = bench.round(targets, options, number)
        speed.add(figures(runs, lambda run: run.megabytes_per_s))
        cpu.add(figures(runs, lambda run: run.cpu_us_per_megabyte))

    return Work(name="media", rows=[speed, cpu], measure=measure)


def _first_link(value: Any) -> str:
    """The first text in a JSON value that leads to a result."""
    if isinstance(value, str):
        return value if "/imgrslt/" in value else ""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_first_link, inner)), "")


def start(bench: Bench, installation: Installation) -> Work:
    """From the start of the process to its first answer, and its memory when nothing happens."""
    first = Row(work="start to first answer", unit="s", against="", bar="us <= 0.6")
    idle = Row(work="idle memory", unit="MB", against="", bar="us <= 60")

    def measure(_number: int) -> None:
        began_s = time.monotonic()
        server = installation.spawn()
        try:
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/health", timeout=5):  # noqa: S310
                    break
                if time.monotonic() - began_s > 30:
                    raise RuntimeError("the gateway does not answer")
                time.sleep(0.002)
            first.add({"us": time.monotonic() - began_s})
            time.sleep(0.5)
            idle.add({"us": resident_kib(server.pid) / 1024})
        finally:
            server.stop()

    return Work(name="start", rows=[first, idle], measure=measure)


def lost_rows(bench: Bench, installation: Installation) -> Work:
    """Answers that arrived whole and are in no ledger after ``kill -9``."""
    row = Row(work="ledger rows lost on kill -9", unit="rows", against="", bar="0")

    def measure(_number: int) -> None:
        server = installation.spawn()
        try:
            server.wait_ready()
            answered = asyncio.run(
                answered_until_killed(
                    server.url + OUR_CHAT,
                    headers={
                        "Authorization": f"Bearer {installation.key.token}",
                        "Content-Type": "application/json",
                    },
                    body=chat_body().encode(),
                    callers=32,
                    after_s=1.5,
                    kill=server.kill,
                )
            )
        finally:
            server.stop()
        if not answered:
            raise RuntimeError("nothing was answered before the kill")
        row.work = f"ledger rows lost on kill -9 (of {len(answered):,} answered)"
        row.add({"us": len(set(answered) - settled_requests(installation.database))})

    return Work(name="crash", rows=[row], measure=measure, once=True)
