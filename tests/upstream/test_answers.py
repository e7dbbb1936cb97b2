"""What a provider's answer comes to, by its head and first words."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from bitmesh_proxy.errors import GatewayError, ProviderRefused, UpstreamBroken
from bitmesh_proxy.providers import together
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.answers import (
    MAX_ERROR_BYTES,
    check_is_no_refusal,
    check_is_transcript,
    is_good,
    marks_of,
    refusal_of,
    too_large,
)
from bitmesh_proxy.upstream.heads import AnswerHead

ACCESS = ProviderAccess(provider=together.PROVIDER, roots={"default": "http://provider.test"}, auth_headers={})


def head(code: int, content_type: str = "application/json") -> AnswerHead:
    return AnswerHead(code=code, headers=CIMultiDict({"Content-Type": content_type}), should_close=False)


def refusal(code: int, body: bytes, content_type: str = "application/json") -> GatewayError:
    return refusal_of(ACCESS, head(code, content_type), body)


@pytest.mark.parametrize(("status", "expected"), [(199, False), (200, True), (299, True), (300, False), (500, False)])
def test_two_hundreds_are_good(status: int, expected: bool) -> None:
    assert is_good(status) is expected


def test_an_error_status_is_the_providers_refusal() -> None:
    error = refusal(429, b'{"error":{"message":"slow down"}}')
    assert isinstance(error, ProviderRefused)
    assert (error.status, error.provider_status, error.message) == (429, 429, "slow down")


def test_an_error_under_a_good_status_counts_as_a_bad_gateways() -> None:
    error = refusal(200, b'{"error":{"message":"no model"}}', "application/problem+json")
    assert isinstance(error, ProviderRefused)
    assert error.provider_status == 502


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b'{"choices":[]}', "application/json"), (b'<p>"error"</p>', "text/html"), (b"", "application/json")],
)
def test_anything_else_is_no_stream(body: bytes, content_type: str) -> None:
    error = refusal(200, body, content_type)
    assert isinstance(error, UpstreamBroken)
    assert error.message == "The provider did not answer with a stream."


@pytest.mark.parametrize(("coding", "expected"), [("gzip", True), ("x", True), (" Identity ", False), ("", False)])
def test_a_compressed_answer_is_none(coding: str, expected: bool) -> None:
    of_coding = AnswerHead(code=200, headers=CIMultiDict({"Content-Encoding": coding}), should_close=False)
    error = refusal_of(ACCESS, of_coding, b"\x1f\x8b")
    assert isinstance(error, UpstreamBroken)
    assert ("compressed" in error.message) is expected


def test_only_the_beginning_of_a_long_error_is_read() -> None:
    assert isinstance(refusal(200, b" " * MAX_ERROR_BYTES + b'{"error":{}}'), UpstreamBroken)


def test_what_is_nothing_but_an_error_is_not_passed_on() -> None:
    with pytest.raises(ProviderRefused, match="no model") as caught:
        check_is_no_refusal(b'{"error":{"message":"no model"},"choices":[]}')
    assert caught.value.status == 502
    zeros = b'{"prompt_tokens":0,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":0}}'
    with pytest.raises(ProviderRefused, match="no model"):
        check_is_no_refusal(b'{"error":{"message":"no model"},"choices":null,"usage":%b}' % zeros)
    with pytest.raises(ProviderRefused) as caught:
        check_is_no_refusal(b'{"error":{"message":"wait","code":429}}')
    assert caught.value.status == 429


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":null,"choices":[]}',
        b'{"error":"late","choices":[{}]}',
        b'{"error":"late","data":[{}]}',
        b'{"error":"late","usage":{"prompt_tokens":9}}',
        b'{"choices":[{"message":{"content":"{\\"error\\":1}"}}]}',
        b'["error"]',
        b'{"error":',
    ],
)
def test_any_other_answer_is(body: bytes) -> None:
    check_is_no_refusal(body)


@pytest.mark.parametrize("media_type", ["text/plain", "application/json", "text/vtt", ""])
@pytest.mark.parametrize(
    "body",
    [b'{"error":{"message":"no model"}}', b'\xef\xbb\xbf\n {"text":"","error":"no model"}', b'{"errors":["no model"]}'],
)
def test_an_error_is_no_transcript_whatever_it_is_called(media_type: str, body: bytes) -> None:
    with pytest.raises(ProviderRefused, match="no model") as caught:
        check_is_transcript(body, media_type)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"<!DOCTYPE html><title>Sorry</title>", "text/plain"),
        (b"\n<html lang=en>", ""),
        (b'{"detail":"no model"}', "application/json"),
        (b"{}", "application/problem+json"),
    ],
)
def test_neither_is_a_page_or_what_holds_no_text(body: bytes, media_type: str) -> None:
    with pytest.raises(UpstreamBroken):
        check_is_transcript(body, media_type)


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"", "text/plain"),
        (b'He said "error".', "text/plain"),
        (b'{"error" is the name of the field', "text/plain"),
        (b'{"speaker":"A","said":"Hello"}', "text/plain"),
        (b"<v Anna>Hello</v>", "text/plain"),
        (b'{"text":"","error":null}', "application/json"),
        (b'{"text":"Hello","error":"cut off"}', "application/json"),
        (b"WEBVTT\n\n", "text/vtt"),
    ],
)
def test_what_was_heard_passes_as_it_is(body: bytes, media_type: str) -> None:
    check_is_transcript(body, media_type)


def test_the_sandboxs_mark_goes_to_the_caller_and_nothing_else_does() -> None:
    assert marks_of(CIMultiDict({"x-bitmesh-sandbox": "1", "Server": "x"})) == {"X-Bitmesh-Sandbox": "1"}
    assert marks_of(CIMultiDict({"X-Bitmesh-Sandbox": "0"})) == {}
    assert marks_of(CIMultiDict()) == {}


def test_too_large_is_a_broken_answer() -> None:
    assert too_large().status == 502
