"""Running commands as a person would, against a data directory of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.cli.main import main
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.instances import register_instance
from bitmesh_proxy.storage.ledger import Closing, LedgerStore, Opening

Run = Callable[..., Result]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands keep things. No setting or credential of the machine is seen."""
    for name in ("TOGETHER_API_KEY", "OPENAI_API_KEY", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "BITMESH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data"


@pytest.fixture
def run(data_dir: Path) -> Run:
    """Run a command line; it must end with ``status``."""

    def run_command(*arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(main, ["--data-dir", str(data_dir), *arguments])
        assert result.exit_code == status, (result.output, result.exception)
        return result

    return run_command


def json_of(result: Result) -> Any:
    """The JSON document that a command printed."""
    return orjson.loads(result.stdout)


def enter_request(
    data_dir: Path,
    *,
    account_id: str,
    key_id: str,
    request_id: str,
    model: str = "openai/gpt-oss-120b",
    charge_nano_usd: int | None = 1_500,
    started_at_s: float = 1_795_000_000.0,
    is_live: bool = True,
    keep_instance: bool = False,
) -> None:
    """Write one request into the books, as the service does; without a charge it stays open."""

    async def write() -> None:
        database = await Database.open(
            data_dir / "bitmesh-proxy.db", busy_timeout_s=1.0, max_pending_writes=10, min_free_bytes=0
        )
        try:
            instance = await register_instance(database)
            ledger = LedgerStore(database)
            await ledger.open_reservation(
                Opening(
                    request_id=request_id,
                    account_id=account_id,
                    key_id=key_id,
                    instance=instance.number,
                    endpoint="chat",
                    model=model,
                    hold_nano_usd=NanoUsd(2_000 if is_live else 0),
                    is_live=is_live,
                    address="127.0.0.1",
                    started_at_s=started_at_s,
                )
            )
            if charge_nano_usd is not None:
                await ledger.close(
                    Closing(
                        request_id=request_id,
                        outcome="completed",
                        http_status=200,
                        cost_nano_usd=NanoUsd(1_500),
                        charge_nano_usd=NanoUsd(charge_nano_usd),
                        basis=Basis.MEASURED,
                        usage=Usage(input_tokens=10, output_tokens=5),
                        provider="together",
                        upstream_model="openai/gpt-oss-120b",
                        total_ms=12,
                    )
                )
            if not keep_instance:
                await instance.close()
        finally:
            await database.close()

    asyncio.run(write())
