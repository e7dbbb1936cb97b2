"""Which offers have failed of late. An unhealthy offer is tried last, never left out: it may be the only one.

Kept in memory only; a restart forgives everything.
"""

from __future__ import annotations

from collections.abc import Callable

#: Failures remembered at once; beyond it the oldest is forgotten. Far above the number of offers of any catalogue.
MAX_REMEMBERED = 10_000


class OfferHealth:
    """An offer is unhealthy for ``unhealthy_s`` seconds after its last failure, or until it succeeds."""

    def __init__(self, clock: Callable[[], float], unhealthy_s: float, *, max_remembered: int = MAX_REMEMBERED) -> None:
        self._clock = clock
        self._unhealthy_s = unhealthy_s
        self._max_remembered = max_remembered
        # In order of failing, so that the first is the oldest.
        self._failed_at_s: dict[str, float] = {}

    @property
    def has_failures(self) -> bool:
        """Is there anything to forget? Hardly ever; with thousands of offers, to name one takes longer than this."""
        return bool(self._failed_at_s)

    def note_failure(self, offer_id: str) -> None:
        """The offer failed, by no fault of the request."""
        self._failed_at_s.pop(offer_id, None)
        self._failed_at_s[offer_id] = self._clock()
        while len(self._failed_at_s) > self._max_remembered:
            del self._failed_at_s[next(iter(self._failed_at_s))]

    def note_success(self, offer_id: str) -> None:
        """The offer delivered: whatever was before is forgotten."""
        self._failed_at_s.pop(offer_id, None)

    def is_healthy(self, offer_id: str) -> bool:
        """Has it not failed within the last ``unhealthy_s`` seconds?"""
        failed_at_s = self._failed_at_s.get(offer_id)
        if failed_at_s is None:
            return True
        if self._clock() - failed_at_s < self._unhealthy_s:
            return False
        del self._failed_at_s[offer_id]
        return True
