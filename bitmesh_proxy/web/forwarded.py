"""Who called, and under which name, when a proxy stands in between.

``X-Forwarded-For``, ``-Proto`` and ``-Host`` are believed only from a peer in a trusted network; from anybody else they
are just text. Proxies append to ``X-Forwarded-For``, so it is read from the right: the first address that is not a
trusted proxy's is the caller, and what stands left of it is the caller's own invention. Of a list in the other two the
last element counts, which our own proxy wrote. Garbage is overlooked, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Protocol

#: What a peer is called that has no address (a unix socket) and that no proxy speaks for.
UNKNOWN_ADDRESS: Final = "unknown"
#: Hops that are looked at; a longer list is an attack or a mistake.
MAX_HOPS: Final = 32
_MAX_ADDRESS_CHARACTERS: Final = 80
#: No host that matches is longer: a name of 254 characters, a colon, and five digits.
_MAX_HOST_CHARACTERS: Final = 260

_HOST: Final = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

Address = IPv4Address | IPv6Address


class Headers(Protocol):
    """What is needed of a request's headers: names of any case, several lines of one name."""

    def getall(self, key: str, default: list[str]) -> list[str]: ...

    def __contains__(self, key: object) -> bool: ...


class ForwardedTrust:
    """The rule, for the networks of one installation.

    ``networks`` are CIDR strings. A peer without an address is a proxy on this very machine, and trusted. Raises
    ValueError for what is no network.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(ip_network(network) for network in networks)
        self._hop = lru_cache(maxsize=4096)(self._look_up)

    def resolve(self, peer: str | None, headers: Headers, *, scheme: str, host: str) -> tuple[str, str, str]:
        """The caller's address, and scheme and host as the caller saw them.

        ``peer`` is the other end of the connection: an address, ``""`` for a unix socket, None when it has gone.
        ``scheme`` and ``host`` are those of the request itself. The address comes back in one spelling (an IPv4 address
        that IPv6 carries is written as IPv4), so that limits count one caller once. The host is checked: whatever is
        no host name is replaced by ``localhost``.
        """
        found = self._find(peer) if peer else None
        shown, trusted = found or (UNKNOWN_ADDRESS, peer == "")
        if trusted:
            if "X-Forwarded-For" in headers:
                shown = self._caller_of(_elements(headers, "X-Forwarded-For"), shown)
            if "X-Forwarded-Proto" in headers:
                scheme = _scheme_of(_elements(headers, "X-Forwarded-Proto"), scheme)
            if "X-Forwarded-Host" in headers:
                host = _host_of(_elements(headers, "X-Forwarded-Host"), host)
        return shown, scheme, host if _is_host(host) else "localhost"

    def _caller_of(self, hops: list[str], peer: str) -> str:
        """The rightmost hop that is not one of our own proxies; the leftmost one where all are."""
        caller = peer
        for hop in reversed(hops[-MAX_HOPS:]):
            found = self._find(hop)
            if found is None:
                break  # whoever wrote this does not know either; the last one known is the caller
            caller, trusted = found
            if not trusted:
                break
        return caller

    def _find(self, hop: str) -> tuple[str, bool] | None:
        """The hop in its one spelling, and whether it is trusted; None for what is no address."""
        return self._hop(hop) if len(hop) <= _MAX_ADDRESS_CHARACTERS else None

    def _look_up(self, hop: str) -> tuple[str, bool] | None:
        address = _parse(hop)
        return None if address is None else (str(address), any(address in network for network in self._networks))


@lru_cache(maxsize=1024)  # callers write few, and each of theirs comes with each of their requests
def public_base_url(scheme: str, host: str) -> str:
    """Scheme and host as one, without the port that the scheme implies and without a slash at the end."""
    default = {"http": ":80", "https": ":443"}.get(scheme, "")
    return f"{scheme}://{host.removesuffix(default) if default else host}"


def _elements(headers: Headers, name: str) -> list[str]:
    """The elements of a list header, over all its lines, in order."""
    return [element for line in headers.getall(name, []) for element in map(str.strip, line.split(",")) if element]


def _scheme_of(elements: list[str], fallback: str) -> str:
    scheme = elements[-1].lower() if elements else ""
    return scheme if scheme in ("http", "https") else fallback


def _host_of(elements: list[str], fallback: str) -> str:
    host = elements[-1] if elements else ""
    return host if _is_host(host) else fallback


def _is_host(text: str) -> bool:
    return len(text) <= _MAX_HOST_CHARACTERS and _is_short_host(text)


@lru_cache(maxsize=1024)
def _is_short_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


def _parse(text: str) -> Address | None:
    """An address as proxies write it: bare, ``1.2.3.4:567``, ``[::1]``, ``[::1]:567``, quoted, with a zone."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text, _, rest = text[1:].partition("]")
        if rest and not (rest.startswith(":") and rest[1:].isdecimal()):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not port.isdecimal():
            return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
