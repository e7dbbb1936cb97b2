"""A connection and its listener: what is said, in which order, and that nothing is said once it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bitmesh_proxy.errors import UpstreamBroken, UpstreamTimeout
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.heads import AnswerHead
from tests.upstream.answers import ANSWERS, CHUNKED, HEAD, SIZED, answers
from tests.upstream.test_connection import Wire, connected


class Notes:
    """A listener that writes down what it hears, and does at each word what it was told to."""

    def __init__(self, on: dict[str, Callable[[], None]] | None = None) -> None:
        self.heard: list[str] = []
        self.code = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.framed: list[bytes | None] = []
        self.error: Exception | None = None
        self._on = on or {}

    def on_head(self, head: AnswerHead) -> None:
        self.code = head.code
        self.headers = list(head.headers.items())
        self._hear("head")

    def on_piece(self, data: bytes, framed: bytes | None) -> None:
        assert data
        self.body += data
        self.framed.append(framed)
        self._hear("piece")

    def on_end(self) -> None:
        self._hear("end")

    def on_error(self, error: Exception) -> None:
        self.error = error
        self._hear("error")

    def _hear(self, word: str) -> None:
        self.heard.append(word)
        if word in self._on:
            self._on[word]()


def begun(notes: Notes, *, idle_s: float = 5.0, total_s: float = 60.0) -> tuple[ProviderConnection, Wire]:
    """A connection whose request is out."""
    connection, wire = connected()
    begin(connection, notes, idle_s=idle_s, total_s=total_s)
    return connection, wire


def begin(connection: ProviderConnection, notes: Notes, *, idle_s: float = 5.0, total_s: float = 60.0) -> bool:
    now_s = asyncio.get_running_loop().time()
    return connection.begin(
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        listener=notes,
        first_byte_s=now_s + idle_s,
        idle_s=idle_s,
        deadline_s=now_s + total_s,
    )


@pytest.mark.parametrize("kind", ANSWERS)
async def test_what_comes_at_once_is_told_at_once_and_in_order(kind: str) -> None:
    data, body, may_follow = ANSWERS[kind]
    notes = Notes()
    connection, wire = begun(notes)
    assert wire.written == b"GET / HTTP/1.1\r\n\r\n"
    connection.data_received(data)
    assert notes.heard == (["head", "piece", "end"] if body else ["head", "end"])
    assert notes.body == body
    connection.finish()
    assert wire.is_aborted is not may_follow
    assert connection.is_reused is may_follow


@pytest.mark.parametrize("kind", ANSWERS)
async def test_it_is_the_same_wherever_it_is_cut(kind: str) -> None:
    data, body, _ = ANSWERS[kind]
    for cut in range(len(data) + 1):
        notes = Notes()
        connection, _ = begun(notes)
        for piece in (data[:cut], data[cut:]):
            if piece:
                connection.data_received(piece)
        assert notes.heard[0] == "head", cut
        assert notes.heard[-1] == "end", cut
        assert notes.body == body, cut
        connection.finish()


async def test_whole_chunks_come_in_their_framing_too() -> None:
    notes = Notes()
    connection, _ = begun(notes)
    connection.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for data in (
        b"5\r\nhello\r\n",
        b"1\r\na\r\nA\r\n0123456789\r\n",
        b"1;a=b\r\nx\r\n",
        b"2\r\nx",
        b"y\r\n",
        b"1\r\nz\r\n",
    ):
        connection.data_received(data)
    connection.data_received(b"1\r\n!\r\n0\r\n\r\n")
    whole = [b"5\r\nhello\r\n", b"1\r\na\r\nA\r\n0123456789\r\n"]
    assert notes.framed == [*whole, None, None, None, b"1\r\nz\r\n", None]
    assert notes.body == b"helloa0123456789xxyz!"
    connection.finish()


@pytest.mark.parametrize("kind", ["sized", "chunked", "interim"])
@pytest.mark.parametrize("word", ["head", "piece", "end"])
async def test_whoever_finishes_hears_nothing_more(kind: str, word: str) -> None:
    """Wherever the answer is cut; and the connection serves again only if all of it had come."""
    data, _, _ = ANSWERS[kind]
    for cut in range(1, len(data)):
        notes = Notes({word: lambda: connection.finish()})  # noqa: B023  # it is called within this very turn
        connection, wire = begun(notes)
        connection.data_received(data[:cut])
        if connection.is_busy:
            connection.data_received(data[cut:])
        assert notes.heard.count(word) == 1, cut
        assert notes.heard[-1] == word, cut
        assert connection.is_reused is not wire.is_aborted, cut
        assert wire.is_aborted or word == "end" or notes.body == b"hello", cut
        connection.connection_lost(None)
        assert notes.heard[-1] == word, cut


async def test_a_listener_may_ask_again_from_within_the_end() -> None:
    second = Notes()

    def again() -> None:
        connection.finish()
        begin(connection, second)

    first = Notes({"end": again})
    connection, _ = begun(first)
    connection.data_received(SIZED)
    assert second.heard == []
    connection.data_received(CHUNKED)
    assert (first.body, second.body) == (b"hello", b"hello")
    assert first.heard == second.heard == ["head", "piece", "end"]
    connection.finish()


@pytest.mark.parametrize("word", ["head", "piece", "end"])
async def test_what_a_listener_raises_ends_the_exchange_and_is_handed_to_it(word: str) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    notes = Notes({word: fail})
    connection, wire = begun(notes)
    connection.data_received(SIZED)
    assert notes.heard[-2:] == [word, "error"]
    assert isinstance(notes.error, ZeroDivisionError)
    connection.finish()
    assert wire.is_aborted


@pytest.mark.parametrize("kind", ["sized", "chunked", "interim"])
async def test_what_breaks_off_is_told_once_wherever_it_does(kind: str) -> None:
    data = ANSWERS[kind][0]
    for length in range(len(data) - 1):
        notes = Notes()
        connection, _ = begun(notes)
        if length:
            connection.data_received(data[:length])
        connection.connection_lost(None)
        assert notes.heard.count("error") == 1
        assert notes.heard[-1] == "error"
        assert isinstance(notes.error, UpstreamBroken)
        connection.finish()
        connection.finish()
        assert not connection.is_reused


@pytest.mark.parametrize(("said", "words"), [(b"", "did not answer"), (SIZED[:-1], "fell silent")])
async def test_silence_is_told(said: bytes, words: str) -> None:
    ended = asyncio.Event()
    notes = Notes({"error": ended.set})
    connection, wire = begun(notes, idle_s=0.02)
    if said:
        connection.data_received(said)
    await asyncio.wait_for(ended.wait(), 5)
    assert isinstance(notes.error, UpstreamTimeout)
    assert words in str(notes.error)
    assert wire.is_aborted
    connection.finish()


async def test_a_pause_is_no_silence_of_the_providers() -> None:
    notes = Notes()
    connection, wire = begun(notes, idle_s=0.02)
    connection.data_received(SIZED[:-1])
    connection.pause()
    was_paused = wire.is_reading_paused
    await asyncio.sleep(0.1)
    connection.resume()
    assert was_paused is not wire.is_reading_paused
    connection.data_received(SIZED[-1:])
    assert notes.heard[-1] == "end"
    connection.finish()
    assert connection.is_reused


async def test_a_connection_that_was_paused_reads_again_for_the_next() -> None:
    notes = Notes()
    connection, wire = begun(notes)
    connection.data_received(SIZED[:-1])
    connection.pause()
    connection.data_received(SIZED[-1:])  # was under way
    connection.finish()
    assert connection.is_reused
    assert not wire.is_reading_paused


async def test_a_request_that_the_socket_refuses_is_refused_and_nothing_is_told() -> None:
    class Closed(Wire):
        def write(self, data: object) -> None:
            self.is_aborted = True

    notes = Notes()
    connection, _ = connected()
    connection.connection_made(Closed())
    assert not begin(connection, notes)
    assert connection.was_refused
    assert not connection.may_repeat(is_repeatable=True)  # it was never used before: nobody is there
    connection.connection_lost(BrokenPipeError())
    connection.finish()
    assert notes.heard == []


@hypothesis_settings(max_examples=200, deadline=None)
@given(data=answers(), cuts=st.lists(st.integers(min_value=1, max_value=300), max_size=6))
def test_listening_and_waiting_see_the_same(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]

    async def waited() -> tuple[object, ...]:
        connection, wire = connected()
        connection.send(b"", b"", is_head_only=False, first_byte_s=1e12, idle_s=5.0, deadline_s=1e12)
        feed(connection, pieces)
        body = b""
        try:
            head = await connection.head()
            while piece := await connection.read():
                body += piece
        except UpstreamBroken as exc:
            return str(exc), body, connection.end(), wire.is_aborted
        return head.code, list(head.headers.items()), body, connection.end(), wire.is_aborted

    async def listened() -> tuple[object, ...]:
        notes = Notes()
        connection, wire = begun(notes)
        feed(connection, pieces)
        ended = connection.end()
        for framed in notes.framed:
            assert framed is None or framed in data
        if notes.error is not None:
            assert notes.heard.count("error") == 1
            assert "end" not in notes.heard
            return str(notes.error), notes.body, ended, wire.is_aborted
        assert notes.heard[0] == "head"
        assert notes.heard[-1] == "end"
        return notes.code, notes.headers, notes.body, ended, wire.is_aborted

    assert asyncio.run(waited()) == asyncio.run(listened())


def feed(connection: ProviderConnection, pieces: list[bytes]) -> None:
    """All of them, and then the end of the connection."""
    for piece in pieces:
        connection.data_received(piece)
    if not connection.is_complete:
        connection.connection_lost(None)
