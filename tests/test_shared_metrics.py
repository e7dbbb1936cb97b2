"""Counts of several workers: one sum, whoever is asked, that never goes back."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.metrics import Metrics, WriteWaits
from bitmesh_proxy.shared_memory import SharedMemory
from bitmesh_proxy.shared_metrics import MAX_COUNTS, SharedMetrics, SharedWriteWaits


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create(SharedMetrics.words_for(2), name="test")
    yield made
    made.close()


@pytest.fixture
def workers(memory: SharedMemory) -> list[SharedMetrics]:
    return [SharedMetrics(memory, seat=seat, seats=2) for seat in range(2)]


def count(metrics: Metrics, *, times: int = 1) -> None:
    """A bit of everything."""
    for number in range(times):
        metrics.note_request("chat", 200, duration_ms=3 + 40 * number)
        metrics.note_request("image", 499, duration_ms=900)
        metrics.note_attempt("together", "ok")
        metrics.note_attempt("groq", "upstream_timeout")
        metrics.under_way += 1


def test_everybody_says_the_sum(workers: list[SharedMetrics]) -> None:
    alone = Metrics()
    count(alone, times=5)
    count(workers[0], times=5)
    assert workers[0].render() == workers[1].render() == alone.render()
    count(workers[1])
    count(alone)
    rendered = [text.replace(b"\n", b" ") for text in (workers[0].render(), workers[1].render())]
    assert rendered[0] == rendered[1]
    assert b'bitmesh_requests_total{endpoint="image",status="499"} 6.0' in rendered[0]
    assert b"bitmesh_requests_under_way 6.0" in rendered[0]
    assert [worker.under_way for worker in workers] == [5, 1]


def test_waits_for_the_books_are_summed_too(workers: list[SharedMetrics]) -> None:
    for worker in workers:
        SharedWriteWaits(worker).note(0.003, writes=4)
    text = workers[0].render()
    assert b'bitmesh_ledger_write_seconds_bucket{le="0.002"} 0.0' in text
    assert b'bitmesh_ledger_write_seconds_bucket{le="0.003"} 8.0' in text
    assert b"bitmesh_ledger_write_seconds_sum 0.024" in text


def test_waits_of_calls_for_the_ledger_are_summed_too(workers: list[SharedMetrics]) -> None:
    for worker in workers:
        worker.ledger_waits.note(0.0042)
        worker.ledger_waits.note(0.0021)
    text = workers[1].render()
    assert b'bitmesh_ledger_wait_seconds_bucket{le="0.002"} 0.0' in text
    assert b'bitmesh_ledger_wait_seconds_bucket{le="0.00225"} 2.0' in text
    assert b'bitmesh_ledger_wait_seconds_bucket{le="0.00425"} 4.0' in text
    assert b"bitmesh_ledger_wait_seconds_sum 0.0126" in text


def test_what_a_dead_worker_counted_stays_and_its_replacement_goes_on(
    memory: SharedMemory, workers: list[SharedMetrics]
) -> None:
    count(workers[0], times=3)
    count(workers[1], times=2)
    workers[1].forget_seat(0)
    assert b"bitmesh_requests_under_way 2.0" in workers[1].render()
    replacement = SharedMetrics(memory, seat=0, seats=2)
    assert replacement.under_way == 0
    count(replacement)
    text = workers[1].render()
    assert b'bitmesh_attempts_total{outcome="ok",provider="together"} 6.0' in text
    assert b"bitmesh_requests_under_way 3.0" in text


def test_names_are_bounded(workers: list[SharedMetrics]) -> None:
    with pytest.raises(ValueError, match="no room"):
        workers[0].note_attempt("p" * 200, "ok")
    for number in range(1, MAX_COUNTS):
        workers[0].note_attempt("provider", str(number))
    with pytest.raises(ValueError, match="no room"):
        workers[1].note_attempt("provider", "one more")
    workers[1].note_attempt("provider", "1")
    assert b'outcome="1",provider="provider"} 2.0' in workers[1].render()


def test_while_one_stands_still_with_the_names_nothing_is_said_and_everything_is_counted(
    memory: SharedMemory, workers: list[SharedMetrics], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither must an event loop stand still with it, nor a call fail because it is counted."""
    alone = Metrics()
    writes, alone.write_waits = SharedWriteWaits(workers[0]), WriteWaits()
    count(workers[1])
    count(alone)
    workers[0].note_attempt("together", "ok")
    alone.note_attempt("together", "ok")
    standing_still = SharedMemory(os.dup(memory.descriptor))
    with standing_still.locked():
        for each in (workers[0], alone):
            count(each, times=3)
            each.ledger_waits.note(0.0042)
            each.ledger_waits.note(0.0042)
        for waits in (writes, alone.write_waits):
            waits.note(0.003, writes=4)
        for worker in workers:
            with pytest.raises(Unavailable, match="The test cannot be looked up"):
                worker.render()
    standing_still.close()
    assert len(caplog.records) == 1
    assert workers[0].render() == workers[1].render() == alone.render()
