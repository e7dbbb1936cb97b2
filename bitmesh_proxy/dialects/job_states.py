"""Providers' words for the states of long work. A word that nobody knows means that the work is still going on."""

from __future__ import annotations

from typing import Final

from bitmesh_proxy.calls import JobStatus

_WORDS: Final = {
    JobStatus.QUEUED: ("created", "in_queue", "pending", "queued", "starting", "submitted", "waiting"),
    JobStatus.COMPLETED: ("complete", "completed", "done", "finished", "ready", "succeeded", "success", "successful"),
    JobStatus.FAILED: (
        "aborted",
        "content moderated",
        "error",
        "errored",
        "expired",
        "fail",
        "failed",
        "failure",
        "rejected",
        "request moderated",
        "timed_out",
        "timeout",
    ),
    JobStatus.CANCELLED: ("canceled", "cancelled", "deleted"),
}
_STATUS_OF: Final = {word: status for status, words in _WORDS.items() for word in words}


def read_status(word: object) -> JobStatus:
    """The state that a provider's word means, in any case of letters."""
    known = _STATUS_OF.get(word.strip().lower()) if isinstance(word, str) else None
    return known if known is not None else JobStatus.IN_PROGRESS
