"""Who is believed, and what is made of the headers of those who are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from bitmesh_proxy.web.forwarded import UNKNOWN_ADDRESS, ForwardedTrust, public_base_url

TRUST = ForwardedTrust(["127.0.0.0/8", "::1/128", "10.0.0.0/8", "fd00::/8"])


def headers(*items: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(items))


def resolve(peer: str | None, *items: tuple[str, str], trust: ForwardedTrust = TRUST) -> tuple[str, str, str]:
    return trust.resolve(peer, headers(*items), scheme="http", host="inner:3000")


def caller(peer: str, *lists: str) -> str:
    return resolve(peer, *(("X-Forwarded-For", line) for line in lists))[0]


FORGED = (("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil.test"))


def test_without_headers_the_peer_is_the_caller() -> None:
    assert resolve("127.0.0.1") == ("127.0.0.1", "http", "inner:3000")
    assert resolve("203.0.113.9") == ("203.0.113.9", "http", "inner:3000")


def test_a_stranger_is_not_believed() -> None:
    assert resolve("203.0.113.9", *FORGED) == ("203.0.113.9", "http", "inner:3000")
    assert resolve("::ffff:203.0.113.9", *FORGED) == ("203.0.113.9", "http", "inner:3000")


def test_a_trusted_proxy_is() -> None:
    assert resolve(
        "127.0.0.1",
        ("x-forwarded-for", "203.0.113.7"),
        ("X-FORWARDED-PROTO", "https"),
        ("X-Forwarded-Host", "ai.example.org"),
    ) == ("203.0.113.7", "https", "ai.example.org")


def test_a_unix_socket_is_trusted() -> None:
    assert resolve("", *FORGED) == ("1.1.1.1", "https", "evil.test")
    nobody = ForwardedTrust([])
    assert resolve("", *FORGED, trust=nobody) == ("1.1.1.1", "https", "evil.test"), "whoever else is trusted"
    assert resolve("") == (UNKNOWN_ADDRESS, "http", "inner:3000")


def test_a_peer_that_has_gone_is_nobody() -> None:
    assert resolve(None, *FORGED) == (UNKNOWN_ADDRESS, "http", "inner:3000")


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["9.9.9.9, 203.0.113.7"], "203.0.113.7"),  # what the caller put in front is no word of ours
        (["9.9.9.9, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        (["9.9.9.9", "203.0.113.7", "10.1.2.3"], "203.0.113.7"),  # several lines are one list
        (["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        (["203.0.113.7:51234"], "203.0.113.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["2001:DB8:0:0:0:0:0:7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:db8::7]:443"], "2001:db8::7"),
        (['"[2001:db8::7]:443"'], "2001:db8::7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, ::ffff:10.0.0.1"], "203.0.113.7"),
        (["fe80::1%eth0"], "fe80::1"),
        (["203.0.113.7, fd00::5"], "203.0.113.7"),
        ([" ,, 203.0.113.7 ,"], "203.0.113.7"),
        ([""], "127.0.0.1"),
        (["unknown"], "127.0.0.1"),
        (["203.0.113.7, unknown"], "127.0.0.1"),
        (["garbage, 10.1.2.3"], "10.1.2.3"),
        (["[2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]x"], "127.0.0.1"),
        (["203.0.113.7:port"], "127.0.0.1"),
        (["300.1.1.1"], "127.0.0.1"),
        (["1" * 5000], "127.0.0.1"),
    ],
)
def test_the_caller_is_the_rightmost_stranger(lists: list[str], expected: str) -> None:
    assert caller("127.0.0.1", *lists) == expected


def test_a_list_without_end_is_cut() -> None:
    assert caller("127.0.0.1", "203.0.113.7, " + ", ".join(["10.0.0.1"] * 1000)) == "10.0.0.1"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("http, https", "https"),
        ("ftp", "http"),
        ("", "http"),
        ("https evil", "http"),
    ],
)
def test_the_scheme(value: str, expected: str) -> None:
    assert resolve("127.0.0.1", ("X-Forwarded-Proto", value))[1] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ai.example.org", "ai.example.org"),
        ("AI.Example.org:8443", "AI.Example.org:8443"),  # clients sign the host as they wrote it
        ("[::1]:3000", "[::1]:3000"),
        ("evil.test, ai.example.org", "ai.example.org"),
        ("ai.example.org/path", "inner:3000"),
        ("user@ai.example.org", "inner:3000"),
        ("ai.example.org:99999999", "inner:3000"),
        ("a b", "inner:3000"),
        ("", "inner:3000"),
        ("x" * 500, "inner:3000"),
    ],
)
def test_the_host(value: str, expected: str) -> None:
    assert resolve("127.0.0.1", ("X-Forwarded-Host", value))[2] == expected


def test_the_longest_host_is_one() -> None:
    longest = "a" * 254 + ":65535"
    assert TRUST.resolve("203.0.113.9", headers(), scheme="http", host=longest)[2] == longest
    assert TRUST.resolve("203.0.113.9", headers(), scheme="http", host="a" + longest)[2] == "localhost"


@pytest.mark.parametrize("host", ["", "a b", "evil.test/x", 'evil.test"onload=', "a,b"])
def test_a_host_that_is_none_reaches_no_link(host: str) -> None:
    assert TRUST.resolve("203.0.113.9", headers(), scheme="http", host=host)[2] == "localhost"


def test_what_is_no_network_stops_the_start() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        ForwardedTrust(["example.org"])


@given(st.text(max_size=120), st.text(max_size=40), st.text(max_size=80))
def test_no_header_is_ever_an_error(forwarded_for: str, proto: str, host: str) -> None:
    address, scheme, public_host = resolve(
        "127.0.0.1", ("X-Forwarded-For", forwarded_for), ("X-Forwarded-Proto", proto), ("X-Forwarded-Host", host)
    )
    assert address
    assert scheme in ("http", "https")
    assert not set(public_host) & set(" /@\\\"'<>,")


@pytest.mark.parametrize(
    ("scheme", "host", "url"),
    [
        ("https", "ai.example.org", "https://ai.example.org"),
        ("https", "ai.example.org:443", "https://ai.example.org"),
        ("http", "ai.example.org:80", "http://ai.example.org"),
        ("http", "ai.example.org:443", "http://ai.example.org:443"),
        ("http", "[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_public_base_url(scheme: str, host: str, url: str) -> None:
    assert public_base_url(scheme, host) == url
