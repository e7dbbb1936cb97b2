"""What goes out to providers, byte for byte, and what is never let out."""

from __future__ import annotations

import email.parser
import email.policy
from types import MappingProxyType

import pytest

from bitmesh_proxy.dialects.base import FormPart, UpstreamRequest
from bitmesh_proxy.errors import InternalError
from bitmesh_proxy.providers import openai_compatible
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.opening import Origin
from bitmesh_proxy.upstream.requests import (
    USER_AGENT,
    form_bytes,
    head_around_length,
    head_bytes,
    request_bytes,
    target_of,
)


@pytest.mark.parametrize(
    ("url", "origin", "host", "path"),
    [
        ("http://127.0.0.1:8000/v1/chat", Origin("127.0.0.1", 8000, False), "127.0.0.1:8000", "/v1/chat"),
        ("https://api.example.test/v1", Origin("api.example.test", 443, True), "api.example.test", "/v1"),
        ("http://example.test", Origin("example.test", 80, False), "example.test", "/"),
        ("http://[::1]:9/a b", Origin("::1", 9, False), "[::1]:9", "/a%20b"),
        ("https://exämple.test/ü", Origin("xn--exmple-cua.test", 443, True), "xn--exmple-cua.test", "/%C3%BC"),
        ("https://h.test/m/a%2Fb:gen?alt=sse", Origin("h.test", 443, True), "h.test", "/m/a%2Fb:gen?alt=sse"),
    ],
)
def test_where_a_request_goes(url: str, origin: Origin, host: str, path: str) -> None:
    assert target_of(url) == (origin, host, path)


def test_a_query_is_added_and_escaped() -> None:
    assert target_of("https://h.test/v?a=1", (("b", "x y&z"),)).path == "/v?a=1&b=x+y%26z"


@pytest.mark.parametrize("url", ["ftp://h.test/", "/v1", "http:///x", ""])
def test_anything_but_http_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        target_of(url)


def test_a_head() -> None:
    head = head_bytes(
        "POST",
        target_of("http://h.test:81/x"),
        (("Accept", "text/event-stream"), ("Authorization", "Bearer s")),
        content_type="application/json",
        length_bytes=2,
    )
    assert head.decode() == (
        "POST /x HTTP/1.1\r\nHost: h.test:81\r\n"
        f"User-Agent: {USER_AGENT}\r\nAccept-Encoding: identity\r\n"
        "Accept: text/event-stream\r\nAuthorization: Bearer s\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    )


def test_a_head_without_a_body_announces_none_and_takes_anything() -> None:
    head = head_bytes("GET", target_of("http://h.test/"), (), content_type=None, length_bytes=None)
    assert b"Content-" not in head
    assert b"\r\nAccept: */*\r\n" in head


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\rb", "a\0b"])
def test_a_header_cannot_begin_another(value: str) -> None:
    with pytest.raises(ValueError, match="line end"):
        head_bytes("GET", target_of("http://h.test/"), (("X-A", value),), content_type=None, length_bytes=None)


def access_to(url: str, **headers: str) -> ProviderAccess:
    provider = openai_compatible.make("local", base_urls={"default": "http://elsewhere.test"})
    return ProviderAccess(provider=provider, roots={"default": url}, auth_headers=headers)


CONSTANT = MappingProxyType({"Accept": "application/json"})
BODY = UpstreamRequest(path="/chat", headers={"Accept": "application/json"}, body=b"{}")


def test_a_request_has_the_head_of_its_parts_whatever_was_sent_before() -> None:
    near, far = access_to("http://near.test/v1", Authorization="Bearer 1"), access_to("https://far.test/v1", X="y")
    for access in (near, far, near):
        for request in (
            BODY,
            UpstreamRequest(path="/chat", headers=BODY.headers, body=b"x" * 1000),
            UpstreamRequest(path="/chat", headers={"Accept": "text/event-stream"}, body=b""),
            UpstreamRequest(path="/chat", headers=CONSTANT, body=b"{}"),
            UpstreamRequest(path="/chat", headers=CONSTANT, body=b"x" * 1000),
            UpstreamRequest(path="/other", headers=CONSTANT, body=b"{}"),
            UpstreamRequest(path="/chat", headers=MappingProxyType({"Accept": "text/plain"}), body=b"{}"),
            UpstreamRequest(path="/chat", headers=CONSTANT, query=(("alt", "sse"),), body=b"{}"),
            UpstreamRequest(path="/chat", headers=CONSTANT),
            UpstreamRequest(path="/chat", query=(("alt", "sse"),), body=b"{}"),
            UpstreamRequest(method="GET", path="/job"),
            UpstreamRequest(method="DELETE", path="/job", headers={"X-Content": "\u00e9"}),
            UpstreamRequest(path="/cancel"),
        ):
            target, head, body = request_bytes(access, request)
            assert target == target_of(access.url(request), tuple(request.query))
            assert body == (request.body or b"")
            assert head == head_bytes(
                request.method,
                target,
                [*request.headers.items(), *access.auth_headers.items()],
                content_type=None if request.body is None else "application/json",
                length_bytes=len(body) if request.method == "POST" else None,
            )


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 12_345])
def test_a_head_around_its_length_takes_any_body(body: bytes) -> None:
    access = access_to("http://near.test/v1", Authorization="Bearer 1", Zeta="Content-Length: 0")
    around = head_around_length(access, UpstreamRequest(path="/chat", headers=CONSTANT, body=b"not this"))
    assert around.with_body(body) == request_bytes(access, UpstreamRequest(path="/chat", headers=CONSTANT, body=body))


def test_a_form_s_head_names_its_boundary() -> None:
    request = UpstreamRequest(path="/images", form=(FormPart(name="model", value=b"m"),))
    heads = [request_bytes(access_to("http://near.test"), request) for _ in range(2)]
    assert heads[0].head != heads[1].head
    for _, head, body in heads:
        boundary = body[2:34]
        assert b"\r\nContent-Type: multipart/form-data; boundary=" + boundary + b"\r\n" in head
        assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head


@pytest.mark.parametrize(
    ("access", "request_"),
    [
        (access_to("http://near.test", Authorization="Bearer a\nb"), BODY),
        (access_to("http://"), BODY),
        (access_to("http://near.test", Authorization="a\0b"), UpstreamRequest(path="/x", headers=CONSTANT, body=b"")),
        (access_to("http://near.test"), UpstreamRequest(path="/x", headers={"A": "b\r\nC: d"}, body=b"{}")),
    ],
)
def test_what_cannot_be_written_is_our_fault(access: ProviderAccess, request_: UpstreamRequest) -> None:
    for _ in range(2):
        with pytest.raises(InternalError, match="cannot be written"):
            request_bytes(access, request_)


def test_a_form_is_what_mail_readers_read() -> None:
    parts = (
        FormPart(name="model", value=b"m"),
        FormPart(name='im"age', value=b"\x89PNG\r\n--", filename="a\r\nb.png", media_type="image/png"),
    )
    body, content_type = form_bytes(parts)
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    first, second = message.iter_parts()
    assert first.get_param("name", header="content-disposition") == "model"
    assert first.get_content_type() == "text/plain"
    assert first.get_payload(decode=True) == b"m"
    assert second.get_param("name", header="content-disposition") == "im%22age"
    assert second.get_filename() == "a%0D%0Ab.png"
    assert second.get_content_type() == "image/png"
    assert second.get_payload(decode=True) == b"\x89PNG\r\n--"


def test_a_parts_type_cannot_begin_another_header() -> None:
    with pytest.raises(ValueError, match="line end"):
        form_bytes((FormPart(name="a", value=b"", media_type="a\r\nb"),))
