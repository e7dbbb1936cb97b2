"""The list of models: what it shows, how it is filtered and sorted, and what its parameters may be."""

from __future__ import annotations

import pytest

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.offer import Abilities
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.endpoints.models import ModelList, Query, parse_query
from bitmesh_proxy.errors import InvalidRequest, ModelNotFound
from bitmesh_proxy.money import NANO_PER_USD
from tests.catalogue.making import make_offer

CHAT = Model(
    id="acme/talker",
    operation=Operation.CHAT,
    title="Talker",
    aliases=("talker",),
    context_tokens=1000,
    released_on="2025-01-01",
    offers=(
        make_offer(
            "east:t1",
            model_id="acme/talker",
            price=Price(input_nano_usd_per_million=150_000_000, output_nano_usd_per_million=600_000_000),
            abilities=Abilities(tools=True),
        ),
        make_offer(
            "west:t2",
            model_id="acme/talker",
            price=Price(input_nano_usd_per_million=100_000_000, output_nano_usd_per_million=100_000_000),
            sell_price=Price(input_nano_usd_per_million=300_000_000, output_nano_usd_per_million=300_000_000),
        ),
    ),
)
PAINTER = Model(
    id="bravo/painter",
    operation=Operation.IMAGE,
    inputs=("text", "image"),
    outputs=("image",),
    released_on="2026-02-03",
    offers=(
        make_offer(
            "west:p",
            model_id="bravo/painter",
            operation=Operation.IMAGE,
            price=Price(image_nano_usd=40_000_000, image_tiers={"hd": 80_000_000}),
            abilities=Abilities(sizes=("64x64", "128x64"), qualities=("hd",), max_images_in=4, mask=True, max_count=4),
            default_size="64x64",
        ),
    ),
)
CAMERA = Model(
    id="camera",
    operation=Operation.VIDEO,
    owner="charlie",
    outputs=("video",),
    offers=(
        make_offer(
            "east:c",
            model_id="camera",
            operation=Operation.VIDEO,
            price=Price(second_nano_usd=100_000_000, is_reported=True),
            abilities=Abilities(seconds=(8, 4)),
            default_seconds=4,
        ),
    ),
)
GIFT = Model(
    id="acme/gift",
    operation=Operation.SPEECH,
    outputs=("audio",),
    offers=(make_offer("east:g", model_id="acme/gift", operation=Operation.SPEECH, price=Price(is_free=True)),),
)
ELSEWHERE = Model(id="elsewhere", operation=Operation.CHAT, offers=(make_offer("north:e", model_id="elsewhere"),))
CATALOGUE = Catalogue.build([CHAT, PAINTER, CAMERA, GIFT, ELSEWHERE])
LIST = ModelList.build(CATALOGUE, available={"east", "west"}, markup_nano=2 * NANO_PER_USD)


def ids(**query: object) -> list[str]:
    return [model["id"] for model in LIST.select(Query(**query))["data"]]  # type: ignore[arg-type]  # one of its fields


def test_a_model_is_shown_with_what_a_caller_needs() -> None:
    shown = LIST.get("bravo/painter")
    assert {name: shown[name] for name in ("id", "object", "created", "owned_by", "type", "output", "sizes")} == {
        "id": "bravo/painter",
        "object": "model",
        "created": 1_770_076_800,
        "owned_by": "bravo",
        "type": "image",
        "output": ["image"],
        "sizes": ["64x64", "128x64"],
    }
    assert shown["architecture"] == {"input_modalities": ["text", "image"], "output_modalities": ["image"]}
    assert shown["supported_params"] == {"edit": True, "mask": True, "quality": True, "tools": False, "stream": False}
    assert (shown["max_images"], shown["max_n"], shown["default_size"]) == (4, 4, "64x64")
    camera = LIST.get("camera")
    assert (camera["seconds"], camera["default_seconds"], camera["owned_by"]) == ([4, 8], 4, "charlie")
    assert camera["providers"][0]["is_estimate"] is True


def test_prices_are_what_an_account_pays() -> None:
    east, west = LIST.get("acme/talker")["providers"]
    assert east["price"] == {"usd_per_million_input_tokens": "0.3", "usd_per_million_output_tokens": "1.2"}
    assert west["price"] == {"usd_per_million_input_tokens": "0.3", "usd_per_million_output_tokens": "0.3"}
    (painter,) = LIST.get("bravo/painter")["providers"]
    assert painter["price"] == {"usd_per_image": "0.08", "usd_per_image_by": {"hd": "0.16"}}
    assert LIST.get("acme/gift")["providers"][0]["price"] == {"free": True}


def test_models_of_no_configured_provider_are_not_there() -> None:
    assert "elsewhere" not in ids()
    for name in ("elsewhere", "nothing"):
        with pytest.raises(ModelNotFound):
            LIST.get(name)


def test_aliases_lead_to_the_model() -> None:
    assert LIST.get("talker") == LIST.get("acme/talker") == LIST.get("ACME/Talker")


def test_filters_and_orders() -> None:
    assert ids() == ["acme/gift", "acme/talker", "bravo/painter", "camera"]
    assert ids(kind="image") == ["bravo/painter"]
    assert ids(kind="video") == ["camera"]
    assert ids(kind="audio") == ids(kind="speech") == ["acme/gift"]
    assert ids(kind="chat") == ids(kind="text") == ["acme/talker"]
    assert ids(kind="embedding") == []
    assert ids(provider="acme") == ["acme/gift", "acme/talker"]
    assert ids(provider="WEST") == ["acme/talker", "bravo/painter"]
    assert ids(is_free=True) == ["acme/gift"]
    assert ids(is_free=False) == ["acme/talker", "bravo/painter", "camera"]
    assert ids(name="TALK") == ["acme/talker"]
    assert ids(sort="name", limit=2) == ["acme/gift", "acme/talker"]
    assert ids(sort="date")[:2] == ["bravo/painter", "acme/talker"]
    assert ids(sort="price")[0] == "acme/gift"
    assert ids(sort="price")[-1] == "camera"
    assert ids(sort="provider") == ["acme/gift", "acme/talker", "bravo/painter", "camera"]


def test_a_query_is_read() -> None:
    pairs = [("type", "Image"), ("provider", "acme"), ("free", "true"), ("name", "x"), ("sort", "date"), ("limit", "5")]
    assert parse_query([*pairs, ("unheard", "of")]) == Query(
        kind="image", provider="acme", is_free=True, name="x", sort="date", limit=5
    )
    assert parse_query([("type", ""), ("limit", " ")]) == Query()


@pytest.mark.parametrize(
    ("pairs", "param"),
    [
        ([("type", "smell")], "type"),
        ([("free", "maybe")], "free"),
        ([("sort", "colour")], "sort"),
        ([("limit", "0")], "limit"),
        ([("limit", "-1")], "limit"),
        ([("limit", "abc")], "limit"),
        ([("limit", "9" * 30)], "limit"),
        ([("type", "image"), ("type", "video")], "type"),
    ],
)
def test_a_bad_query_is_refused(pairs: list[tuple[str, str]], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_query(pairs)
    assert caught.value.param == param
