"""The whole application on a real socket, with its sandbox, and a look into its books."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web, web_app

from bitmesh_proxy import keys
from bitmesh_proxy.app import make_app, make_runner
from bitmesh_proxy.cli.new_key import NewKey, create_key
from bitmesh_proxy.money import NanoUsd, parse_usd
from bitmesh_proxy.sandbox.faults import Fault, parse_directives
from bitmesh_proxy.sandbox.server import Sandbox
from bitmesh_proxy.sandbox.stage import Received
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.ledger import LedgerRow, LedgerStore
from bitmesh_proxy.storage.verification import verify_books
from tests.first_start import furnish

CHAT_MODEL = "openai/gpt-oss-120b"
IMAGE_MODEL = "black-forest-labs/FLUX-2-dev"
VIDEO_MODEL = "minimax/video-01-director"

#: How long a journey waits for what must happen soon. Generous, as nothing here is about speed.
PATIENCE_S = 8.0

Changes = Mapping[str, Any]

#: Drawing is what takes long.
SMALL_CLIPS = {"max_clip_frames": 6, "max_clip_pixels": 160 * 90}

#: What makes a journey quick: no pauses between tokens, short jobs, prompt polls. No limit but those under test.
QUICK: dict[str, dict[str, Any]] = {
    "sandbox": {"mode": "on", "token_interval_ms": 0, "job_duration_s": 0.2, **SMALL_CLIPS},
    "jobs": {"first_poll_s": 0.05, "max_poll_s": 0.2},
    "logging": {"access_log": False},
    "media": {"copy_at_once": False},  # drawing a clip that nobody looks at takes seconds
    "http": {"port": 0, "shutdown_timeout_s": 5.0},
    "limits": {"address_per_minute": 0, "key_per_minute": 0, "key_max_concurrent": 0},
}


async def eventually(is_so: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"never came true: {what}"
        await asyncio.sleep(0.01)


async def until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """As ``eventually``, for what has to be asked."""
    deadline = time.monotonic() + PATIENCE_S
    while not await is_so():
        assert time.monotonic() < deadline, f"never came true: {what}"
        await asyncio.sleep(0.01)


def chat(text: str = "What is a gateway?", **more: Any) -> dict[str, Any]:
    """The body of a chat call."""
    return {"model": CHAT_MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


def image(prompt: str = "A lantern", **more: Any) -> dict[str, Any]:
    """The body of an image call."""
    return {"model": IMAGE_MODEL, "prompt": prompt, "width": 256, "height": 256, **more}


def video(prompt: str = "A cat", **more: Any) -> dict[str, Any]:
    """The body of a video call."""
    return {"model": VIDEO_MODEL, "prompt": prompt, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    json: Any


@dataclass(slots=True)
class Books:
    """A look into a database, from whatever process."""

    database: Database

    async def rows(self) -> Sequence[LedgerRow]:
        """Every row of the ledger, oldest first."""
        found = await self.database.read("SELECT id FROM requests ORDER BY number")
        rows = [await LedgerStore(self.database).request(row[0]) for row in found]
        return [row for row in rows if row is not None]

    async def last_row(self) -> LedgerRow:
        """The newest row, once it is closed."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            rows = await self.rows()
            if rows and rows[-1].state != "open":
                return rows[-1]
            await asyncio.sleep(0.02)
        raise AssertionError(f"the last request was never closed: {await self.rows()}")

    async def all_closed(self) -> bool:
        """Is nothing open any more? A settlement that failed is tried again after a pause of up to five seconds."""
        return all(row.state != "open" for row in await self.rows())

    async def check(self, *, open_requests: int = 0) -> None:
        """The end of every journey: balances are the sum of their entries, and no hold is left unexplained."""
        problems = await verify_books(self.database)
        assert not problems, problems
        assert len(await LedgerStore(self.database).find_open()) == open_requests
        if not open_requests:
            assert [each.held_nano_usd for each in await AccountStore(self.database).list() if each.held_nano_usd] == []


@dataclass(slots=True)
class Gateway:
    """A running gateway and a caller with a key of its own."""

    app: web.Application
    runner: web.AppRunner
    url: str
    http: aiohttp.ClientSession
    account_id: str
    key: NewKey

    @property
    def sandbox(self) -> Sandbox:
        """The upstream."""
        return self.app[keys.SANDBOX]

    @property
    def settings(self) -> Settings:
        """What it was started with."""
        return self.app[keys.SETTINGS]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def books(self) -> Books:
        """The ledger, through the gateway's own database."""
        return Books(self.app[keys.DATABASE])

    @property
    def bearer(self) -> dict[str, str]:
        """Headers of a call with the bearer token."""
        return bearer(self.key)

    def fault(self, directives: str, *, path: str = "*", times: int = 1, method: str = "*") -> None:
        """Let the next requests to the upstream go wrong."""
        self.sandbox.faults.add(Fault(directives=parse_directives(directives), path=path, times=times, method=method))

    def upstream_calls(self, path: str = "") -> list[Received]:
        """What the upstream has received at paths that end so, oldest first."""
        return [each for each in self.sandbox.requests if each.path.endswith(path)]

    async def call(self, method: str, path: str, **more: Any) -> Answer:
        """One request with the bearer token (unless ``headers`` say otherwise)."""
        headers = {**self.bearer, **more.pop("headers", {})}
        async with self.http.request(method, self.url + path, headers=headers, **more) as answer:
            body = await answer.read()
            is_json = answer.content_type == "application/json"
            return Answer(
                status=answer.status,
                headers=answer.headers,
                body=body,
                json=await answer.json() if is_json and body else None,
            )

    async def post(self, path: str, body: Any, **more: Any) -> Answer:
        """POST JSON with the bearer token."""
        return await self.call("POST", path, json=body, **more)

    async def get(self, path: str, **more: Any) -> Answer:
        """GET with the bearer token."""
        return await self.call("GET", path, **more)

    async def new_key(self, **limits: Any) -> NewKey:
        """A further key of the same account."""
        return await create_key(self.app[keys.DATABASE], self.settings, account_id=self.account_id, **limits)

    async def balance(self) -> NanoUsd:
        """What the account has."""
        account = await AccountStore(self.app[keys.DATABASE]).get(self.account_id)
        assert account is not None
        return account.balance_nano_usd

    async def last_row(self) -> LedgerRow:
        """The newest row of the ledger, once it is closed."""
        return await self.books.last_row()

    async def check_books(self, *, open_requests: int = 0) -> None:
        """See ``Books.check``."""
        await self.books.check(open_requests=open_requests)


def bearer(key: NewKey) -> dict[str, str]:
    """Headers of a call with a key's token."""
    return {"Authorization": f"Bearer {key.token}"}


def settings_for(data_dir: Path, changes: Changes | None = None) -> Settings:
    """Settings of a quick gateway in ``data_dir``."""
    tree: dict[str, Any] = {table: dict(values) for table, values in QUICK.items()}
    tree["data"] = {"dir": str(data_dir)}
    for table, values in (changes or {}).items():
        if isinstance(values, Mapping):
            tree.setdefault(table, {}).update(values)
        else:
            tree[table] = values
    return load_settings(environ={}, overrides=tree)


@asynccontextmanager
async def running_gateway(
    data_dir: Path,
    changes: Changes | None = None,
    *,
    credit_usd: str = "10",
    prepare: Callable[[web.Application], None] = lambda app: None,
) -> AsyncIterator[Gateway]:
    """Start the application as ``serve`` does, with one account and key. ``prepare`` may add routes to it.

    A directory that is empty is furnished first: not with the start is this about, but with what comes then.
    """
    settings = settings_for(data_dir, changes)
    await asyncio.to_thread(furnish, data_dir, settings)
    app = make_app(settings, environ={})
    prepare(app)
    runner = make_runner(app)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        accounts = AccountStore(app[keys.DATABASE])
        account = await accounts.create("journey")
        if parse_usd(credit_usd):
            await accounts.credit(account.id, parse_usd(credit_usd), "for the journey")
        key = await create_key(app[keys.DATABASE], settings, account_id=account.id, name="journey")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
            host, port = runner.addresses[0][:2]
            yield Gateway(
                app=app, runner=runner, url=f"http://{host}:{port}", http=http, account_id=account.id, key=key
            )
    finally:
        await runner.cleanup()
        # aiohttp remembers the last thousand handlers with their applications, and so all of hundreds of gateways.
        web_app._cached_build_middleware.cache_clear()


@asynccontextmanager
async def open_books(data_dir: Path) -> AsyncIterator[Books]:
    """The books of a gateway that runs, or ran, in another process."""
    database = await Database.open(data_dir / "bitmesh-proxy.db", busy_timeout_s=5.0, max_pending_writes=100)
    try:
        yield Books(database)
    finally:
        await database.close()


@asynccontextmanager
async def raw_call(
    gateway: Gateway, method: str, path: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request on a connection of its own, for callers who read when and as long as they like."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    lines = {
        "Host": f"127.0.0.1:{gateway.port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **gateway.bearer,
        **(headers or {}),
    }
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    writer.write(head.encode() + body)
    try:
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
