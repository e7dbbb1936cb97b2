"""Counts are right, cumulated as Prometheus wants them, and readable by its own parser."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bitmesh_proxy.metrics import DURATION_BOUNDS_MS, LEDGER_BOUNDS_MS, Metrics, WriteWaits


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_endpoint_and_status() -> None:
    metrics = Metrics()
    metrics.note_request("chat", 200, duration_ms=3)
    metrics.note_request("chat", 200, duration_ms=30)
    metrics.note_request("image", 499, duration_ms=9)
    metrics.note_attempt("together", "ok")
    metrics.note_attempt("together", "upstream_timeout")
    metrics.under_way = 4
    found = samples(metrics)
    assert found["bitmesh_requests_total", (("endpoint", "chat"), ("status", "200"))] == 2
    assert found["bitmesh_requests_total", (("endpoint", "image"), ("status", "499"))] == 1
    assert found["bitmesh_attempts_total", (("outcome", "upstream_timeout"), ("provider", "together"))] == 1
    assert found["bitmesh_requests_under_way", ()] == 4


def test_durations_are_cumulated_and_every_bound_belongs_to_its_own_class() -> None:
    metrics = Metrics()
    for duration_ms in (*DURATION_BOUNDS_MS, DURATION_BOUNDS_MS[-1] + 1):
        metrics.note_request("chat", 200, duration_ms=duration_ms)
    found = samples(metrics)
    for place, bound_ms in enumerate(DURATION_BOUNDS_MS, start=1):
        labels = (("endpoint", "chat"), ("le", str(bound_ms / 1000)))
        assert found["bitmesh_request_duration_seconds_bucket", labels] == place
    assert found["bitmesh_request_duration_seconds_count", (("endpoint", "chat"),)] == len(DURATION_BOUNDS_MS) + 1
    total_s = sum((*DURATION_BOUNDS_MS, DURATION_BOUNDS_MS[-1] + 1)) / 1000
    assert found["bitmesh_request_duration_seconds_sum", (("endpoint", "chat"),)] == total_s


def test_writes_count_with_the_wait_of_their_batch() -> None:
    metrics = Metrics()
    metrics.write_waits = WriteWaits()
    metrics.write_waits.note(0.0004, writes=3)
    metrics.write_waits.note(0.005, writes=1)
    metrics.write_waits.note(60.0, writes=2)
    found = samples(metrics)
    within = {le: found["bitmesh_ledger_write_seconds_bucket", (("le", le),)] for le in ("0.0001", "0.0005", "0.005")}
    assert within == {"0.0001": 0, "0.0005": 3, "0.005": 4}
    assert found["bitmesh_ledger_write_seconds_bucket", (("le", "+Inf"),)] == 6
    assert found["bitmesh_ledger_write_seconds_count", ()] == 6
    assert found["bitmesh_ledger_write_seconds_sum", ()] == pytest.approx(120.0062)


def test_waits_of_calls_are_classed_finely() -> None:
    metrics = Metrics()
    for bound_ms in (*LEDGER_BOUNDS_MS, 6_000):
        metrics.ledger_waits.note(bound_ms / 1000)
    found = samples(metrics)
    for place, bound_ms in enumerate(LEDGER_BOUNDS_MS, start=1):
        assert found["bitmesh_ledger_wait_seconds_bucket", (("le", str(bound_ms / 1000)),)] == place
    assert found["bitmesh_ledger_wait_seconds_count", ()] == len(LEDGER_BOUNDS_MS) + 1
    assert found["bitmesh_ledger_wait_seconds_sum", ()] == pytest.approx((sum(LEDGER_BOUNDS_MS) + 6_000) / 1000)


def test_without_a_database_nothing_was_written() -> None:
    assert samples(Metrics())["bitmesh_ledger_write_seconds_count", ()] == 0


def test_one_application_does_not_see_another() -> None:
    first, second = Metrics(), Metrics()
    first.note_request("chat", 200, duration_ms=1)
    assert "chat" not in second.render().decode()


def test_the_renderer_is_loaded_when_asked_for_and_whole() -> None:
    script = """
import sys
from bitmesh_proxy import metrics
print("prometheus_client" in sys.modules)
metrics.load_renderer()
before = set(sys.modules)
metrics.Metrics().render()
print(set(sys.modules) - before)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "set()"]
