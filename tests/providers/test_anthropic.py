"""What we send to Anthropic is what Anthropic publishes; its schema is closed."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bitmesh_proxy.calls import ChatCall, Operation
from bitmesh_proxy.providers.anthropic import PROVIDER
from tests.dialects.offers import make_offer
from tests.providers.chat_options import CONVERSATIONS, OPTIONS
from tests.providers.contracts import violations

ANSWERABLE = {
    **OPTIONS,
    "n": [1],
    "logprobs": [False],
    "top_logprobs": [0],
    "thinking": [{"type": "enabled", "budget_tokens": 1024}],
    "temperature": [0, 1.9],
}


@settings(max_examples=80, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in ANSWERABLE.items()}),
    st.sampled_from(CONVERSATIONS),
    st.booleans(),
    st.sampled_from(["adaptive", "budget", "none"]),
)
def test_every_chat_keeps_the_schema(
    options: dict[str, Any], messages: list[dict[str, Any]], stream: bool, manner: str
) -> None:
    assert PROVIDER.chat is not None
    call = ChatCall(model="m", messages=messages, options=options, stream=stream)
    offer = make_offer(Operation.CHAT, "claude-sonnet-5-5", max_output_tokens=64_000, options={"thinking": manner})
    assert violations("anthropic", PROVIDER.chat.request(call, offer)) == []


def test_the_version_goes_with_the_credential() -> None:
    assert PROVIDER.auth("k") == {"x-api-key": "k", "anthropic-version": "2023-06-01"}


def test_an_overload_is_the_providers_and_may_be_tried_elsewhere() -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}'
    refusal = PROVIDER.read_error(529, {}, body)
    assert (refusal.status, refusal.provider_code, refusal.may_fail_over) == (502, "overloaded_error", True)
    spent = b'{"type":"error","error":{"type":"rate_limit_error","message":"x","code":"enforced_spend_limit_reached"}}'
    assert PROVIDER.read_error(429, {}, spent).status == 502
    assert PROVIDER.read_error(429, {"retry-after": "3"}, b"{}").retry_after_s == 3.0
