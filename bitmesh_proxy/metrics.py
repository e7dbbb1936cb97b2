"""What an operator watches: counts of the running process, in Prometheus' text format at ``/metrics``.

On a request's way only whole numbers are added up; names, labels and text are made when somebody asks. No label ever
holds what a caller sent: endpoints, statuses and providers are ours, so that their number is bounded.
"""

from __future__ import annotations

import importlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: Upper bounds of the classes of a request's duration, in milliseconds.
DURATION_BOUNDS_MS: Final = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000)

#: The same for a write of the books, which is to take under five.
WRITE_BOUNDS_MS: Final = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10, 25, 50, 100, 250, 500, 1_000, 5_000)


class WriteWaits:
    """How long writes of the books took, from being queued until the event loop heard that they are committed.

    The clock is looked at once for each group commit, and every write counts with the wait of its batch's first, the
    longest: what is shown is never less than what was waited.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(WRITE_BOUNDS_MS) + 1)
        self.sum_s = 0.0

    def note(self, wait_s: float, *, writes: int) -> None:
        """A batch of so many writes is over."""
        self.counts[bisect_left(WRITE_BOUNDS_MS, wait_s * 1000)] += writes
        self.sum_s += wait_s * writes


#: The same for what a call waits for the books in all, fine around what it may wait.
LEDGER_BOUNDS_MS: Final = (
    0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 3.75, 4, 4.25, 4.5, 4.75, 5, 5.5, 6, 6.5, 7,
    7.5, 8, 9, 10, 12.5, 15, 20, 25, 30, 40, 50, 75, 100, 250, 500, 1_000, 5_000,
)  # fmt: skip


class LedgerWaits:
    """How long calls waited for their rows of the ledger: what the ledger adds to the time of an answer.

    Each call counts once, with the sum of two waits: from asking for its row to hearing that it is there, and the same
    for closing it. Each ends where the call goes on: what others do with the same commit's news before that counts.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(LEDGER_BOUNDS_MS) + 1)
        self.sum_s = 0.0

    def note(self, wait_s: float) -> None:
        """A call's row is closed."""
        self.counts[bisect_left(LEDGER_BOUNDS_MS, wait_s * 1000)] += 1
        self.sum_s += wait_s


class Metrics:
    """One per application."""

    def __init__(self) -> None:
        self.under_way = 0
        #: The database's own, once it is open.
        self.write_waits: WriteWaits | None = None
        self.ledger_waits = LedgerWaits()
        # (No ``Counter``: it stores through Python's code, which takes a call six times as long as the addition.)
        self._requests: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._durations: dict[str, list[int]] = {}
        self._duration_sums_ms: defaultdict[str, int] = defaultdict(int)
        self._attempts: defaultdict[tuple[str, str], int] = defaultdict(int)

    def note_request(self, endpoint: str, status: int, *, duration_ms: int) -> None:
        """A request is over; 499 is a caller who left."""
        self._requests[endpoint, status] += 1
        counts = self._durations.get(endpoint)
        if counts is None:
            counts = self._durations[endpoint] = [0] * (len(DURATION_BOUNDS_MS) + 1)
        counts[bisect_left(DURATION_BOUNDS_MS, duration_ms)] += 1
        self._duration_sums_ms[endpoint] += duration_ms

    def note_attempt(self, provider: str, outcome: str) -> None:
        """A provider was tried; ``outcome`` is ``ok`` or the code of its error."""
        self._attempts[provider, outcome] += 1

    def render(self) -> bytes:
        """Everything, as text. Works without ``load_renderer`` too, but then blocks once."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterable[Metric]:
        """The families, made from the numbers."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        yield GaugeMetricFamily("bitmesh_requests_under_way", "Requests being answered now.", value=self.under_way)
        requests = CounterMetricFamily(
            "bitmesh_requests", "Requests that are over, by endpoint and status.", labels=("endpoint", "status")
        )
        for (endpoint, status), count in sorted(self._requests.items()):
            requests.add_metric((endpoint, str(status)), count)
        yield requests
        durations = HistogramMetricFamily(
            "bitmesh_request_duration_seconds", "From the request's head to the answer's end.", labels=("endpoint",)
        )
        for endpoint, counts in sorted(self._durations.items()):
            durations.add_metric((endpoint,), _cumulated(counts), sum_value=self._duration_sums_ms[endpoint] / 1000)
        yield durations
        attempts = CounterMetricFamily(
            "bitmesh_attempts", "Calls made to providers, by outcome.", labels=("provider", "outcome")
        )
        for (provider, outcome), count in sorted(self._attempts.items()):
            attempts.add_metric((provider, outcome), count)
        yield attempts
        waits = self.write_waits or WriteWaits()
        yield HistogramMetricFamily(
            "bitmesh_ledger_write_seconds",
            "From a write's queueing to its commit; each counts with the longest wait of its group commit.",
            buckets=_cumulated(waits.counts, WRITE_BOUNDS_MS),
            sum_value=waits.sum_s,
        )
        yield HistogramMetricFamily(
            "bitmesh_ledger_wait_seconds",
            "What a call waited for the ledger in all: until its row was there, and until it was closed.",
            buckets=_cumulated(self.ledger_waits.counts, LEDGER_BOUNDS_MS),
            sum_value=self.ledger_waits.sum_s,
        )


def load_renderer() -> None:
    """Import what text is made with, which takes 60 ms the first time: in a thread, so that no stream waits for it.

    Not with the rest, because that would be a tenth of the program's start, and most programs are never asked.
    """
    importlib.import_module("prometheus_client.core")


def _cumulated(counts: Sequence[int], bounds_ms: Sequence[float] = DURATION_BOUNDS_MS) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for bound_ms, count in zip((*bounds_ms, None), counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound_ms is None else str(bound_ms / 1000), float(total)))
    return buckets
