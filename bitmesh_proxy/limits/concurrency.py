"""How many calls a key may have under way at once.

A slot is taken when the ``with`` block is entered and given back when it is left, however it is left: by its end, by an
error, by cancellation; or by whoever it was handed over to, for a call that outlives its request. Nothing is kept of a
key that has no call under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol

from bitmesh_proxy.errors import TooManyConcurrent
from bitmesh_proxy.limits.base import Bucket, Limit, Passed
from bitmesh_proxy.limits.passage import Passage, passage_of
from bitmesh_proxy.limits.per_key import KeyLimit
from bitmesh_proxy.limits.token_bucket import LOCK


class Gate(Protocol):
    """See ``ConcurrencyLimit.gate``."""

    def enter(self) -> list[Passed] | None:
        """Take a token of each bucket, and a slot, which is to be given back once; says of each bucket how it stands.
        None: nothing was taken, and the limits have to be asked one by one."""


class ConcurrencyLimit:
    """``default`` calls at once with each key; 0 is no limit. Exact between threads too."""

    def __init__(self, default: int = 0, *, retry_after_s: float = 1.0) -> None:
        """``retry_after_s`` is what refused callers are told: nobody knows when a running call will end."""
        #: For keys without a limit of their own; 0 is no limit.
        self.default = default
        self._retry_after_s = retry_after_s
        self._under_way: dict[str, int] = {}

    def enter(self, key_id: str, limit: int | None = None) -> Slot:
        """A slot for a ``with`` block, by the key's limit or the default (None). Entering raises TooManyConcurrent."""
        return Slot(self, key_id, self.limit_of(limit))

    def limit_of(self, limit: int | None) -> int:
        """How many calls a key with this limit of its own (None: without one) may have under way; 0 is no limit."""
        return self.default if limit is None else limit

    def gate(self, key_id: str, limit: int, buckets: Sequence[Bucket], *, untold: int) -> Gate | None:
        """A way through these buckets and into a slot in one step, where that is cheaper than one after the other. Of
        the first ``untold`` buckets it does not tell."""
        return None

    def passage(self, address_limit: Limit | None, key_limit: KeyLimit, endpoint_limit: Limit | None) -> Passage | None:
        """A way through these limits and into a slot in one step, for any caller; None where several processes share
        them."""
        return passage_of(
            address_limit,
            key_limit,
            endpoint_limit,
            under_way=self._under_way,
            default_max_concurrent=self.default,
        )

    def running(self, key_id: str) -> int:
        """How many calls the key has under way."""
        return self._under_way.get(key_id, 0)

    def take(self, key_id: str, limit: int) -> None:
        """Take a slot. Raises TooManyConcurrent. For each one taken, ``give_back`` must be called once."""
        LOCK.acquire()  # without `with`, which takes twice as long
        try:
            running = self._under_way.get(key_id, 0)
            if running < limit or not limit:
                self._under_way[key_id] = running + 1
                return
        finally:
            LOCK.release()
        raise TooManyConcurrent(
            f"Too many calls under way with this API key: {limit} at once are allowed.",
            retry_after_s=self._retry_after_s,
        )

    def give_back(self, key_id: str) -> None:
        """Give one slot back."""
        LOCK.acquire()
        try:
            running = self._under_way[key_id] - 1
            if running:
                self._under_way[key_id] = running
            else:
                del self._under_way[key_id]
        finally:
            LOCK.release()


class Slot:
    """One call under way, for as long as its ``with`` block lasts, or longer (``hand_over``). Good for one block."""

    __slots__ = ("_is_handed_over", "_key_id", "_limit", "_limiter")

    def __init__(self, limiter: ConcurrencyLimit, key_id: str, limit: int) -> None:
        self._limiter = limiter
        self._key_id = key_id
        self._limit = limit
        self._is_handed_over = False

    def __enter__(self) -> Slot:
        self._limiter.take(self._key_id, self._limit)
        return self

    def hand_over(self) -> Callable[[], None]:
        """Within the block, once: its end gives nothing back any more, and the call that goes on calls what this gives
        when it is over."""
        assert not self._is_handed_over, "it has one owner"
        self._is_handed_over = True
        return partial(self._limiter.give_back, self._key_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_handed_over:
            self._limiter.give_back(self._key_id)
