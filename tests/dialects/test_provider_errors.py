"""Refusals in every shape that providers use: one status, one sentence, one code, no secret, nothing of our account."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.dialects.provider_errors import (
    error_reader,
    read_error,
    read_redacted,
    redact,
    refused_within_success,
    retry_after_s,
)
from tests.dialects.cuts import sample

JSON = {"Content-Type": "application/json"}


def dumped(value: Any) -> bytes:
    return orjson.dumps(value)


@pytest.mark.parametrize("case", orjson.loads(sample("errors.json")), ids=lambda case: case["who"])
def test_shapes(case: dict[str, Any]) -> None:
    refusal = read_error(400, JSON, dumped(case["body"]))
    assert (refusal.status, refusal.message, refusal.provider_code) == (400, case["message"], case["code"])
    assert refusal.body == (case["body"] if isinstance(case["body"], dict) else None)


def test_the_field_is_named_however_the_provider_names_it() -> None:
    assert read_error(400, JSON, dumped({"error": {"message": "No.", "param": "n"}})).param == "n"
    fastapi = {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "No."}]}
    assert read_error(422, JSON, dumped(fastapi)).param == "messages.0.role"


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        *((status, status) for status in (400, 404, 409, 413, 422, 429, 500, 502, 503, 504)),
        *((status, 502) for status in (301, 302, 405, 418, 501, 524, 529)),
    ],
)
def test_the_callers_status(status: int, shown: int) -> None:
    refusal = read_error(status, JSON, b'{"error":"No."}')
    assert (refusal.status, refusal.provider_status) == (shown, status)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, {"error": {"message": "Incorrect API key provided: sk-abc****wxyz", "code": "invalid_api_key"}}),
        (402, {"error": {"message": "Credit limit exceeded, see your invoice 123"}}),
        (403, {"error": {"message": "Project proj_123 has no access"}}),
        (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}),
        (400, {"error": {"message": "Billing", "code": "billing_hard_limit_reached"}}),
        (400, {"error": {"message": "API key not valid", "details": [{"reason": "API_KEY_INVALID"}]}}),
        (401, {"detail": {"status": "quota_exceeded", "message": "This request exceeds your quota of 10000."}}),
    ],
)
def test_nothing_of_our_own_account_reaches_the_caller(status: int, body: dict[str, Any]) -> None:
    refusal = read_error(status, JSON, dumped(body))
    assert refusal.status == 502
    assert refusal.body is None
    assert refusal.param is None
    assert refusal.message == "The provider did not accept this service's own account."
    assert refusal.provider_status == status


def test_a_403_may_be_about_the_request() -> None:
    read = error_reader(refusal_codes=frozenset({"invalid_request_error"}))
    body = dumped({"error": {"message": "Input is too long", "type": "invalid_request_error"}})
    refusal = read(403, JSON, body)
    assert (refusal.status, refusal.message) == (400, "Input is too long")
    assert not refusal.may_fail_over
    assert read(401, JSON, body).status == 502
    assert read(403, JSON, b"{}").status == 502
    # Our own key wins over the type that comes with it.
    own = dumped({"error": {"message": "No", "type": "invalid_request_error", "code": "invalid_api_key"}})
    assert read(403, JSON, own).status == 502


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "text/html"}, b"<html><head><title>502</title></head><body>cloudflare at 10.0.0.1</body>"),
        ({}, b"  <!DOCTYPE html><p>oops"),
        (JSON, b'{"half": '),
        (JSON, b""),
        (JSON, b"{}"),
        (JSON, b"\xff\xfe\x00\x01"),
        ({"Content-Type": "image/png"}, b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_what_is_no_error_body_gives_a_plain_sentence(headers: dict[str, str], body: bytes) -> None:
    assert read_error(503, headers, body).message == "The provider answered with status 503."


def test_plain_text_is_passed_on_shortened_and_clean() -> None:
    headers = {"Content-Type": "text/plain"}
    assert read_error(500, headers, b"engine died\n").message == "engine died"
    assert len(read_error(500, headers, b"x" * 5000).message) <= 300
    assert read_error(500, headers, b"bad key sk-0123456789abcdef").message == "bad key [redacted]"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop",
        "sk-ant-api03-AbCd_efgh-1234",
        "tgp_v1_0123456789abcdef",
        "xai-0123456789abcdef0123",
        "AIzaSyA-0123456789abcdefghijklmnopqrstu",
        "Bearer abcdefghijklmnopqrstuvwx",
        "https://example.org/v1?alt=media&key=AbCdEf1234567890",
    ],
)
def test_secrets_never_come_through(secret: str) -> None:
    value = secret.rpartition("=")[2].removeprefix("Bearer ")
    body = dumped(
        {"error": {"message": f"While using {secret}, a failure.", "param": secret, "code": "x"}, "echo": [secret]}
    )
    refusal = read_error(500, JSON, body)
    assert value not in refusal.message + str(refusal.body) + str(refusal.param)
    assert "a failure." in refusal.message


def test_words_are_not_taken_for_secrets() -> None:
    text = b"The basic risk: desk-lamps_and_more, key frames; bearer of news; task-specific-options"
    assert redact(text) == text


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"Retry-After-Ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After": "Fri, 21 Nov 2025 10:00:30 GMT", "Date": "Fri, 21 Nov 2025 10:00:00 GMT"}, 30.0),
        ({"Retry-After": "Fri, 21 Nov 2025 09:00:00 GMT", "Date": "Fri, 21 Nov 2025 10:00:00 GMT"}, 0.0),
        ({"Retry-After": "Fri, 21 Nov 2025 10:00:30 GMT"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "99999999"}, 86400.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0.5s"}, 360.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12ms"}, 0.012),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "12ms"}, None),
        ({}, None),
    ],
)
def test_when_to_come_back(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers) == (None if wait_s is None else pytest.approx(wait_s))


def test_googles_delay_stands_in_the_body() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "27s"}]
    body = {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": details}}
    assert read_error(429, {}, dumped(body)).retry_after_s == 27.0
    # Where waiting does not help, no wait is named.
    assert read_error(400, {"Retry-After": "5"}, b"{}").retry_after_s is None


def test_an_error_in_a_success_has_the_status_that_it_names() -> None:
    assert refused_within_success({"error": {"code": 429, "message": "Slow down"}}).status == 429
    assert refused_within_success({"error": {"message": "x"}}).status == 502
    assert refused_within_success({"error": {"code": "blocked", "message": "x"}}, status=400).status == 400


@pytest.mark.parametrize("depth", [199, 200, 300, 1000])
def test_an_error_under_a_good_status_may_be_as_deep_as_it_likes(depth: int) -> None:
    refusal = refused_within_success(orjson.loads(b'{"error":' + b"[" * depth + b"]" * depth + b"}"))
    assert (refusal.status, refusal.message) == (502, "The provider answered with status 502.")


NAMES = st.sampled_from(["error", "message", "detail", "errors", "code", "type", "details", "loc"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner),
    max_leaves=12,
)


@given(st.integers(300, 599), JSON_VALUES)
def test_no_body_makes_the_reader_fail(status: int, body: Any) -> None:
    refusal = read_error(status, {"retry-after": str(body)[:20]}, dumped(body))
    assert refusal.message
    assert len(refusal.message) <= 1000


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail(body: bytes) -> None:
    assert read_error(500, {}, body).message


STATUS_400 = "The provider answered with status 400."


def test_json_is_redacted_by_its_texts_and_stays_json() -> None:
    # Behind an escape a word may begin: with a secret, or with nothing of the kind.
    body = rb'{"error":{"message":"Bad key:\nsk-0123456789abcdef","code":"c"},"hint":"\rk-0123456789","n":[1.5,null]}'
    assert read_redacted(body) == {
        "error": {"message": "Bad key:\n[redacted]", "code": "c"},
        "hint": "\rk-0123456789",
        "n": [1.5, None],
    }
    assert read_error(400, {}, body).message == "Bad key:\n[redacted]"
    assert read_redacted(b"{") is None
    for depth in (201, 1000, 2000):
        deep = b'{"error":' * depth + b'"x"' + b"}" * depth
        assert (read_error(400, {}, deep).message, read_error(400, {}, deep).body) == (STATUS_400, None)
