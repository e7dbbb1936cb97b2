"""Measure bitmesh-proxy beside nginx and beside no gateway at all, in front of one and the same provider.

Everything runs on this machine, on 127.0.0.1, and in bounded time: a mock provider and a load generator in C on one
core, nginx and the gateway on another. The gateway has everything on (keys, limits, reservation, ledger) and its access
log off. Rounds are interleaved; the table shows medians, the ratio within each round, and the noise (half the spread of
the ratios between their quartiles). On a busy machine trust ratios and CPU times, not answers per second.

  direct  the load asks the provider itself: what the harness can do at all
  nginx   proxy_pass, one worker: the yardstick
  us      bitmesh-proxy, one process
  ratio   us / nginx, or for "first byte" us - direct

Needs a C compiler; without nginx its column stays empty.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from scripts.benchmarks import works
from scripts.benchmarks.gateway import Installation
from scripts.benchmarks.processes import Cores, Missing, Server, build, cpu_ticks, mock_provider, nginx, stolen_share
from scripts.benchmarks.table import Row, render
from scripts.benchmarks.works import MIB, Bench, Peer, Work

NAMES = ("json", "sse1", "sse100", "sse1000", "memory", "oauth", "media", "start", "crash")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="Three short rounds, at most two minutes in all.")
    parser.add_argument("--rounds", type=int, help="Rounds of each work (default 5, with --quick 3).")
    parser.add_argument("--only", help=f"Some works only, by name with commas between: {','.join(NAMES)}.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write all figures of all rounds to FILE.")
    parser.add_argument(
        "--peer", metavar="URL", help="Another gateway on 127.0.0.1 to measure in the same rounds (chat only)."
    )
    parser.add_argument("--peer-pid", type=int, help="Its process, for its CPU time.")
    parser.add_argument("--peer-path", default=works.THEIR_CHAT, help="Its chat path (default %(default)s).")
    parser.add_argument("--peer-model", default="gpt-4o-mini", help="The model to ask it for (default %(default)s).")
    parser.add_argument(
        "--peer-header", action="append", default=[], metavar="'NAME: VALUE'", help="A header for it; repeatable."
    )
    parser.add_argument(
        "--upstream-port",
        type=int,
        help="Port of the mock provider, so that a peer can be set up for it (default: any free one).",
    )
    given = parser.parse_args(argv)
    unknown = set((given.only or "").split(",")) - {"", *NAMES}
    if unknown:
        parser.error(f"--only: no work is called {', '.join(sorted(unknown))}")
    if given.peer and (urlsplit(given.peer).scheme != "http" or urlsplit(given.peer).hostname != "127.0.0.1"):
        parser.error("--peer: want http://127.0.0.1:PORT")
    if given.rounds is not None and not 1 <= given.rounds <= 50:
        parser.error("--rounds: want 1 to 50")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Gives the exit status: 0, or 1 when something that was asked for could not be measured."""
    given = arguments(argv)
    if sys.platform != "linux":
        say("scripts/bench measures on Linux only.")
        return 1
    began_s, ticks = time.monotonic(), cpu_ticks()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bitmesh-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        try:
            bench = set_up(given, directory, stack, faults)
            rows = run_all(given, bench, directory, stack, faults)
        except Missing as missing:
            say(f"Cannot measure: {missing}")
            return 1
    facts = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, {len_of_cores()} cores",
        "seconds": round(time.monotonic() - began_s, 1),
        "stolen_percent": round(stolen_share(ticks, cpu_ticks()) * 100, 1),
    }
    print(render(rows))
    print(f"\n{facts['machine']}; {facts['seconds']} s; {facts['stolen_percent']} % of CPU time stolen by the host")
    for fault in faults:
        print(f"! {fault}")
    if given.json:
        given.json.write_text(
            json.dumps({**facts, "faults": faults, "rows": [row.as_json() for row in rows]}, indent=1), encoding="utf-8"
        )
    return 1 if faults else 0


def set_up(given: argparse.Namespace, directory: Path, stack: ExitStack, faults: list[str]) -> Bench:
    """Build, start provider, nginx and gateway. Raises Missing without what everything needs."""
    cores = Cores.pick()
    if cores.load == cores.measured:
        faults.append("only one core: load and gateway share it, so that nothing but ratios means anything")
    say("Building the load generator and the provider …")
    build(directory)
    upstream = stack.enter_context(mock_provider(directory, cores, port=given.upstream_port))
    yardstick: Server | None = None
    try:
        yardstick = stack.enter_context(nginx(directory, upstream, cores))
    except Missing as missing:
        faults.append(str(missing))
    installation = Installation(directory / "gateway", upstream, cores, for_media=False, is_caching=False)
    gateway = stack.enter_context(installation.running())
    peer = (
        Peer(
            url=given.peer.rstrip("/"),
            path=given.peer_path,
            pid=given.peer_pid,
            headers=given.peer_header,
            model=given.peer_model,
        )
        if given.peer
        else None
    )
    return Bench(
        load=directory / "load",
        cores=cores,
        upstream=upstream,
        nginx=yardstick,
        gateway=gateway,
        installation=installation,
        peer=peer,
        warn=faults.append,
    )


def planned(given: argparse.Namespace, bench: Bench, directory: Path, stack: ExitStack) -> Iterator[Callable[[], Work]]:
    """What to do, in order; each is made when its turn comes, because some works start servers."""
    quick: bool = given.quick
    asked = set((given.only or ",".join(NAMES)).split(","))
    seconds = 1.0 if quick else 2.0
    if "json" in asked:
        yield lambda: works.whole_answers(bench, seconds=seconds)
    for count in (1, 100, 1000):
        if f"sse{count}" in asked:
            yield lambda count=count: works.streams(bench, count, seconds=0.5 if quick else 3.0)  # type: ignore[misc]
    if "memory" in asked:
        yield lambda: works.stream_memory(bench, _installation(bench, directory / "memory"), 1000 if quick else 3000)
    if "oauth" in asked:
        yield lambda: works.signed_answers(bench, seconds=seconds, directory=directory)
    if "media" in asked:
        for kept in (False, True):
            for size in (4 * MIB,) if quick else (4 * MIB, 100 * MIB):
                yield lambda kept=kept, size=size: _media(  # type: ignore[misc]
                    bench, directory, stack, size_bytes=size, seconds=seconds, kept=kept
                )
    if "start" in asked:
        yield lambda: works.start(bench, _installation(bench, directory / "start"))
    if "crash" in asked:
        yield lambda: works.lost_rows(bench, _installation(bench, directory / "crash"))


def _media(bench: Bench, directory: Path, stack: ExitStack, *, size_bytes: int, seconds: float, kept: bool) -> Work:
    place = directory / f"media-{'kept' if kept else 'passed'}-{size_bytes}"
    installation = Installation(place, bench.upstream, bench.cores, for_media=True, is_caching=kept)
    server = stack.enter_context(installation.running())
    return works.media(bench, installation, server, size_bytes=size_bytes, seconds=seconds, kept=kept)


def _installation(bench: Bench, directory: Path) -> Installation:
    return Installation(directory, bench.upstream, bench.cores, for_media=False, is_caching=False)


def run_all(given: argparse.Namespace, bench: Bench, directory: Path, stack: ExitStack, faults: list[str]) -> list[Row]:
    """Every work, all its rounds. A work that fails is a fault, and the others go on."""
    rounds: int = given.rounds or (3 if given.quick else 5)
    rows: list[Row] = []
    began_s = time.monotonic()
    for make in planned(given, bench, directory, stack):
        name = "a work"
        try:
            work = make()
            name = work.name
            rows += work.rows
            for number in range(1 if work.once else rounds):
                say(f"{time.monotonic() - began_s:5.0f} s  {work.rows[0].work}: round {number + 1}")
                work.measure(number)
        except (RuntimeError, OSError, Missing, ValueError) as exc:
            faults.append(f"{name}: {exc}")
    return [row for row in rows if row.rounds]


def len_of_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def say(text: str) -> None:
    """Progress, on standard error, so that the table alone is on standard output."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
