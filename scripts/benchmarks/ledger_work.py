"""What the ledger adds to an answer's time, at a thousand requests a second.

The ledger cannot be switched off, and a gateway without one would be another program. So what is measured is the wait
itself. An answer waits twice: its row is durable before the provider is called, and closed before the last byte goes
out. The gateway takes the time from queueing each of the two writes until the call goes on with the news of its commit,
and counts the sum of both for each call (``bitmesh_ledger_wait_seconds`` at ``/metrics``). What is shown is the 99th
percentile of these sums, from what a run adds to the histogram's classes. The event loop's own turns between commit and
news are in it; the few microseconds that it takes to queue a write are not.

Beside it stands one write alone (``bitmesh_ledger_write_seconds``; each write counts with the longest wait of its group
commit).

Requests come at their times, whatever became of those before. A machine that cannot carry the rate says so in the row,
and the highest rate of ``RATES`` that it can carry is measured.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping

from scripts.benchmarks.bench import CALM, OUR_CHAT, Bench, Work, chat_body
from scripts.benchmarks.loads import Run
from scripts.benchmarks.table import Bar, Row

RATES = (1000, 750, 500, 250)
#: A rate is carried when this share of it is answered while it lasts.
STEADY = 0.97
_BUCKET = re.compile(r'^(bitmesh_ledger_\w+)_bucket\{le="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE)
#: The histograms' names: a call's two waits together, and a write's.
CALL = "bitmesh_ledger_wait_seconds"
WRITE = "bitmesh_ledger_write_seconds"


def ledger_waits(bench: Bench) -> Work:
    """See the module's docstring."""
    row = Row(work="added by the ledger, 1,000 requests/s", unit="p99 ms", against="", bars=[Bar(limit=5, of="us")])
    one = Row(work="one write to the ledger", unit="p99 ms", against="")
    target = bench.us(OUR_CHAT, chat_body())
    seconds = 0.8 if bench.is_quick else 2
    carried: list[int] = []

    def run_at(per_second: int) -> Run:
        return bench.run(target, ["-c", "64", "-R", str(per_second), "-d", str(seconds), "-w", "0.2"])

    def counted_run(per_second: int) -> tuple[float, str, str]:
        """What else took CPU time, and the metrics before and after."""
        before = _metrics(bench.gateway.url)
        run = run_at(per_second)
        return run.others, before, _metrics(bench.gateway.url)

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
        counted = counted_run(carried[0])
        if counted[0] > CALM and not bench.is_quick:  # not ``calmly``: the histogram would have both runs in it
            counted = min(counted, counted_run(carried[0]))
        _, before, after = counted
        for shown, name in ((row, CALL), (one, WRITE)):
            shown.add({"us": quantile(added_buckets(before, after, name), 0.99) * 1000})

    return Work(name="ledger", rows=[row, one], measure=measure)


def is_steady(run: Run, per_second: int) -> bool:
    """Was the rate carried? What cannot be sent in time queues up, and then nothing is answered in time."""
    return run.answers_per_s >= STEADY * per_second and run.unsent <= (1 - STEADY) * per_second


def _metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 - our own server on 127.0.0.1
        return str(answer.read(), "utf-8")


def read_buckets(text: str, name: str) -> dict[float, float]:
    """The cumulated classes of a histogram by their upper bounds (seconds). Raises RuntimeError if there is none."""
    found = {float(bound): float(count) for found, bound, count in _BUCKET.findall(text) if found == name}
    if not found:
        raise RuntimeError(f"the gateway does not count its waits for the ledger: there is no {name}")
    return found


def added_buckets(before: str, after: str, name: str) -> dict[float, float]:
    """What came to a histogram between two texts."""
    earlier = read_buckets(before, name)
    return {bound: count - earlier[bound] for bound, count in read_buckets(after, name).items()}


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
