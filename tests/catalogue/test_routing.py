"""Which offers, in which order; and the error when there is none, naming what is wrong."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.calls import Call, ChatCall, ImageCall, Media, Operation, VideoCall
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.health import OfferHealth
from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.offer import Abilities, Offer
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.catalogue.routing import model_for, route
from bitmesh_proxy.errors import (
    InvalidRequest,
    ModelNotFound,
    Unavailable,
    UnsupportedParameter,
    UnsupportedValue,
)
from tests.catalogue.making import make_catalogue, make_offer

ALL = frozenset({"alpha", "beta", "gamma"})
PICTURE = Media(kind="image", url="https://example.org/a.png")
TODAY = datetime.date(2026, 11, 22)


def picture(name: str, nano_usd: int, **more: Any) -> Offer:
    abilities = Abilities(**more.pop("abilities", {}))
    return make_offer(
        name, operation=Operation.IMAGE, price=Price(image_nano_usd=nano_usd), abilities=abilities, **more
    )


def order(
    *offers: Offer,
    call: Call | None = None,
    available: Collection[str] = ALL,
    health: OfferHealth | None = None,
    bound_model: str | None = None,
    allowed_models: Collection[str] | None = None,
) -> list[str]:
    routed = route(
        make_catalogue(*offers, aliases=("other-name",)),
        call or ImageCall(model="m", prompt="p"),
        available=available,
        health=health or OfferHealth(lambda: 0.0, 30.0),
        bound_model=bound_model,
        allowed_models=allowed_models,
        today=lambda: TODAY,
    )
    return [offer.id for offer in routed]


def test_cheapest_first() -> None:
    assert order(picture("alpha:m", 30), picture("beta:m", 10), picture("gamma:m", 20)) == [
        "beta:m",
        "gamma:m",
        "alpha:m",
    ]


def test_the_operators_order_goes_before_the_price() -> None:
    assert order(picture("alpha:m", 30, priority=1), picture("beta:m", 10), picture("gamma:m", 20, priority=2)) == [
        "alpha:m",
        "gamma:m",
        "beta:m",
    ]


def test_an_unhealthy_offer_comes_last_and_is_never_dropped() -> None:
    health = OfferHealth(lambda: 0.0, 30.0)
    health.note_failure("beta:m")
    assert order(picture("alpha:m", 30), picture("beta:m", 10, priority=1), health=health) == ["alpha:m", "beta:m"]
    health.note_failure("alpha:m")
    assert order(picture("alpha:m", 30), picture("beta:m", 10), health=health) == ["beta:m", "alpha:m"]


def test_an_offer_that_its_provider_has_ended_comes_after_those_that_live() -> None:
    offers = [
        picture("alpha:m", 10, retires_on="2026-11-21"),
        picture("beta:m", 30),
        picture("gamma:m", 20, retires_on="2026-11-22"),
    ]
    assert order(*offers) == ["gamma:m", "beta:m", "alpha:m"]
    assert order(offers[0]) == ["alpha:m"]


def test_the_price_of_this_call_decides_not_the_one_of_some_call() -> None:
    flat = make_offer("alpha:m", operation=Operation.VIDEO, price=Price(video_nano_usd=50))
    by_second = make_offer("beta:m", operation=Operation.VIDEO, price=Price(second_nano_usd=10))
    assert order(flat, by_second, call=VideoCall(model="m", prompt="p", seconds="4"))[0] == "beta:m"
    assert order(flat, by_second, call=VideoCall(model="m", prompt="p", seconds="8"))[0] == "alpha:m"


def test_only_offers_that_can_do_all_of_the_call() -> None:
    plain = picture("alpha:m", 10)
    editing = picture("beta:m", 20, abilities={"max_images_in": 1})
    masking = picture("gamma:m", 30, abilities={"max_images_in": 1, "mask": True})
    edit = ImageCall(model="m", prompt="p", images=(PICTURE,))
    assert order(plain, editing, masking, call=edit) == ["beta:m", "gamma:m"]
    masked = ImageCall(model="m", prompt="p", images=(PICTURE,), mask=PICTURE)
    assert order(plain, editing, masking, call=masked) == ["gamma:m"]


def test_only_providers_that_are_configured() -> None:
    assert order(picture("alpha:m", 10), picture("beta:m", 20), available={"beta"}) == ["beta:m"]
    with pytest.raises(Unavailable) as caught:
        order(picture("alpha:m", 10), available={"beta"})
    assert (caught.value.status, caught.value.retry_after_s) == (503, None)  # waiting configures none
    assert "'m'" in caught.value.message


@pytest.mark.parametrize(
    ("call", "abilities", "error", "param"),
    [
        (ImageCall(model="m", prompt="p", images=(PICTURE,)), {}, UnsupportedParameter, "image"),
        (ImageCall(model="m", prompt="p", count=3), {"max_count": 2}, UnsupportedValue, "n"),
        (ImageCall(model="m", prompt="p", width=8, height=8), {"sizes": ("16x16",)}, UnsupportedValue, "size"),
    ],
)
def test_what_no_offer_takes_is_a_400_that_names_the_field(
    call: ImageCall, abilities: dict[str, Any], error: type[InvalidRequest], param: str
) -> None:
    with pytest.raises(error) as caught:
        order(picture("alpha:m", 10, abilities=abilities), picture("beta:m", 10, abilities=abilities), call=call)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(f"{param}: the model 'm' ")


def test_the_field_that_all_refuse_is_named_before_one_that_some_refuse() -> None:
    call = ImageCall(model="m", prompt="p", images=(PICTURE,), mask=PICTURE)
    with pytest.raises(UnsupportedParameter) as caught:
        order(picture("alpha:m", 10), picture("beta:m", 10, abilities={"max_images_in": 1}), call=call)
    assert caught.value.param == "mask"


def test_a_value_is_to_blame_where_some_offer_takes_the_field() -> None:
    call = ImageCall(model="m", prompt="p", images=(PICTURE, PICTURE))
    with pytest.raises(UnsupportedValue) as caught:
        order(picture("alpha:m", 10), picture("beta:m", 10, abilities={"max_images_in": 1}), call=call)
    assert caught.value.param == "image"
    assert "at most 1" in caught.value.message


def test_fields_that_only_different_offers_take_are_refused_together() -> None:
    call = ImageCall(model="m", prompt="p", count=2, images=(PICTURE,))
    with pytest.raises(InvalidRequest) as caught:
        order(
            picture("alpha:m", 10, abilities={"max_count": 2}),
            picture("beta:m", 10, abilities={"max_images_in": 1}),
            call=call,
        )
    assert caught.value.param == "image"
    assert "No single provider" in caught.value.message


def test_an_unknown_model_and_a_forbidden_one_look_the_same() -> None:
    with pytest.raises(ModelNotFound) as unknown:
        order(picture("alpha:m", 10), call=ImageCall(model="secret", prompt="p"))
    with pytest.raises(ModelNotFound) as forbidden:
        order(picture("alpha:m", 10), allowed_models={"else"})
    assert unknown.value.message.replace("secret", "m") == forbidden.value.message
    assert (unknown.value.param, forbidden.value.param) == ("model", "model")


@pytest.mark.parametrize("allowed", [{"m"}, {"other-name"}, {"x", "m"}])
@pytest.mark.parametrize("asked", ["m", "other-name", "OTHER-NAME"])
def test_a_key_may_use_its_models_by_any_of_their_names(allowed: set[str], asked: str) -> None:
    call = ImageCall(model=asked, prompt="p")
    assert order(picture("alpha:m", 10), call=call, allowed_models=allowed) == ["alpha:m"]


@pytest.mark.parametrize("bound", ["m", "other-name"])
@pytest.mark.parametrize("asked", ["m", "other-name", "OTHER-NAME"])
def test_a_bound_key_may_call_its_model_by_any_of_its_names(bound: str, asked: str) -> None:
    call = ImageCall(model=asked, prompt="p")
    assert order(picture("alpha:m", 10), call=call, bound_model=bound) == ["alpha:m"]


@pytest.mark.parametrize("bound", ["else", "gone"])
@pytest.mark.parametrize("asked", ["m", "other-name", "nobody/knows"])
def test_a_bound_key_may_call_no_other_model(bound: str, asked: str) -> None:
    catalogue = Catalogue.build(
        [
            Model(id=name, operation=Operation.IMAGE, offers=(picture(f"alpha:{name}", 10),), aliases=aliases)
            for name, aliases in (("m", ("other-name",)), ("else", ()))
        ]
    )
    with pytest.raises(InvalidRequest, match=f"bound to the model '{bound}'") as caught:
        model_for(catalogue, asked, bound_model=bound)
    assert caught.value.param == "model"


def test_a_model_that_a_key_is_bound_to_may_be_gone() -> None:
    with pytest.raises(ModelNotFound):
        order(picture("alpha:m", 10), call=ImageCall(model="gone", prompt="p"), bound_model="gone")


def test_a_model_for_another_kind_of_work_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest) as caught:
        order(picture("alpha:m", 10), call=ChatCall(model="m", messages=[{"role": "user", "content": "hi"}]))
    assert caught.value.param == "model"
    assert "image" in caught.value.message
    assert "chat" in caught.value.message


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans(), st.booleans(), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_every_able_offer_is_there_once_in_the_stated_order(rows: list[tuple[int, int, bool, bool, bool]]) -> None:
    health = OfferHealth(lambda: 0.0, 30.0)
    expected: list[tuple[tuple[bool, bool, int, int, str], str]] = []
    offers = []
    for number, (nano_usd, priority, is_healthy, is_over, is_able) in enumerate(rows):
        name = f"alpha:{number:02}"
        offers.append(
            picture(
                name,
                nano_usd,
                priority=priority,
                retires_on="2020-01-01" if is_over else None,
                abilities={"max_images_in": int(is_able)},
            )
        )
        if not is_healthy:
            health.note_failure(name)
        if is_able:
            expected.append(((not is_healthy, is_over, priority, nano_usd, name), name))
    call = ImageCall(model="m", prompt="p", images=(PICTURE,))
    if expected:
        assert order(*offers, call=call, health=health) == [name for _, name in sorted(expected)]
    else:
        with pytest.raises(UnsupportedParameter):
            order(*offers, call=call, health=health)


def test_looking_up_does_not_grow_with_the_catalogue() -> None:
    """Counted, not timed: routing touches the offers of its own model and no others."""
    touched: list[str] = []

    class Watching(OfferHealth):
        def is_healthy(self, offer_id: str) -> bool:
            touched.append(offer_id)
            return super().is_healthy(offer_id)

    models = [
        Model(
            id=f"owner/m{number}",
            operation=Operation.IMAGE,
            offers=tuple(
                make_offer(f"{provider}:m{number}", operation=Operation.IMAGE, model_id=f"owner/m{number}")
                for provider in sorted(ALL)
            ),
        )
        for number in range(1_000)
    ]
    route(
        Catalogue.build(models),
        ImageCall(model="owner/m432", prompt="p"),
        available=ALL,
        health=Watching(lambda: 0.0, 30.0),
    )
    assert sorted(touched) == ["alpha:m432", "beta:m432", "gamma:m432"]
