"""Links from outside, parsed strictly, and their origins (scheme, host, port). Pure.

A link that is good keeps its path and query byte for byte: a pre-signed one is worthless once an escape in it is
rewritten.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from yarl import URL

from bitmesh_proxy.media.addresses import parse_address
from bitmesh_proxy.media.fetch_errors import FetchRefused

MAX_URL_LENGTH = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: Everything that RFC 3986 allows in a URL; none of it can end a request line or start a header.
_URL_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
#: ``127.1``, ``0x7f000001``, ``2130706433``: the C library reads them as addresses, people do not.
_LOOKS_NUMERIC = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+))*\.?")


class Origin(NamedTuple):
    """Scheme, host (lower case, IPv6 without brackets) and port, the default one included."""

    scheme: str
    host: str
    port: int


@lru_cache(maxsize=256)
def parse_link(text: str) -> URL:
    """Read a link of the outside world. Raises FetchRefused for anything but a plain absolute http(s) URL."""
    if len(text) > MAX_URL_LENGTH:
        raise FetchRefused("the link is too long")
    if not _URL_CHARACTERS.fullmatch(text):
        raise FetchRefused("the link holds characters that no URL may hold")
    try:
        url = URL(text, encoded=True)
        port = url.port
    except ValueError as exc:
        raise FetchRefused("the link is not a URL") from exc
    if url.scheme not in _DEFAULT_PORTS or not url.raw_host or not port:
        raise FetchRefused("the link is not an absolute http or https URL")
    if url.raw_user is not None or url.raw_password is not None:
        raise FetchRefused("the link carries a user name or password")
    if _LOOKS_NUMERIC.fullmatch(url.raw_host) and parse_address(url.raw_host) is None:
        raise FetchRefused("the link's host is a number")
    return url.with_fragment(None) if url.raw_fragment else url


def origin_of(url: URL | str) -> Origin:
    """The origin of a link. Raises FetchRefused for what ``parse_link`` refuses."""
    parsed = parse_link(url) if isinstance(url, str) else url
    host, port = parsed.raw_host, parsed.port
    if host is None or port is None:
        raise FetchRefused("the link is not an absolute http or https URL")
    return Origin(parsed.scheme, host.lower(), port)


def follow(url: URL, location: str) -> URL:
    """Where a redirect from ``url`` leads. Raises FetchRefused for what ``parse_link`` refuses."""
    if len(location) > MAX_URL_LENGTH or not _URL_CHARACTERS.fullmatch(location):
        raise FetchRefused("the redirect leads to something that is not a URL")
    try:
        target = url.join(URL(location, encoded=True))
    except ValueError as exc:
        raise FetchRefused("the redirect leads to something that is not a URL") from exc
    return parse_link(str(target))
