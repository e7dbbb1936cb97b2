"""Which beginnings of prompts a provider has cached, by digest, each with the time it dies; the oldest goes first."""

from __future__ import annotations

from collections import OrderedDict


class PromptCache:
    def __init__(self, *, max_prompts: int) -> None:
        self._max_prompts = max_prompts
        self._expires_at: OrderedDict[bytes, float] = OrderedDict()

    def touch(self, digest: bytes, now: float, *, lifetime_s: float) -> bool:
        """Whether the prompt was there. It is afterwards, for another ``lifetime_s``."""
        is_known = self._expires_at.pop(digest, now) > now
        self._expires_at[digest] = now + lifetime_s
        while len(self._expires_at) > self._max_prompts:
            self._expires_at.popitem(last=False)
        return is_known
