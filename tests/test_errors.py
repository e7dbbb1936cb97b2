"""The tree of errors: every class says what callers match, and what may be tried elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bitmesh_proxy.errors import GatewayError, ProviderRefused, ValidationFailed


def every_class(root: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    for each in root.__subclasses__():
        yield each
        yield from every_class(each)


def test_every_class_has_a_status_of_an_error_and_a_code_of_one_word() -> None:
    for each in every_class():
        assert 400 <= each.status <= 599, each
        assert each.code.replace("_", "").isalpha(), each
        assert each.code.islower(), each


def test_codes_tell_classes_apart() -> None:
    """But for the root, which nobody raises, and the two that say the same to a caller."""
    codes = [each.code for each in every_class() if each.__name__ != "InternalError"]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("status", "elsewhere"),
    [(400, False), (401, True), (402, True), (404, True), (408, True), (422, False), (429, True), (500, True)],
)
def test_a_refusal_is_the_offers_trouble_or_the_requests(status: int, elsewhere: bool) -> None:
    assert ProviderRefused("no", status=status).may_fail_over is elsewhere
    # What counts is what the provider said, not what we make of it.
    assert ProviderRefused("no", status=502, provider_status=status).may_fail_over is elsewhere


def test_a_validation_names_its_first_field() -> None:
    assert ValidationFailed({"prompt": ["x"], "n": ["y"]}).param == "prompt"
    assert ValidationFailed({}).param is None
