"""Every class of the tree of errors, in every format, read as a client of that format would read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from bitmesh_proxy import errors
from bitmesh_proxy.context import Surface
from bitmesh_proxy.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    ContextLengthExceeded,
    GatewayError,
    InsufficientBalance,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    PermissionDenied,
    ProviderRefused,
    RateLimited,
    TooManyConcurrent,
    Unavailable,
    UpstreamBroken,
    UpstreamTimeout,
    ValidationFailed,
)
from bitmesh_proxy.web.error_formats import RenderedError, render_error, render_stream_error
from tests.clients import openai_clients

OBJECT_SURFACES = (Surface.UNIFIED, Surface.OPENAI, Surface.OPEN_RESPONSES)


def classes(cls: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from classes(sub)


def instance(cls: type[GatewayError]) -> GatewayError:
    """One error of a class, as the program makes it."""
    if issubclass(cls, ValidationFailed):
        return cls({"prompt": ["The prompt field is required."], "n": ["The n field must be an integer.", "…"]})
    if issubclass(cls, RateLimited):
        return cls("Too many requests.", retry_after_s=1.2)
    if issubclass(cls, Unavailable):
        return cls("Not now.")
    if issubclass(cls, ProviderRefused):
        return cls("No such model.", status=404, body={"error": {"message": "No such model.", "code": "nope"}})
    return cls("What happened.", param="prompt")


EVERY_CLASS = [pytest.param(cls, id=cls.__name__) for cls in classes()]


def body_of(rendered: RenderedError) -> Any:
    assert rendered.headers["Content-Type"] == "application/json"
    body = json.loads(rendered.body)
    assert isinstance(body, dict)
    return body


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    for cls in classes():
        assert cls.__name__ in errors.__doc__


@pytest.mark.parametrize("cls", EVERY_CLASS)
@pytest.mark.parametrize("surface", Surface)
def test_every_error_in_every_format(cls: type[GatewayError], surface: Surface) -> None:
    error = instance(cls)
    rendered = render_error(error, surface, "req_1")
    assert 400 <= rendered.status <= 599
    assert rendered.headers["X-Request-Id"] == "req_1"
    assert ("Retry-After" in rendered.headers) == isinstance(error, RateLimited | Unavailable)
    assert ("WWW-Authenticate" in rendered.headers) == (rendered.status == 401)
    if surface is Surface.PUBLIC_MEDIA:
        assert rendered.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert rendered.body.decode().strip()
        return
    body = body_of(rendered)
    if surface is Surface.BITMESH:
        assert rendered.status == error.status
        assert set(body) == ({"error", "errors"} if isinstance(error, ValidationFailed) else {"error"})
        assert body["error"]
        return
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == error.code
    assert body["error"]["param"] == error.param
    assert body["error"]["message"]


async def client_of(response: Callable[[], web.Response], aiohttp_server: AiohttpServer) -> openai.AsyncOpenAI:
    """OpenAI's own client, at a server whose every answer is ``response``."""

    async def answer(_: web.Request) -> web.Response:
        return response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    server = await aiohttp_server(app)
    return openai_clients.asynchronous(str(server.make_url("/v1")))


@pytest.mark.parametrize("cls", EVERY_CLASS)
async def test_openais_client_reads_every_error(cls: type[GatewayError], aiohttp_server: AiohttpServer) -> None:
    rendered = render_error(instance(cls), Surface.OPENAI, "req_1")
    client = await client_of(
        lambda: web.Response(status=rendered.status, headers=rendered.headers, body=rendered.body), aiohttp_server
    )
    async with client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.models.list()
    assert caught.value.status_code == rendered.status
    assert caught.value.request_id == "req_1"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] in str(caught.value)
    assert caught.value.code == cls.code


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            ValidationFailed({"messages.0.role": ["The messages.0.role field is required."]}),
            422,
            {
                "error": "Validation failed",
                "errors": {"messages.0.role": ["The messages.0.role field is required."]},
            },
        ),
        (AuthenticationFailed("Unknown API key."), 401, {"error": "Unknown API key."}),
        (InsufficientBalance("Insufficient balance."), 402, {"error": "Insufficient balance."}),
        (NotFound("Not found"), 404, {"error": "Not found"}),
        (InternalError("database.py line 7"), 500, {"error": "Internal server error"}),
        (GatewayError("raw"), 500, {"error": "Internal server error"}),
        (
            ProviderRefused("Too long.", status=422, body={"error": {"message": "Too long."}, "request_id": "r"}),
            422,
            {"error": {"message": "Too long."}},
        ),
        (ProviderRefused("Bad.", status=400, body={"error": "Bad prompt"}), 400, {"error": "Bad prompt"}),
        (ProviderRefused("Bad.", status=400, body={"message": "elsewhere"}), 400, {"error": "Bad."}),
        (ProviderRefused("An HTML page.", status=503), 503, {"error": "An HTML page."}),
    ],
)
def test_bitmesh_bodies(error: GatewayError, status: int, body: dict[str, Any]) -> None:
    rendered = render_error(error, Surface.BITMESH, "req_1")
    assert (rendered.status, body_of(rendered)) == (status, body)


@pytest.mark.parametrize("surface", Surface)
def test_what_a_provider_says_about_our_credential_stays_here(surface: Surface) -> None:
    error = ProviderRefused(
        "Incorrect API key provided: sk-planted",
        status=502,
        provider_status=401,
        provider_code="invalid_api_key",
        body={"error": {"message": "Incorrect API key provided: sk-planted"}},
    )
    rendered = render_error(error, surface, "req_1")
    assert b"sk-planted" not in rendered.body
    assert b"invalid_api_key" not in rendered.body
    assert b"sk-planted" not in render_stream_error(error)


@pytest.mark.parametrize("surface", Surface)
def test_a_fault_of_ours_is_not_told(surface: Surface) -> None:
    assert b"planted" not in render_error(InternalError("planted"), surface, "req_1").body


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (NotFound("no row"), 404, "Resource not found"),
        (UpstreamTimeout("slow"), 500, "Error fetching image"),
        (ProviderRefused("gone", status=410), 500, "Error fetching image"),
        (InternalError("x"), 500, "Error fetching image"),
        (Unavailable("The service is stopping."), 503, "The service is stopping."),
        (MethodNotAllowed("Method not allowed"), 405, "Method not allowed"),
    ],
)
def test_public_media_is_plain_text(error: GatewayError, status: int, text: str) -> None:
    rendered = render_error(error, Surface.PUBLIC_MEDIA, "req_1")
    assert (rendered.status, rendered.body.decode()) == (status, text)


@pytest.mark.parametrize(
    ("error", "unified", "open_responses"),
    [
        (InvalidRequest("x"), "invalid_request_error", "invalid_request_error"),
        (ContextLengthExceeded("x"), "invalid_request_error", "invalid_request_error"),
        (BodyTooLarge("x"), "invalid_request_error", "invalid_request_error"),
        (AuthenticationFailed("x"), "authentication_error", "authentication_error"),
        (InsufficientBalance("x"), "insufficient_quota", "insufficient_quota"),
        (PermissionDenied("x"), "permission_error", "permission_error"),
        (ModelNotFound("x"), "not_found", "not_found"),
        (RateLimited("x", retry_after_s=1), "rate_limit_error", "too_many_requests"),
        (TooManyConcurrent("x", retry_after_s=1), "rate_limit_error", "too_many_requests"),
        (ProviderRefused("x", status=429), "rate_limit_error", "too_many_requests"),
        (ProviderRefused("x", status=400), "invalid_request_error", "invalid_request_error"),
        (ProviderRefused("x", status=500), "internal_error", "model_error"),
        (UpstreamBroken("x"), "internal_error", "model_error"),
        (InternalError("x"), "internal_error", "server_error"),
        (Unavailable("x"), "internal_error", "server_error"),
    ],
)
def test_types_in_both_vocabularies(error: GatewayError, unified: str, open_responses: str) -> None:
    assert body_of(render_error(error, Surface.UNIFIED, ""))["error"]["type"] == unified
    assert body_of(render_error(error, Surface.OPENAI, ""))["error"]["type"] == unified
    assert body_of(render_error(error, Surface.OPEN_RESPONSES, ""))["error"]["type"] == open_responses


@pytest.mark.parametrize("surface", OBJECT_SURFACES)
def test_failing_fields_are_one_sentence_after_another_elsewhere(surface: Surface) -> None:
    rendered = render_error(instance(ValidationFailed), surface, "")
    assert rendered.status == 400
    assert body_of(rendered)["error"] == {
        "message": "The prompt field is required. The n field must be an integer.",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "validation_failed",
    }


@pytest.mark.parametrize("surface", OBJECT_SURFACES)
def test_a_providers_own_code_is_kept(surface: Surface) -> None:
    error = ProviderRefused("x", status=400, provider_code="content_policy_violation", param="prompt")
    body = body_of(render_error(error, surface, ""))
    assert body["error"]["code"] == "content_policy_violation"
    assert body["error"]["param"] == "prompt"


@pytest.mark.parametrize(
    ("seconds", "header"),
    [
        (0.0, "1"),
        (-3.0, "1"),
        (0.2, "1"),
        (1.0, "1"),
        (1.01, "2"),
        (59.5, "60"),
        (1e12, "86400"),
        (float("inf"), "86400"),
    ],
)
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, header: str) -> None:
    for error in (
        RateLimited("x", retry_after_s=seconds),
        ProviderRefused("x", status=429, retry_after_s=seconds),
        Unavailable("x", retry_after_s=seconds),
    ):
        assert render_error(error, Surface.BITMESH, "").headers["Retry-After"] == header


def test_no_retry_after_where_nobody_knows() -> None:
    for error in (
        ProviderRefused("x", status=429),
        RateLimited("x", retry_after_s=float("nan")),
        Unavailable("x", retry_after_s=None),
        UpstreamBroken("x"),
        UpstreamTimeout("x"),
    ):
        assert "Retry-After" not in render_error(error, Surface.BITMESH, "").headers


def test_an_errors_own_headers_are_sent() -> None:
    error = MethodNotAllowed("x", headers={"Allow": "GET,HEAD"})
    assert render_error(error, Surface.BITMESH, "").headers["Allow"] == "GET,HEAD"


def test_stray_bytes_do_not_break_the_answer() -> None:
    rendered = render_error(InvalidRequest("bad \udcff header"), Surface.BITMESH, "")
    assert body_of(rendered) == {"error": "bad ? header"}


def test_a_refusal_in_a_success_is_no_success() -> None:
    assert render_error(ProviderRefused("x", status=200), Surface.BITMESH, "").status == 502


@pytest.mark.parametrize("cls", EVERY_CLASS)
def test_errors_inside_a_chat_stream(cls: type[GatewayError]) -> None:
    event = render_stream_error(instance(cls))
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    error = json.loads(event[len(b"data: ") :])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == cls.code


async def test_openais_client_raises_on_an_error_event(aiohttp_server: AiohttpServer) -> None:
    event = render_stream_error(UpstreamBroken("The provider's stream broke off."))
    client = await client_of(lambda: web.Response(content_type="text/event-stream", body=event), aiohttp_server)
    async with client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        )
        with pytest.raises(openai.APIError, match="broke off"):
            async for _ in stream:
                pass
