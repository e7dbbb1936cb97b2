"""Providers' words for states: synonyms are known, a word that nobody knows is no end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.calls import JobStatus
from bitmesh_proxy.dialects.job_states import read_status


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["queued", "IN_QUEUE", "Pending", "starting"], JobStatus.QUEUED),
        (["in_progress", "processing", "IN_PROGRESS", "running"], JobStatus.IN_PROGRESS),
        (["completed", "succeeded", "Ready", "COMPLETED", "done", "success"], JobStatus.COMPLETED),
        (["failed", "Error", "expired", "Request Moderated", "Content Moderated", "aborted"], JobStatus.FAILED),
        (["canceled", "cancelled", "deleted"], JobStatus.CANCELLED),
    ],
)
def test_synonyms(words: list[str], status: JobStatus) -> None:
    assert {read_status(word) for word in words} == {status}


@given(st.text(alphabet="abcxyz_ ", min_size=1, max_size=3) | st.none() | st.integers() | st.lists(st.text()))
def test_what_nobody_knows_goes_on(word: object) -> None:
    assert read_status(word) is JobStatus.IN_PROGRESS
