"""What an operator watches: counts of the running process, in Prometheus' text format at ``/metrics``.

On a request's way only whole numbers are added up; names, labels and text are made when somebody asks. No label ever
holds what a caller sent: endpoints, statuses and providers are ours, so that their number is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: Upper bounds of the classes of a request's duration, in milliseconds.
DURATION_BOUNDS_MS: Final = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000)


class Metrics:
    """One per application."""

    def __init__(self) -> None:
        self.under_way = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._durations: dict[str, list[int]] = {}
        self._duration_sums_ms: Counter[str] = Counter()
        self._attempts: Counter[tuple[str, str]] = Counter()

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
        """Everything, as text."""
        # Here, because loading it takes a tenth of the program's start, and most programs are never asked.
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


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for bound_ms, count in zip((*DURATION_BOUNDS_MS, None), counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound_ms is None else str(bound_ms / 1000), float(total)))
    return buckets
