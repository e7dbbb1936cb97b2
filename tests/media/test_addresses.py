"""Every kind of address that only this machine or its network can reach is refused, in whatever wrapping."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.media.addresses import is_public, parse_address


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",  # IPv4-compatible
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",  # translated (SIIT)
        "64:ff9b::127.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::8.8.8.8",  # locally used NAT64: whatever the operator of the network makes of it
        "100::1",
        "2001::1",  # Teredo
        "2001:0:7f00:1::",
        "2001:db8::1",
        "2002:7f00:1::1",  # 6to4 of 127.0.0.1
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_what_is_not_of_the_internet_is_refused(text: str) -> None:
    address = parse_address(text)
    assert address is not None
    assert not is_public(address)


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ],
)
def test_the_internet_is_not(text: str) -> None:
    address = parse_address(text)
    assert address is not None
    assert is_public(address)


@pytest.mark.parametrize("text", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "localhost", "", "127.0.0.1."])
def test_only_the_usual_form_is_an_address(text: str) -> None:
    assert parse_address(text) is None


@given(st.integers(0, 2**32 - 1))
def test_wrapping_an_address_never_makes_it_more_public(number: int) -> None:
    plain = is_public(IPv4Address(number))
    wrappings = (0xFFFF << 32, 0xFFFF << 48, 0, 0x64_FF9B << 96, 0x2002 << 112, 0x2001 << 112)
    for prefix in wrappings:
        assert not is_public(IPv6Address(prefix | number)) or plain
    assert not is_public(IPv6Address((0x2002 << 112) | (number << 80)))


@given(st.integers(0, 2**32 - 1))
def test_nothing_is_public_that_the_standard_library_calls_private(number: int) -> None:
    address = IPv4Address(number)
    if address.is_private or address.is_multicast or address.is_reserved or address.is_link_local:
        assert not is_public(address)
