"""A tariff says what ``hold_of`` says, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, convert
from msgspec.structs import replace

from bitmesh_proxy.billing.bill import Bill, Ending, bill_of, hold_of
from bitmesh_proxy.billing.chat_tariff import chat_tariff
from bitmesh_proxy.billing.usage import plain_text_bytes
from bitmesh_proxy.calls import ChatCall, Usage
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.dialects.openai_usage import parse_usage
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.plain_chats import PlainUsage
from tests.billing.offers import chat_offer

FIGURE = st.sampled_from([0, 1, 37_500_000, 150_000_000, 10**12])
PRICES = st.builds(
    Price,
    input_nano_usd_per_million=FIGURE,
    cached_input_nano_usd_per_million=st.none() | FIGURE,
    cache_write_nano_usd_per_million=st.none() | FIGURE,
    output_nano_usd_per_million=FIGURE,
    image_output_nano_usd_per_million=st.none() | FIGURE,
    request_nano_usd=FIGURE,
)
OFFERS = st.builds(
    chat_offer,
    PRICES,
    max_output_tokens=st.none() | st.integers(1, 9_000),
    markup_nano=st.none() | st.sampled_from([0, 10**9, 1_234_567_891]),
)
CALLS = st.builds(
    ChatCall,
    model=st.just("maker/model"),
    messages=st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=9)}), max_size=3),
    options=st.dictionaries(st.sampled_from(["max_tokens", "max_completion_tokens"]), st.integers(1, 9_000)),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OFFERS, CALLS, st.sampled_from([10**9, 1_500_000_000, 0]), st.integers(1, 5_000))
def test_a_tariff_holds_what_is_held_without_it(offer: Any, call: ChatCall, markup_nano: int, default: int) -> None:
    tariff = chat_tariff(offer, markup_nano=markup_nano, default_max_output_tokens=default)
    text_bytes = plain_text_bytes(call)
    assert text_bytes is not None
    if tariff is not None:
        limits = [call.options.get(name, UNSET) for name in ("max_tokens", "max_completion_tokens")]
        held = tariff.hold_of_texts(len(call.messages), text_bytes, limits[0], limits[1])
        assert held == hold_of(call, offer, markup_nano=markup_nano, default_max_output_tokens=default)
    else:
        assert not offer.price.input_nano_usd_per_million + offer.price.output_nano_usd_per_million


COUNT = st.just(0) | st.integers(0, 10_000) | st.sampled_from([2**40, 500_000])
DETAIL = st.sampled_from([0, 0, 0, 5])
USAGES = st.fixed_dictionaries(
    {"prompt_tokens": COUNT, "completion_tokens": COUNT},
    optional={
        "total_tokens": COUNT,
        "prompt_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional={"cached_tokens": DETAIL, "audio_tokens": DETAIL}),
        "completion_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional={"reasoning_tokens": COUNT, "rejected_prediction_tokens": DETAIL}),
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OFFERS, USAGES, st.sampled_from([10**9, 1_500_000_000, 0]), st.sampled_from([0, 1, 10**6, 10**15]))
def test_a_tariff_bills_what_is_billed_without_it(
    offer: Any, usage: dict[str, Any], markup_nano: int, hold_nano_usd: Any
) -> None:
    tariff = chat_tariff(offer, markup_nano=markup_nano, default_max_output_tokens=1)
    if tariff is None:
        return
    read = parse_usage(usage)
    assert read is not None
    without = bill_of(
        ChatCall(model="maker/model", messages=[]),
        offer,
        usage=read,
        output_characters=0,
        ending=Ending.COMPLETE,
        markup_nano=markup_nano,
        hold_nano_usd=hold_nano_usd,
    )
    assert tariff.bill_of(convert(usage, PlainUsage), hold_nano_usd) in (without, None)
    assert tariff.bill_of_stream(read, hold_nano_usd) in (without, None)


def test_common_figures_are_billed_by_the_tariff() -> None:
    tariff = chat_tariff(chat_offer(), markup_nano=1_500_000_000, default_max_output_tokens=1)
    assert tariff is not None
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    usage_with_more = {**usage, "completion_tokens_details": {"reasoning_tokens": 1}, "prompt_tokens_details": None}
    assert tariff.bill_of(convert(usage_with_more, PlainUsage), NanoUsd(10**9)) == Bill(
        cost_nano_usd=NanoUsd(7_000),
        charge_nano_usd=NanoUsd(10_500),
        usage=Usage(input_tokens=3, output_tokens=2, reasoning_tokens=1),
    )
    cached = {**usage, "prompt_tokens_details": {"cached_tokens": 1}}
    assert tariff.bill_of(convert(cached, PlainUsage), NanoUsd(10**9)) is None
    for half in ((0, 0), (0, 2), (3, 0)):  # what is missing has to be counted
        assert tariff.bill_of(PlainUsage(*half), NanoUsd(10**9)) is None
    read = Usage(input_tokens=3, output_tokens=2, reasoning_tokens=1)
    assert tariff.bill_of_stream(read, NanoUsd(8_000)) == Bill(
        cost_nano_usd=NanoUsd(7_000), charge_nano_usd=NanoUsd(8_000), usage=read
    )
    for more in (
        {"cached_input_tokens": 1},
        {"cache_write_tokens": 1},
        {"image_input_tokens": 1},
        {"image_output_tokens": 1},
        {"reported_cost_nano_usd": NanoUsd(1)},
        {"is_estimated": True},
    ):
        assert tariff.bill_of_stream(replace(read, **more), NanoUsd(10**9)) is None
    for read in (Usage(), Usage(output_tokens=2), Usage(input_tokens=3)):
        assert tariff.bill_of_stream(read, NanoUsd(10**9)) is None


PLAIN = Price(input_nano_usd_per_million=1, output_nano_usd_per_million=2)


@pytest.mark.parametrize(
    "offer",
    [
        chat_offer(Price(is_free=True)),
        chat_offer(Price(request_nano_usd=5)),
        chat_offer(Price(request_nano_usd=5, cached_input_nano_usd_per_million=5)),
        chat_offer(PLAIN, sell_price=PLAIN),
        chat_offer(Price(input_nano_usd_per_million=1, long_context=PLAIN, long_context_above_tokens=5)),
    ],
)
def test_what_a_tariff_cannot_say_has_none(offer: Any) -> None:
    assert chat_tariff(offer, markup_nano=10**9, default_max_output_tokens=1) is None


@pytest.mark.parametrize(
    "call",
    [
        ChatCall(model="m", messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}]),
        ChatCall(model="m", messages=[{"role": "user", "content": "x", "name": "n"}]),
        ChatCall(model="m", messages=[{"role": "user", "content": None}]),
        ChatCall(model="m", messages=[{"content": "x"}]),
        ChatCall(model="m", messages=[], options={"tools": []}),
    ],
)
def test_what_is_not_plain_is_not_counted_as_such(call: ChatCall) -> None:
    assert plain_text_bytes(call) is None
