"""The whole application on a real socket, with its sandbox, and a look into its books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from bitmesh_proxy.storage.verification import verify_books

from bitmesh_proxy import keys
from bitmesh_proxy.app import make_app
from bitmesh_proxy.auth.payload_signature import payload_signature
from bitmesh_proxy.cli.new_key import NewKey, create_key
from bitmesh_proxy.money import NanoUsd, parse_usd
from bitmesh_proxy.sandbox.server import Sandbox
from bitmesh_proxy.settings import Settings, load_settings
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.storage.ledger import LedgerRow, LedgerStore

CHAT_MODEL = "openai/gpt-oss-120b"
IMAGE_MODEL = "black-forest-labs/FLUX-2-dev"
VIDEO_MODEL = "minimax/video-01-director"

#: What makes a journey quick: no pauses between tokens, short jobs, prompt polls.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "sandbox": {"mode": "on", "token_interval_ms": 0, "job_duration_s": 0.2},
    "jobs": {"first_poll_s": 0.05, "max_poll_s": 0.2},
    "logging": {"access_log": False},
    "http": {"port": 0, "shutdown_timeout_s": 5.0},
}


@dataclass(slots=True)
class Gateway:
    """A running gateway and a caller with a key of its own."""

    app: web.Application
    url: str
    http: aiohttp.ClientSession
    account_id: str
    key: NewKey

    @property
    def sandbox(self) -> Sandbox:
        """The upstream."""
        return self.app[keys.SANDBOX]

    @property
    def bearer(self) -> dict[str, str]:
        """Headers of a call with the bearer token."""
        return {"Authorization": f"Bearer {self.key.token}"}

    async def post(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        """POST JSON with the bearer token; gives status and JSON."""
        headers = {**self.bearer, **more.pop("headers", {})}
        async with self.http.post(self.url + path, json=body, headers=headers, **more) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, Any]:
        """GET with the bearer token; gives status and JSON."""
        async with self.http.get(self.url + path, headers=self.bearer) as answer:
            return answer.status, await answer.json()

    async def ledger(self) -> Sequence[LedgerRow]:
        """Every row of the ledger, oldest first."""
        database = self.app[keys.DATABASE]
        rows = await database.read("SELECT id FROM requests ORDER BY number")
        found = [await LedgerStore(database).request(row[0]) for row in rows]
        return [row for row in found if row is not None]

    async def last_row(self) -> LedgerRow:
        """The newest row, once it is closed."""
        for _ in range(200):
            rows = await self.ledger()
            if rows and rows[-1].state != "open":
                return rows[-1]
            await asyncio.sleep(0.02)
        raise AssertionError("the last request was never closed")

    async def balance(self) -> NanoUsd:
        """What the account has."""
        account = await AccountStore(self.app[keys.DATABASE]).get(self.account_id)
        assert account is not None
        return account.balance_nano_usd

    async def check_books(self, *, open_requests: int = 0) -> None:
        """The end of every journey: balances are the sum of their entries, and no hold is left unexplained."""
        database = self.app[keys.DATABASE]
        problems = await verify_books(database)
        assert not problems, problems
        assert len(await LedgerStore(database).find_open()) == open_requests
        account = await AccountStore(database).get(self.account_id)
        assert account is not None
        if not open_requests:
            assert account.held_nano_usd == 0

    def signature_headers(self, oauth_header: str, oauth_signature: str, body: bytes) -> dict[str, str]:
        """Headers of a signed call."""
        return {
            "Authorization": oauth_header,
            "X-Payload-Signature": payload_signature(
                body, consumer_key=self.key.consumer_key, oauth_signature=oauth_signature
            ),
        }


def settings_for(data_dir: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Settings of a quick gateway in ``data_dir``."""
    tree: dict[str, dict[str, Any]] = {table: dict(values) for table, values in QUICK.items()}
    tree["data"] = {"dir": str(data_dir)}
    for table, values in (changes or {}).items():
        tree.setdefault(table, {}).update(values)
    return load_settings(environ={}, overrides=tree)


@asynccontextmanager
async def running_gateway(
    data_dir: Path, changes: Mapping[str, Mapping[str, Any]] | None = None, *, credit_usd: str = "10"
) -> AsyncIterator[Gateway]:
    """Start the application as ``serve`` does, with one account and key."""
    settings = settings_for(data_dir, changes)
    app = make_app(settings, environ={})
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=settings.http.shutdown_timeout_s,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        accounts = AccountStore(app[keys.DATABASE])
        account = await accounts.create("journey")
        if parse_usd(credit_usd):
            await accounts.credit(account.id, parse_usd(credit_usd), "for the journey")
        key = await create_key(app[keys.DATABASE], settings, account_id=account.id, name="journey")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
            host, port = runner.addresses[0][:2]
            yield Gateway(app=app, url=f"http://{host}:{port}", http=http, account_id=account.id, key=key)
    finally:
        await runner.cleanup()


async def key_store(gateway: Gateway) -> KeyStore:
    """Changes keys behind the server's back, as another process would."""
    return KeyStore(gateway.app[keys.DATABASE])
