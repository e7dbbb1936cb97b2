"""One of several worker processes, and what it has in common with the others.

Made by the supervisor (``cli/workers.py``) before it forks. A worker has a *seat*, a number from 0 on, and whoever
replaces it has the same. All numbers that limit callers stand in shared memory, and so do the counts for ``/metrics``;
what is promised to providers (calls at once, connections) is divided, so that all workers together keep to it.
"""

from __future__ import annotations

import secrets
import socket
from typing import Final

import msgspec
from msgspec import structs

from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.limits.shared_buckets import BucketSharedStorage
from bitmesh_proxy.limits.shared_concurrency import SharedConcurrencyLimit
from bitmesh_proxy.limits.token_bucket import TokenBucketSupport
from bitmesh_proxy.settings import Settings, SettingsError
from bitmesh_proxy.shared_memory import SharedMemory
from bitmesh_proxy.shared_metrics import SharedMetrics, SharedWriteWaits

#: Where tables begin in the memory of limits, in words; that of addresses begins at 0.
_KEYS_AT: Final = BucketSharedStorage.words_for()
_ENDPOINTS_AT: Final = 2 * _KEYS_AT
_UNDER_WAY_AT: Final = 3 * _KEYS_AT


class Memories(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers see. ``limits`` has a table for each kind of bucket, and then that of calls under way."""

    limits: SharedMemory
    counts: SharedMemory

    @classmethod
    def create(cls, seats: int) -> Memories:
        """Raises OSError."""
        words = _UNDER_WAY_AT + SharedConcurrencyLimit.words_for(seats)
        return cls(
            limits=SharedMemory.create(words, name="limits"),
            counts=SharedMemory.create(SharedMetrics.words_for(seats), name="counts"),
        )

    def under_way(self, seat: int, *, seats: int, default: int = 0) -> SharedConcurrencyLimit:
        """The calls under way, for the worker in a seat."""
        return SharedConcurrencyLimit(self.limits, seat=seat, seats=seats, default=default, at=_UNDER_WAY_AT)

    def forget_seat(self, seat: int, *, seats: int) -> None:
        """The worker has died, and with it what it had under way."""
        self.under_way(seat, seats=seats).forget_seat(seat)
        SharedMetrics(self.counts, seat=seat, seats=seats).forget_seat(seat)

    def close(self) -> None:
        """Let go of all of it."""
        self.limits.close()
        self.counts.close()


class Doors(msgspec.Struct, frozen=True, kw_only=True):
    """A listening socket for each worker, by seat, for its siblings.

    They are abstract unix sockets (Linux), which are nowhere in the file system. Any user of the machine could come to
    them, so whoever comes has to say the secret.
    """

    names: tuple[str, ...]
    sockets: tuple[socket.socket, ...]
    secret: str

    @classmethod
    def open(cls, seats: int) -> Doors:
        """Raises OSError."""
        names = tuple(f"\0bitmesh-proxy-{secrets.token_hex(8)}-{seat}" for seat in range(seats))
        sockets = []
        for name in names:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(name)
            sock.listen()
            sock.setblocking(False)
            sockets.append(sock)
        return cls(names=names, sockets=tuple(sockets), secret=secrets.token_hex(16))


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring. ``is_first``: no other one serves yet, so leftovers of earlier runs are nobody's.

    ``catalogue`` is that of all workers, whatever has become of its files since. ``sandbox_url``: where the providers
    are played, if they are.
    """

    seat: int
    seats: int
    memories: Memories
    doors: Doors
    catalogue: Catalogue
    sandbox_url: str | None
    is_first: bool = False
    #: How often it looks for jobs that another worker has started.
    look_around_s: float = 0.5

    @property
    def address_buckets(self) -> TokenBucketSupport:
        """The addresses' buckets."""
        return BucketSharedStorage(self.memories.limits, at=0)

    @property
    def key_buckets(self) -> TokenBucketSupport:
        """The keys' buckets."""
        return BucketSharedStorage(self.memories.limits, at=_KEYS_AT)

    @property
    def endpoint_buckets(self) -> TokenBucketSupport:
        """The buckets of keys at endpoints."""
        return BucketSharedStorage(self.memories.limits, at=_ENDPOINTS_AT)

    def concurrency_limit(self, default: int) -> SharedConcurrencyLimit:
        """Calls under way per key."""
        return self.memories.under_way(self.seat, seats=self.seats, default=default)

    @property
    def metrics(self) -> SharedMetrics:
        """The counts."""
        return SharedMetrics(self.memories.counts, seat=self.seat, seats=self.seats)

    @property
    def write_waits(self) -> SharedWriteWaits:
        """What the database counts."""
        return SharedWriteWaits(self.metrics)


def settings_of_seat(settings: Settings, seat: int, *, seats: int) -> Settings:
    """The settings with a worker's share of what is promised to providers.

    Raises SettingsError for a promise that is smaller than the number of workers.
    """
    upstream = structs.replace(
        settings.upstream,
        max_connections_per_provider=max(1, _share(settings.upstream.max_connections_per_provider, seat, seats)),
    )
    providers = []
    for provider in settings.providers:
        if 0 < provider.max_concurrent < seats:
            raise SettingsError(f"providers.{provider.name}.max_concurrent: must not be below http.workers ({seats})")
        share = _share(provider.max_concurrent, seat, seats)
        providers.append(structs.replace(provider, max_concurrent=share))
    return structs.replace(settings, upstream=upstream, providers=tuple(providers))


def _share(total: int, seat: int, seats: int) -> int:
    """Whole shares that differ by one at most and add up to the total."""
    return total // seats + (seat < total % seats)
