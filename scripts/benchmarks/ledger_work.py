"""What the ledger adds to an answer's time, at a thousand requests a second.

The ledger cannot be switched off, and a gateway without one would be another program. So what is measured is the wait
itself: the gateway counts for every write how long it took from being queued until the event loop heard of its commit
(``bitmesh_ledger_write_seconds`` at ``/metrics``; each write counts with the longest wait of its group commit). An
answer waits for two: its row is durable before the provider is called, and closed before the last byte goes out. Two
waits are together longer than 2 × w in no more cases than one of them is longer than w, so twice the 99.5th percentile
of one is the 99th percentile of both, or more: what is shown is an upper bound.

Requests come at their times, whatever became of those before. A machine that cannot carry the rate says so in the row,
and the highest rate of ``RATES`` that it can carry is measured.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping

from scripts.benchmarks.bench import OUR_CHAT, Bench, Work, chat_body
from scripts.benchmarks.loads import Run
from scripts.benchmarks.table import Bar, Row

RATES = (1000, 750, 500, 250)
#: A rate is carried when this share of it is answered while it lasts.
STEADY = 0.97
_BUCKET = re.compile(r'^bitmesh_ledger_write_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE)


def ledger_waits(bench: Bench) -> Work:
    """See the module's docstring."""
    row = Row(
        work="added by the ledger, 1,000 requests/s", unit="p99 ms (bound)", against="", bars=[Bar(limit=5, of="us")]
    )
    one = Row(work="one write to the ledger", unit="p99 ms", against="")
    target = bench.us(OUR_CHAT, chat_body())
    seconds = 0.8 if bench.is_quick else 2
    carried: list[int] = []

    def run_at(per_second: int) -> Run:
        return bench.run(target, ["-c", "64", "-R", str(per_second), "-d", str(seconds), "-w", "0.2"], calmly=True)

    def find_rate() -> int:
        for rate in RATES:
            if is_steady(run_at(rate), rate):
                return rate
        raise RuntimeError(f"not even {RATES[-1]} requests/s are carried")

    def measure(_number: int) -> None:
        if not carried:
            carried.append(find_rate())
            if carried[0] < RATES[0]:
                row.note = one.note = f"more than it can carry here: measured at {carried[0]:,}"
        before = read_buckets(_metrics(bench.gateway.url))
        run_at(carried[0])
        after = read_buckets(_metrics(bench.gateway.url))
        buckets = {bound: count - before.get(bound, 0) for bound, count in after.items()}
        row.add({"us": 2 * quantile(buckets, 0.995) * 1000})
        one.add({"us": quantile(buckets, 0.99) * 1000})

    return Work(name="ledger", rows=[row, one], measure=measure)


def is_steady(run: Run, per_second: int) -> bool:
    """Was the rate carried? What cannot be sent in time queues up, and then nothing is answered in time."""
    return run.answers_per_s >= STEADY * per_second and run.unsent <= (1 - STEADY) * per_second


def _metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 - our own server on 127.0.0.1
        return str(answer.read(), "utf-8")


def read_buckets(text: str) -> dict[float, float]:
    """The cumulated classes of the waits by their upper bounds (seconds). Raises RuntimeError when there are none."""
    found = {float(bound): float(count) for bound, count in _BUCKET.findall(text)}
    if not found:
        raise RuntimeError("the gateway does not count its waits for the ledger")
    return found


def quantile(buckets: Mapping[float, float], share: float) -> float:
    """The value that ``share`` of all are not above, read as Prometheus reads it: evenly spread within a class.

    What is above the last finite bound counts as that bound. Raises RuntimeError when nothing was counted.
    """
    total = buckets[float("inf")]
    if total <= 0:
        raise RuntimeError("nothing was written to the ledger")
    below_s, below = 0.0, 0.0
    for bound_s, count in sorted(buckets.items()):
        if count >= share * total:
            if bound_s == float("inf"):
                break
            return below_s + (bound_s - below_s) * (share * total - below) / max(count - below, 1e-9)
        below_s, below = bound_s, count
    return below_s
