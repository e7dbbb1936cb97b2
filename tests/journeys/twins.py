"""One gateway with a lane and one without, the same provider behind both, and what their callers and books get to see.

The provider plays an answer in pieces, each of them a read of its own at the gateway's: the next one is written some
turns of the event loop later, when both ways have long taken the one before.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from bitmesh_proxy import keys
from bitmesh_proxy.storage.ledger import LedgerStore
from tests.journeys.gateway import Gateway, running_gateway
from tests.journeys.scripted import MODEL
from tests.upstream.scripted_provider import Exchange, Provider, provider
from tests.web.lane.callers import PASSING, Caller, RawAnswer

#: A model with one offer, and one with two, where the first provider fails.
ONE, TWO = MODEL, "model-of-two"
#: Turns of the loop between two pieces: more than the plain way takes from a read to the caller.
TURNS = 8
#: Of a row, what is another's in every row.
OF_EACH_ROW = ("request_id", "account_id", "key_id", "first_byte_ms", "total_ms", "started_at_s")

Ending = Literal["open", "closed", "reset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What a provider does: bytes in pieces, and what becomes of the connection then."""

    pieces: Sequence[bytes]
    ending: Ending = "open"


#: For a call whose name was spoilt.
NAMELESS = Play(pieces=[b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call: how it is asked, and what the first and the second provider play."""

    path: str
    body: bytes
    headers: dict[str, str | None] = field(default_factory=dict)
    plays: Sequence[Play] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Everything that must be alike."""

    answer: RawAnswer | None
    is_closed: bool
    row: dict[str, Any] | None
    has_first_byte: bool


class Stage:
    """Plays for whoever asks. A call names itself in its first message (``case-7``), and its offer by its path."""

    def __init__(self) -> None:
        self.cases: dict[int, Case] = {}

    async def script(self, exchange: Exchange) -> None:
        """One connection, for as long as plays leave it open."""
        while True:
            head, body = await exchange.request()
            named = re.search(rb"case-(\d+)", body)
            offer = 0 if head.startswith(b"POST /first/") else 1
            play = self.cases[int(named[1])].plays[offer] if named else NAMELESS
            for piece in play.pieces:
                await turns()
                if exchange.writer.is_closing():  # the gateway has had enough
                    return
                exchange.writer.write(piece)
            if play.ending == "open":
                continue
            if exchange.writer.is_closing():
                return
            with suppress(OSError, RuntimeError):  # the gateway may have had enough already
                if play.ending == "reset":
                    await turns()
                    sock = exchange.writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    exchange.reset()
                elif exchange.writer.can_write_eof():
                    exchange.writer.write_eof()  # at once, so that nobody thinks that the connection may be used
                else:  # TLS ends in both directions
                    exchange.writer.close()
            return


@dataclass(slots=True, kw_only=True)
class Twins:
    """The two gateways. ``plain`` counts, for each, what went aiohttp's plain way."""

    gateways: tuple[Gateway, Gateway]
    plain: list[int]
    stage: Stage
    number: int = 0

    async def compare(self, cases: Sequence[Case]) -> list[Seen]:
        """Let each case be called at both gateways. Raises AssertionError when they are told apart."""
        numbered = []
        for case in cases:
            self.number += 1
            self.stage.cases[self.number] = case
            numbered.append(replace(case, body=case.body.replace(b"case-N", b"case-%d" % self.number)))
        seen = await asyncio.gather(*(call(gateway, case) for case in numbered for gateway in self.gateways))
        for case, (with_lane, without) in zip(cases, zip(seen[::2], seen[1::2], strict=True), strict=True):
            assert with_lane == without, f"{with_lane}\nand\n{without}\nfor\n{case}"
        self.stage.cases.clear()
        for gateway in self.gateways:
            assert gateway.app[keys.METRICS].under_way == 0
            assert gateway.app[keys.CONCURRENCY_LIMIT].running(gateway.key.id) == 0
        return seen[::2]


async def call(gateway: Gateway, case: Case) -> Seen:
    """One call on a connection of its own, and all that can be seen of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    caller = Caller(gateway, reader, writer)
    try:
        caller.send(caller.request(case.body, path=case.path, headers={"Host": "gateway", **case.headers}))
        try:
            answer = await caller.answer()
        except EOFError:
            return Seen(answer=None, is_closed=True, row=None, has_first_byte=False)
        await turns()
        is_closed = reader.at_eof()
    finally:
        writer.transport.abort()
    row = await row_of(gateway, answer.get("X-Request-Id") or "")
    return Seen(
        answer=replace(answer, headers=tuple(each for each in answer.headers if each[0].lower() not in PASSING)),
        is_closed=is_closed,
        row=None if row is None else {name: value for name, value in row.items() if name not in OF_EACH_ROW},
        has_first_byte=row is not None and row["first_byte_ms"] is not None,
    )


async def row_of(gateway: Gateway, request_id: str) -> dict[str, Any] | None:
    """The ledger's row of a request, which is closed once its answer has ended."""
    row = await LedgerStore(gateway.app[keys.DATABASE]).request(request_id)
    if row is None:
        return None
    assert row.state != "open", row
    return {name: getattr(row, name) for name in row.__struct_fields__}


async def turns() -> None:
    """Let everything happen that has been begun."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


def rows(directory: Path) -> Path:
    """The catalogue."""
    directory.mkdir(parents=True)
    text = ""
    for model, providers in ((ONE, ("first",)), (TWO, ("first", "second"))):
        text += f'[[model]]\nid = "{model}"\noperation = "chat"\ncontext_tokens = 4096\nmax_output_tokens = 1024\n'
        for number, name in enumerate(providers, start=1):
            text += (
                f'[[offer]]\nmodel = "{model}"\nprovider = "{name}"\nupstream_model = "m-{model}"\n'
                f'usd_per_million_input_tokens = "{number}.00"\nusd_per_million_output_tokens = "{number}.00"\n'
            )
    (directory / "twins.toml").write_text(text)
    return directory


def settings_of(directory: Path, scripted: Provider, *, lane: bool, scheme: str) -> dict[str, Any]:
    """An offer that has failed is tried first again at once, so that cases do not depend on those before them."""
    url = f"{scheme}://127.0.0.1:{scripted.port}"
    return {
        "sandbox": {"mode": "off"},
        "catalogue": {"dir": str(directory)},
        "http": {"lane": lane},
        "upstream": {"unhealthy_s": 1e-9, "max_answer_bytes": 20_000},
        "billing": {"checkpoint_interval_s": 3600.0},  # it notes what passes at a moment of its own
        "providers": [
            {"name": name, "kind": "openai_compatible", "base_urls": {"default": f"{url}/{name}/v1"}}
            for name in ("first", "second")
        ],
    }


@asynccontextmanager
async def twins(tmp_path: Path, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Twins]:
    """Start both; at the end their books are checked. ``tls``: the provider's side."""
    stage, plain = Stage(), [0, 0]
    directory = rows(tmp_path / "rows")
    async with AsyncExitStack() as stack:
        scripted = await stack.enter_async_context(provider(stage.script, tls=tls))

        async def start(at: int) -> Gateway:
            async def note(_request: object, _response: object) -> None:
                plain[at] += 1

            return await stack.enter_async_context(
                running_gateway(
                    tmp_path / f"{at}",
                    settings_of(directory, scripted, lane=at == 0, scheme="http" if tls is None else "https"),
                    credit_usd="1000",
                    prepare=lambda app: app.on_response_prepare.append(note),
                )
            )

        gateways = await start(0), await start(1)
        yield Twins(gateways=gateways, plain=plain, stage=stage)
        for gateway in gateways:
            await gateway.check_books()


def conversation(model: Any = ONE, **more: Any) -> bytes:
    """The body of a call; its name is filled in later."""
    body = {"model": model, "messages": [{"role": "user", "content": "case-N"}], "max_tokens": 50, **more}
    return orjson.dumps(body)
