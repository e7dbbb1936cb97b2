"""A caller of the sandbox over a real socket, and the published schemas that its answers are held to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientSession
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from bitmesh_proxy.sandbox.faults import Faults
from bitmesh_proxy.sandbox.server import Sandbox
from bitmesh_proxy.sandbox.stage import Options
from tests.hand_clock import HandClock

ANSWERS = Path(__file__).parent / "answers"
#: Clips and pictures as small as they may be: drawing is most of what a test would wait for.
SMALL = Options(max_movie_frames=2, max_movie_pixels=32 * 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> Any:
        """The error object that Together and OpenAI both write."""
        return self.json["error"]

    @property
    def events(self) -> list[bytes]:
        """The data of each event of a stream, in order. Fails where the grammar is broken."""
        assert self.headers["Content-Type"].startswith("text/event-stream")
        return read_events(self.body)

    @property
    def json_events(self) -> list[Any]:
        """The events but for the end mark."""
        return [orjson.loads(event) for event in self.events if event != b"[DONE]"]


def read_events(body: bytes) -> list[bytes]:
    *blocks, rest = body.split(b"\n\n")
    assert rest == b"", "the last event is not ended by an empty line"
    found = []
    for block in blocks:
        lines = [line for line in block.split(b"\n") if not line.startswith(b":")]
        assert all(line.startswith((b"data: ", b"event: ")) for line in lines), block
        found.append(b"\n".join(line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """``headers`` go with every call."""

    sandbox: Sandbox
    session: ClientSession
    clock: HandClock

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.call("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.call("POST", path, json=body, **more)

    async def call(self, method: str, path: str, **more: Any) -> Answer:
        url = path if path.startswith("http") else self.sandbox.url + path
        async with self.session.request(method, url, **more) as response:
            return Answer(status=response.status, headers=response.headers, body=await response.read())

    async def chat(self, provider: str, text: str, **more: Any) -> Answer:
        body = {"model": "sandbox-chat", "messages": [{"role": "user", "content": text}], **more}
        return await self.post(f"/{provider}/v1/chat/completions", body)


@asynccontextmanager
async def calling(options: Options = SMALL, faults: Faults | None = None) -> AsyncIterator[Caller]:
    """A sandbox of its own, and a caller with a key."""
    clock = HandClock()
    async with (
        Sandbox(clock=clock, faults=faults, options=options) as sandbox,
        ClientSession(headers={"Authorization": "Bearer some-key"}) as session,
    ):
        yield Caller(sandbox=sandbox, session=session, clock=clock)


@cache
def _validator(provider: str, answer: str) -> Draft202012Validator:
    document = json.loads((ANSWERS / f"{provider}.json").read_text("utf-8"))
    assert answer in document["operations"]
    registry: Registry[Any] = Registry().with_resource("urn:answers", DRAFT202012.create_resource(document))
    return Draft202012Validator({"$ref": f"urn:answers#/operations/{answer}"}, registry=registry)


def assert_published(provider: str, answer: str, value: Any) -> None:
    """The value is what the provider's own API description says of this answer."""
    errors = [f"{error.json_path}: {error.message}" for error in _validator(provider, answer).iter_errors(value)]
    assert errors == []
