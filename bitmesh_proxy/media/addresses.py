"""Which IP addresses a link from outside may lead to: those of the public Internet, and nothing else.

Pure. The ranges are IANA's special-purpose registries for IPv4 and IPv6 (RFC 6890 and its updates, read 2026-08),
written out here because ``ipaddress.is_global`` has changed its answer between patch releases of Python. An address
that carries another one (IPv4-mapped, NAT64) is judged by the one inside.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_REFUSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this network"; Linux takes 0.0.0.0 for the machine itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and some clouds' metadata (100.100.100.200)
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's wire server: a public address that answers only from inside
        "169.254.0.0/16",  # link-local, and most clouds' metadata (169.254.169.254)
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments, and a cloud's metadata (192.0.0.192)
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)

#: The only IPv6 space that is handed out for the Internet; loopback, unique-local, link-local, site-local, multicast,
#: the IPv4-compatible and translated forms and all that is not assigned yet lie outside it.
_GLOBAL_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo (which carries an IPv4 address) among them
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries an IPv4 address; withdrawn, so nothing honest is lost
        "3fff::/20",
    )
)
#: On a network with IPv6 only, DNS64 answers with these for hosts that have an IPv4 address alone.
_NAT64 = IPv6Network("64:ff9b::/96")


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that ``text`` writes in its usual form, or None (a name, or ``127.1`` and the like)."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Is this an address of the public Internet, whatever it is wrapped in?"""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None:
        return False
    inner = address.ipv4_mapped
    if inner is None and address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFF_FFFF)
    if inner is not None:
        return is_public(inner)
    return address in _GLOBAL_V6 and not any(address in network for network in _REFUSED_V6)
