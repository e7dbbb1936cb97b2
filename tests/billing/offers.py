"""Offers and calls that the tests of billing price."""

from __future__ import annotations

from typing import Any

from bitmesh_proxy.calls import ChatCall, Operation
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.money import NANO_PER_USD, parse_usd

ONE = NANO_PER_USD  # a markup of 1


def offer(operation: Operation, price: Price, **changes: Any) -> Offer:
    return Offer(
        model_id="maker/model",
        provider="together",
        upstream_model="maker/Model",
        operation=operation,
        price=price,
        **changes,
    )


#: 1 USD per million input tokens, 2 per million output tokens.
CHAT_PRICE = Price(input_nano_usd_per_million=parse_usd("1"), output_nano_usd_per_million=parse_usd("2"))


def chat_offer(price: Price = CHAT_PRICE, **changes: Any) -> Offer:
    return offer(Operation.CHAT, price, **changes)


def chat(*texts: str, **changes: Any) -> ChatCall:
    messages = [{"role": "user", "content": text} for text in texts or ("Hello",)]
    return ChatCall(model="maker/model", messages=messages, **changes)
