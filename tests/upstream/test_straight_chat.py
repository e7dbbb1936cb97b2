"""Plans and outcomes of chat calls that pass straight through, held against the functions that every call goes by."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from bitmesh_proxy.billing.bill import Bill
from bitmesh_proxy.calls import Basis, ChatCall, Operation, Usage
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
    ProviderRefused,
    Unavailable,
    UpstreamBroken,
    ValidationFailed,
)
from bitmesh_proxy.plain_chats import NOT_PLAIN, read_plain_answer
from bitmesh_proxy.settings import Billing, ProviderSettings, Settings
from bitmesh_proxy.upstream.access import ProviderAccess, configured_access, provider_names
from bitmesh_proxy.upstream.outcomes import Outcomes
from bitmesh_proxy.upstream.progress import Progress
from bitmesh_proxy.upstream.requests import USER_AGENT, RequestBytes, request_bytes
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


def new_chats(
    catalogue: Catalogue,
    health: OfferHealth,
    *,
    number_of: Callable[[str], int | None] = lambda name: None,
    max_json_depth: int = 64,
) -> StraightChats:
    return StraightChats(
        catalogue=catalogue,
        access=access(),
        health=health,
        outcomes=Outcomes(Billing(), markup_nano=1_500_000_000),
        number_of=number_of,
        max_attempts=3,
        max_json_depth=max_json_depth,
    )


def request_of(plan: StraightPlan) -> RequestBytes:
    return RequestBytes(plan.first.target, plan.first.head, plan.first.body)


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
    assert [offer.id for offer in (plan.first.offer, *plan.others)] == ["near:tiny", "far:tiny-far"]
    # 3 × 8 tokens and half of 90 bytes of the messages at the dearer offer's 0.2 USD, 64 at 0.4, half as much again.
    assert plan.hold_nano_usd == -(-((24 + 45) * 200 + 64 * 400) * 3 // 2)
    target, head, body = plan.first.target, plan.first.head, plan.first.body
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
        assert f"\r\nContent-Length: {len(plan.first.body)}\r\n".encode() in plan.first.head
        assert b"\r\nAuthorization: Bearer sk-1\r\n" in plan.first.head


def test_streams_are_asked_for_as_streams(chats: StraightChats) -> None:
    plan = made(chats, {**BODY, "stream": True})
    assert b"\r\nAccept: text/event-stream\r\n" in plan.first.head
    sent = orjson.loads(plan.first.body)
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
    assert [offer.id for offer in (plan.first.offer, *plan.others)] == ["far:tiny-far", "near:tiny"]
    assert plan.first.target.host == "far.test"
    health.note_success("near:tiny")
    assert made(chats, BODY).first.target.host == "near.test:81"


def test_the_next_offer_has_a_request_of_its_own(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    again = chats.attempt(plan.call, plan.others[0], CHAT)
    assert again is not None
    assert again.target.host == "far.test"
    assert orjson.loads(again.body)["model"] == "tiny-far"


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


def test_a_bound_keys_model_has_all_its_names(chats: StraightChats) -> None:
    bound = Caller(account_id="a", key_id="k", bound_model="openai/gpt-4o-mini")
    for name in ("openai/gpt-4o-mini", "gpt-4o-mini", "GPT-4o-mini"):
        plan = plan_of(chats, {**BODY, "model": name}, caller=bound, endpoint=COMPLETIONS)
        assert plan is not None
        assert plan.model == "openai/gpt-4o-mini"
    with pytest.raises(InvalidRequest, match="bound"):
        plan_of(chats, {**BODY, "model": "local/one"}, caller=bound, endpoint=COMPLETIONS)


def test_an_answer_becomes_an_outcome(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    progress = begun(plan)
    outcome = chats.outcome_of_whole(plan, plan.first, orjson.dumps(ANSWER), progress)
    assert (outcome.status, outcome.outcome, outcome.provider, outcome.upstream_model) == (
        200,
        "completed",
        "near",
        "tiny",
    )
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
        {"prompt_tokens": 0, "completion_tokens": 7},
        {"prompt_tokens": "x", "completion_tokens": 7, "total_tokens": 9},
        {"prompt_tokens": 7, "completion_tokens": 0},
        None,
    ],
)
def test_what_is_ready_comes_to_the_same(
    catalogue: Catalogue, health: OfferHealth, model: str, test: bool, usage: Any
) -> None:
    body, answer = {**BODY, "model": model, "test": test}, orjson.dumps({**ANSWER, "usage": usage})
    warm, cold = new_chats(catalogue, health), new_chats(catalogue, health)
    made(warm, {**body, "test": False})
    raw = orjson.dumps(body if test else {**BODY, "model": model})
    plan, plain = warm.glance(raw, CHAT, CALLER) or made(warm, body), made(cold, body)
    assert (plan.tariff is not None) is (model in ("local/one", "one") and not test)
    outcome = warm.outcome_of_whole(plan, plan.first, answer, begun(plan))
    assert outcome == cold.outcome_of_whole(plain, plain.first, answer, begun(plain))


GAPS = [b"", b"", b" ", b"\n\t "]
#: What may stand in an answer, and what a provider may say of usage.
PIECES: list[bytes] = [
    b'"object":"chat.completion"',
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"Waves \xc3\xa9 \\ud83d\\ude00"}}]',
    b'"choices":[]',
    b'"error":{"message":"no"}',
    b'"x":"\xff"',
    b'"\xed\xa0\x80":1',
    b'"x":"\\ud800"',
    b'"x":"\x01"',
    b'"x":01',
    b'"x":NaN',
    b'"x":' + b"[" * 1_000 + b"]" * 1_000,
    b'"padding":"' + b"x" * 9_000 + b'"',
    b'"id":7',
    b'"usage":{"prompt_tokens":1}',
    b'"created":1700000000',
]
USAGES = [
    b'{"prompt_tokens":20,"completion_tokens":3,"total_tokens":23}',
    b'{"prompt_tokens":20,"completion_tokens":3}',
    b'{"prompt_tokens":20,"completion_tokens":3,"total_tokens":23,"prompt_tokens_details":null}',
    b'{"prompt_tokens":0,"completion_tokens":3,"completion_tokens_details":{"reasoning_tokens":2,"audio_tokens":0}}',
    b'{"prompt_tokens":20,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0}}',
    b'{"prompt_tokens":20,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":7}}',
    b'{"prompt_tokens":20,"completion_tokens":3,"prompt_cache_hit_tokens":7}',
    b'{"prompt_tokens":20,"completion_tokens":3,"cost":0.1}',
    b'{"prompt_tokens":20.0,"completion_tokens":3}',
    b'{"prompt_tokens":"20","completion_tokens":3}',
    b'{"prompt_tokens":-20,"completion_tokens":3}',
    b'{"prompt_tokens":99999999999999999999,"completion_tokens":3}',
    b'{"prompt_tokens":0,"completion_tokens":0}',
    b'{"input_tokens":20,"output_tokens":3}',
    b"{}",
    b"null",
    b"5",
]


def an_answer(rng: random.Random) -> bytes:
    members = [rng.choice(PIECES[: rng.choice([2, 2, 2, 99])]) for _ in range(rng.randrange(4))]
    if rng.randrange(12):
        members.append(b'"usage":' + rng.choice(USAGES[: rng.choice([5, 99])]))
    if rng.randrange(12):
        members.append(b'"id":"chatcmpl-7"')
    rng.shuffle(members)
    gap = rng.choice(GAPS)
    around = rng.choice([gap, gap, gap, b" " * 70])
    return around + b"{" + gap + (gap + b",").join(members) + b"}" + gap + rng.choice([b"", b"", b"", b"", b"}", b"x"])


def test_an_answer_read_at_a_glance_comes_to_what_it_would_in_steps(catalogue: Catalogue, health: OfferHealth) -> None:
    rng = random.Random(11)
    chats = warmed(catalogue, health)
    plan = chats.glance(orjson.dumps({**BODY, "model": "one"}), CHAT, CALLER)
    plain = step_by_step(chats, orjson.dumps({**BODY, "model": "one"}), CHAT, CALLER)
    assert plan is not None
    assert plan.tariff is not None
    assert plain is not None
    assert plain.tariff is None

    def came_to(plan: StraightPlan, answer: bytes) -> object:
        progress = begun(plan)
        try:
            outcome = chats.outcome_of_whole(plan, plan.first, answer, progress)
        except (UpstreamBroken, ProviderRefused) as exc:
            return str(exc)
        return outcome, progress.usage, progress.provider_request_id, progress.output_characters

    glanced = 0
    for _ in range(4_000):
        answer = an_answer(rng)
        assert came_to(plan, answer) == came_to(plain, answer), answer
        with suppress(*NOT_PLAIN):
            glanced += plan.tariff.bill_of(read_plain_answer(answer).usage, plan.hold_nano_usd) is not None
    assert 400 < glanced < 3_600


def test_a_charge_is_never_above_what_was_reserved(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    dear = {**ANSWER, "usage": {"prompt_tokens": 10**6, "completion_tokens": 10**6}}
    assert chats.outcome_of_whole(plan, plan.first, orjson.dumps(dear), begun(plan)).bill.charge_nano_usd == (
        plan.hold_nano_usd
    )


@pytest.mark.parametrize("padding", ["", " " * 10_000])
@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
def test_an_answer_without_figures_is_estimated_by_its_text(chats: StraightChats, usage: Any, padding: str) -> None:
    plan = made(chats, BODY)
    silent = {"padding": padding, **ANSWER, "usage": usage}
    if usage is None:
        del silent["usage"]
    progress = begun(plan)
    bill = chats.outcome_of_whole(plan, plan.first, orjson.dumps(silent), progress).bill
    assert progress.output_characters == len("Waves.")
    assert (bill.basis, bill.usage.output_tokens) == (Basis.ESTIMATED, 2)
    assert bill.usage.input_tokens > 0


@pytest.mark.parametrize("padding", ["", " " * 10_000])
@pytest.mark.parametrize("odd", ["x", None, -1, 2.5, 0, {}, True])
def test_one_figure_that_cannot_be_read_is_estimated(chats: StraightChats, odd: Any, padding: str) -> None:
    plan = made(chats, BODY)

    def used(**usage: Any) -> Usage:
        answer = orjson.dumps({"padding": padding, **ANSWER, "usage": usage})
        bill = chats.outcome_of_whole(plan, plan.first, answer, begun(plan)).bill
        assert bill.basis is Basis.ESTIMATED
        return bill.usage

    silent = used()
    assert silent.input_tokens > 0
    of_answer = used(prompt_tokens=odd, completion_tokens=99)
    assert (of_answer.input_tokens, of_answer.output_tokens) == (silent.input_tokens, 99)
    of_prompt = used(prompt_tokens=99, completion_tokens=odd)
    assert (of_prompt.input_tokens, of_prompt.output_tokens) == (99, silent.output_tokens)


@pytest.mark.parametrize("body", [b"", b"<html></html>", b'{"a": 1', b"null", b'  "x" '])
def test_what_is_no_json_is_no_answer(chats: StraightChats, body: bytes) -> None:
    plan = made(chats, BODY)
    with pytest.raises(UpstreamBroken, match="not JSON"):
        chats.outcome_of_whole(plan, plan.first, body, begun(plan))


def test_an_error_under_a_good_status_is_a_refusal_and_costs_nothing(chats: StraightChats) -> None:
    plan = made(chats, BODY)
    progress = begun(plan)
    with pytest.raises(ProviderRefused, match="Overloaded"):
        chats.outcome_of_whole(plan, plan.first, b'{"error":{"message":"Overloaded"}}', progress)
    assert progress.usage is None


@pytest.mark.parametrize("odd", [b"NaN", b'"\\ud83d"', b'"\xff"', b'"a\nb"'])
def test_an_answer_for_lenient_readers_counts_by_its_bytes(chats: StraightChats, odd: bytes) -> None:
    plan = made(chats, BODY)
    progress = begun(plan)
    body = b'{"choices":[{"message":{"content":"Hello"}}],"more":%b}' % odd
    outcome = chats.outcome_of_whole(plan, plan.first, body, progress)
    assert (progress.output_characters, outcome.bill.basis) == (len(body), Basis.ESTIMATED)


@pytest.mark.parametrize("body", [b"{" + b"x" * 40 + b"}", b"{}", b'{"choices":[]}', b"{" + b'"a":[' * 3000 + b"}"])
def test_what_only_looks_like_an_answer_is_none(chats: StraightChats, body: bytes) -> None:
    plan = made(chats, BODY)
    with pytest.raises(UpstreamBroken, match=r"not JSON|no choices"):
        chats.outcome_of_whole(plan, plan.first, body, begun(plan))


MODELS = ["local/one", "one", "Local/ONE", "local/tiny", "local/free", "local/sold", "local/still", "no/such"]
MODELS += ["openai/gpt-4o-mini", "openai/gpt-5.4", "openai/gpt-oss-120b", "anthropic/claude-sonnet-4-6"]
#: What may stand behind a name in a body: at first what is plain.
VALUES: dict[str, list[bytes]] = {
    "max_tokens": [b"64", b"1", b"9000", b"0", b"64.0", b'"64"', b"null", b"9223372036854775808", b"6e1"],
    "max_completion_tokens": [b"7", b"5000", b"0", b"null", b"true"],
    "temperature": [b"0.7", b"0.70", b"1", b"7e-1", b"-0", b"0e0", b"2.0000000000000001", b"2.1", b'"1"', b"NaN"],
    "top_p": [b"0.9", b"1", b"1e-400", b"1.5", b"[1]"],
    "repetition_penalty": [b"1.1", b"9007199254740993", b"1e309", b"-1"],
    "frequency_penalty": [b"-2", b"0.1234567890123456789", b"2.1"],
    "presence_penalty": [b"2", b"-0.0", b"-3"],
    "seed": [b"1", b"-9223372036854775807", b"18446744073709551615", b"1.0", b"null"],
    "user": [b'"u"', b'"\xc3\xa9"', b'"\\u00e9\\ud83d\\ude00"', b'"\xff"', b'"\\ud800"', b"5", b"null"],
    "us\\u0065r": [b'"w"', b"7"],
    "stream_options": [b"{}", b'{"include_usage":true}', b'{"include_usage":false}', b'{"x":1}', b"null"],
    "test": [b"false", b"true", b"null", b"0"],
    "stop": [b'"x"', b'["x"]'],
    "n": [b"1", b"3"],
    "tools": [b'[{"type":"function"}]'],
    "metadata": [b"{}"],
    "unheard_of": [b"1"],
    "\xff": [b"1"],
}
TEXTS = [
    b"Hello",
    b"Be \xc3\xa9 \xe2\x98\x83 \xf0\x9f\x98\x80",
    b"\\u00e9\\n\\ud83d\\ude00 \\/",
    b"a" * 300,
    b"x \\u0000",
]
ODD_TEXTS = [b"", b" x", b"\xe2\x80\x8bx", b"\xff", b"\\ud800", b"\x01", b"\xed\xa0\x80", b"\\x"]
ODD_MESSAGES = [
    b'{"role":"user","content":[{"type":"text","text":"x"}]}',
    b'{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.org/cat.png"}}]}',
    b'{"role":"user","content":"x","name":"n"}',
    b'{"role":"assistant","content":null,"tool_calls":[{"id":"c"}]}',
    b'{"role":"developer","content":"x"}',
    b'{"role":"user "}',
    b"null",
]


def a_body(rng: random.Random, model: str) -> bytes:
    """A body as bytes: plain ones, and ones with something odd about them, in every order and spacing."""
    gap = rng.choice(GAPS)

    def mostly(usual: list[bytes], odd: list[bytes]) -> bytes:
        """One in twelve is odd: with several in a body, most bodies would be."""
        return rng.choice(usual if rng.randrange(12) else odd)

    def a_message() -> bytes:
        members = [
            b'"role":"%b"' % rng.choice([b"system", b"user", b"assistant", b"tool"]),
            b'"content"%b:"%b"' % (gap, mostly(TEXTS, ODD_TEXTS)),
        ]
        rng.shuffle(members)
        return mostly([b"{%b}" % b",".join(members)], ODD_MESSAGES)

    messages = [a_message() for _ in range(rng.choice([1, 1, 2, 3, 0]))]
    members = [(b"model", orjson.dumps(model)), (b"messages", b"[" + (gap + b",").join(messages) + b"]")]
    names = rng.choices([*VALUES, *list(VALUES)[:7] * 4], k=rng.randrange(4))
    members += [(name.encode("latin-1"), mostly(VALUES[name][:2], VALUES[name])) for name in names]
    if rng.randrange(2):
        members.append((b"stream", mostly([b"true", b"false"], [b"null", b"1"])))
    rng.shuffle(members)
    inner = (gap + b"," + gap).join([b'"%b"%b:%b%b' % (name, gap, gap, value) for name, value in members])
    return gap + b"{" + gap + inner + gap + b"}" + gap


CALLERS = [
    CALLER,
    Caller(account_id="a", key_id="k", bound_model="local/one"),
    Caller(account_id="a", key_id="k", allowed_models=frozenset({"local/one"})),
]


def step_by_step(chats: StraightChats, raw: bytes, endpoint: Endpoint, caller: Caller) -> StraightPlan | None:
    try:
        return chats.plan(chats.parse(raw, endpoint, caller), endpoint, caller)
    except GatewayError:
        return None


def same(one: StraightPlan, other: StraightPlan) -> None:
    """All that two plans say, but for the order and the spacing in the provider's JSON."""
    first, second = one.first, other.first
    assert repr(one.call) == repr(other.call)  # with the order of options, and 1 told from 1.0
    for field in ("model", "upstream_model", "others", "hold_nano_usd", "stream", "is_test"):
        assert getattr(one, field) == getattr(other, field), field
    for field in ("provider", "offer", "access", "dialect", "drops_usage"):
        assert getattr(first, field) == getattr(second, field), field
    assert first.target == second.target
    heads = [each.head.replace(b" %d\r\n" % len(each.body), b" -\r\n") for each in (first, second)]
    assert heads[0] == heads[1]
    assert b"Content-Length: -" in heads[0]
    sent = [orjson.loads(each.body) for each in (first, second)]
    assert sent[0] == sent[1]
    figures = [{name: repr(value) for name, value in each.items() if name != "messages"} for each in sent]
    assert figures[0] == figures[1]  # 1 is told from 1.0


def warmed(catalogue: Catalogue, health: OfferHealth) -> StraightChats:
    chats = new_chats(catalogue, health)
    for model, stream in itertools.product(MODELS, (False, True)):
        step_by_step(chats, orjson.dumps({**BODY, "model": model, "stream": stream}), CHAT, CALLER)
    return chats


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("caller", CALLERS)
def test_a_glance_sees_what_the_steps_would(
    catalogue: Catalogue, health: OfferHealth, endpoint: Endpoint, caller: Caller
) -> None:
    """Generated bodies: what is taken at a glance has the plan that the steps make."""
    rng = random.Random(caller.key_id + endpoint.surface)
    chats = warmed(catalogue, health)
    seen = [0, 0]
    for _ in range(2_000):
        raw = a_body(rng, rng.choice(MODELS))
        if caller.bound_model is not None:
            raw = raw.replace(b'"model"', b'"user"', 1)
        plan = chats.glance(raw, endpoint, caller)
        seen[plan is not None] += 1
        if plan is not None:
            other = step_by_step(new_chats(catalogue, health), raw, endpoint, caller)
            assert other is not None, raw
            same(plan, other)
    assert seen[0] > 200, seen
    assert (seen[1] > 200) is (caller.allowed_models is None), seen


@pytest.mark.parametrize("model", ["local/one", "one", "openai/gpt-4o-mini", "openai/gpt-oss-120b"])
@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}, "user": "u"},
        {"stream": True, "stream_options": {"include_usage": False}, "max_completion_tokens": 9},
        {"stream": False, "test": False, "max_completion_tokens": 9_000, "repetition_penalty": 1.1},
        {"messages": [{"role": "user", "content": "é" * 1_001}] * 9, "top_p": 0, "seed": 3},
    ],
)
def test_common_bodies_are_taken_at_a_glance(
    catalogue: Catalogue, health: OfferHealth, model: str, endpoint: Endpoint, more: dict[str, Any]
) -> None:
    chats, raw = new_chats(catalogue, health), orjson.dumps({**BODY, "model": model, **more})
    other = step_by_step(new_chats(catalogue, health), raw, endpoint, CALLER)
    assert other is not None
    first, plan = chats.glance(raw, endpoint, CALLER), chats.glance(raw, endpoint, CALLER)
    assert first is not None  # of the model
    assert plan is not None
    assert plan.tariff is not None
    same(first, other)
    same(plan, other)
    request = plan.first.access, plan.first.dialect.request(plan.call, plan.first.offer)
    assert orjson.loads(plan.first.body) == orjson.loads(request_bytes(*request).body)


@pytest.mark.parametrize(
    ("model", "more", "caller"),
    [
        ("local/tiny", {}, CALLER),  # two offers
        ("local/free", {}, CALLER),
        ("local/sold", {}, CALLER),
        ("Local/ONE", {}, CALLER),
        ("anthropic/claude-sonnet-4-6", {}, CALLER),
        ("local/one", {"test": True}, CALLER),
        ("local/one", {"n": 2}, CALLER),
        ("local/one", {"tools": []}, CALLER),
        ("local/one", {"max_tokens": None}, CALLER),
        ("local/one", {"messages": [{"role": "user", "content": " x"}]}, CALLER),
        ("local/one", {"messages": [{"role": "user", "content": ""}]}, CALLER),
        ("local/one", {}, CALLERS[1]),  # bound, and the model is named
        ("local/one", {}, CALLERS[2]),
        ("local/still", {"stream": True}, CALLER),
    ],
)
def test_what_has_to_be_looked_at_is_not_taken_at_a_glance(
    catalogue: Catalogue, health: OfferHealth, model: str, more: dict[str, Any], caller: Caller
) -> None:
    raw = orjson.dumps({**BODY, "model": model, **more})
    for chats in (warmed(catalogue, health), new_chats(catalogue, health)):
        assert [chats.glance(raw, CHAT, caller) for _ in range(2)] == [None, None]


def test_a_bound_key_s_plain_calls_are_taken_at_a_glance(catalogue: Catalogue, health: OfferHealth) -> None:
    raw = orjson.dumps({"messages": MESSAGES})
    plan = warmed(catalogue, health).glance(raw, CHAT, CALLERS[1])
    assert plan is not None
    assert plan.call == ChatCall(model="local/one", messages=MESSAGES)
    assert plan.call is plan.call


def test_where_hardly_any_depth_is_allowed_every_body_is_looked_at(catalogue: Catalogue, health: OfferHealth) -> None:
    chats = new_chats(catalogue, health, max_json_depth=2)
    chats.plan(ChatCall(model="local/one", messages=MESSAGES), CHAT, CALLER)
    raw = orjson.dumps({**BODY, "model": "local/one"})
    assert chats.glance(raw, CHAT, CALLER) is None
    with pytest.raises(InvalidRequest, match="nested more than 2"):
        chats.parse(raw, CHAT, CALLER)
    deep_enough = new_chats(catalogue, health, max_json_depth=3)
    deep_enough.plan(deep_enough.parse(raw, CHAT, CALLER), CHAT, CALLER)
    assert deep_enough.glance(raw, CHAT, CALLER) is not None


def test_only_what_the_catalogue_names_is_kept_ready(chats: StraightChats) -> None:
    for name in ("local/one", "one", "Local/One", "LOCAL/ONE", "local/tiny", "local/free", "local/sold"):
        assert plan_of(chats, {**BODY, "model": name}) is not None
    assert [sorted(map(str, names)) for names in chats._ready] == [["local/one", "one"], []]


def test_at_a_glance_too_only_what_the_catalogue_names_is_kept(catalogue: Catalogue, health: OfferHealth) -> None:
    chats = new_chats(catalogue, health)
    for name in (*MODELS, "nobody/knows", "LOCAL/ONE"):
        for stream in (False, True, False):
            chats.glance(orjson.dumps({**BODY, "model": name, "stream": stream}), CHAT, CALLER)
    ready = [{str(name) for name in names} for names in chats._ready]
    unready = {name for name, _, _ in chats._unready}
    assert {"local/one", "one"} <= ready[0] & ready[1]
    assert {"local/still", "anthropic/claude-sonnet-4-6"} <= unready
    known = {name for model in catalogue.models for name in (model.id, *model.aliases)}
    assert ready[0] | ready[1] | unready <= known
    assert not {(name, False) for name in ready[0]} & {(name, stream) for name, stream, _ in chats._unready}
    kept = [each for names in chats._ready for each in names.values()]
    assert all(each.way.tariff == chats._outcomes.tariff_of(each.offer) for each in kept)
    assert len({id(each.way) for each in kept}) == len(chats._ways) < len(kept)


def test_the_books_numbers_stand_for_names_as_soon_as_there_are_both(catalogue: Catalogue, health: OfferHealth) -> None:
    numbers: dict[str, int] = {}
    chats = new_chats(catalogue, health, number_of=numbers.get)
    raw = orjson.dumps({**BODY, "model": "one"})

    def named() -> tuple[int | str, int | str]:
        plan = chats.glance(raw, CHAT, CALLER)
        assert plan is not None
        outcome = chats.outcome_of_whole(plan, plan.first, orjson.dumps(ANSWER), begun(plan))
        assert outcome.upstream_model == plan.upstream_model
        return plan.model, plan.upstream_model

    assert named() == ("local/one", "one")
    numbers["local/one"] = 7
    assert named() == ("local/one", "one")
    numbers["one"] = 8
    assert named() == (7, 8)
    numbers.clear()
    assert named() == (7, 8)


def test_models_of_one_provider_have_one_head_and_each_provider_its_own(
    chats: StraightChats, catalogue: Catalogue, health: OfferHealth
) -> None:
    """What the offers before have left behind changes no request."""
    names = [model.id for model in catalogue.models if model.operation is Operation.CHAT]
    planned = 0
    for stream, name in itertools.product((False, True, False), names):
        body = {**BODY, "model": name, "stream": stream}
        try:
            fresh = plan_of(new_chats(catalogue, health), body)
        except (InvalidRequest, Unavailable):
            continue
        seasoned = plan_of(chats, body)
        assert (seasoned is None) == (fresh is None)
        if seasoned is not None and fresh is not None:
            assert request_of(seasoned) == request_of(fresh)
            planned += 1
    assert planned > 60
    assert 4 <= len(chats._alike) < len(chats._heads[False]) + len(chats._heads[True])
