"""A real engine that nobody here wrote: llama.cpp's own server, by configuration alone, through the whole gateway.

The server is the package ``xllamacpp``; where it has no wheel, these tests are skipped. The model is ``tiny.gguf``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import orjson
import pytest

from bitmesh_proxy.calls import Basis
from tests.journeys.gateway import Gateway, running_gateway

pytestmark = [
    pytest.mark.journey,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp, llama.cpp's server, has no wheel here"),
]

HERE = Path(__file__).parent
ROWS = """
[[model]]
id = "workshop/tiny"
operation = "chat"
context_tokens = 512
max_output_tokens = 128

[[offer]]
model = "workshop/tiny"
provider = "workshop"
upstream_model = "tiny"
usd_per_million_input_tokens = "0.10"
usd_per_million_output_tokens = "0.40"
"""
IN_NANO_USD, OUT_NANO_USD = 100, 400  # of one token
BODY = {"model": "workshop/tiny", "messages": [{"role": "user", "content": "the river by night"}], "seed": 7}


@asynccontextmanager
async def engine() -> AsyncIterator[str]:
    """The server in a process of its own; gives its base URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "serve_tiny_model.py"), str(HERE / "tiny.gguf")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        address = (await asyncio.wait_for(process.stdout.readline(), 8)).decode().strip()
        yield f"{address}/v1"
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def gateway_before_the_engine(tmp_path: Path) -> AsyncIterator[Gateway]:
    rows = tmp_path / "rows"
    await asyncio.to_thread(rows.mkdir)
    await asyncio.to_thread((rows / "workshop.toml").write_text, ROWS)
    async with engine() as base_url:
        changes = {
            "sandbox": {"mode": "off"},
            "catalogue": {"extra_dirs": [str(rows)]},
            "providers": [{"name": "workshop", "kind": "openai_compatible", "base_urls": {"default": base_url}}],
        }
        async with running_gateway(tmp_path / "data", changes) as gateway:
            yield gateway


async def test_a_whole_answer_of_a_real_engine_is_charged_by_its_own_figures(tmp_path: Path) -> None:
    async with gateway_before_the_engine(tmp_path) as gateway:
        answer = await gateway.post("/chat", {**BODY, "max_tokens": 12})
        assert answer.status == 200, answer.body
        usage = answer.json["usage"]
        assert usage["completion_tokens"] == 12
        assert answer.json["choices"][0]["finish_reason"] == "length"
        assert answer.json["choices"][0]["message"]["content"].strip()
        row = await gateway.last_row()
        assert (row.input_tokens, row.output_tokens, row.basis) == (usage["prompt_tokens"], 12, Basis.MEASURED)
        assert row.charge_nano_usd == usage["prompt_tokens"] * IN_NANO_USD + 12 * OUT_NANO_USD
        await gateway.check_books()


async def test_a_stream_of_a_real_engine_says_the_same_token_by_token(tmp_path: Path) -> None:
    async with gateway_before_the_engine(tmp_path) as gateway:
        whole = await gateway.post("/chat", {**BODY, "max_tokens": 12})
        streamed = await gateway.post("/chat", {**BODY, "max_tokens": 12, "stream": True})
        assert streamed.status == 200
        events = [line[6:] for line in streamed.body.decode().splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        deltas = [choice["delta"] for event in events[:-1] for choice in orjson.loads(event)["choices"]]
        text = "".join(delta.get("content") or "" for delta in deltas)
        assert text == whole.json["choices"][0]["message"]["content"]
        assert len([delta for delta in deltas if delta.get("content")]) > 3
        first, second = await gateway.books.rows()
        assert first.charge_nano_usd == second.charge_nano_usd > 0
        assert second.basis is Basis.MEASURED
        await gateway.check_books()


async def test_what_the_engine_refuses_keeps_its_status(tmp_path: Path) -> None:
    async with gateway_before_the_engine(tmp_path) as gateway:
        answer = await gateway.post("/chat", {**BODY, "messages": [{"role": "user", "content": "water " * 2000}]})
        assert answer.status == 400
        assert "context" in str(answer.json["error"])
        row = await gateway.last_row()
        assert (row.state, row.charge_nano_usd) == ("released", 0)
        await gateway.check_books()
