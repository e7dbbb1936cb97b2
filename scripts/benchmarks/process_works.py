"""The program as a process: its start, its end by ``kill -9``, and more than one of it."""

from __future__ import annotations

import asyncio
import compileall
import contextlib
import time
import urllib.request
from pathlib import Path

import bitmesh_proxy
from scripts.benchmarks.bench import OUR_CHAT, Bench, Work, chat_body, figures
from scripts.benchmarks.crash import answered_until_killed, settled_requests
from scripts.benchmarks.gateway import PATIENCE_S, can_have_workers
from scripts.benchmarks.processes import Missing, Server, resident_kib
from scripts.benchmarks.table import Bar, Row


def start(bench: Bench) -> Work:
    """From the start of the process to its first answer, and its memory when nothing happens."""
    first = Row(work="start to first answer", unit="s", against="", bars=[Bar(limit=0.6, of="us")])
    idle = Row(work="idle memory", unit="MB", against="", bars=[Bar(limit=60, of="us")])
    installation = bench.installations.make("start")
    # As an installed package has it. Where Python may not write bytecode itself, each start would compile what has been
    # edited since: a third of a second for all of it.
    compileall.compile_dir(str(Path(bitmesh_proxy.__file__).parent), quiet=1)

    def measure(_number: int) -> None:
        began_s = time.monotonic()
        server = installation.spawn()
        try:
            wait_for_answer(server, since_s=began_s)
            first.add({"us": time.monotonic() - began_s})
            time.sleep(0.5)
            idle.add({"us": resident_kib(server.pid) / 1024})
        finally:
            server.stop()

    return Work(name="start", rows=[first, idle], measure=measure)


def wait_for_answer(server: Server, *, since_s: float) -> None:
    """Until ``/health`` answers. Raises RuntimeError when it ends, or takes too long."""
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/health", timeout=5):  # noqa: S310
            return
        if server.process.poll() is not None or time.monotonic() - since_s > PATIENCE_S:
            raise RuntimeError(f"the gateway does not answer: {server.last_words()}")
        time.sleep(0.002)


def lost_rows(bench: Bench) -> Work:
    """Answers that arrived whole and are in no ledger after ``kill -9``."""
    row = Row(work="ledger rows lost on kill -9", unit="rows", against="", bars=[Bar(limit=0, of="us")])
    installation = bench.installations.make("crash")
    name, _, value = bench.installations.key.bearer.partition(": ")

    def measure(_number: int) -> None:
        server = installation.spawn()
        try:
            server.wait_ready()
            answered = asyncio.run(
                answered_until_killed(
                    server.url + OUR_CHAT,
                    headers={name: value, "Content-Type": "application/json"},
                    body=chat_body().encode(),
                    callers=32,
                    after_s=1.0 if bench.is_quick else 1.5,
                    kill=server.kill,
                )
            )
        finally:
            server.stop()
        if not answered:
            raise RuntimeError("nothing was answered before the kill")
        row.note = f"of {len(answered):,} answered"
        row.add({"us": len(set(answered) - settled_requests(installation.database))})

    return Work(name="crash", rows=[row], measure=measure, once=True)


def workers(bench: Bench) -> Work:
    """Two processes beside one, both on both cores (which the load shares), so that they really meet.

    A round is several turns. Before the first one each answers for a while that does not count: what one process loads
    and makes for its first answers, two make twice. Raises Missing when the program has no such setting.
    """
    if not can_have_workers():
        raise Missing("this bitmesh-proxy runs as one process only: it has no setting http.workers")
    row = Row(work="two workers ÷ one", unit="CPU us/answer", against="one", bars=[Bar(limit=1.1)])
    body = chat_body()
    targets = []
    for count, name in ((2, "us"), (1, "one")):
        server = bench.stack.enter_context(bench.installations.make(f"workers-{count}", workers=count).running())
        targets.append(bench.us(OUR_CHAT, body, name=name, server=server))
    options = ["-c", "64", "-d", "0.6"]
    for target in targets:
        bench.run(target, ["-c", "64", "-d", "0.6" if bench.is_quick else "2"])

    def measure(number: int) -> None:
        for turn in bench.turns(number):
            row.add(figures(bench.round(targets, options, turn), lambda run: run.cpu_us_per_answer))

    return Work(name="workers", rows=[row], measure=measure)
