from __future__ import annotations

import pytest

from bitmesh_proxy.billing.bill import Bill, Ending, bill_of, hold_of
from bitmesh_proxy.calls import Basis, Usage
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.money import NanoUsd, parse_usd
from tests.billing.offers import CHAT_PRICE, ONE, chat, chat_offer

CALL = chat("Hello", options={"max_tokens": 100})
USAGE = Usage(input_tokens=10, output_tokens=20)


def bill(ending: Ending, usage: Usage | None = USAGE, characters: int = 0, **changes: int) -> Bill:
    return bill_of(
        CALL,
        chat_offer(),
        usage=usage,
        output_characters=characters,
        ending=ending,
        markup_nano=changes.get("markup", 2 * ONE),
        hold_nano_usd=NanoUsd(changes.get("hold", 10**9)),
    )


def test_whole_answer_is_charged_by_its_usage() -> None:
    whole = bill(Ending.COMPLETE)
    assert whole == Bill(
        cost_nano_usd=NanoUsd(50_000), charge_nano_usd=NanoUsd(100_000), basis=Basis.MEASURED, usage=USAGE
    )


def test_cut_answer_is_charged_by_what_was_delivered_never_nothing() -> None:
    cut = bill(Ending.CUT, usage=None, characters=40)
    assert (cut.basis, cut.usage.output_tokens) == (Basis.ESTIMATED, 10)
    nothing_yet = bill(Ending.CUT, usage=None)
    assert 0 < nothing_yet.charge_nano_usd < cut.charge_nano_usd
    assert bill(Ending.CUT).basis is Basis.MEASURED


def test_what_the_caller_did_not_get_costs_us_and_not_the_caller() -> None:
    undelivered = bill(Ending.UNDELIVERED, usage=None)
    assert undelivered.cost_nano_usd > 0
    assert undelivered.charge_nano_usd == 0
    assert not undelivered.is_nothing


def test_nothing_is_nothing() -> None:
    assert bill(Ending.NOTHING).is_nothing
    assert bill_of(
        CALL, None, usage=USAGE, output_characters=9, ending=Ending.CUT, markup_nano=ONE, hold_nano_usd=NanoUsd(1)
    ).is_nothing
    assert not bill(Ending.COMPLETE, usage=Usage(input_tokens=1), markup=0).is_nothing


def test_charge_stays_below_the_hold() -> None:
    capped = bill(Ending.COMPLETE, hold=99)
    assert (capped.cost_nano_usd, capped.charge_nano_usd) == (50_000, 99)


def test_hold_covers_the_charge() -> None:
    at = chat_offer()
    hold = hold_of(CALL, at, markup_nano=2 * ONE, default_max_output_tokens=4096)
    assert hold >= 2 * (100 * 2000)
    sold = chat_offer(sell_price=Price(input_nano_usd_per_million=1, output_nano_usd_per_million=parse_usd("10")))
    assert 10 * 100 * 1000 <= hold_of(CALL, sold, markup_nano=2 * ONE, default_max_output_tokens=4096) < 1_000_100


@pytest.mark.parametrize("price", [CHAT_PRICE, Price(is_free=True)])
def test_test_call_holds_and_pays_nothing_but_has_its_cost(price: Price) -> None:
    call = chat("Hello", test=True)
    at = chat_offer(price)
    assert hold_of(call, at, markup_nano=ONE, default_max_output_tokens=10) == 0
    made = bill_of(
        call,
        at,
        usage=USAGE,
        output_characters=0,
        ending=Ending.COMPLETE,
        markup_nano=ONE,
        hold_nano_usd=NanoUsd(0),
    )
    assert made.charge_nano_usd == 0
    assert (made.cost_nano_usd > 0) is not price.is_free
