"""Values that the tests of the books begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import structs
from msgspec.structs import replace

from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.money import NANO_PER_USD, NanoUsd
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeySpec
from bitmesh_proxy.storage.ledger import Closing, Opening

#: 2026-08-20 12:00:00 UTC.
NOON_S = 1_787_227_200.0
DAY_S = 86_400.0
DIGEST = bytes(range(32))
OTHER_DIGEST = bytes(reversed(range(32)))
USD = NanoUsd(NANO_PER_USD)


def usd(amount: int) -> NanoUsd:
    return NanoUsd(amount * NANO_PER_USD)


async def open_database(path: Path, **changes: Any) -> Database:
    options: dict[str, Any] = {"busy_timeout_s": 5.0, "max_pending_writes": 10_000}
    return await Database.open(path, **{**options, **changes})


def key_spec(account_id: str, **changes: Any) -> KeySpec:
    return replace(KeySpec(id="key_1", account_id=account_id, name="first", token_digest=DIGEST), **changes)


def opening(request_id: str, account_id: str, **changes: Any) -> Opening:
    return structs.replace(
        Opening(
            request_id=request_id,
            account_id=account_id,
            key_id="key_1",
            instance=1,
            endpoint="chat",
            model="openai/gpt-oss-20b",
            hold_nano_usd=USD,
            is_live=True,
            address="192.0.2.1",
            started_at_s=NOON_S,
        ),
        **changes,
    )


def closing(request_id: str, charge_nano_usd: int = 0, **changes: Any) -> Closing:
    return structs.replace(
        Closing(
            request_id=request_id,
            outcome="completed",
            http_status=200,
            cost_nano_usd=NanoUsd(charge_nano_usd),
            charge_nano_usd=NanoUsd(charge_nano_usd),
            basis=Basis.MEASURED,
            usage=Usage(input_tokens=10, output_tokens=20),
            provider="together",
            upstream_model="openai/gpt-oss-20b",
            provider_request_id="chatcmpl-1",
            first_byte_ms=50,
            total_ms=100,
        ),
        **changes,
    )


def released(request_id: str) -> Closing:
    return closing(request_id, basis=None, outcome="provider_error", http_status=503, usage=Usage())
