"""Measure bitmesh-proxy beside nginx and beside no gateway at all, in front of one and the same provider.

Everything runs on this machine, on 127.0.0.1, and in bounded time: a mock provider and a load generator in C on one
core, nginx and the gateway on another. The gateway has everything on (keys, limits, reservation, ledger) and its access
log off. Rounds are interleaved; the table shows medians, the ratio within each round, and the noise (half the spread of
the ratios between their quartiles). On a busy machine trust ratios and CPU times, not answers per second.

  direct  the load asks the provider itself: what the harness can do at all
  nginx   proxy_pass, one worker: the yardstick
  us      bitmesh-proxy, one process
  other   what we are compared with where it is neither
  ratio   us / nginx (or other), or with a sign: us - direct
  met     whether the bar of this line is met: a wish, not a test (--check)

Works, for --only: json (whole answers), sse1, sse100, sse1000 (streams), latency (at a fixed rate), mixed (whole
answers among streams), ledger (what it adds at 1,000 requests/s), responses (translated streams), oauth, tls (a
provider behind TLS), memory, media, slow (slow readers), workers (two processes), scale (100,000 keys, 5,000 models,
10 million rows), start, crash (kill -9).

Peers: --peer litellm and --peer portkey start those gateways, once scripts/benchmarks/peers/NAME.sh has installed them
in DIR/peers/NAME, where DIR is that of --cache. Any other gateway that runs on this machine is a peer by its address:
  scripts/bench --upstream-port 18080 --peer mine=http://127.0.0.1:4000 --peer-header 'mine=Authorization: Bearer KEY'
set up for the provider at http://127.0.0.1:18080/v1.

Needs a C compiler; without nginx its column stays empty. Exit status: 0, 1 when something that was asked for could not
be measured, with --check 2 when a bar is missed by more than 30 %.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.benchmarks import chat_works, ledger_work, media_works, process_works, scale_work, tls_works
from scripts.benchmarks.bench import Bench, Work, chat_body
from scripts.benchmarks.gateway import Installations
from scripts.benchmarks.peer_gateways import Wanted, open_peer, parse_peers
from scripts.benchmarks.processes import Cores, Missing, Server, build, cpu_ticks, mock_provider, nginx, stolen_share
from scripts.benchmarks.progress import say
from scripts.benchmarks.schedule import measure_all
from scripts.benchmarks.table import Row, render

NAMES = (
    "json", "sse1", "sse100", "sse1000", "latency", "mixed", "ledger", "responses", "oauth", "tls", "memory", "media",
    "slow", "workers", "scale", "start", "crash",
)  # fmt: skip
#: No round begins that would end later than this after the start: ten minutes and two, with something to spare.
FULL_S, QUICK_S = 560.0, 113.0
#: What a bar may be missed by, as a share of it, before --check says so.
SLACK = 0.3


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``peers`` are those that are wanted."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="Short rounds, two minutes in all instead of ten.")
    parser.add_argument("--rounds", type=int, help="Rounds of each work (default 5, with --quick 3), if time allows.")
    parser.add_argument("--only", metavar="WORKS", help="Some works only, by name with commas between.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write all figures of all rounds to FILE.")
    parser.add_argument("--check", action="store_true", help="Exit with 2 when a bar is missed by more than 30 %%.")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", default=default_cache(), help="For what is kept: %(default)s."
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME[=URL]",
        help="Another gateway, in the same rounds; repeatable.",
    )
    for option, meaning in (
        ("path", "its chat path (default /v1/chat/completions)"),
        ("model", "the model to ask it for (default gpt-4o-mini)"),
        ("header", "a header for it, repeatable"),
        ("pid", "its process, where that is not the one that listens"),
    ):
        parser.add_argument(
            f"--peer-{option}", action="append", default=[], metavar="NAME=…", help=f"Of a peer: {meaning}."
        )
    parser.add_argument(
        "--upstream-port",
        type=int,
        help="Port of the mock provider, for peers that run already (default: any free one).",
    )
    given = parser.parse_args(argv)
    unknown = set((given.only or "").split(",")) - {"", *NAMES}
    if unknown:
        parser.error(f"--only: no work is called {', '.join(sorted(unknown))}")
    if given.rounds is not None and not 1 <= given.rounds <= 50:
        parser.error("--rounds: want 1 to 50")
    try:
        given.peers = parse_peers(
            given.peer, paths=given.peer_path, models=given.peer_model, headers=given.peer_header, pids=given.peer_pid
        )
    except ValueError as error:
        parser.error(str(error))
    return given


def default_cache() -> Path:
    """Where programs keep what they could make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitmesh-proxy-bench"


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Gives the exit status."""
    given = arguments(argv)
    if sys.platform != "linux":
        say("scripts/bench measures on Linux only.")
        return 1
    # As Ctrl-C does it, so that a run that is cut off leaves no servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began_s, ticks = time.monotonic(), cpu_ticks()
    with tempfile.TemporaryDirectory(prefix="bitmesh-bench-") as name, ExitStack() as stack:
        try:
            bench = set_up(given, Path(name), stack)
        except Missing as missing:
            say(f"Cannot measure: {missing}")
            return 1
        rows = measure_all(
            planned(bench, set((given.only or ",".join(NAMES)).split(","))),
            rounds=given.rounds or (3 if given.quick else 5),
            end_s=began_s + (QUICK_S if given.quick else FULL_S),
            faults=bench.faults,
            say=say,
        )
    facts = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores",
        "seconds": round(time.monotonic() - began_s, 1),
        "stolen_percent": round(stolen_share(ticks, cpu_ticks()) * 100, 1),
        "others_percent": round(statistics.median(bench.others) * 100, 1) if bench.others else None,
    }
    print(render(rows))
    print(f"\n{facts['machine']}; {facts['seconds']} s; {facts['stolen_percent']} % of CPU time stolen by the host")
    if bench.others:
        print(f"What else runs here took {facts['others_percent']} % of a core in the median run.")
    for fault in bench.faults:
        print(f"! {fault}")
    if given.json:
        said = {**facts, "faults": bench.faults, "rows": [row.as_json() for row in rows]}
        given.json.write_text(json.dumps(said, indent=1), encoding="utf-8")
    return verdict(rows, bench.faults, is_check=given.check)


def verdict(rows: Sequence[Row], faults: Sequence[str], *, is_check: bool) -> int:
    """The exit status (see the module's docstring); says which bars ``--check`` finds missed."""
    missed = [row for row in rows if row.missed_by is not None and row.missed_by > SLACK] if is_check else []
    for row in missed:
        print(f"! missed by more than {SLACK:.0%}: {row.work}, {row.unit}: {row.bar_text()}")
    return 1 if faults else 2 if missed else 0


def set_up(given: argparse.Namespace, directory: Path, stack: ExitStack) -> Bench:
    """Build, start provider, nginx, the gateway and peers. Raises Missing without what everything needs."""
    faults: list[str] = []
    cores = Cores.pick()
    if cores.load == cores.measured:
        faults.append("only one core: load and gateway share it, so that nothing but ratios means anything")
    cache = given.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    tools = build(cache)
    upstream = stack.enter_context(mock_provider(tools.upstream, directory, cores, port=given.upstream_port))
    yardstick: Server | None = None
    try:
        yardstick = stack.enter_context(nginx(directory / "nginx", upstream, on=cores.measured))
    except Missing as missing:
        faults.append(str(missing))
    installations = Installations(directory, upstream, cores)
    installation = installations.make("gateway")
    bench = Bench(
        tools=tools,
        cores=cores,
        directory=directory,
        cache=cache,
        stack=stack,
        upstream=upstream,
        nginx=yardstick,
        installations=installations,
        gateway=stack.enter_context(installation.running()),
        peers=[],
        is_quick=given.quick,
        spare_s=FULL_S if given.only == "scale" else FULL_S / 3,
        faults=faults,
    )
    add_peers(bench, given.peers)
    return bench


def add_peers(bench: Bench, wanted: Sequence[Wanted]) -> None:
    """Find or start them. One that cannot be had is a fault, and the others go on."""
    for each in wanted:
        say(f"Looking for {each.name} …")
        try:
            peer = open_peer(
                each,
                upstream=bench.upstream,
                cores=bench.cores,
                installed=bench.cache / "peers",
                logs=bench.directory,
                stack=bench.stack,
            )
        except Missing as missing:
            bench.faults.append(str(missing))
        else:
            bench.peers.append(peer)
            # What it loads and makes for its first answers.
            bench.run(chat_works.peer_target(peer, chat_body()), ["-c", "8", "-n", "50", "-d", "20"])


def planned(bench: Bench, asked: set[str]) -> list[tuple[str, Callable[[], Work]]]:
    """What to do, in order; each is made when its turn comes, because some works start servers."""
    works: list[tuple[str, Callable[[], Work]]] = [
        ("json", lambda: chat_works.whole_answers(bench)),
        ("sse1", lambda: chat_works.first_bytes(bench)),
        ("sse100", lambda: chat_works.streams(bench, 100)),
        ("sse1000", lambda: chat_works.streams(bench, 1000)),
        ("latency", lambda: chat_works.fixed_rate(bench)),
        ("mixed", lambda: chat_works.calls_among_streams(bench)),
        ("ledger", lambda: ledger_work.ledger_waits(bench)),
        ("responses", lambda: chat_works.translated_streams(bench)),
        ("oauth", lambda: chat_works.signed_answers(bench)),
        ("tls", lambda: tls_works.provider_over_tls(bench)),
        ("memory", lambda: chat_works.stream_memory(bench, 1000 if bench.is_quick else 3000)),
        *planned_media(bench),
        ("workers", lambda: process_works.workers(bench)),
        ("scale", lambda: scale_work.large_installation(bench)),
        ("start", lambda: process_works.start(bench)),
        ("crash", lambda: process_works.lost_rows(bench)),
    ]
    return [(name, make) for name, make in works if name in asked]


def planned_media(bench: Bench) -> list[tuple[str, Callable[[], Work]]]:
    """Two servers, one that keeps copies and one that does not, each started when it is first needed."""
    servers: dict[bool, Server] = {}

    def server(is_caching: bool) -> Server:
        if is_caching not in servers:
            servers[is_caching] = media_works.media_server(bench, is_caching=is_caching)
        return servers[is_caching]

    def work(size_bytes: int, is_caching: bool) -> Callable[[], Work]:
        way = "from our copy" if is_caching else "passed through"
        return lambda: media_works.media(bench, server(is_caching), size_bytes=size_bytes, way=way)

    sizes = (4 * media_works.MIB,) if bench.is_quick else (4 * media_works.MIB, 100 * media_works.MIB)
    return [
        # First, because memory once taken is rarely given back.
        ("slow", lambda: media_works.slow_readers(bench, server(False))),
        *(("media", work(size, is_caching)) for is_caching in (False, True) for size in sizes),
    ]


if __name__ == "__main__":
    sys.exit(main())
