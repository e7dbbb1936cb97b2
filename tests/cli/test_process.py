"""Sockets bound before there is an event loop, and how callers write their addresses."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress

import pytest

from bitmesh_proxy.cli.process import beside, reserve, stop_signals, url_of


def test_a_port_is_reserved_for_those_who_listen_beside_each_other() -> None:
    (reserved,) = reserve("127.0.0.1", 0)
    address = reserved.getsockname()
    workers = [beside([reserved])[0] for _ in range(3)]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address)
    for worker in workers:
        assert not worker.getblocking()
        worker.listen()
    for worker in workers:
        # Whoever ends, ends for new callers at once.
        with socket.create_connection(address):
            worker.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address)
    reserved.close()


def test_nobody_moves_in_with_another_service() -> None:
    (reserved,) = reserve("127.0.0.1", 0)
    (worker,) = beside([reserved])
    worker.listen()
    with pytest.raises(OSError, match="in use"):
        reserve("127.0.0.1", reserved.getsockname()[1])
    worker.close()
    reserved.close()


def test_callers_are_divided() -> None:
    (reserved,) = reserve("127.0.0.1", 0)
    workers = [beside([reserved])[0] for _ in range(2)]
    for worker in workers:
        worker.listen(200)
    callers = [socket.create_connection(reserved.getsockname()) for _ in range(100)]
    accepted = []
    for worker in workers:
        with suppress(BlockingIOError):
            while True:
                accepted.append((worker, worker.accept()[0]))
    shares = [sum(by is worker for by, _ in accepted) for worker in workers]
    assert sum(shares) == 100
    assert all(shares), "by chance once in 2⁹⁹"
    for sock in (reserved, *workers, *callers, *(found for _, found in accepted)):
        sock.close()


def test_every_address_of_a_name_is_reserved() -> None:
    sockets = reserve("localhost", 0)
    wanted = {found[4][0] for found in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    assert {sock.getsockname()[0] for sock in sockets} == wanted
    for sock in sockets:
        sock.close()


def test_a_name_that_is_nobodys_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match=r"."):
        reserve("nowhere.invalid", 0)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (("127.0.0.1", 3000), "http://127.0.0.1:3000"),
        (("::1", 3000, 0, 0), "http://[::1]:3000"),
        ("/run/gateway.sock", "unix:/run/gateway.sock"),
    ],
)
def test_urls(address: object, url: str) -> None:
    assert url_of(address) == url


def test_who_is_to_outlive_the_terminal_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert stop_signals() == (signal.SIGTERM, signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)
