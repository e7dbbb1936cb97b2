"""Links are read strictly and passed on byte for byte."""

from __future__ import annotations

import pytest

from bitmesh_proxy.media.fetch_errors import FetchRefused
from bitmesh_proxy.media.origins import MAX_URL_LENGTH, Origin, follow, origin_of, parse_link


@pytest.mark.parametrize(
    "link",
    [
        "ftp://host/x",
        "file:///etc/passwd",
        "gopher://host/",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "//host/x",
        "/x",
        "host/x",
        "",
        "http:",
        "http://",
        "http:///x",
        "http://user@host/",
        "http://user:secret@host/",
        "http://:secret@host/",
        "http://host:0/",
        "http://host:99999/",
        "http://host:http/",
        "http://ho st/",
        "http://host/a b",
        "http://host/\r\nX-Injected: 1",
        "http://host/\x00",
        "http://host\\@evil/",
        "http://host/\u00e4",
        "http://1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://[::1",
        "http://[::1]extra/",
        "http://host/" + "a" * MAX_URL_LENGTH,
    ],
)
def test_anything_but_a_plain_http_url_is_refused(link: str) -> None:
    with pytest.raises(FetchRefused):
        parse_link(link)


@pytest.mark.parametrize(
    "link",
    [
        "https://bucket.s3.us-west-2.amazonaws.com/a%2Fb%20c?X-Amz-Signature=ab%2Bcd%3D&x=%7e~+",
        "https://host.test/shrt/DwlaBdSakNRFlBxN",
        "http://host.test:8080/?a=b&a=c",
        "https://[2606:4700::1111]:8443/x",
    ],
)
def test_a_good_link_keeps_every_byte(link: str) -> None:
    assert str(parse_link(link)) == link


def test_a_fragment_stays_here() -> None:
    assert str(parse_link("https://host.test/x?y#part")) == "https://host.test/x?y"


@pytest.mark.parametrize(
    ("link", "origin"),
    [
        ("http://Host.Test/x", Origin("http", "host.test", 80)),
        ("https://host.test", Origin("https", "host.test", 443)),
        ("HTTPS://host.test:8443/", Origin("https", "host.test", 8443)),
        ("http://[::1]:99/", Origin("http", "::1", 99)),
    ],
)
def test_an_origin_is_scheme_host_and_port(link: str, origin: Origin) -> None:
    assert origin_of(link) == origin


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://b.test/x", "https://b.test/x"),
        ("//b.test/x", "https://b.test/x"),
        ("/other%2Fpath?s=%2B", "https://a.test/other%2Fpath?s=%2B"),
        ("sibling", "https://a.test/dir/sibling"),
        ("?only=query", "https://a.test/dir/page?only=query"),
    ],
)
def test_a_redirect_counts_from_where_it_came(location: str, target: str) -> None:
    assert str(follow(parse_link("https://a.test/dir/page"), location)) == target


@pytest.mark.parametrize(
    "location", ["", "file:///etc/passwd", "http://user@b.test/", "http://127.1/", "/a b", "/\u00e4"]
)
def test_a_redirect_is_read_as_strictly(location: str) -> None:
    with pytest.raises(FetchRefused):
        follow(parse_link("https://a.test/"), location)
