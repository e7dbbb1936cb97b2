"""What every work needs: who is measured, how one round is run, and what a work is.

Every work asks direct, nginx and us in turn, and the order turns round with each round, so that what else the machine
does falls on all alike. Where latency counts, a run in which other programs took much more of the two cores than they
mostly do is made again, whoever's turn it was, and the calmer is kept: nobody's figures decide which.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmarks.gateway import CHAT_MODEL, Installations
from scripts.benchmarks.loads import Run, Target, run_load
from scripts.benchmarks.peer_gateways import Peer
from scripts.benchmarks.processes import Cores, Server, Tools
from scripts.benchmarks.table import Row

OUR_CHAT = "/chat"
THEIR_CHAT = "/v1/chat/completions"
#: Where two figures are close, a round is so many short runs of each, to and fro, and each pair has its ratio: the pace
#: of a machine with neighbours changes within seconds, by half.
TURNS = 6
QUICK_TURNS = 2
#: So much of a core may be taken by anything else before a run is made again.
CALM = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The servers, and where things are. ``stack`` ends what works start for themselves."""

    tools: Tools
    cores: Cores
    directory: Path
    cache: Path
    stack: ExitStack
    upstream: Server
    nginx: Server | None
    installations: Installations
    gateway: Server
    peers: list[Peer]
    is_quick: bool = False
    #: For making what is kept for later runs.
    spare_s: float = 0.0
    #: What spoils figures, each said once.
    faults: list[str] = field(default_factory=list)
    #: What anything else took of the two cores during each run, the host included, in parts of one core.
    others: list[float] = field(default_factory=list)

    def targets(self, body: str) -> list[Target]:
        """Direct, nginx and us, for a chat body."""
        return [*self.beside(THEIR_CHAT, body), self.us(OUR_CHAT, body)]

    def beside(self, path: str, body: str | None = None) -> list[Target]:
        """Direct and nginx, for a path of the provider's own."""
        found = [Target(name="direct", url=self.upstream.url, path=path, body=body)]
        if self.nginx is not None:
            found.append(Target(name="nginx", url=self.nginx.url, path=path, body=body, pid=self.nginx.pid))
        return found

    def us(self, path: str, body: str | None = None, *, name: str = "us", server: Server | None = None) -> Target:
        """The gateway, or another server of ours with the same key."""
        server = server or self.gateway
        headers = [self.installations.key.bearer]
        return Target(name=name, url=server.url, path=path, body=body, pid=server.pid, headers=headers)

    def run(self, target: Target, options: Sequence[str], *, calmly: bool = False) -> Run:
        """One run; answers that failed are said aloud, because they make figures worthless."""
        run = self._run(target, options)
        self.others.append(run.others)
        if calmly and not self.is_quick and run.others > max(CALM, 2 * statistics.median(self.others)):
            run = min(run, self._run(target, options), key=lambda each: each.others)
        self._note_failures(target, run)
        return run

    def run_among(
        self, target: Target, options: Sequence[str], *, others: Target, their_options: Sequence[str], after_s: float
    ) -> tuple[Run, Run]:
        """A run that begins ``after_s`` after another one, which goes on behind it; gives both. CPU times are not told
        apart: each has what both took."""
        with ThreadPoolExecutor(1) as threads:
            beside = threads.submit(self._run, others, their_options)
            time.sleep(after_s)
            run = self._run(target, options)
            both = run, beside.result()
        self._note_failures(target, both[0])
        self._note_failures(others, both[1])
        return both

    def _note_failures(self, target: Target, run: Run) -> None:
        if run.failures:
            fault = f"{target.name}: {run.failures} of {run.answers + run.failures} answers failed ({target.path})"
            if fault not in self.faults:
                self.faults.append(fault)

    def _run(self, target: Target, options: Sequence[str]) -> Run:
        return run_load(self.tools.load, target, options, cores=self.cores, provider_pid=self.upstream.pid)

    def round(
        self, targets: Sequence[Target], options: Sequence[str], number: int, *, calmly: bool = False
    ) -> dict[str, Run]:
        """All targets once, in an order that turns round."""
        return {target.name: self.run(target, options, calmly=calmly) for target in in_turn(targets, number)}

    def turns(self, number: int) -> range:
        """The turns of a round by its number; each goes the other way round than the one before."""
        return range(number, number + (QUICK_TURNS if self.is_quick else TURNS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """``measure`` adds the figures of a round (by its number) to ``rows``. ``once``: one round is enough."""

    name: str
    rows: Sequence[Row]
    measure: Callable[[int], None]
    once: bool = False


def in_turn(targets: Sequence[Target], number: int) -> Sequence[Target]:
    """Every other round goes backwards."""
    return targets if number % 2 == 0 else list(reversed(targets))


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
