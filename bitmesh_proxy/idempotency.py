"""``Idempotency-Key``: the same call twice is one call, one answer, one charge.

Per API key. The same key with the same request replays the stored answer; with another request it is 409. Whoever comes
while the first is still running waits for it. A stream is not kept, so that its repetition is 409 naming the first
request. A first call that failed keeps nothing: it may simply be tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import orjson

from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.errors import SOON_S, Conflict, InvalidRequest, Unavailable
from bitmesh_proxy.settings import Idempotency as IdempotencySettings
from bitmesh_proxy.shielded import shielded
from bitmesh_proxy.storage.idempotency import Claimed, Existing, IdempotencyStore

MAX_KEY_CHARACTERS = 255
#: How often a waiting duplicate looks at the row of a first call that runs in another process.
POLL_INTERVAL_S = 0.25


def check_key(texts: Sequence[str]) -> str | None:
    """The header's value, or None without one. Raises InvalidRequest for what cannot be a key, and for two different
    ones: whichever we took, the caller might repeat the call with the other in mind."""
    keys = {text.strip() for text in texts}
    if not keys:
        return None
    if len(keys) > 1:
        raise InvalidRequest("The request carries more than one Idempotency-Key.", param="Idempotency-Key")
    key = keys.pop()
    if not key or len(key) > MAX_KEY_CHARACTERS or not key.isprintable():
        raise InvalidRequest(
            f"Idempotency-Key must be 1 to {MAX_KEY_CHARACTERS} printable characters.", param="Idempotency-Key"
        )
    return key


def fingerprint_of(method: str, path: str, body: bytes) -> bytes:
    """What makes two requests the same: method, path and body, byte for byte (32 bytes)."""
    digest = hashlib.sha256(f"{method} {path}\n".encode())
    digest.update(body)
    return digest.digest()


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A stored answer, to be sent again."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Ticket:
    """The right to be the first. Ends in exactly one of ``finish``, ``finish_stream`` and ``abandon``."""

    def __init__(self, gate: IdempotencyGate, key_id: str, idempotency_key: str) -> None:
        self._gate = gate
        self._key_id = key_id
        self._idempotency_key = idempotency_key

    async def finish(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Keep the answer (one that is too large is kept as a stream is: known, but not replayed)."""
        if len(body) > self._gate.max_answer_bytes:
            await self.finish_stream()
            return
        await self._gate.store.finish(
            self._key_id,
            self._idempotency_key,
            status=status,
            headers=orjson.dumps(dict(headers)).decode(),
            body=body,
        )
        self._gate.wake(self._key_id, self._idempotency_key)

    async def finish_stream(self) -> None:
        """Keep that the call was made, without its answer."""
        await self._gate.store.finish_stream(self._key_id, self._idempotency_key)
        self._gate.wake(self._key_id, self._idempotency_key)

    async def abandon(self) -> None:
        """Keep nothing."""
        await self._gate.store.abandon(self._key_id, self._idempotency_key)
        self._gate.wake(self._key_id, self._idempotency_key)


class IdempotencyGate:
    """Lets the first of equal calls through and holds the others."""

    def __init__(
        self,
        store: IdempotencyStore,
        settings: IdempotencySettings,
        *,
        settlements: Settlements,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._settlements = settlements
        self.max_answer_bytes = settings.max_answer_bytes
        self._wait_timeout_s = settings.wait_timeout_s
        self._clock = clock
        self._running: dict[tuple[str, str], asyncio.Event] = {}

    async def enter(self, *, key_id: str, idempotency_key: str, fingerprint: bytes, request_id: str) -> Ticket | Replay:
        """Be the first, or get the first's answer. Raises Conflict, or Unavailable when the first takes too long."""
        try:
            async with asyncio.timeout(self._wait_timeout_s):
                while True:
                    found = await self._claim(key_id, idempotency_key, fingerprint, request_id)
                    if not isinstance(found, Existing):
                        self._running[key_id, idempotency_key] = asyncio.Event()
                        return Ticket(self, key_id, idempotency_key)
                    if found.fingerprint != fingerprint:
                        raise Conflict(
                            "This Idempotency-Key was already used for another request.", param="Idempotency-Key"
                        )
                    if found.state != "running":
                        return _replay(found)
                    await self._wait(key_id, idempotency_key)
        except TimeoutError as exc:
            raise Unavailable(
                "The first request with this Idempotency-Key is still running.", retry_after_s=SOON_S
            ) from exc

    async def _claim(
        self, key_id: str, idempotency_key: str, fingerprint: bytes, request_id: str
    ) -> Claimed | Existing:
        """A claim that its caller leaves is given back: written but held by nobody, it would lock the key."""
        claiming = asyncio.ensure_future(
            self.store.claim(
                key_id, idempotency_key, fingerprint=fingerprint, request_id=request_id, now_s=self._clock()
            )
        )
        try:
            return await shielded(claiming)
        except asyncio.CancelledError:

            async def give_back() -> None:
                await asyncio.wait({claiming})
                if claiming.exception() is None and isinstance(claiming.result(), Claimed):
                    await self.store.abandon(key_id, idempotency_key)

            self._settlements.insist(give_back)
            raise

    async def _wait(self, key_id: str, idempotency_key: str) -> None:
        event = self._running.get((key_id, idempotency_key))
        if event is None:
            await asyncio.sleep(POLL_INTERVAL_S)
        else:
            await event.wait()

    def wake(self, key_id: str, idempotency_key: str) -> None:
        """The first has ended: let the waiting ones look again."""
        event = self._running.pop((key_id, idempotency_key), None)
        if event is not None:
            event.set()


def _replay(found: Existing) -> Replay:
    if found.state != "finished" or found.body is None:
        raise Conflict(
            f"The request with this Idempotency-Key was already answered (request {found.request_id}); "
            "its answer was a stream or too large to be kept, and is not replayed.",
            param="Idempotency-Key",
        )
    headers = orjson.loads(found.headers or "{}")
    return Replay(
        status=found.status or 200,
        headers={**headers, "Idempotent-Replayed": "true", "X-Bitmesh-First-Request-Id": found.request_id},
        body=found.body,
    )
