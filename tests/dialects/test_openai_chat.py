"""What is sent for a chat: only what the protocol knows, under the provider's names."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bitmesh_proxy.calls import ChatCall, Operation
from bitmesh_proxy.dialects import openai_chat
from bitmesh_proxy.dialects.base import ChatDialect
from bitmesh_proxy.plain_chats import read_plain_chat
from tests.dialects.offers import make_offer

MESSAGES = [{"role": "user", "content": "Hi"}]


def body_of(
    dialect: ChatDialect,
    options: dict[str, Any],
    *,
    stream: bool = False,
    defaults: dict[str, Any] | None = None,
    offer_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    call = ChatCall(model="example/model", messages=MESSAGES, options=options, stream=stream)
    offer = make_offer(Operation.CHAT, defaults=defaults or {}, options=offer_options or {})
    request = dialect.request(call, offer)
    assert request.body is not None
    body: dict[str, Any] = orjson.loads(request.body)
    return body


def test_the_model_is_the_providers_and_the_messages_are_the_callers() -> None:
    assert body_of(openai_chat.dialect(), {}) == {"model": "upstream/model", "messages": MESSAGES}


def test_known_fields_pass_and_unknown_ones_do_not() -> None:
    options = {"temperature": 0, "top_p": 0.5, "seed": 7, "top_k": 3, "api_base": "http://evil.test", "stop": None}
    assert body_of(openai_chat.dialect(extra=frozenset({"top_k"})), options) == {
        "model": "upstream/model",
        "messages": MESSAGES,
        "temperature": 0,
        "top_p": 0.5,
        "seed": 7,
        "top_k": 3,
    }


@pytest.mark.parametrize("field", ["model", "messages", "stream", "stream_options", "base_url", "extra_headers"])
def test_no_option_takes_the_place_of_what_the_call_says(field: str) -> None:
    assert body_of(openai_chat.dialect(), {field: "x"}) == {"model": "upstream/model", "messages": MESSAGES}


@pytest.mark.parametrize("field", ["service_tier", "web_search_options", "modalities", "audio"])
def test_what_changes_the_price_passes_only_where_the_offer_is_priced_for_it(field: str) -> None:
    assert field not in body_of(openai_chat.dialect(), {field: "x"})
    assert body_of(openai_chat.dialect(), {field: "x"}, offer_options={"passes": [field]})[field] == "x"


def test_an_offer_may_refuse_a_field() -> None:
    options = {"temperature": 0.2, "top_p": 1}
    assert "temperature" not in body_of(openai_chat.dialect(), options, offer_options={"refuses": ["temperature"]})


def test_a_renamed_field_does_not_overwrite_one_that_was_sent_by_its_own_name() -> None:
    dialect = openai_chat.dialect(rename={"max_tokens": "max_completion_tokens"})
    assert body_of(dialect, {"max_tokens": 5})["max_completion_tokens"] == 5
    for options in (
        {"max_tokens": 5, "max_completion_tokens": 9},
        {"max_completion_tokens": 9, "max_tokens": 5},
    ):
        body = body_of(dialect, options)
        assert body["max_completion_tokens"] == 9
        assert "max_tokens" not in body


def test_the_offers_defaults_fill_in_what_the_caller_did_not_say() -> None:
    defaults = {"temperature": 0.7, "reasoning_effort": "low"}
    body = body_of(openai_chat.dialect(), {"temperature": 0}, defaults=defaults)
    assert body["temperature"] == 0
    assert body["reasoning_effort"] == "low"


def test_a_stream_asks_for_usage_where_the_provider_has_the_switch() -> None:
    dialect = openai_chat.dialect()
    assert dialect.adds_usage_chunk
    options = {"stream_options": {"include_obfuscation": False, "include_usage": False}}
    body = body_of(dialect, options, stream=True)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert body_of(dialect, {}, stream=True)["stream_options"] == {"include_usage": True}

    without = openai_chat.dialect(stream_options=False)
    assert not without.adds_usage_chunk
    assert "stream_options" not in body_of(without, options, stream=True)


PLAIN = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"max_tokens":5,"seed":7,"top_p":1,"user":"u"}'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("dialect", "offer_options"),
    [
        (openai_chat.dialect(), {}),
        (openai_chat.dialect(rename={"max_tokens": "max_completion_tokens"}), {}),
        (openai_chat.dialect(drop=frozenset({"user"}), stream_options=False), {}),
        (openai_chat.dialect(), {"refuses": ["seed"]}),
        (openai_chat.dialect(drop=frozenset({"user"})), {"passes": ["user", "top_k"]}),
        (openai_chat.dialect(adapt=lambda body: body, adapts_plain_chats=False), {}),
    ],
)
def test_plain_conversations_are_written_as_any_other(
    dialect: ChatDialect, offer_options: dict[str, Any], stream: bool
) -> None:
    offer = make_offer(Operation.CHAT, options=offer_options)
    assert dialect.plain_writer is not None
    writer = dialect.plain_writer(offer)
    assert writer is not None
    chat = read_plain_chat(PLAIN.replace(b"{", b'{"stream":true,', 1) if stream else PLAIN)
    options = {"max_tokens": 5, "seed": 7, "top_p": 1, "user": "u"}
    written = orjson.loads(writer.write(chat, offer.upstream_model))
    assert written == body_of(dialect, options, stream=stream, offer_options=offer_options)


@pytest.mark.parametrize(
    ("dialect", "offer_options", "defaults"),
    [
        (openai_chat.dialect(adapt=lambda body: body), {}, {}),
        (openai_chat.dialect(), {}, {"temperature": 1}),
        (openai_chat.dialect(), {"passes": ["stream_options"]}, {}),
        (openai_chat.dialect(rename={"seed": "random_seed"}), {}, {}),
        (openai_chat.dialect(rename={"seed": "user", "user": "seed"}), {}, {}),
        (openai_chat.dialect(rename={"seed": "top_p", "user": "top_p"}), {}, {}),
        (
            openai_chat.dialect(rename={"max_tokens": "max_completion_tokens"}),
            {"refuses": ["max_completion_tokens"]},
            {},
        ),
    ],
)
def test_what_takes_more_than_to_leave_out_and_rename_is_not_written_plainly(
    dialect: ChatDialect, offer_options: dict[str, Any], defaults: dict[str, Any]
) -> None:
    assert dialect.plain_writer is not None
    assert dialect.plain_writer(make_offer(Operation.CHAT, options=offer_options, defaults=defaults)) is None
