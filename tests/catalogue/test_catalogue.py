"""Finding models by any of their names, and the version that tells one catalogue from another."""

from __future__ import annotations

import msgspec
import pytest

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.model import Model
from bitmesh_proxy.catalogue.prices import Price
from bitmesh_proxy.errors import ModelNotFound
from tests.catalogue.making import make_offer


def model(model_id: str, *aliases: str, price: Price | None = None) -> Model:
    offer = make_offer(f"alpha:{model_id}", model_id=model_id, price=price)
    return Model(id=model_id, operation=Operation.CHAT, offers=(offer,), aliases=aliases)


CATALOGUE = Catalogue.build([model("zai/GLM"), model("acme/Foo-1", "foo", "Foo-Old"), model("Beta/b")])


@pytest.mark.parametrize("name", ["acme/Foo-1", "foo", "Foo-Old", "ACME/FOO-1", "acme/foo-1", "FOO", "foo-old"])
def test_a_model_is_found_by_id_alias_and_any_case(name: str) -> None:
    assert CATALOGUE.get(name).id == "acme/Foo-1"


def test_what_is_exact_goes_before_what_differs_in_case() -> None:
    both = Catalogue.build([model("acme/A"), model("acme/a")])
    assert both.get("acme/A").id == "acme/A"
    assert both.get("acme/a").id == "acme/a"


@pytest.mark.parametrize("name", ["", "acme", "Foo-1", "acme/Foo-1 ", "x" * 10_000])
def test_an_unknown_name_is_a_404_that_names_it(name: str) -> None:
    assert CATALOGUE.find(name) is None
    with pytest.raises(ModelNotFound) as caught:
        CATALOGUE.get(name)
    assert caught.value.status == 404
    assert caught.value.param == "model"
    assert name[:200] in caught.value.message
    assert len(caught.value.message) < 300


def test_models_are_sorted_whatever_their_case() -> None:
    assert [entry.id for entry in CATALOGUE.models] == ["acme/Foo-1", "Beta/b", "zai/GLM"]


def test_an_offer_is_found_by_its_name_in_the_books() -> None:
    offer = CATALOGUE.offer("alpha:Beta/b")
    assert offer is not None
    assert offer.model_id == "Beta/b"
    assert CATALOGUE.offer("alpha:nothing") is None


def test_the_version_follows_facts_and_prices_and_nothing_else() -> None:
    one, two = model("a"), model("b")
    version = Catalogue.build([one, two]).version
    assert Catalogue.build([two, one]).version == version
    assert Catalogue.build([one, model("b", price=Price(request_nano_usd=1))]).version != version
    assert Catalogue.build([one, msgspec.structs.replace(two, context_tokens=1)]).version != version
