"""Ids of ours cannot be guessed and fit the route."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest

from bitmesh_proxy.media.ids import OWN_ID_LENGTH, is_media_id, make_media_id


def _source(data: bytes) -> Callable[[int], bytes]:
    """Random bytes that are given out in order, then zeros."""
    rest = bytearray(data)

    def take(count: int) -> bytes:
        taken = bytes(rest[:count])
        del rest[:count]
        return taken.ljust(count, b"\0")

    return take


def test_an_id_fits_the_route_and_is_long_enough() -> None:
    media_id = make_media_id(os.urandom)
    assert is_media_id(media_id)
    assert len(media_id) == OWN_ID_LENGTH >= 22


def test_the_id_is_made_of_the_bytes_that_were_given() -> None:
    assert make_media_id(_source(bytes(range(24)))) == "abcdefghijklmnopqrstuvwx"
    assert make_media_id(_source(bytes(range(1, 25)))) == "bcdefghijklmnopqrstuvwxy"


def test_bytes_that_would_favour_some_letters_are_not_used() -> None:
    assert make_media_id(_source(bytes([248, 255, 250]) + bytes([61]) * 24)) == "9" * 21 + "9" * 3


def test_all_letters_are_as_likely() -> None:
    every_byte = Counter(make_media_id(_source(bytes([byte]) * OWN_ID_LENGTH))[0] for byte in range(248))
    assert set(every_byte.values()) == {4}


@pytest.mark.parametrize("text", ["", "a" * 65, "a/b", "..", "a.png", "a b", "\u00e4", "a\n", "a%2f", "-", "a_b"])
def test_what_is_no_id(text: str) -> None:
    assert not is_media_id(text)


@pytest.mark.parametrize("text", ["a", "DwlaBdSakNRFlBxN", "0" * 64])
def test_what_is_one(text: str) -> None:
    assert is_media_id(text)
