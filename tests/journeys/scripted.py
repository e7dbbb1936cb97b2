"""An upstream that does exactly what a test says, and a catalogue with offers of one model at several of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.journeys.gateway import Changes

MODEL = "journey-model"
#: One dollar for a million tokens each way, in nano-dollars for one token.
TOKEN_NANO_USD = 1000

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]


def whole_answer(text: str = "Hello", *, prompt_tokens: int = 3, completion_tokens: int = 2) -> dict[str, Any]:
    """A chat completion as OpenAI-compatible servers send it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


@dataclass(slots=True)
class Upstream:
    """A server with a script. ``bodies`` are the requests that came."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Upstream]:
    """Run ``script`` for every POST until the end of the context."""
    upstream = Upstream(url="")

    async def handle(request: web.Request) -> web.StreamResponse:
        upstream.bodies.append(await request.json())
        upstream.headers.append(dict(request.headers))
        return await script(request)

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        upstream.url = f"http://{host}:{port}/v1"
        yield upstream
    finally:
        await runner.cleanup()


def write_rows(directory: Path, *providers: str, model: str = MODEL) -> Path:
    """A catalogue: one chat model, and an offer of it at each provider, in this order of preference (by price)."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [f'[[model]]\nid = "{model}"\noperation = "chat"\ncontext_tokens = 4096\nmax_output_tokens = 1024\n']
    rows += [
        f'[[offer]]\nmodel = "{model}"\nprovider = "{provider}"\nupstream_model = "m"\n'
        f'usd_per_million_input_tokens = "{1 + number}.00"\nusd_per_million_output_tokens = "{1 + number}.00"\n'
        for number, provider in enumerate(providers)
    ]
    (directory / "journey.toml").write_text("\n".join(rows))
    return directory


def at(directory: Path, **urls: str) -> dict[str, Any]:
    """Settings of a gateway without sandbox, whose providers are OpenAI-compatible servers at ``urls``."""
    return {
        "sandbox": {"mode": "off"},
        "catalogue": {"dir": str(write_rows(directory, *urls))},
        "providers": [
            {"name": name, "kind": "openai_compatible", "base_urls": {"default": url}} for name, url in urls.items()
        ],
    }


def with_more(settings: Changes, **tables: Any) -> dict[str, Any]:
    """The same settings with further tables."""
    return {**settings, **tables}
