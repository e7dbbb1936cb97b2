"""Lines that are not read hold up nobody, and are there when they are read."""

from __future__ import annotations

import io
import logging
import os
import pty
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bitmesh_proxy.log_outlet import Outlet, handler_for


def ends_of(kind: str) -> tuple[int, int]:
    """A reader's end and a writer's, of something that takes little."""
    if kind == "pipe":
        return os.pipe()
    if kind == "terminal":
        return pty.openpty()
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ours.detach(), theirs.detach()


@pytest.fixture(params=["pipe", "socket", "terminal"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    reader, writer = ends_of(request.param)
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


def line(number: int) -> logging.LogRecord:
    return logging.LogRecord("somewhere", logging.INFO, __file__, 0, f"line {number} " + "x" * 500, (), None)


def outlet_for(writer: int) -> Outlet:
    with open(writer, "w", closefd=False, encoding="utf-8") as stream:
        outlet = handler_for(stream)
    assert isinstance(outlet, Outlet)
    return outlet


def read_until(reader: int, words: str) -> list[str]:
    """All lines up to one with those words."""
    said = b""
    while words.encode() not in said or not said.endswith(b"\n"):
        said += os.read(reader, 65536)
    return said.decode().splitlines()


def test_lines_that_are_not_read_are_kept_in_their_order(ends: tuple[int, int]) -> None:
    reader, writer = ends
    outlet = outlet_for(writer)
    for number in range(400):
        outlet.handle(line(number))
    lines = read_until(reader, "line 399 ")
    assert [said.split()[1] for said in lines] == [str(number) for number in range(400)]
    outlet.close()


def test_what_is_too_much_to_be_kept_is_counted() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    outlet = Outlet(writer, partial(os.write, writer), partial(os.close, writer), kept_bytes=2_000)
    for number in range(400):
        outlet.handle(line(number))
    lines = read_until(reader, "are lost")
    lost = int(lines[-1].split()[0])
    assert [said.split()[1] for said in lines[:-1]] == [str(number) for number in range(400 - lost)]
    outlet.handle(line(400))
    assert read_until(reader, "line 400 ") == [line(400).getMessage()]
    os.close(reader)
    outlet.close()


def test_a_reader_that_has_gone_costs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    outlet = outlet_for(writer)
    for number in range(200):
        outlet.handle(line(number))
    os.close(reader)
    for number in range(200):
        outlet.handle(line(number))
    outlet.flush()
    os.close(writer)
    outlet.close()
    assert capfd.readouterr().err == ""


def test_the_end_of_the_program_waits_for_what_is_read() -> None:
    reader, writer = os.pipe()
    outlet = outlet_for(writer)
    for number in range(200):
        outlet.handle(line(number))
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.extend(read_until(reader, "line 199 ")))
    thread.start()
    outlet.flush()
    thread.join()
    assert len(lines) == 200
    os.close(reader)
    os.close(writer)
    outlet.close()


def test_a_file_is_written_to_as_ever(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert type(handler_for(stream)) is logging.StreamHandler
    assert type(handler_for(io.StringIO())) is logging.StreamHandler


def test_a_line_that_cannot_be_put_in_words_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    outlet = outlet_for(writer)
    outlet.handle(logging.LogRecord("somewhere", logging.INFO, __file__, 0, "%d", ("words",), None))
    assert "Logging error" in capsys.readouterr().err
    os.close(reader)
    os.close(writer)
    outlet.close()
