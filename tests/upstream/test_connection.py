"""One connection, fed by hand: heads and bodies cut at every place, silence, slowness, and what nobody asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from bitmesh_proxy.errors import CallerLeft, UpstreamBroken, UpstreamTimeout
from bitmesh_proxy.upstream.connection import WRITE_BYTES, ProviderConnection
from bitmesh_proxy.upstream.heads import MAX_HEAD_BYTES, MAX_INTERIM_ANSWERS, HeadReader
from bitmesh_proxy.upstream.inbox import HIGH_WATER_BYTES
from bitmesh_proxy.upstream.watch import Watch
from tests.upstream.answers import ANSWERS, HEAD, SIZED


class Wire(asyncio.Transport):
    """The provider's end of a connection, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_reading_paused = False
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.is_aborted

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def abort(self) -> None:
        self.is_aborted = True


class Alone:
    """The home of a connection without a pool."""

    def __init__(self, heads: HeadReader | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.heads = heads or HeadReader(loop)
        self.watch = Watch(loop)
        self.first_answers = 0

    def give_back(self, connection: ProviderConnection) -> None:
        connection.end()

    def note_answer(self, transport: asyncio.BaseTransport) -> None:
        self.first_answers += 1

    def forget(self, connection: ProviderConnection) -> None:
        self.watch.forget(connection)


def connected(heads: HeadReader | None = None) -> tuple[ProviderConnection, Wire]:
    """A connection that is up, with nothing asked yet."""
    wire = Wire()
    connection = ProviderConnection(asyncio.get_running_loop(), Alone(heads))
    connection.connection_made(wire)
    return connection, wire


def asked(
    *, is_head_only: bool = False, idle_s: float = 5.0, total_s: float = 60.0, heads: HeadReader | None = None
) -> tuple[ProviderConnection, Wire]:
    """A connection whose request is out."""
    connection, wire = connected(heads)
    now_s = asyncio.get_running_loop().time()
    connection.send(
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        is_head_only=is_head_only,
        first_byte_s=now_s + idle_s,
        idle_s=idle_s,
        deadline_s=now_s + total_s,
    )
    return connection, wire


async def body_of(connection: ProviderConnection) -> bytes:
    """Head and body awaited; gives all of the body."""
    await connection.head()
    body = b""
    while piece := await connection.read():
        body += piece
    return body


@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_is_the_same_wherever_it_is_cut(kind: str) -> None:
    data, body, may_follow = ANSWERS[kind]
    heads = HeadReader(asyncio.get_running_loop())
    for first in range(len(data) + 1):  # at first the head is new, then it is known
        connection, wire = asked(heads=heads)
        for piece in (data[:first], data[first:]):
            if piece:
                connection.data_received(piece)
        message = await connection.head()
        assert message.code in (200, 204), first
        assert await body_of(connection) == body, first
        assert connection.end() is may_follow, first
        assert wire.is_aborted is not may_follow, first


@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_may_come_byte_by_byte(kind: str) -> None:
    data, body, _ = ANSWERS[kind]
    connection, _ = asked()
    for byte in data:
        connection.data_received(bytes([byte]))
    assert await body_of(connection) == body
    assert connection.is_complete


async def test_what_is_as_long_as_a_chunk_need_not_be_one() -> None:
    """Reads of one and the same length, cut out of a body at each of its places."""
    bodies = [b"%019d" % number for number in range(30)]
    framed = b"".join(b"13\r\n%b\r\n" % body for body in bodies) + b"0\r\n\r\n"
    for at in range(25):
        connection, _ = asked()
        connection.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed[:25])
        connection.data_received(framed[25:50])  # so that this length is known
        if at:
            connection.data_received(framed[50 : 50 + at])
        for begin in range(50 + at, len(framed), 25):
            connection.data_received(framed[begin : begin + 25])
        assert await body_of(connection) == b"".join(bodies)
    for malformed in (b"13\r\n" + b"x" * 20 + b"\n", b"13\n\n" + b"x" * 19 + b"\r\n", b"0\r\n\r\n" + b"x" * 20):
        connection, wire = asked()
        connection.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed[:25])
        connection.data_received(framed[25:50])
        connection.data_received(malformed)
        if malformed.startswith(b"0"):  # the end, and something behind it
            assert await body_of(connection) == b"".join(bodies[:2])
            connection.finish()
        else:
            with pytest.raises(UpstreamBroken):
                await body_of(connection)
        assert wire.is_aborted


async def test_one_answer_after_the_other_on_the_same_connection() -> None:
    connection, _ = asked()
    for kind in ("chunked", "interim", "no content", "sized", "empty", "chunked"):
        connection.data_received(ANSWERS[kind][0])
        assert await body_of(connection) == ANSWERS[kind][1]
        assert connection.end()
        connection.send(b"", b"", is_head_only=False, first_byte_s=1e12, idle_s=1.0, deadline_s=1e12)
    assert isinstance(connection.home, Alone)
    assert connection.home.first_answers == 1
    connection.close()


async def test_interim_answers_are_counted_for_each_answer() -> None:
    """Also where the head behind them comes in a read of its own, and is known."""
    connection, _ = asked()
    for _ in range(MAX_INTERIM_ANSWERS + 2):
        connection.data_received(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        connection.data_received(SIZED)
        assert await body_of(connection) == b"hello"
        assert connection.end()
        connection.send(b"", b"", is_head_only=False, first_byte_s=1e12, idle_s=1.0, deadline_s=1e12)
    connection.close()


async def test_an_answer_to_head_has_no_body_whatever_it_says() -> None:
    heads = HeadReader(asyncio.get_running_loop())
    for is_head_only in (True, False, True):  # whatever is known of the head
        connection, _ = asked(is_head_only=is_head_only, heads=heads)
        connection.data_received(HEAD + b"Content-Length: 5\r\n\r\n" + (b"" if is_head_only else b"hello"))
        assert await body_of(connection) == (b"" if is_head_only else b"hello")
        assert connection.end()


async def test_without_a_length_the_end_of_the_connection_is_the_end() -> None:
    connection, _ = asked()
    connection.data_received(HEAD + b"\r\nhel")
    connection.data_received(b"lo")
    connection.connection_lost(None)
    assert await body_of(connection) == b"hello"
    assert not connection.end()


async def test_without_a_length_a_reset_is_no_end() -> None:
    connection, _ = asked()
    connection.data_received(HEAD + b"\r\nhello")
    connection.connection_lost(ConnectionResetError())
    assert await connection.read() == b"hello"
    with pytest.raises(UpstreamBroken):
        await connection.read()


@pytest.mark.parametrize("kind", ["sized", "chunked", "interim"])
async def test_what_breaks_off_is_broken_wherever_it_does(kind: str) -> None:
    data = ANSWERS[kind][0]
    for length in range(len(data) - 1):
        connection, _ = asked()
        if length:
            connection.data_received(data[:length])
        connection.connection_lost(None)
        with pytest.raises(UpstreamBroken):
            await body_of(connection)
        assert not connection.end()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_or_may_be_read_in_two_ways_is_refused(data: bytes) -> None:
    connection, wire = asked()
    connection.data_received(data)
    with pytest.raises(UpstreamBroken, match="not valid HTTP"):
        await body_of(connection)
    assert wire.is_aborted


@pytest.mark.parametrize("kind", ["sized", "chunked", "no content"])
async def test_bytes_behind_the_end_close_the_connection(kind: str) -> None:
    connection, wire = asked()
    connection.data_received(ANSWERS[kind][0] + b"HTTP/1.1 200 OK\r\n\r\n")
    assert await body_of(connection) == ANSWERS[kind][1]
    assert not connection.end()
    assert wire.is_aborted


async def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    connection, wire = connected()
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert wire.is_aborted
    assert not connection.is_alive()


async def test_leaving_before_the_end_closes_at_once() -> None:
    connection, wire = asked()
    connection.data_received(HEAD + b"Content-Length: 5\r\n\r\nhe")
    assert not connection.end()
    assert wire.is_aborted


async def test_a_provider_that_is_faster_has_to_wait() -> None:
    connection, wire = asked()
    connection.data_received(HEAD + b"Content-Length: 10000000\r\n\r\n")
    pieces = 0
    while not wire.is_reading_paused and pieces < 1000:
        connection.data_received(b"x" * 10_000)
        pieces += 1
    assert len(await connection.read()) == pieces * 10_000 <= HIGH_WATER_BYTES + 10_000
    assert not wire.is_reading_paused
    connection.close()


async def test_pouring_gives_each_piece_at_once_and_waits_for_whoever_takes_it() -> None:
    connection, wire = asked()
    connection.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    taken: list[bytes] = []
    slow: list[asyncio.Future[None]] = []

    def take(piece: bytes) -> Awaitable[None] | None:
        taken.append(piece)
        if piece != b"c":
            return None
        slow.append(asyncio.get_running_loop().create_future())
        return slow[-1]

    pouring = asyncio.create_task(connection.pour(take))
    await asyncio.sleep(0)
    assert taken == [b"a"]
    connection.data_received(b"1\r\nb\r\n")
    assert taken == [b"a", b"b"]  # without a turn of the loop
    connection.data_received(b"1\r\nc\r\n")
    assert wire.is_reading_paused
    connection.data_received(b"1\r\nd\r\n1\r\ne\r\n0\r\n\r\n")  # was under way already
    await asyncio.sleep(0.01)
    assert taken == [b"a", b"b", b"c"]
    slow[0].set_result(None)
    await pouring
    assert b"".join(taken) == b"abcde"
    assert connection.end()


@pytest.mark.parametrize("error", [CallerLeft(), UpstreamBroken("x"), ValueError("x")])
@pytest.mark.parametrize("is_later", [False, True])
async def test_what_the_taker_raises_ends_the_pouring(error: Exception, is_later: bool) -> None:
    connection, wire = asked()

    def take(_piece: bytes) -> None:
        raise error

    connection.data_received(HEAD + b"Content-Length: 5\r\n\r\n" + (b"" if is_later else b"he"))
    pouring = asyncio.create_task(connection.pour(take))
    await asyncio.sleep(0)
    if is_later:
        connection.data_received(b"he")
    with pytest.raises(type(error)):
        await pouring
    assert not connection.end()
    assert wire.is_aborted


@pytest.mark.parametrize(
    ("said", "words"),
    [((), "did not answer"), ((HEAD,), "did not answer"), ((HEAD + b"Content-Length: 5\r\n\r\nhe",), "fell silent")],
)
async def test_silence_ends(said: Iterable[bytes], words: str) -> None:
    connection, wire = asked(idle_s=0.02)
    for piece in said:
        connection.data_received(piece)
    with pytest.raises(UpstreamTimeout, match=words):
        await body_of(connection)
    assert wire.is_aborted


async def test_an_answer_that_takes_too_long_in_all_ends_although_it_goes_on() -> None:
    connection, _ = asked(idle_s=5.0, total_s=0.05)
    connection.data_received(HEAD + b"\r\n")

    async def talk() -> None:
        while True:
            connection.data_received(b"x")
            await asyncio.sleep(0.005)

    talking = asyncio.create_task(talk())
    with pytest.raises(UpstreamTimeout, match="not complete in time"):
        await body_of(connection)
    talking.cancel()


async def test_a_takers_own_patience_is_its_own() -> None:
    connection, _ = asked()
    connection.data_received(HEAD + b"Content-Length: 5\r\n\r\nhe")
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ended.set_exception(TimeoutError("the taker's"))
    with pytest.raises(TimeoutError, match="the taker's"):
        await connection.pour(lambda _: ended)


@pytest.mark.parametrize("is_complete", [False, True])
async def test_who_takes_nothing_is_not_waited_for_when_all_is_over(is_complete: bool) -> None:
    connection, _ = asked(total_s=0.02)
    connection.data_received(HEAD + b"Content-Length: 5\r\n\r\nhe" + (b"llo" if is_complete else b""))
    with pytest.raises(CallerLeft):
        await connection.pour(lambda _: asyncio.get_running_loop().create_future())


async def test_the_callers_slowness_is_no_silence_of_the_providers() -> None:
    connection, _ = asked(idle_s=0.02)
    connection.data_received(HEAD + b"Content-Length: 5\r\n\r\nhe")
    await asyncio.sleep(0.1)  # "he" lies there all the while
    assert await connection.read() == b"he"
    connection.data_received(b"llo")
    assert await connection.read() == b"llo"
    assert connection.end()


async def test_a_large_body_goes_out_no_faster_than_it_is_taken() -> None:
    connection, wire = connected()
    body = bytes(range(256)) * (WRITE_BYTES // 256 * 2 + 1)
    connection.pause_writing()
    connection.send(b"HEAD", body, is_head_only=False, first_byte_s=1e12, idle_s=1.0, deadline_s=1e12)
    assert wire.written == b"HEAD"
    connection.resume_writing()
    assert wire.written == b"HEAD" + body
    connection.data_received(SIZED)
    assert await body_of(connection) == b"hello"
    assert connection.end()


@pytest.mark.parametrize("how", ["answered", "lost"])
async def test_the_rest_of_a_body_is_kept_back_when_it_interests_nobody(how: str) -> None:
    connection, wire = connected()
    body = b"x" * (WRITE_BYTES * 3)
    connection.pause_writing()
    connection.send(b"", body, is_head_only=False, first_byte_s=1e12, idle_s=1.0, deadline_s=1e12)
    end: dict[str, Callable[[], None]] = {
        "answered": lambda: connection.data_received(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"),
        "lost": lambda: connection.connection_lost(None),
    }
    end[how]()
    connection.resume_writing()
    assert wire.written == b""
    assert not connection.end()
