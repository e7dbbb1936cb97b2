"""Plans and outcomes of chat calls that pass straight through, held against the functions that every call goes by."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.calls import Basis, ChatCall, Usage
from bitmesh_proxy.catalogue import routing
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.health import OfferHealth
from bitmesh_proxy.catalogue.loader import catalogue_dirs, load_catalogue
from bitmesh_proxy.context import Caller
from bitmesh_proxy.dialects.openai_chat_usage_filter import UsageChunkFilter
from bitmesh_proxy.endpoints.bitmesh import CHAT, IMAGE
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.endpoints.openai_chat import COMPLETIONS
from bitmesh_proxy.errors import (
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    Unavailable,
    UpstreamBroken,
    ValidationFailed,
)
from bitmesh_proxy.settings import Billing, ProviderSettings, Settings
from bitmesh_proxy.upstream.access import ProviderAccess, configured_access, provider_names
from bitmesh_proxy.upstream.outcomes import Outcomes
from bitmesh_proxy.upstream.progress import Progress
from bitmesh_proxy.upstream.requests import USER_AGENT, request_bytes
from bitmesh_proxy.upstream.straight_chat import StraightChats, StraightPlan, drops_usage

CALLER = Caller(account_id="acc_1", key_id="key_1")
ROWS = """
[[model]]
id = "local/tiny"
operation = "chat"

[[model]]
id = "local/one"
aliases = ["one"]
operation = "chat"

[[offer]]
model = "local/one"
provider = "near"
upstream_model = "one"
usd_per_million_input_tokens = "0.10"
usd_per_million_output_tokens = "0.20"
usd_per_request = "0.01"
max_output_tokens = 1000
tools = true
streams = true

[[model]]
id = "local/free"
operation = "chat"

[[offer]]
model = "local/free"
provider = "near"
upstream_model = "free"
free = true

[[model]]
id = "local/sold"
operation = "chat"

[[offer]]
model = "local/sold"
provider = "near"
upstream_model = "sold"
usd_per_million_input_tokens = "0.10"
usd_per_million_output_tokens = "0.20"
sell = { usd_per_million_input_tokens = "1", usd_per_million_output_tokens = "2" }

[[model]]
id = "local/still"
operation = "chat"

[[offer]]
model = "local/still"
provider = "near"
upstream_model = "still"
usd_per_million_input_tokens = "0.10"
usd_per_million_output_tokens = "0.20"
streams = false

[[offer]]
model = "local/tiny"
provider = "near"
upstream_model = "tiny"
usd_per_million_input_tokens = "0.10"
usd_per_million_output_tokens = "0.20"

[[offer]]
model = "local/tiny"
provider = "far"
upstream_model = "tiny-far"
usd_per_million_input_tokens = "0.20"
usd_per_million_output_tokens = "0.40"
"""
SETTINGS = Settings(
    providers=(
        ProviderSettings(name="near", kind="openai_compatible", base_urls={"default": "http://near.test:81/v1"}),
        ProviderSettings(name="far", kind="openai_compatible", base_urls={"default": "http://far.test/v1"}),
    )
)
ENVIRON = {"OPENAI_API_KEY": "sk-1", "TOGETHER_API_KEY": "sk-2", "ANTHROPIC_API_KEY": "sk-3"}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Write one line about the sea."},
]
BODY: dict[str, Any] = {"model": "local/tiny", "messages": MESSAGES, "temperature": 0.7, "max_tokens": 64}
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-7",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Waves."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23},
}


@cache
def access() -> dict[str, ProviderAccess]:
    return configured_access(SETTINGS, ENVIRON)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    own = tmp_path_factory.mktemp("rows")
    (own / "local.toml").write_text(ROWS, encoding="utf-8")
    dirs: list[Path] = [*catalogue_dirs(Settings()), own]
    return load_catalogue(dirs, providers=provider_names(SETTINGS))


@pytest.fixture
def health() -> OfferHealth:
    return OfferHealth(itertools.count().__next__, 1_000.0)


@pytest.fixture
def chats(catalogue: Catalogue, health: OfferHealth) -> StraightChats:
    return new_chats(catalogue, health)


def plan_of(
    chats: StraightChats, body: dict[str, Any], *, endpoint: Endpoint = CHAT, caller: Caller = CALLER
) -> StraightPlan | None:
    return chats.plan(chats.parse(orjson.dumps(body), endpoint, caller), endpoint, caller)


def made(chats: StraightChats, body: dict[str, Any], *, endpoint: Endpoint = CHAT) -> StraightPlan:
    plan = plan_of(chats, body, endpoint=endpoint)
    assert plan is not None
    return plan


def new_chats(catalogue: Catalogue, health: OfferHealth) -> StraightChats:
    return StraightChats(
        catalogue=catalogue,
        access=access(),
        health=health,
        outcomes=Outcomes(Billing(), markup_nano=1_500_000_000),
        max_attempts=3,
        max_json_depth=64,
    )


def begun(plan: StraightPlan) -> Progress:
    progress = Progress()
    progress.begin(plan.first.offer)
    progress.note_sent()
    progress.first_byte_s = 12.5
    return progress


def test_a_common_call_is_planned_down_to_its_bytes(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    options = {"temperature": 0.7, "max_tokens": 64}
    assert plan.call == ChatCall(model="local/tiny", messages=MESSAGES, options=options)
    assert [offer.id for offer in plan.offers] == ["near:tiny", "far:tiny-far"]
    # 3 × 8 tokens and half of 90 bytes of the messages at the dearer offer's 0.2 USD, 64 at 0.4, half as much again.
    assert plan.hold_nano_usd == -(-((24 + 45) * 200 + 64 * 400) * 3 // 2)
    target, head, body = plan.first.request
    assert target == (("near.test", 81, False), "near.test:81", "/v1/chat/completions")
    assert orjson.loads(body) == {**BODY, "model": "tiny"}
    assert head.decode() == (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: near.test:81\r\n"
        f"User-Agent: {USER_AGENT}\r\nAccept-Encoding: identity\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )


def test_every_call_gets_its_own_length_and_the_credential_of_its_provider(chats: StraightChats) -> None:
    for text in ("a", "b" * 1000):
        plan = made(chats, {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]})
        assert f"\r\nContent-Length: {len(plan.first.request.body)}\r\n".encode() in plan.first.request.head
        assert b"\r\nAuthorization: Bearer sk-1\r\n" in plan.first.request.head


def test_streams_are_asked_for_as_streams(chats: StraightChats) -> None:
    plan = made(chats, {**BODY, "stream": True})
    assert b"\r\nAccept: text/event-stream\r\n" in plan.first.request.head
    sent = orjson.loads(plan.first.request.body)
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})
    assert not plan.first.drops_usage  # Bitmesh's callers read the usage of every stream


@pytest.mark.parametrize(
    ("more", "is_dropped"),
    [
        ({"stream": True}, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, True),
        ({"stream": True, "stream_options": {"include_usage": True}}, False),
        ({}, False),
    ],
)
def test_openai_s_callers_get_the_usage_they_asked_for(
    chats: StraightChats, more: dict[str, Any], is_dropped: bool
) -> None:
    plan = made(chats, {**BODY, **more}, endpoint=COMPLETIONS)
    assert plan.first.drops_usage is is_dropped
    assert drops_usage(plan.call, plan.first.dialect) is is_dropped
    assert UsageChunkFilter().feed(b'data: {"choices":[],"usage":{}}\n\n') == b""  # what dropping does


def test_an_offer_that_failed_is_planned_last(chats: StraightChats, health: OfferHealth) -> None:
    health.note_failure("near:tiny")
    plan = made(chats, BODY)
    assert [offer.id for offer in plan.offers] == ["far:tiny-far", "near:tiny"]
    assert plan.first.request.target.host == "far.test"
    health.note_success("near:tiny")
    assert made(chats, BODY).first.request.target.host == "near.test:81"


def test_the_next_offer_has_a_request_of_its_own(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    again = chats.attempt(plan.call, plan.offers[1], CHAT)
    assert again is not None
    assert again.request.target.host == "far.test"
    assert orjson.loads(again.request.body)["model"] == "tiny-far"


LINK = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
WORDS = {"type": "text", "text": "What is this?"}


def test_what_is_not_straight_is_left_to_the_other_way(chats: StraightChats) -> None:
    pictured = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [WORDS, LINK]}]}
    assert plan_of(chats, pictured) is None
    translated = {"model": "claude-sonnet-4-6", "messages": MESSAGES}
    assert plan_of(chats, translated) is None
    assert plan_of(chats, {"model": "gpt-4o-mini", "prompt": "a cat"}, endpoint=IMAGE) is None
    assert plan_of(chats, {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [WORDS]}]}) is not None


@pytest.mark.parametrize(
    ("body", "caller", "error"),
    [
        ({**BODY, "model": "no/such"}, CALLER, ModelNotFound),
        ({**BODY, "model": "gpt-image-1.5"}, CALLER, InvalidRequest),
        (BODY, Caller(account_id="a", key_id="k", allowed_models=frozenset({"other"})), ModelNotFound),
        ({**BODY, "tools": [{"type": "function"}]}, CALLER, InvalidRequest),
        ({**BODY, "model": "gemini-2.5-flash"}, CALLER, Unavailable),
        ({**BODY, "temperature": 3}, CALLER, ValidationFailed),
    ],
)
def test_errors_are_those_of_the_other_way(
    chats: StraightChats,
    catalogue: Catalogue,
    health: OfferHealth,
    body: dict[str, Any],
    caller: Caller,
    error: type[GatewayError],
) -> None:
    with pytest.raises(error) as caught:
        plan_of(chats, body, caller=caller)
    with pytest.raises(error) as other:
        routing.route(
            catalogue,
            CHAT.parse(body, caller),
            available=access().keys(),
            health=health,
            allowed_models=caller.allowed_models,
        )
    assert (type(caught.value), str(caught.value)) == (type(other.value), str(other.value))


def test_an_answer_becomes_an_outcome(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    progress = begun(plan)
    outcome = chats.outcome_of_whole(plan, plan.first, orjson.dumps(ANSWER), progress)
    assert (outcome.status, outcome.outcome, outcome.offer) == (200, "completed", plan.offers[0])
    assert (outcome.provider_request_id, outcome.first_byte_s) == ("chatcmpl-7", 12.5)
    assert outcome.bill == Bill(
        cost_nano_usd=20 * 100 + 3 * 200,  # type: ignore[arg-type]  # the arithmetic is the test
        charge_nano_usd=(20 * 100 + 3 * 200) * 3 // 2,  # type: ignore[arg-type]  # the arithmetic is the test
        basis=Basis.MEASURED,
        usage=Usage(input_tokens=20, output_tokens=3),
    )


@pytest.mark.parametrize("model", ["local/one", "one", "local/tiny", "local/free", "local/sold"])
@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    "usage",
    [
        ANSWER["usage"],
        {"prompt_tokens": 10**7, "completion_tokens": 10**7},
        {**ANSWER["usage"], "prompt_tokens_details": {"cached_tokens": 7}},
        {"prompt_tokens": 0, "completion_tokens": 0},
        None,
    ],
)
def test_what_is_ready_comes_to_the_same(
    catalogue: Catalogue, health: OfferHealth, model: str, test: bool, usage: Any
) -> None:
    body, answer = {**BODY, "model": model, "test": test}, orjson.dumps({**ANSWER, "usage": usage})
    warm, cold = new_chats(catalogue, health), new_chats(catalogue, health)
    made(warm, body)
    plan, plain = made(warm, body), made(cold, body)
    assert plain.tariff is None
    outcome = warm.outcome_of_whole(plan, plan.first, answer, begun(plan))
    assert outcome == cold.outcome_of_whole(plain, plain.first, answer, begun(plain))


def test_a_charge_is_never_above_what_was_reserved(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    dear = {**ANSWER, "usage": {"prompt_tokens": 10**6, "completion_tokens": 10**6}}
    assert chats.outcome_of_whole(plan, plan.first, orjson.dumps(dear), begun(plan)).bill.charge_nano_usd == (
        plan.hold_nano_usd
    )


def test_an_answer_without_figures_is_estimated_by_its_text(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    silent = {name: value for name, value in ANSWER.items() if name != "usage"}
    progress = begun(plan)
    bill = chats.outcome_of_whole(plan, plan.first, orjson.dumps(silent), progress).bill
    assert progress.output_characters == len("Waves.")
    assert (bill.basis, bill.usage.output_tokens) == (Basis.ESTIMATED, 2)
    assert bill.usage.input_tokens > 0


@pytest.mark.parametrize("body", [b"", b"<html></html>", b'{"a": 1', b"null", b'  "x" '])
def test_what_is_no_json_is_no_answer(chats: StraightChats, body: bytes) -> None:
    plan = made(chats, BODY)
    with pytest.raises(UpstreamBroken, match="not JSON"):
        chats.outcome_of_whole(plan, plan.first, body, begun(plan))


def test_an_answer_that_only_looks_like_json_counts_by_its_bytes(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    progress = begun(plan)
    outcome = chats.outcome_of_whole(plan, plan.first, b"{" + b"x" * 40 + b"}", progress)
    assert (progress.output_characters, outcome.bill.basis) == (42, Basis.ESTIMATED)


MODELS = ["local/one", "one", "Local/ONE", "local/tiny", "local/free", "local/sold", "local/still", "no/such"]
MODELS += ["openai/gpt-4o-mini", "openai/gpt-5.4", "openai/gpt-oss-120b", "anthropic/claude-sonnet-4-6"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_tokens": 7},
    {"max_tokens": 5, "max_completion_tokens": 9_000, "temperature": 0.5},
    {"n": 3},
    {"tools": [{"type": "function"}]},
    {"response_format": {"type": "json_object"}},
    {"stream_options": {"include_usage": True}},
    {"unheard_of": [1]},
]
CONVERSATIONS: list[list[dict[str, Any]]] = [
    MESSAGES,
    [{"role": "user", "content": "é" * 1_001}],
    [{"role": "user", "content": [WORDS]}],
    [{"role": "user", "content": [WORDS, LINK]}],
    [{"role": "user", "content": "x", "name": "n"}],
    [{"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}],
]


def said(chats: StraightChats, call: ChatCall, endpoint: Endpoint, caller: Caller) -> object:
    try:
        return chats.plan(call, endpoint, caller)
    except GatewayError as exc:
        return type(exc), str(exc), exc.param


@pytest.mark.parametrize("model", MODELS)
def test_what_is_ready_gives_the_plan_that_the_steps_would(
    catalogue: Catalogue, health: OfferHealth, model: str
) -> None:
    """Calls of a model that has been called before, against the same ones by a planner that has seen nothing yet."""
    callers = [CALLER, Caller(account_id="a", key_id="k", allowed_models=frozenset({"local/tiny", model}))]
    callers.append(Caller(account_id="a", key_id="k", allowed_models=frozenset({"other"})))
    warm = new_chats(catalogue, health)
    for stream in (False, True):
        said(warm, ChatCall(model=model, messages=MESSAGES, stream=stream), CHAT, CALLER)
    for options, messages, stream, endpoint, caller, test in itertools.product(
        OPTIONS, CONVERSATIONS, (False, True), (CHAT, COMPLETIONS), callers, (False, True)
    ):
        call = ChatCall(model=model, messages=messages, options=options, stream=stream, test=test)
        plan = said(warm, call, endpoint, caller)
        if isinstance(plan, StraightPlan):
            plan = replace(plan, tariff=None)
        assert plan == said(new_chats(catalogue, health), call, endpoint, caller)
        if isinstance(plan, StraightPlan):
            first = plan.first
            assert first.request == request_bytes(first.access, first.dialect.request(call, first.offer))


def test_only_what_the_catalogue_names_is_kept_ready(chats: StraightChats) -> None:
    for name in ("local/one", "one", "Local/One", "LOCAL/ONE", "local/tiny", "local/free", "local/sold"):
        assert plan_of(chats, {**BODY, "model": name}) is not None
    assert [sorted(names) for names in chats._ready] == [["local/one", "one"], []]
