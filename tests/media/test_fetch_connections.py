"""Which addresses are connected to: those that were judged, and none before all are."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bitmesh_proxy.media.fetch_connections import JudgedConnect
from bitmesh_proxy.media.fetch_errors import FetchRefused, FetchTimedOut, FetchUnreachable
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.connections import Connections
from bitmesh_proxy.upstream.opening import Origin
from tests.closed_port import closed_port
from tests.media.outside import Names, body, serving

TLS = Path(__file__).parent / "tls"


@dataclass(kw_only=True)
class Judged:
    """Pools that connect by judged addresses; ``asked`` is what was judged, in order."""

    connections: Connections
    names: Names
    asked: list[tuple[str, int, str]] = field(default_factory=list)

    async def connect(self, origin: Origin) -> ProviderConnection:
        return await self.connections.take(origin, is_fresh=True, until_s=1e12)


@asynccontextmanager
async def judged(
    answers: Mapping[str, Sequence[Sequence[str]]],
    *,
    refused: frozenset[str] = frozenset(),
    timeout_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Judged]:
    names = Names(answers)

    def judge(host: str, port: int, address: str) -> bool:
        room.asked.append((host, port, address))
        return address not in refused

    connect = JudgedConnect(names, judge, timeout_s=timeout_s, ssl_context=tls)
    room = Judged(
        connections=Connections(connect_timeout_s=5.0, keepalive_s=5.0, max_per_origin=10, connect=connect), names=names
    )
    try:
        yield room
    finally:
        await room.connections.close()


async def test_every_address_of_the_one_answer_is_judged_before_any_is_connected_to() -> None:
    async with serving({}) as outside:
        port = outside.origin.port
        answers = {"a.test": [["127.0.0.1", "10.0.0.1"]]}
        async with judged(answers, refused=frozenset({"10.0.0.1"})) as room:
            with pytest.raises(FetchRefused, match="not public"):
                await room.connect(Origin("a.test", port, False))
            assert room.asked == [("a.test", port, "127.0.0.1"), ("a.test", port, "10.0.0.1")]
            assert room.names.asked == ["a.test"]
            assert room.connections.origins == 0


async def test_an_address_that_stands_in_the_link_is_judged_and_not_resolved() -> None:
    async with serving({"/": body(b"x")}) as outside, judged({}) as room:
        connection = await room.connect(Origin("127.0.0.1", outside.origin.port, False))
        assert not connection.is_lost
        assert room.asked == [("127.0.0.1", outside.origin.port, "127.0.0.1")]
        assert room.names.asked == []


async def test_where_one_address_does_not_answer_the_next_one_is_tried() -> None:
    """127.0.0.3 refuses; there a server for 127.0.0.1 only is found without it."""
    async with serving({}) as outside, judged({"two.test": [["127.0.0.3", "127.0.0.1"]]}) as room:
        connection = await room.connect(Origin("two.test", outside.origin.port, False))
        assert not connection.is_lost


async def test_an_address_of_the_sixth_version() -> None:
    try:
        probe = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    probe.close()
    async with serving({}, host="::1") as outside, judged({"six.test": [["::1"]]}) as room:
        connection = await room.connect(Origin("six.test", outside.origin.port, False))
        assert not connection.is_lost


@pytest.mark.parametrize("answers", [{}, {"none.test": [[]]}])
async def test_a_name_that_leads_nowhere(answers: Mapping[str, Sequence[Sequence[str]]]) -> None:
    async with judged(answers) as room:
        with pytest.raises(FetchUnreachable):
            await room.connect(Origin("none.test", 80, False))
        assert room.connections.origins == 0


async def test_where_nobody_listens() -> None:
    with closed_port() as port:
        async with judged({}) as room:
            with pytest.raises(FetchUnreachable):
                await room.connect(Origin("127.0.0.1", port, False))


class _SlowNames(Names):
    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[object]:  # type: ignore[override]  # it never comes to an answer
        await asyncio.Event().wait()
        raise AssertionError


async def test_the_time_is_bounded_the_name_service_included() -> None:
    connect = JudgedConnect(_SlowNames({}), lambda *_: True, timeout_s=0.05)
    connections = Connections(connect_timeout_s=5.0, keepalive_s=5.0, max_per_origin=10, connect=connect)
    with pytest.raises(FetchTimedOut):
        await connections.take(Origin("slow.test", 80, False), is_fresh=True, until_s=1e12)
    await connections.close()


async def test_a_handshake_that_never_ends_is_bounded_too() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    try:
        async with judged({}, timeout_s=0.1) as room:
            with pytest.raises(FetchTimedOut):
                await room.connect(Origin("127.0.0.1", listening.getsockname()[1], True))
    finally:
        listening.close()


async def test_with_tls_the_certificate_has_to_bear_the_name_and_be_trusted() -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    asked_for: list[str | None] = []
    server_side.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    names = {"media.test": [["127.0.0.1"]], "media.test.": [["127.0.0.1"]], "wrong.test": [["127.0.0.1"]]}
    trusting = ssl.create_default_context(cafile=str(TLS / "certificate.pem"))
    async with serving({}, tls=server_side) as outside:
        port = outside.origin.port
        async with judged(names, tls=trusting) as room:
            assert not (await room.connect(Origin("media.test", port, True))).is_lost
            assert not (await room.connect(Origin("media.test.", port, True))).is_lost
            assert asked_for == ["media.test", "media.test"]
            with pytest.raises(FetchUnreachable, match="certificate"):
                await room.connect(Origin("wrong.test", port, True))
        async with judged(names) as room:  # by the machine's own authorities, who do not know it
            with pytest.raises(FetchUnreachable, match="certificate"):
                await room.connect(Origin("media.test", port, True))


async def test_what_speaks_no_tls_cannot_be_reached() -> None:
    async with serving({}) as outside, judged({}) as room:
        with pytest.raises(FetchUnreachable):
            await room.connect(Origin("127.0.0.1", outside.origin.port, True))
