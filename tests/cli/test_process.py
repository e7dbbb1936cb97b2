"""Sockets bound before there is an event loop, and how callers write their addresses."""

from __future__ import annotations

import socket

import pytest

from bitmesh_proxy.cli.process import bind, url_of


def test_a_port_is_bound_and_listens_at_once() -> None:
    (sock,) = bind("127.0.0.1", 0)
    with sock:
        assert not sock.getblocking()
        socket.create_connection(sock.getsockname()).close()
        with pytest.raises(OSError, match="in use"):
            bind("127.0.0.1", sock.getsockname()[1])


def test_every_address_of_a_name_is_bound() -> None:
    sockets = bind("localhost", 0)
    wanted = {found[4][0] for found in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    assert {sock.getsockname()[0] for sock in sockets} == wanted
    for sock in sockets:
        sock.close()


def test_a_name_that_is_nobodys_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match=r"."):
        bind("nowhere.invalid", 0)


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
