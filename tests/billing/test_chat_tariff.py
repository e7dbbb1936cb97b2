"""A tariff says what ``hold_of`` says, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from bitmesh_proxy.billing.bill import Bill, Ending, bill_of, hold_of
from bitmesh_proxy.billing.chat_tariff import chat_tariff
from bitmesh_proxy.billing.usage import plain_text_bytes
from bitmesh_proxy.calls import ChatCall, Usage
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.money import ZERO, NanoUsd
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
    test=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(OFFERS, CALLS, st.sampled_from([10**9, 1_500_000_000, 0]), st.integers(1, 5_000))
def test_a_tariff_holds_what_is_held_without_it(offer: Any, call: ChatCall, markup_nano: int, default: int) -> None:
    tariff = chat_tariff(offer, markup_nano=markup_nano, default_max_output_tokens=default)
    text_bytes = plain_text_bytes(call)
    assert text_bytes is not None
    if tariff is not None:
        limits = [call.options.get(name, UNSET) for name in ("max_tokens", "max_completion_tokens")]
        held = tariff.hold_of_texts(len(call.messages), text_bytes, limits[0], limits[1])
        live = replace(call, test=False)
        assert held == hold_of(live, offer, markup_nano=markup_nano, default_max_output_tokens=default)
    else:
        assert not offer.price.input_nano_usd_per_million + offer.price.output_nano_usd_per_million


COUNT = st.just(0) | st.integers(0, 10_000)
USAGES = st.builds(
    Usage,
    input_tokens=COUNT,
    output_tokens=COUNT,
    reasoning_tokens=COUNT,
    cached_input_tokens=st.sampled_from([0, 0, 0, 5]),
    cache_write_tokens=st.sampled_from([0, 0, 0, 5]),
    image_input_tokens=st.sampled_from([0, 0, 0, 5]),
    image_output_tokens=st.sampled_from([0, 0, 0, 5]),
    characters=st.sampled_from([0, 0, 7]),
    reported_cost_nano_usd=st.none() | st.none() | st.just(77),
    is_estimated=st.sampled_from([False, False, False, True]),
)


@settings(max_examples=300, deadline=None)
@given(OFFERS, CALLS, USAGES, st.sampled_from([10**9, 1_500_000_000, 0]), st.sampled_from([0, 1, 10**6, 10**15]))
def test_a_tariff_bills_what_is_billed_without_it(
    offer: Any, call: ChatCall, usage: Usage, markup_nano: int, hold_nano_usd: Any
) -> None:
    tariff = chat_tariff(offer, markup_nano=markup_nano, default_max_output_tokens=1)
    bill = None if tariff is None else tariff.bill_of(usage, hold_nano_usd=hold_nano_usd, is_test=call.test)
    if bill is not None:
        assert bill == bill_of(
            call,
            offer,
            usage=usage,
            output_characters=0,
            ending=Ending.COMPLETE,
            markup_nano=markup_nano,
            hold_nano_usd=hold_nano_usd,
        )


def test_common_figures_are_billed_by_the_tariff() -> None:
    tariff = chat_tariff(chat_offer(), markup_nano=1_500_000_000, default_max_output_tokens=1)
    assert tariff is not None
    usage = Usage(input_tokens=3, output_tokens=2, reasoning_tokens=1)
    assert tariff.bill_of(usage, hold_nano_usd=NanoUsd(10**9), is_test=False) == Bill(
        cost_nano_usd=NanoUsd(7_000), charge_nano_usd=NanoUsd(10_500), usage=usage
    )
    assert tariff.bill_of(Usage(input_tokens=3, cached_input_tokens=1), hold_nano_usd=ZERO, is_test=False) is None


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
